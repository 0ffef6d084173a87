"""A block of rows tallied by one compiled pass on the CPU: every entry is read once, a thousand at a time.

Per stretch of a row: widen to float32, flag what changed, sum, then visit only the changed entries for the histograms.
Bins are found by table, not by search: the top 16 bits of a float32 name a cell that is narrower than a bin, so a
cell holds at most one edge, and one comparison decides the side.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
from torch import Tensor

from analysis.compiled import SUMS, compiled
from analysis.elementwise.block import BlockTally, Geometry
from analysis.measurements import (
    CHANGE_EDGES,
    FIRST_BINADE,
    LAST_BINADE,
    MUKHERJEE_ATOL,
    N_BINADES,
    N_CHANGE_BINS,
    N_RELATIVE_BINS,
    N_ULP_BINS,
    RELATIVE_EDGES,
)

STRETCH = 1024
_PART = 1 << 18  # entries
_RELATIVE_SHIFT = 45  # leaves sign, exponent and 7 mantissa bits of a float64
_INTEGERS = ("nonfinite", "nonfinite_same", "equal", "bf16_unchanged", "mukherjee_unchanged", "sign_flips")
EQUAL, BF16_UNCHANGED, MUKHERJEE_UNCHANGED = 2, 3, 4  # of `_INTEGERS`
_SUMS = (
    "base_square_sum", "tuned_square_sum", "update_square_sum", "update_abs_sum", "base_dot_tuned",
    "base_sum", "tuned_sum",
)  # fmt: skip
# The type that both sides are stored in, as the compiled pass knows it; _OTHER: two types, or one without steps.
_OTHER, _BF16, _F16, _F32 = range(4)
_STORED = {torch.bfloat16: _BF16, torch.float16: _F16, torch.float32: _F32}
_ATOL_BF16 = np.float32(torch.tensor(MUKHERJEE_ATOL, dtype=torch.bfloat16).item())


def _cells(edges: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(edges below each cell, the edge inside it or inf), for the cells that start at `bounds`."""
    below = np.searchsorted(edges, bounds[:-1], side="left")
    upto = np.searchsorted(edges, bounds[1:], side="left")
    assert (upto - below).max() <= 1, "a cell holds at most one edge"
    padded = np.append(edges, np.inf)
    return below.astype(np.int32), np.where(upto > below, padded[np.minimum(below, len(edges))], np.inf)


_change_starts = (np.arange(0x7F80 + 1, dtype=np.uint32) << 16).view(np.float32)
_CHANGE_BELOW, _edge = _cells(CHANGE_EDGES, _change_starts)
_CHANGE_EDGE = _edge.astype(np.float32)

_RELATIVE_FIRST = int(np.float64(2.0**-25).view(np.uint64) >> np.uint64(_RELATIVE_SHIFT))
_RELATIVE_LAST = int(np.float64(4.0).view(np.uint64) >> np.uint64(_RELATIVE_SHIFT))
_relative_starts = (np.arange(_RELATIVE_FIRST, _RELATIVE_LAST + 1, dtype=np.uint64) << np.uint64(_RELATIVE_SHIFT)).view(
    np.float64
)
_RELATIVE_BELOW, _RELATIVE_EDGE = _cells(RELATIVE_EDGES, _relative_starts)
TABLES = (_CHANGE_BELOW, _CHANGE_EDGE, _RELATIVE_BELOW, _RELATIVE_EDGE)


def tally_block(before: Tensor, after: Tensor, first_row: int, shape: Geometry, *, threads: int = 1) -> BlockTally:
    """What the rows from `first_row` on add to the Tally of a tensor of `shape`; before, after: (rows, columns)."""
    left, right = _raw(before, after)
    stored = _STORED.get(before.dtype, _OTHER) if before.dtype == after.dtype else _OTHER
    parts = _row_ranges(*left.shape)
    changed = np.empty(left.shape, np.uint8)
    loose = np.empty(left.shape, np.uint8)

    def run(rows: tuple[int, int]) -> BlockTally:
        return _tally_rows(left, right, stored, rows, first_row, shape, changed, loose)

    if len(parts) == 1 or threads == 1:
        results = [run(part) for part in parts]
    else:
        with ThreadPoolExecutor(threads) as pool:
            results = list(pool.map(run, parts))
    total = results[0]
    for result in results[1:]:
        total = total.plus(result)
    return BlockTally(
        total.amounts,
        total.bins,
        row_changes=np.concatenate([result.row_changes for result in results]),
        column_changes=total.column_changes,
        density=total.density,
        packed_exact=np.packbits(changed.ravel(), bitorder="little"),
        packed_mukherjee=np.packbits(loose.ravel(), bitorder="little"),
    )


