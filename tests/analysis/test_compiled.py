"""Machine code from an earlier version is not run where a file that it came from has changed since."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

from analysis import compiled

ANALYSIS = Path(compiled.__file__).parent
TAKES_ANOTHER_FILES_INSTRUCTIONS = """
import numpy as np
from analysis.compiled import compiled
from analysis.vectors import borrowed

@compiled()
def use():
    return borrowed()

print(use(), sum(use.stats.cache_hits.values()))
"""


def test_code_comes_from_no_other_file_than_the_stamp_covers():
    covered = set(compiled.sources())
    assert ANALYSIS / "elementwise" / "sweep.py" in covered
    for path in covered:
        if b"@compiled" in path.read_bytes():
            assert imported(path) <= covered, path.name


def imported(path: Path) -> set[Path]:
    """The files of `analysis` that this one imports from."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("analysis"):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            files = [ANALYSIS.parent / (name.replace(".", "/") + ".py") for name in names]
            found |= {file for file in files if file.exists()}
    return found


def test_every_compiled_function_is_stamped():
    for path in ANALYSIS.rglob("*.py"):
        if path.name != "compiled.py":
            assert "njit" not in path.read_text(encoding="utf-8"), path.name


def test_a_function_is_compiled_again_where_what_it_takes_from_another_file_has_changed(tmp_path: Path):
    (tmp_path / "analysis").mkdir()
    shutil.copy(ANALYSIS / "compiled.py", tmp_path / "analysis")
    for name in (*compiled._CONSTANTS, "__init__.py"):
        (tmp_path / "analysis" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "analysis" / name).write_text("")
    (tmp_path / "analysis" / "use.py").write_text(TAKES_ANOTHER_FILES_INSTRUCTIONS)
    assert run_with("1", tmp_path) == "1 0"
    assert run_with("1", tmp_path) == "1 1"
    assert run_with("2", tmp_path) == "2 0"


def run_with(value: str, folder: Path) -> str:
    """What the function gives, and how often it was found compiled, where the other file's gives this value."""
    taken = f"from analysis.compiled import compiled\n\n@compiled()\ndef borrowed():\n    return {value}  # numba\n"
    if not (file := folder / "analysis" / "vectors.py").exists() or file.read_text() != taken:
        file.write_text(taken)
    command = [sys.executable, "-m", "analysis.use"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
