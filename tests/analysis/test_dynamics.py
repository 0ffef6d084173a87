"""Courses by hand, against plain numpy, and what must hold for any run whatever."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.alignment import align
from analysis.dynamics import (
    MEASURES,
    Unchanged,
    course,
    fate,
    grid_of_counts,
    grid_of_landed,
    same_names,
    unchanged_shares,
)
from analysis.figures import steps
from analysis.measurements import StepCounts
from analysis.patches import ENCODINGS, Sized, patch_size, position_bits
from analysis.rollup import Cell
from analysis.series import axis
from analysis.tensors import TensorInfo
from cache.masks import count_steps
from tests.analysis.by_hand import small_model
from tests.series.planted import oracle

FIELDS = ("changed", "moved", "changed_outside", "moved_outside", "union")


def counted(changed: list[np.ndarray], moved: list[np.ndarray], *, chunk: int = 3) -> StepCounts:
    """Through the kernel that reads packed masks, in chunks of some bytes."""
    packed = [[np.packbits(mask.ravel(), bitorder="little") for mask in masks] for masks in (changed, moved)]
    pieces = [[np.split(bits, range(chunk, len(bits), chunk)) for bits in masks] for masks in packed]
    entries = changed[0].size
    return StepCounts("exact", entries, *count_steps(pieces[0], pieces[1], pieces[0][-1], entries))


def run_of(values: list[list[int]]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(changed, moved) of a run whose first row is the base."""
    rows = np.array(values)
    return [row != rows[0] for row in rows[1:]], [after != before for before, after in pairwise(rows)]


def test_a_run_worked_by_hand():
    """Ten entries over three checkpoints. Entry 0 never moves; 1 moves and stays; 2 moves and comes back; 3 comes back
    and leaves again; 4 moves last; the others stay."""
    values = [
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 2, 0, 5, 9, 0, 0, 0, 0, 0],
    ]
    one = counted(*run_of(values))
    assert one.changed.tolist() == [3, 1, 3]
    assert one.moved.tolist() == [3, 2, 3]
    assert one.changed_outside.tolist() == [1, 0, 0]  # entry 2
    assert one.moved_outside.tolist() == [1, 1, 0]
    assert one.union.tolist() == [3, 3, 4]
    run = course("exact", {"w": one}, 3)
    assert run.returned.tolist() == [0, 2, 1]
    assert run.changed_inside.tolist() == [2, 1, 3]
    assert run.untouched.tolist() == [7, 7, 6]
    told = fate(run)
    assert [(part.part, part.whole) for part in (told.never, told.returned, told.final)] == [(6, 10), (1, 10), (3, 10)]


def test_the_papers_figure_adds_up():
    """Mukherjee, figure 2, in percent of the parameters: 72 never changed, 8 came back, 20 in the final subnetwork."""
    changed = [np.arange(100) < 18, (np.arange(100) >= 8) & (np.arange(100) < 28)]
    one = counted(changed, [changed[0], changed[0] ^ changed[1]])
    told = fate(course("exact", {"w": one}, 2))
    assert [part.part for part in (told.never, told.returned, told.final)] == [72, 8, 20]


@st.composite
def runs(draw: st.DrawFn) -> list[list[int]]:
    n_entries, n_steps = draw(st.integers(1, 70)), draw(st.integers(1, 6))
    row = st.lists(st.integers(0, 2), min_size=n_entries, max_size=n_entries)
    return draw(st.lists(row, min_size=n_steps + 1, max_size=n_steps + 1))


@given(runs(), st.integers(1, 9))
@settings(deadline=None)
def test_packed_masks_count_as_numpy_does_and_the_parts_make_the_whole(values: list[list[int]], chunk: int):
    changed, moved = run_of(values)
    one = counted(changed, moved, chunk=chunk)
    assert {field: getattr(one, field).tolist() for field in FIELDS} == oracle(changed, moved)
    run = course("exact", {"w": one}, len(changed))
    parts = run.changed_inside + run.changed_outside + run.returned + run.untouched
    assert parts.tolist() == [one.entries] * len(changed)
    assert (np.diff(run.union) >= 0).all()
    assert run.changed_outside[-1] == 0
    told = fate(run)
    assert told.never.part + told.returned.part + told.final.part == one.entries
    assert (np.diff(run.union) <= run.moved[1:]).all(), "what is new was moved in that step"
    ever_moved = np.logical_or.reduce(moved)
    assert run.union[-1] == ever_moved.sum(), "under the exact rule, whatever ever moved was once off the base"