def _raw(before: Tensor, after: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Both sides as arrays the kernel takes: the bits of two bfloat16s as uint16, anything else as float32."""
    if before.dtype == after.dtype == torch.bfloat16:
        bits = (side.contiguous().view(torch.int16).numpy().view(np.uint16) for side in (before, after))
        return next(bits), next(bits)
    return before.float().contiguous().numpy(), after.float().contiguous().numpy()


def _row_ranges(rows: int, columns: int) -> list[tuple[int, int]]:
    """Parts of a block that are summed each for itself, whatever number of threads shares them."""
    bounds = np.linspace(0, rows, max(1, min(rows, rows * columns // _PART)) + 1).astype(int)
    return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Sheet:
    """The arrays that kernels add to: a Tally's scalars and histograms."""

    counts: np.ndarray
    sums: np.ndarray
    largest: np.ndarray
    joint: np.ndarray
    binades: np.ndarray
    loose_binades: np.ndarray
    wide_binades: np.ndarray
    relative: np.ndarray
    ulps: np.ndarray

    @staticmethod
    def blank() -> Sheet:
        joint = np.zeros((N_BINADES, N_CHANGE_BINS), np.int64)
        every, loose, wide = (np.zeros(N_BINADES, np.int64) for _ in range(3))
        counts, sums, largest = np.zeros(len(_INTEGERS), np.int64), np.zeros(len(_SUMS)), np.zeros(1, np.float32)
        relative, ulps = np.zeros(N_RELATIVE_BINS, np.int64), np.zeros(N_ULP_BINS, np.int64)
        return Sheet(counts, sums, largest, joint, every, loose, wide, relative, ulps)

    def arrays(self) -> tuple[np.ndarray, ...]:
        by_binade = self.binades, self.loose_binades, self.wide_binades
        return self.counts, self.sums, self.largest, self.joint, *by_binade, self.relative, self.ulps

    def amounts(self, entries: int) -> dict[str, float]:
        found: dict[str, float] = dict(zip(_INTEGERS, self.counts.tolist(), strict=True))
        found |= dict(zip(_SUMS, self.sums.tolist(), strict=True))
        return found | {"entries": entries, "max_abs_update": float(self.largest[0])}

    def bins(self) -> dict[str, np.ndarray]:
        return {
            "joint": self.joint,
            "base_binades": self.binades,
            "mukherjee_binades": self.loose_binades,
            "bf16_binades": self.wide_binades,
            "relative": self.relative,
            "ulps": self.ulps,
        }


def add_values(before: np.ndarray, after: np.ndarray, sheet: Sheet) -> None:
    """Adds single entries, (n,) bits of bfloat16 each, to `sheet`; their places are somebody else's."""
    left, right = before[None], after[None]
    flags, loose = np.empty(left.shape, np.uint8), np.empty(left.shape, np.uint8)
    row, marks = np.zeros(1, np.int64), np.zeros(left.shape, np.uint32)
    _pass(left, right, _BF16, 0, 1, 0, 1, flags, loose, row, marks, *sheet.arrays(), *TABLES)


def _tally_rows(
    left: np.ndarray,
    right: np.ndarray,
    stored: int,
    rows: tuple[int, int],
    first_row: int,
    shape: Geometry,
    changed: np.ndarray,
    loose: np.ndarray,
) -> BlockTally:
    sheet = Sheet.blank()
    row_changes = np.zeros(rows[1] - rows[0], np.int64)
    by_map_row = np.zeros((shape.density_shape[0], shape.columns), np.uint32)
    _pass(
        left, right, stored, rows[0], rows[1], first_row, shape.row_step, changed, loose, row_changes, by_map_row,
        *sheet.arrays(), *TABLES,
    )  # fmt: skip
    steps = np.arange(0, shape.columns, shape.column_step)
    nothing = np.empty(0, np.uint8)
    return BlockTally(
        sheet.amounts((rows[1] - rows[0]) * shape.columns),
        sheet.bins(),
        row_changes,
        by_map_row.sum(0, dtype=np.int64),
        np.add.reduceat(by_map_row, steps, axis=1, dtype=np.int64),
        nothing,
        nothing,
    )


@no_type_check
@compiled(inline="always")
def _rounded_to_bf16(value):
    """A float32 rounded to the nearest bfloat16, ties to even, as a float32."""
    bits = np.float32(value).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.uint32(rounded).view(np.float32)


@no_type_check
@compiled(inline="always")
def bin_of_change(size, change_below, change_edge):
    """Which of the bins by |after - before| this size belongs to."""
    cell = np.float32(size).view(np.uint32) >> np.uint32(16)
    return change_below[cell] + np.int32(size > change_edge[cell]) if cell < len(change_below) else N_CHANGE_BINS - 1


@no_type_check
@compiled(inline="always")
def bin_of_ratio(ratio, relative_below, relative_edge):
    """Which of the bins by relative change this ratio belongs to."""
    place = np.int64(np.float64(ratio).view(np.uint64) >> np.uint64(_RELATIVE_SHIFT)) - _RELATIVE_FIRST
    if place < 0:
        return np.int32(0)
    if place >= len(relative_below):
        return np.int32(N_RELATIVE_BINS - 1)
    return relative_below[place] + np.int32(ratio > relative_edge[place])


@no_type_check
@compiled(inline="always")
def bin_of_ulps(steps):
    """Which of the bins by units in the last place so many steps belong to; at least one."""
    if steps <= 4:
        return steps - 1
    return np.int64(np.float64(steps - 1).view(np.uint64) >> np.uint64(52)) - 1021  # 1 + the bits of steps - 1


@no_type_check
@compiled(inline="always")
def _steps_from_0(bits, stored):
    """How many steps of the stored type lie between 0 and the float32 with these bits, which it holds exactly."""
    size = np.int64(bits & np.uint32(0x7FFFFFFF))
    if stored == _F32:
        return size
    if stored == _BF16:
        return size >> 16
    exponent = size >> 23
    if exponent >= 113:  # a normal float16
        return ((exponent - 112) << 10) | ((size >> 13) & 0x3FF)
    return ((size & 0x7FFFFF) | 0x800000) >> min(126 - exponent, 63) if size else 0


@no_type_check
@compiled(inline="always")
def within_bf16(size, larger):
    """Zhu's rule: 1000 d <= m decides d <= m / 1000 without rounding."""
    return np.int64(np.float64(size) * 1000.0 <= np.float64(larger))


@no_type_check
@compiled(inline="always")
def within_mukherjee(before, after):
    """What torch.isclose says of the bfloat16 difference of both values rounded to bfloat16."""
    return abs(_rounded_to_bf16(_rounded_to_bf16(after) - _rounded_to_bf16(before))) <= _ATOL_BF16


@no_type_check
@compiled(inline="always")
def binade_of(bits):
    """Which bin of N_BINADES the float32 with these bits belongs to."""
    exponent = np.int64((bits >> np.uint32(23)) & np.uint32(0xFF)) - 127
    inside = min(max(exponent, FIRST_BINADE - 1), LAST_BINADE + 1) - FIRST_BINADE + 2
    return inside if bits & np.uint32(0x7FFFFFFF) else 0


@no_type_check
@compiled(fastmath=SUMS)
def _pass(
    left, right, stored, begin, end, first_row, row_step, changed, loose, row_changes, by_map_row,
    counts, sums, largest, joint, binades, loose_binades, wide_binades, relative, ulps,
    change_below, change_edge, relative_below, relative_edge,
):  # fmt: skip
    columns = left.shape[1]
    b, a = np.empty(STRETCH, np.float32), np.empty(STRETCH, np.float32)
    bits_b, bits_a = b.view(np.uint32), a.view(np.uint32)
    moved = np.empty(STRETCH, np.int32)
    exponents = np.zeros(256, np.int64)
    zeros = zeroed = 0
    for row in range(begin, end):
        map_row = by_map_row[(first_row + row) // row_step]
        n_row = 0
        for first in range(0, columns, STRETCH):
            n = min(STRETCH, columns - first)
            pb, pa = left[row, first : first + n], right[row, first : first + n]
            flags, loose_flags = changed[row, first : first + n], loose[row, first : first + n]
            marks = map_row[first : first + n]
            if stored == _BF16:
                for i in range(n):
                    bits_b[i] = np.uint32(pb[i]) << np.uint32(16)
                    bits_a[i] = np.uint32(pa[i]) << np.uint32(16)
            else:
                for i in range(n):
                    b[i] = np.float32(pb[i])
                    a[i] = np.float32(pa[i])
            strange = 0
            for i in range(n):
                strange += np.int32((bits_b[i] & np.uint32(0x7F800000)) == np.uint32(0x7F800000))
                strange += np.int32((bits_a[i] & np.uint32(0x7F800000)) == np.uint32(0x7F800000))
            n_odd = 0
            if strange:
                # Non-finite entries: counted, flagged where their bits differ, then zeroed on both sides, so that the
                # sums and histograms below see nothing of them.
                for i in range(n):
                    loose_flags[i] = 0
                    if (bits_b[i] & np.uint32(0x7F800000)) == np.uint32(0x7F800000) or (
                        bits_a[i] & np.uint32(0x7F800000)
                    ) == np.uint32(0x7F800000):
                        n_odd += 1
                        if bits_b[i] == bits_a[i]:
                            counts[1] += 1
                        else:
                            loose_flags[i] = 1
                        b[i] = np.float32(0)
                        a[i] = np.float32(0)
                counts[0] += n_odd
                zeroed += n_odd
                zeros -= n_odd

            s_b = s_a = s_u = s_abs = s_dot = plain_b = plain_a = 0.0
            for i in range(n):
                flags[i] = np.uint8(b[i] != a[i])
                x, y = np.float64(b[i]), np.float64(a[i])
                u = y - x
                s_b += x * x
                s_a += y * y
                s_u += u * u
                s_abs += abs(u)
                s_dot += x * y
                plain_b += x
                plain_a += y
            sums[0] += s_b
            sums[1] += s_a
            sums[2] += s_u
            sums[3] += s_abs
            sums[4] += s_dot
            sums[5] += plain_b
            sums[6] += plain_a

            k = 0
            for i in range(n):
                moved[k] = np.int32(i)
                k += np.int32(flags[i])
                exponents[(bits_b[i] >> np.uint32(23)) & np.uint32(0xFF)] += 1
                zeros += np.int64((bits_b[i] & np.uint32(0x7FFFFFFF)) == 0)
            equal = n - n_odd - k
            if strange:
                for i in range(n):
                    flags[i] |= loose_flags[i]
                    n_row += loose_flags[i]
            else:
                for i in range(n):
                    loose_flags[i] = 0
            n_row += k
            within = within_loose = flips = 0
            most = largest[0]
            for j in range(k):
                i = moved[j]
                before, after = b[i], a[i]
                size, larger = abs(after - before), max(abs(before), abs(after))
                binade = binade_of(bits_b[i])
                joint[binade, bin_of_change(size, change_below, change_edge)] += 1
                relative[bin_of_ratio(np.float64(size) / np.float64(larger), relative_below, relative_edge)] += 1
                is_within = within_bf16(size, larger)
                within += is_within
                wide_binades[binade] += 1 - is_within
                is_close = np.int64(within_mukherjee(before, after))  # sums, not branches: no order can be foretold
                within_loose += is_close
                loose_flags[i] = 1 - is_close
                loose_binades[binade] += 1 - is_close
                other_sign = np.int64((bits_b[i] ^ bits_a[i]) >> np.uint32(31))
                flipped = other_sign & np.int64(before != 0) & np.int64(after != 0)
                flips += flipped
                if stored != _OTHER:
                    steps = abs(_steps_from_0(bits_a[i], stored) - _steps_from_0(bits_b[i], stored))
                    ulps[bin_of_ulps(max(steps, 1))] += 1 - flipped
                most = max(most, size)
            largest[0] = most
            for i in range(n):
                marks[i] += np.uint32(flags[i])
            counts[2] += equal
            counts[3] += equal + within
            counts[4] += equal + within_loose
            counts[5] += flips
        row_changes[row - begin] = n_row
    binades[0] += zeros
    exponents[0] -= zeros + zeroed  # what was zeroed above has no exponent of its own
    for exponent in range(256):
        binade = min(max(exponent - 127, FIRST_BINADE - 1), LAST_BINADE + 1) - FIRST_BINADE + 2
        binades[binade] += exponents[exponent]
