"""analysis computes, cache remembers, pages show: the import map has no edge that breaks this."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = [path for top in ("analysis", "cache", "pages") for path in sorted((ROOT / top).rglob("*.py"))] + [
    ROOT / "app.py",
    ROOT / "cli.py",
]

# Who may import what of ours, and which library has which room.
MAY_IMPORT = {"analysis": {"analysis"}, "cache": {"analysis", "cache"}, "pages": {"analysis", "cache", "pages"}}
ROOM_OF_LIBRARY = {
    "torch": (
        *("analysis/elementwise/", "analysis/spectral.py", "analysis/singular.py", "analysis/adapters.py"),
        *("analysis/preview.py", "analysis/measure.py", "analysis/upload.py"),
        *("cache/backends/devices.py", "cache/backends/filling.py", "cache/backends/sides.py"),
        "cache/weights/values.py",
    ),
    "triton": ("analysis/elementwise/",),
    "numba": (
        *("analysis/compiled.py", "analysis/elementwise/", "analysis/regions.py"),
        *("analysis/vectors.py", "analysis/blocks.py"),
        *("analysis/reflections.py", "analysis/chase.py", "analysis/eigenvalues.py"),
    ),
    "llvmlite": (
        *("analysis/elementwise/chunks.py", "analysis/elementwise/counting.py", "analysis/elementwise/sweep.py"),
        *("analysis/vectors.py", "analysis/blocks.py"),
    ),
    "scipy_openblas32": ("analysis/lapack.py",),
    "plotly": ("analysis/figures/",),
    "duckdb": ("cache/database.py", "cache/batch.py", "cache/migrations.py", "cache/database_errors.py"),
    "huggingface_hub": ("cache/hub/", "cache/hub.py"),
    "streamlit": ("app.py", "pages/"),
    "PIL": ("analysis/figures/",),
    "starlette": ("app.py", "pages/"),
    "safetensors": (),
    "transformers": (),
    "peft": (),
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_what_its_layer_may(path: Path):
    ours = {name.split(".")[0] for name in imports(path)} & {"analysis", "cache", "pages", "lab", "tests", "app", "cli"}
    allowed = MAY_IMPORT.get(name_of(path).split("/")[0], {"analysis", "cache", "pages"})
    assert ours <= allowed


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_each_library_has_its_room(path: Path):
    for library in {name.split(".")[0] for name in imports(path)} & set(ROOM_OF_LIBRARY):
        assert name_of(path).startswith(ROOM_OF_LIBRARY[library] or ("nowhere",)), library


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("app", ("torch", "numba", "huggingface_hub", "transformers", "matplotlib")),
        ("cache.instance", ("torch", "numba", "huggingface_hub", "streamlit", "plotly")),
        ("cli", ("torch", "numba", "huggingface_hub", "streamlit", "plotly", "pandas")),
        ("cache.backends.prepare", ("torch", "numba", "streamlit", "duckdb")),
        ("cache.backends.measure", ("streamlit", "duckdb", "huggingface_hub", "plotly")),
    ],
)
def test_a_process_does_not_load_what_it_has_no_use_for(module: str, unwanted: tuple[str, ...]):
    code = f"import sys, {module}; print(*[name for name in {unwanted!r} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []
