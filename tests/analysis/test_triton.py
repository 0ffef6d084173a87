"""The kernels for NVIDIA GPUs on a machine without one: what Triton's interpreter makes of them is compared with the
CPU's compiled pass, and they are compiled for the GPUs they are meant for. tests/test_cuda.py runs them on a real one.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis.elementwise import Geometry, cpu_blocks, tally_stack, triton_pass, triton_table
from analysis.elementwise.block import BlockTally, geometry
from analysis.measurements import RULES
from tests.analysis import interpreted
from tests.analysis.alike import lost_in_cancelling

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip("triton", reason="the kernels for GPUs need Triton: pip install -r requirements-dev.txt")


@pytest.fixture(scope="module")
def interpretation(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, BlockTally], list, dict[str, bool]]:
    """What the kernels make of every case, `tally_stack` of the stack, and what the trial at the start says."""
    file = tmp_path_factory.mktemp("interpreted") / "found"
    command = [sys.executable, "-m", "tests.analysis.interpreted", str(file)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, check=True, timeout=280)
    return pickle.loads(file.read_bytes())


@pytest.fixture(scope="module")
def found(interpretation: tuple[dict[str, BlockTally], list, dict[str, bool]]) -> dict[str, BlockTally]:
    return interpretation[0]


@pytest.mark.parametrize("name", interpreted.cases())
def test_they_count_what_the_cpus_kernel_counts(found: dict[str, BlockTally], name: str):
    before, after, _ = interpreted.cases()[name]
    assert_equal(found[name], cpu_blocks.tally_block(before, after, 0, geometry(tuple(before.shape))))


@pytest.mark.parametrize("name", interpreted.by_steps())
def test_they_count_the_same_by_steps(found: dict[str, BlockTally], name: str):
    before, after, _ = interpreted.by_steps()[name]
    expected = cpu_blocks.tally_block(before, after, 0, geometry(tuple(before.shape)))
    assert_equal(found[f"{name}, by steps"], expected)


def test_a_table_that_is_emptied_on_the_way_loses_nothing(found: dict[str, BlockTally]):
    before, after, _ = interpreted.by_steps()["trained, in blocks"]
    assert_equal(found["emptied"], cpu_blocks.tally_block(before, after, 0, geometry(tuple(before.shape))))


def test_each_expert_has_its_own_table(found: dict[str, BlockTally]):
    for i, (before, after) in enumerate(zip(*interpreted.many(), strict=True)):
        assert_equal(found[f"of many {i}"], cpu_blocks.tally_block(before, after, 0, geometry(tuple(before.shape))))


@pytest.mark.parametrize("i", range(3))
def test_a_stack_of_experts_is_tallied_as_each_one_is(found: dict[str, BlockTally], i: int):
    before, after = interpreted.stack()
    assert_equal(found[f"expert {i}"], cpu_blocks.tally_block(before[i], after[i], 0, Geometry(9, 136)))


@pytest.mark.parametrize("i", range(3))
def test_a_stack_has_the_tallies_and_masks_of_each_by_itself(interpretation: tuple[dict, list], i: int):
    before, after = (side[i : i + 1] for side in interpreted.stack())
    found, masks = interpretation[1][i]
    ((alone, expected),) = tally_stack(before, after, rules=RULES)  # here by the CPU's kernel
    for name, value in vars(alone).items():
        if isinstance(value, float):
            assert getattr(found, name) == pytest.approx(value, rel=1e-12, nan_ok=True), name
        else:
            assert np.array_equal(getattr(found, name), value), name
    assert list(masks) == list(RULES)
    assert all(np.array_equal(masks[rule], expected[rule]) for rule in RULES)


def test_kernels_that_miscount_are_found_before_they_are_used(interpretation: tuple[dict, list, dict[str, bool]]):
    *right, miscounted = interpretation[2].values()
    assert right == [True] * 3
    assert not miscounted


def assert_equal(one: BlockTally, other: BlockTally) -> None:
    lost = lost_in_cancelling(other.amounts)
    for name, amount in other.amounts.items():
        exact = not name.endswith(("_sum", "_tuned"))
        assert one.amounts[name] == (amount if exact else pytest.approx(amount, rel=1e-12, abs=lost)), name
    for name, counts in other.bins.items():
        assert np.array_equal(one.bins[name], counts), name
    for field in dataclasses.fields(BlockTally)[2:]:
        assert np.array_equal(getattr(one, field.name), getattr(other, field.name)), field.name


TYPES = {
    "pairs": "*i32", "n_pairs": "*i64", "sheet": "*i64", "sums": "*fp64", "exact": "*u8", "loose": "*u8",
    "row_changes": "*i32", "marks": "*i32", "change_edges": "*fp32", "relative_edges": "*fp64", "table": "*i32",
    "fields": "*i32",
}  # fmt: skip
CONSTANTS = {"ROWS": 32, "COLUMNS": 64, "PACK": True, "TILE": 512}
KERNELS = {
    "sweep": ("triton_kernels", {"before": "*i16", "after": "*i16"}),
    "sweep, float16 to float32": ("triton_kernels", {"before": "*i16", "after": "*i32", "pairs": "*i64"}),
    "visit": ("triton_kernels", {}),
    "visit, float16 to float32": ("triton_kernels", {"pairs": "*i64"}),
    "count_steps": ("triton_steps", {"before": "*i32", "after": "*i32", "odd": "*u8"}),
    "gather": ("triton_steps", {"before": "*i16", "after": "*i16", "odd": "*i32"}),
    "weigh": ("triton_steps", {}),
}


@pytest.mark.parametrize("architecture", [80, 90], ids=lambda number: f"sm_{number}")
@pytest.mark.parametrize("name", KERNELS)
def test_they_compile_for_a_gpu(name: str, architecture: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """To machine code, of which the interpreter says nothing. Subnormals must be kept for counts to be the CPU's, and
    what threads hold must not go through memory."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    module, types = KERNELS[name]
    kernel = getattr(importlib.import_module(f"analysis.elementwise.{module}"), name.split(",")[0])
    kinds = {"BEFORE": 1, "AFTER": 2} if "float16" in name else {"BEFORE": 0, "AFTER": 0}
    constants = {argument: each for argument, each in (CONSTANTS | kinds).items() if argument in kernel.arg_names}
    types = TYPES | types | dict.fromkeys(constants, "constexpr")
    signature = {argument: types.get(argument, "i32") for argument in kernel.arg_names}
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(a),): each for a, each in constants.items()})
    built = compile(source, GPUTarget("cuda", architecture, 32), {"num_warps": 4, "enable_fp_fusion": True})
    assert len(built.asm["cubin"]) > 1000
    assert ("sub.f32" in built.asm["ptx"]) == (name != "gather")
    assert "sub.ftz" not in built.asm["ptx"]


@pytest.mark.parametrize(
    ("row_step", "columns", "tile"),
    [(32, 4096, (32, 64)), (112, 4096, (16, 128)), (1, 1 << 20, (1, 2048)), (11, 4096, (4, 512)), (64, 1, (32, 16))],
)
def test_tiles_fit_the_rows_of_the_density_map(row_step: int, columns: int, tile: tuple[int, int]):
    assert triton_pass.tile_shape(row_step, columns) == tile


@pytest.mark.parametrize(
    ("rows", "columns", "reach"),
    [(64, 4096, 1), (512, 500, 0), (512, 504, 0), (768, 2048, 2), (4096, 4096, 8), (128256, 4096, 32), (1, 1 << 24, 0)],
)
def test_a_table_has_as_many_steps_as_its_matrix_is_worth(rows: int, columns: int, reach: int):
    assert triton_table.table_reach(Geometry(rows, columns)) == reach