def test_a_long_mask_is_counted_in_blocks():
    random = np.random.default_rng(0)
    changed = [random.random(1_000_003) < 0.1 for _ in range(3)]
    moved = [changed[0], changed[0] ^ changed[1], changed[1] ^ changed[2]]
    one = counted(changed, moved, chunk=90_000)
    assert {field: getattr(one, field).tolist() for field in FIELDS} == oracle(changed, moved)


@pytest.mark.parametrize("n_bytes", [1, 3], ids=["short", "long"])
def test_a_mask_of_another_size_is_refused(n_bytes: int):
    good = [np.zeros(2, np.uint8)]
    with pytest.raises(ValueError, match="mask of 16 entries"):
        count_steps([[np.zeros(n_bytes, np.uint8)]], [good], good, 16)


def test_tensors_add_and_shares_are_pooled():
    one = StepCounts("exact", 10, *(np.array([n]) for n in (5, 5, 0, 0, 5)))
    other = StepCounts("exact", 990, *(np.array([n]) for n in (5, 5, 0, 0, 5)))
    run = course("exact", {"a": one, "b": other}, 1)
    assert (run.entries, run.tensors, run.share(run.changed).tolist()) == (1000, 2, [0.01])
    nothing = course("exact", {}, 2)
    assert math.isnan(fate(nothing).never.value)
    assert np.isnan(nothing.share(nothing.changed)).all()


def test_sparsity_is_of_what_has_landed():
    landed = [{"a": Unchanged(10, 4, 6), "b": Unchanged(30, 26, 30)}, {}]
    assert unchanged_shares(landed, "exact")[0].value == 0.75
    assert unchanged_shares(landed, "mukherjee")[0].part == 36
    assert math.isnan(unchanged_shares(landed, "exact")[1].value)


