"""docs/faults.md names tests that exist, and every test of a fault of the Hub has its row."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")


def test_every_row_names_a_test_that_is_there():
    file = ""
    for path, name in re.findall(r"`([\w/.]+)::(\w+)`", TABLE):
        file = file if path == "..." else path
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), (file, name)


def test_every_test_of_the_hubs_faults_has_a_row():
    files = sorted((ROOT / "tests" / "faults").glob("test_hub_*.py"))
    tests = {name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text("utf-8"), re.MULTILINE)}
    assert tests
    assert tests - set(re.findall(r"::(\w+)`", TABLE)) == set()
