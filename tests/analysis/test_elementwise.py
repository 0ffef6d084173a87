"""The tally of a tensor pair: by hand on a matrix one can see, against numpy, and the two kernels with each other."""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import pytest
import torch

from analysis.elementwise import Geometry, bf16_steps, cpu_blocks, geometry, step_table, tally, torch_blocks
from analysis.elementwise.block import BlockTally
from analysis.measurements import CHANGE_EDGES, N_BINADES, RELATIVE_EDGES, RULES, TOLERANCES, Tally
from analysis.metrics import correlation
from tests.analysis.alike import assert_alike, lost_in_cancelling

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def tally_of(before: torch.Tensor, after: torch.Tensor, *, rows: int = 8, threads: int = 1) -> Tally:
    shape = geometry(tuple(before.shape))
    before, after = before.reshape(shape.rows, shape.columns), after.reshape(shape.rows, shape.columns)
    return tally(blocks(before, after, rows), shape, threads=threads)


def blocks(before: torch.Tensor, after: torch.Tensor, rows: int):
    for first in range(0, len(before), rows):
        yield before[first : first + rows], after[first : first + rows]


def normal(shape: tuple[int, ...], *, std: float = 0.02, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std


def test_a_matrix_one_can_see():
    before = torch.tensor([[1.0, 2.0, -0.0], [0.5, 0.25, 4.0]], dtype=torch.bfloat16)
    after = torch.tensor([[1.0, -2.0, 0.0], [0.5, 0.25, 4.03125]], dtype=torch.bfloat16)

    found = tally_of(before, after)

    assert (found.entries, found.equal, found.unchanged("exact")) == (6, 4, 4)
    assert found.sign_flips == 1
    assert found.max_abs_update == 4.0
    assert found.update_square_sum == 16 + 0.03125**2
    assert found.base_square_sum == 1 + 4 + 0.25 + 0.0625 + 16
    assert found.base_dot_tuned == 1 - 4 + 0.25 + 0.0625 + 4 * 4.03125
    assert (found.base_sum, found.tuned_sum) == (7.75, 3.78125)
    assert found.row_changes.tolist() == [1, 1]
    assert found.column_changes.tolist() == [0, 1, 1]
    assert found.density.tolist() == [[0, 1, 0], [0, 0, 1]]
    assert found.base_binades.sum() == 6
    assert found.base_binades[0] == 1, "one zero"


@pytest.mark.parametrize(("before", "after"), [*product(DTYPES, repeat=2)], ids=str)
def test_counts_are_numpys(before: torch.dtype, after: torch.dtype):
    """Every rule, as docs/methods.md states it, computed anew on plain float arrays."""
    left = normal((37, 53), seed=1).to(before)
    right = (left.double() + normal((37, 53), std=3e-5, seed=2).double()).to(after)
    b, a = left.double().numpy(), right.double().numpy()
    wide = np.float64 if torch.float64 in (before, after) else np.float32
    size = np.abs(a.astype(wide) - b.astype(wide))
    delta = torch.from_numpy(a).to(after).bfloat16() - torch.from_numpy(b).to(before).bfloat16()
    expected = {
        "exact": (a == b).sum(),
        **{t: (size <= np.float32(t)).sum() for t in TOLERANCES},
        "bf16": (np.abs(a - b) <= 1e-3 * np.maximum(np.abs(a), np.abs(b))).sum(),
        "mukherjee": torch.isclose(delta, torch.zeros_like(delta), atol=1e-5).sum().item(),
    }

    found = tally_of(left, right)

    assert {rule: found.unchanged(rule) for rule in RULES} == {rule: int(n) for rule, n in expected.items()}
    assert found.update_square_sum == pytest.approx(((a - b) ** 2).sum(), rel=1e-12)
    assert found.row_changes.tolist() == (a != b).sum(1).tolist()
    assert found.column_changes.tolist() == (a != b).sum(0).tolist()


def test_histograms_are_numpys():
    left = normal((64, 96), seed=3).bfloat16()
    right = (left.float() + normal((64, 96), std=1e-4, seed=4)).bfloat16()
    b, a = left.double().numpy(), right.double().numpy()
    moved = a != b
    size = np.abs(a - b).astype(np.float32)

    found = tally_of(left, right)

    bins = np.searchsorted(CHANGE_EDGES, size[moved], side="left")
    assert found.changes.tolist() == np.bincount(bins, minlength=len(CHANGE_EDGES) + 1).tolist()
    ratio = np.abs(a - b)[moved] / np.maximum(np.abs(a), np.abs(b))[moved]
    bins = np.searchsorted(RELATIVE_EDGES, ratio, side="left")
    assert found.relative.tolist() == np.bincount(bins, minlength=len(RELATIVE_EDGES) + 1).tolist()
    binade = np.clip(np.frexp(np.abs(b))[1] - 1, -31, 15) + 32
    assert found.base_binades.tolist() == np.bincount(binade.ravel(), minlength=N_BINADES).tolist()
    assert found.changed_by_binade("exact").tolist() == np.bincount(binade[moved], minlength=N_BINADES).tolist()
    for rule in TOLERANCES:
        beyond = binade[np.abs(a - b).astype(np.float32) > np.float32(rule)]
        assert found.changed_by_binade(rule).tolist() == np.bincount(beyond, minlength=N_BINADES).tolist()


def test_every_rules_changes_by_magnitude_add_up_to_its_changes():
    left = normal((64, 96), seed=3)
    found = tally_of(left, left + normal((64, 96), std=1e-5, seed=4))
    for rule in RULES:
        assert found.changed_by_binade(rule).sum() == found.entries - found.unchanged(rule)
    assert 0 < found.changed_by_binade("bf16").sum() < found.changed_by_binade("exact").sum()


@pytest.mark.parametrize("exponent", range(-8, -2), ids=lambda e: f"1e{e}")
def test_a_change_of_exactly_the_tolerance_is_unchanged(exponent: int):
    edge = np.float32(f"1e{exponent}")
    above = np.nextafter(edge, np.float32(1))
    found = tally_of(torch.zeros(1, 2), torch.tensor([[edge, above]]))
    assert found.unchanged(f"1e{exponent}") == 1


def test_bf16_rule_holds_at_its_border():
    """|d| = 0.001 max is unchanged, a hair more is not: 125 -> 124.875 is such a tie in float32."""
    found = tally_of(torch.tensor([[125.0, 125.0]]), torch.tensor([[124.875, np.nextafter(np.float32(124.875), 0)]]))
    assert found.unchanged("bf16") == 1


def test_mukherjees_tolerance_is_the_bfloat16_next_to_1e_5():
    """torch.isclose compares bfloat16 with bfloat16(1e-5) = 1.00136e-5, so a delta of just that counts as unchanged."""
    edge = torch.tensor(1e-5).bfloat16().float()
    found = tally_of(torch.zeros(1, 2), torch.stack([edge, edge * 1.01]).view(1, 2).bfloat16().float())
    assert (found.unchanged("mukherjee"), found.unchanged("1e-5")) == (1, 0)


class TestNonFinite:
    before = torch.tensor([[1.0, torch.nan, torch.inf, torch.inf, 2.0, torch.nan]])
    after = torch.tensor([[1.5, torch.nan, torch.inf, -torch.inf, torch.nan, 3.0]])

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_is_counted_and_unchanged_only_with_the_same_bits(self, dtype: torch.dtype):
        found = tally_of(self.before.to(dtype), self.after.to(dtype))
        assert (found.nonfinite, found.nonfinite_same) == (5, 2)
        assert {found.unchanged(rule) for rule in RULES} == {2}
        assert found.column_changes.tolist() == [1, 0, 0, 1, 1, 1]

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_never_poisons_a_sum(self, dtype: torch.dtype):
        found = tally_of(self.before.to(dtype), self.after.to(dtype))
        assert found.update_square_sum == 0.25
        assert found.base_square_sum == 1.0
        assert found.max_abs_update == 0.5
        assert found.base_binades.sum() == 1
        assert found.changes.sum() == 1


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("from_0", [0, 1, 37, 1023, 1024, 1500], ids=lambda n: f"from value {n}")
def test_changes_are_counted_in_values_of_the_stored_type(dtype: torch.dtype, from_0: int):
    """Value 0 is 0, value 1 the smallest above it, and so on: bits read as a number. 1024 is float16's first normal."""
    steps = [0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 1000]
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    after = torch.tensor([[from_0 + step for step in steps]], dtype=bits).view(dtype)
    before = torch.full_like(after, torch.tensor(from_0, dtype=bits).view(dtype).item())
    expected = {0: 1, 1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 6: 1, 11: 1}  # 1 | 2 | 3 | 4 | to 8 | to 16 | to 32 ... to 1024

    for left, right in ((before, after), (after, before), (-before, -after)):
        found = tally_of(left, right)
        assert {i: n for i, n in enumerate(found.ulps.tolist()) if n} == expected


def test_a_step_over_zero_counts_from_zero_and_a_flip_has_no_steps():
    left = torch.tensor([[-0.0, 0.0, 2.0**-133, 1.0]], dtype=torch.bfloat16)  # 2 ** -133 is the smallest of all
    right = torch.tensor([[2.0**-133, -(2.0**-133), 0.0, -1.0]], dtype=torch.bfloat16)
    found = tally_of(left, right)
    assert (found.ulps.tolist()[:2], found.ulps.sum(), found.sign_flips) == ([3, 0], 3, 1)


@pytest.mark.parametrize(("before", "after"), [*product(DTYPES, repeat=2)], ids=str)
def test_every_change_has_its_steps_or_flips_where_the_types_agree(before: torch.dtype, after: torch.dtype):
    found = tally_of(*strange_pair(before, after))
    steps = found.changes.sum() - found.sign_flips if before == after != torch.float64 else 0
    assert found.ulps.sum() == steps


def strange_pair(before: torch.dtype, after: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Zeros of both signs, denormals, overflows, non-finite entries: whatever a kernel could trip over."""
    left = normal((123, 1111), seed=5).to(before)
    right = (left.double() + normal((123, 1111), std=3e-5, seed=6).double()).to(after)
    flat_left, flat_right = left.view(-1), right.view(-1)
    flat_right[5:9] = torch.nan
    flat_left[7:11] = torch.inf
    flat_right[10] = torch.inf
    flat_left[20:30], flat_right[22:30] = 0.0, -0.0
    flat_left[40] = torch.finfo(before).smallest_normal / 2
    flat_left[41], flat_right[41] = torch.finfo(before).min, torch.finfo(after).max
    return left, right


@pytest.mark.parametrize(("before", "after"), [*product(DTYPES[:3], repeat=2)], ids=str)
def test_both_kernels_count_the_same_integers(before: torch.dtype, after: torch.dtype):
    left, right = strange_pair(before, after)
    compiled = cpu_blocks.tally_block(left, right, 0, Geometry(123, 1111), threads=3)
    torched = torch_blocks.tally_block(left, right, 0, Geometry(123, 1111))
    for field in dataclasses.fields(BlockTally):
        one, other = getattr(compiled, field.name), getattr(torched, field.name)
        if field.name == "amounts":
            assert one == pytest.approx(other, rel=1e-12, abs=lost_in_cancelling(other), nan_ok=True)
        elif field.name == "bins":
            assert {name: counts.tolist() for name, counts in one.items()} == {n: c.tolist() for n, c in other.items()}
        else:
            assert np.array_equal(one, other), field.name


def test_correlation_is_numpys():
    left, right = normal((40, 30), seed=7) + 0.01, normal((40, 30), seed=8) - 0.02
    right = right + 0.7 * left
    cov, deviations = correlation(tally_of(left, right))
    expected = np.corrcoef(left.double().numpy().ravel(), right.double().numpy().ravel())[0, 1]
    assert cov / deviations == pytest.approx(expected, rel=1e-9)
    with_nan = left.clone()
    with_nan[3, 4] = torch.nan
    rest = np.delete(np.stack([left.double().numpy().ravel(), right.double().numpy().ravel()]), 3 * 30 + 4, axis=1)
    cov, deviations = correlation(tally_of(with_nan, right))
    assert cov / deviations == pytest.approx(np.corrcoef(rest)[0, 1], rel=1e-9)


@pytest.mark.parametrize(("rows", "threads"), [(8, 1), (16, 2), (40, 3), (200, 4)], ids=lambda n: str(n))
def test_blocks_and_threads_change_nothing(rows: int, threads: int):
    left, right = strange_pair(torch.bfloat16, torch.bfloat16)
    whole, parts = tally_of(left, right, rows=123), tally_of(left, right, rows=rows, threads=threads)
    assert_alike(parts, whole, rel=1e-12)


def random_bits(seed: int) -> torch.Tensor:
    """(264, 1024) bfloat16s of any kind: every bit at random."""
    bits = np.random.default_rng(seed).integers(0, 1 << 16, (264, 1024), dtype=np.uint16)
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)


def moved(before: torch.Tensor, farthest: int) -> torch.Tensor:
    """`before` with each entry's bits moved by up to `farthest`, into other signs and out of the finite too."""
    steps = np.random.default_rng(5).integers(-farthest, farthest + 1, tuple(before.shape), dtype=np.int16)
    return (before.view(torch.int16) + torch.from_numpy(steps)).view(torch.bfloat16)


def tuned(std: float) -> tuple[torch.Tensor, torch.Tensor]:
    before = normal((264, 1024)).bfloat16()
    return before, (before.float() + normal((264, 1024), std=std, seed=1)).bfloat16()


def subnormal(seed: int) -> torch.Tensor:
    """Like `random_bits`, all below the normal numbers."""
    return (random_bits(seed).view(torch.int16) & ~0x7F80).view(torch.bfloat16)


def one_subnormal() -> torch.Tensor:
    bits = torch.zeros((264, 1024), dtype=torch.int16)
    bits[3, 5] = 1
    return bits.view(torch.bfloat16)


STEP_PAIRS = {
    "any bits against any bits": (random_bits(1), random_bits(2)),
    "any bits, moved by one step": (random_bits(3), moved(random_bits(3), 1)),
    "any bits, moved to the table's border and beyond": (random_bits(4), moved(random_bits(4), 40)),
    "weights, a small update": tuned(2e-5),
    "weights, a large update": tuned(1e-3),
    "nothing changed": (random_bits(6), random_bits(6)),
    "no normal number": (subnormal(7), subnormal(8)),
    "no normal number, nothing changed": (subnormal(9), subnormal(9)),
    "no normal number, gone to zero": (subnormal(10), torch.zeros(264, 1024).bfloat16()),
    "one that is no normal number, among zeros": (one_subnormal(), one_subnormal()),
    "zeros against zeros of the other sign": (torch.zeros(264, 1024).bfloat16(), -torch.zeros(264, 1024).bfloat16()),
    "all infinite": (torch.full((264, 1024), torch.inf).bfloat16(), torch.full((264, 1024), -torch.inf).bfloat16()),
}


@pytest.mark.parametrize("pair", STEP_PAIRS.values(), ids=STEP_PAIRS.keys())
@pytest.mark.parametrize(("rows", "threads"), [(264, 1), (40, 3)], ids=str)
def test_counting_steps_gives_what_the_other_kernel_gives(
    pair: tuple[torch.Tensor, torch.Tensor], rows: int, threads: int
):
    before, after = pair
    shape = geometry(tuple(before.shape))
    assert bf16_steps.fits(before, after, shape)
    masks: dict[str, list[np.ndarray]] = {"exact": [], "mukherjee": []}
    found = tally(
        blocks(before, after, rows), shape, on_mask=lambda rule, bits: masks[rule].append(bits.copy()), threads=threads
    )
    expected = cpu_blocks.tally_block(before, after, 0, shape)
    assert np.array_equal(np.concatenate(masks["exact"]), expected.packed_exact)
    assert np.array_equal(np.concatenate(masks["mukherjee"]), expected.packed_mukherjee)
    assert_alike(found, expected.as_tally(expected.row_changes), rel=1e-11)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_sums_are_the_same_bits_for_any_number_of_threads(dtype: torch.dtype):
    before = normal((700, 1024)).to(dtype)
    after = (before.float() + normal((700, 1024), std=1e-3, seed=1)).to(dtype)
    shape = geometry(tuple(before.shape))
    one, three = (tally(blocks(before, after, 512), shape, threads=threads) for threads in (1, 3))
    assert_alike(one, three)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_pass_leaves_its_tables_empty(threads: int):
    before, after = STEP_PAIRS["any bits, moved to the table's border and beyond"]
    shape = geometry(tuple(before.shape))
    first = tally(blocks(before, after, 100), shape, threads=threads)
    again = tally(blocks(before, after, 100), shape, threads=threads)
    assert first.joint.tolist() == again.joint.tolist()
    assert len(step_table._spare) >= threads
    assert not any(table.counts.any() for table in step_table._spare)


def test_swapping_base_and_tuned_keeps_what_is_symmetric():
    left, right = normal((40, 30), seed=7).bfloat16(), normal((40, 30), seed=8).bfloat16()
    there, back = tally_of(left, right), tally_of(right, left)
    assert [there.unchanged(rule) for rule in RULES] == [back.unchanged(rule) for rule in RULES]
    assert there.changes.tolist() == back.changes.tolist()
    assert (there.base_square_sum, there.sign_flips) == (back.tuned_square_sum, back.sign_flips)


def test_masks_hold_the_changed_entries_as_bits():
    left = normal((24, 13), seed=9).bfloat16()
    right = left.clone()
    right[3, 5] += 0.5
    right[20, 12] = (right[20, 12].view(torch.int16) + 1).view(torch.bfloat16)
    packed: dict[str, list[np.ndarray]] = {"exact": [], "mukherjee": []}
    tally(blocks(left, right, 8), geometry((24, 13)), on_mask=lambda rule, bits: packed[rule].append(bits))
    bits = np.unpackbits(np.concatenate(packed["exact"]), count=24 * 13, bitorder="little").reshape(24, 13)
    assert np.argwhere(bits).tolist() == [[3, 5], [20, 12]]


@pytest.mark.parametrize(("before", "after"), [*product(DTYPES, repeat=2)], ids=str)
def test_the_mask_of_any_rule_holds_as_many_entries_as_the_rule_calls_changed(before: torch.dtype, after: torch.dtype):
    left, right = strange_pair(before, after)
    packed: dict[str, list[np.ndarray]] = {rule: [] for rule in RULES}
    found = tally(
        blocks(left, right, 8), geometry((123, 1111)), on_mask=lambda rule, b: packed[rule].append(b), rules=RULES
    )
    bits = {r: np.unpackbits(np.concatenate(p), count=left.numel(), bitorder="little") for r, p in packed.items()}
    assert {r: int(b.sum()) for r, b in bits.items()} == {r: found.entries - found.unchanged(r) for r in RULES}
    assert all((bits["exact"] >= b).all() for b in bits.values()), "what any rule calls changed, the exact one does"


@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (3, 5, 9), (1, 4096), (300, 1), (257, 129)], ids=str)
def test_any_shape(shape: tuple[int, ...]):
    before = torch.ones(shape)
    found = tally_of(before, before + 1)
    assert found.unchanged("exact") == 0
    assert found.entries == found.row_changes.sum() == found.column_changes.sum() == found.density.sum()
    assert max(found.density.shape) <= 128