def test_the_grid_says_what_is_missing_and_pools_a_layer():
    alignment = small_model(2)
    names = [pair.name for pair in alignment.pairs if pair.place.layer == 0]
    landed = [
        {pair.name: Unchanged(pair.entries, pair.entries // 2, pair.entries) for pair in alignment.pairs},
        {name: Unchanged(16, 8, 16) for name in names[:1]},
    ]
    grid = grid_of_landed([alignment, alignment], landed, "exact", "base", "layer")
    assert grid.rows == ("outside", "0", "1")
    assert grid.values[:, 0].tolist() == [0.5, 0.5, 0.5]
    assert [Cell(state) for state in grid.states[:, 1]] == [Cell.WAITING, Cell.PARTIAL, Cell.WAITING]
    by_module = grid_of_landed([alignment, alignment], landed, "exact", "base", "module")
    assert by_module.rows == tuple(dict.fromkeys(pair.place.module for pair in alignment.pairs))


def test_a_layer_without_a_change_has_no_share_outside():
    alignment = small_model(1)
    none = np.zeros(2, np.int64)
    counts = {pair.name: StepCounts("exact", pair.entries, none, none, none, none, none) for pair in alignment.pairs}
    grid = grid_of_counts(alignment, counts, "outside", 2, "layer")
    assert set(grid.states.ravel()) == {Cell.GAP}
    assert np.isnan(grid.values).all()
    assert (grid_of_counts(alignment, counts, "union", 2, "layer").values == 0).all()


def info(name: str, shape: tuple[int, ...], begin: int) -> TensorInfo:
    return TensorInfo(name, "BF16", shape, "model.safetensors", begin, begin + 2 * math.prod(shape))


def test_a_tensor_is_the_same_where_both_ends_are():
    base = [info("model.q.weight", (4, 4), 0), info("model.k.weight", (4, 4), 32)]
    first = [info("module.model.q.weight", (4, 4), 0), info("module.model.k.weight", (4, 4), 32)]
    second = [info("model.q.weight", (4, 4), 32), info("model.k.weight", (4, 4), 0)]
    found = same_names(align(base, first), align(base, second), align(first, second))
    assert found == {
        "model.q.weight": "module.model.q.weight",
        "model.k.weight": "module.model.k.weight",
    }


# Patches


def test_a_patch_by_hand():
    """1000 bfloat16 entries, 10 changed, and a vector of 9 that is untouched."""
    size = patch_size([Sized(1000, 10, 2000), Sized(9, 0, 18)])
    assert (size.changed, size.values, size.indices, size.bitmap, size.full) == (10, 20, 40, 125, 2018)
    bits = 10 * math.log2(1000 / 10) + 990 * math.log2(1000 / 990)
    assert size.entropy == pytest.approx(bits / 8)
    assert size.total("indices") == 60
    assert size.ratio("bitmap") == pytest.approx(145 / 2018)


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_no_encoding_of_positions_is_below_the_entropy_and_a_bitmap_wins_above_one_in_32(entries: int, share: float):
    changed = round(share * entries)
    size = patch_size([Sized(entries, changed, 2 * entries)])
    assert size.entropy <= min(size.bitmap, entries / 8) + 1e-6
    if 1 <= changed < entries:
        exact = (math.lgamma(entries + 1) - math.lgamma(changed + 1) - math.lgamma(entries - changed + 1)) / math.log(2)
        assert position_bits(entries, changed) >= exact * (1 - 1e-9) - 1e-3, "log2 of the number of such masks"
    if changed > entries / 32 + 1:
        assert size.bitmap <= size.indices
    assert size.ratio("entropy") >= size.values / size.full


@pytest.mark.parametrize("changed", [0, 8], ids=["nothing", "everything"])
def test_where_nothing_or_everything_changed_positions_say_nothing(changed: int):
    assert position_bits(8, changed) == 0.0


def test_indices_of_a_huge_tensor_take_eight_bytes():
    assert patch_size([Sized(2**32 + 8, 1, 2**33)]).indices == 8
    assert math.isnan(patch_size([]).ratio("indices"))


# Figures


@pytest.fixture
def run():
    values = np.random.default_rng(0).integers(0, 2, (4, 64)).tolist()
    return course("exact", {"w": counted(*run_of(values))}, 3)


def test_figures_say_what_they_hold(run):
    where = axis(["step_10", "step_200", "step_1000"])
    shares = unchanged_shares([{"w": Unchanged(10, 4, 6)}, {}, {"w": Unchanged(10, 5, 6)}], "exact")
    drawn = steps.sparsity_over_steps([("against the base", shares)], where)
    assert drawn.data[0].x.tolist() == [10, 200, 1000]
    assert drawn.layout.yaxis.range == (-0.01, 1.01)
    assert drawn.data[0].customdata[0][1] == "4 of 10"
    bars = steps.fates_over_steps(run, where)
    assert np.array([bar.y for bar in bars.data]).sum(axis=0) == pytest.approx(1.0)
    assert len({bar.marker.color for bar in bars.data}) == 4
    growth = steps.union_growth(run, where, fitted=True)
    assert "fitted" in growth.layout.yaxis.title.text
    patches = [patch_size([Sized(64, 4, 128)]), None, patch_size([Sized(64, 60, 128)])]
    sizes = steps.patch_sizes(patches, where)
    assert [trace.name for trace in sizes.data] == list(ENCODINGS.values())
    assert math.isnan(sizes.data[0].y[1])
    assert sizes.layout.annotations[0].text == "as large as the checkpoint"


def test_the_heatmap_marks_what_is_missing_and_hostile_names_are_text(run):
    alignment = small_model(1, strange="<b>x</b>")
    landed = [{pair.name: Unchanged(pair.entries, 0, 0) for pair in alignment.pairs}, {}]
    grid = grid_of_landed([alignment] * 2, landed, "exact", "previous", "module")
    drawn = steps.step_heatmap(grid, axis(["<i>a", "__proto__"]), rows="module")
    assert drawn.data[1].name == "waiting to be measured"
    assert not any("<" in text for text in (*drawn.layout.yaxis.ticktext, *drawn.layout.xaxis.ticktext))
    assert drawn.layout.coloraxis.cmax == 1.0
    assert grid.measure is MEASURES["previous"]
