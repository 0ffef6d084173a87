"""docs/formats.md names the test of every format and layout, and no test that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
TEXT = (TESTS.parent / "docs" / "formats.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`(test_\w+)`", TEXT))


@pytest.mark.parametrize("module", ["test_formats", "test_pickles", "test_training_layouts"])
def test_every_test_has_its_row(module: str):
    tests = re.findall(r"^def (test_\w+)", (TESTS / f"{module}.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in tests if name not in NAMED] == []


def test_every_row_has_its_test():
    there = {name for file in TESTS.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())}
    assert NAMED - there == set()
