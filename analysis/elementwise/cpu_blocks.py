"""A block of rows tallied by one compiled pass on the CPU: every entry is read once, a thousand at a time.

Per stretch of a row: widen to float32, flag what changed, sum, then put the changed entries side by side, and find
their bins by vector instructions where LLVM has some, before the histograms are incremented one by one.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
from torch import Tensor

from analysis.compiled import SUMS, compiled
from analysis.elementwise.bins import (
    BF16,
    F16,
    F32,
    OTHER,
    TABLES,
    bin_of_change,
    bin_of_ratio,
    bin_of_ulps,
    binade_of,
    steps_from_0,
    within_bf16,
    within_mukherjee,
)
from analysis.elementwise.block import BlockTally, Geometry
from analysis.measurements import (
    FIRST_BINADE,
    LAST_BINADE,
    N_BINADES,
    N_CHANGE_BINS,
    N_RELATIVE_BINS,
    N_ULP_BINS,
)

STRETCH = 1024
_FAR, _FARTHER = 2, 1  # of a group: not within the bf16 rule, and not within Mukherjee's; 4 groups a binade
_PART = 1 << 18  # entries
_INTEGERS = ("nonfinite", "nonfinite_same", "equal", "bf16_unchanged", "mukherjee_unchanged", "sign_flips")
EQUAL, BF16_UNCHANGED, MUKHERJEE_UNCHANGED = 2, 3, 4  # of `_INTEGERS`
_SUMS = (
    "base_square_sum", "tuned_square_sum", "update_square_sum", "update_abs_sum", "base_dot_tuned",
    "base_sum", "tuned_sum",
)  # fmt: skip
_STORED = {torch.bfloat16: BF16, torch.float16: F16, torch.float32: F32}


def tally_block(before: Tensor, after: Tensor, first_row: int, shape: Geometry, *, threads: int = 1) -> BlockTally:
    """What the rows from `first_row` on add to the Tally of a tensor of `shape`; before, after: (rows, columns)."""
    left, right = _raw(before, after)
    stored = _STORED.get(before.dtype, OTHER) if before.dtype == after.dtype else OTHER
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
    _pass(left, right, BF16, 0, 1, 0, 1, flags, loose, row, marks, *sheet.arrays(), *TABLES)


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
@compiled()
def _find_bins(
    before, after, bits_before, bits_after, k, stored, size, ratio, group, of_joint, of_relative, of_ulps,
    change_below, change_edge, relative_below, relative_edge,
):  # fmt: skip
    """Where the first `k` changed entries belong; how many of them have another sign now. In loops over few arrays
    each, which LLVM finds vectors for."""
    n_flips = 0
    for j in range(k):
        size[j] = abs(after[j] - before[j])
    for j in range(k):
        ratio[j] = np.float64(size[j]) / np.float64(max(abs(before[j]), abs(after[j])))
    for j in range(k):
        group[j] = _FAR * (1 - within_bf16(size[j], max(abs(before[j]), abs(after[j]))))
    for j in range(k):
        group[j] |= _FARTHER * (1 - np.int32(within_mukherjee(before[j], after[j])))
    for j in range(k):
        binade = binade_of(bits_before[j])
        group[j] |= 4 * binade
        of_joint[j] = binade * N_CHANGE_BINS
    for j in range(k):
        of_joint[j] += bin_of_change(size[j], change_below, change_edge)
    for j in range(k):
        of_relative[j] = bin_of_ratio(ratio[j], relative_below, relative_edge)
    for j in range(k):
        other_sign = np.int32((bits_before[j] ^ bits_after[j]) >> np.uint32(31))
        n_flips += other_sign & np.int32(before[j] != 0) & np.int32(after[j] != 0)
    if stored != OTHER:
        for j in range(k):
            steps = abs(steps_from_0(bits_after[j], stored) - steps_from_0(bits_before[j], stored))
            other_sign = np.int32((bits_before[j] ^ bits_after[j]) >> np.uint32(31))
            flipped = other_sign & np.int32(before[j] != 0) & np.int32(after[j] != 0)
            of_ulps[j] = N_ULP_BINS if flipped else bin_of_ulps(max(steps, 1))
    return n_flips


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
    before, after, size = np.empty(STRETCH, np.float32), np.empty(STRETCH, np.float32), np.empty(STRETCH, np.float32)
    bits_before, bits_after, ratio = before.view(np.uint32), after.view(np.uint32), np.empty(STRETCH)
    group, of_joint = np.empty(STRETCH, np.int32), np.empty(STRETCH, np.int32)
    of_relative, of_ulps = np.empty(STRETCH, np.int32), np.empty(STRETCH, np.int32)
    groups, joint_bins = np.zeros(4 * N_BINADES, np.int64), joint.reshape(-1)
    of_steps = np.zeros(N_ULP_BINS + 1, np.int64)  # the last: of another sign
    most = largest[0]
    exponents = np.zeros(256, np.int64)
    zeros = zeroed = n_flips = n_equal = 0
    for row in range(begin, end):
        map_row = by_map_row[(first_row + row) // row_step]
        n_row = 0
        for first in range(0, columns, STRETCH):
            n = min(STRETCH, columns - first)
            pb, pa = left[row, first : first + n], right[row, first : first + n]
            flags, loose_flags = changed[row, first : first + n], loose[row, first : first + n]
            marks = map_row[first : first + n]
            if stored == BF16:
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
            n_equal += n - n_odd - k
            if strange:
                for i in range(n):
                    flags[i] |= loose_flags[i]
                    n_row += loose_flags[i]
            else:
                for i in range(n):
                    loose_flags[i] = 0
            n_row += k
            for j in range(k):
                before[j], after[j] = b[moved[j]], a[moved[j]]
            n_flips += _find_bins(
                before, after, bits_before, bits_after, k, stored, size, ratio, group, of_joint, of_relative, of_ulps,
                change_below, change_edge, relative_below, relative_edge,
            )  # fmt: skip
            for j in range(k):
                most = max(most, size[j])
            for j in range(k):
                groups[group[j]] += 1
                joint_bins[of_joint[j]] += 1
                relative[of_relative[j]] += 1
                loose_flags[moved[j]] = group[j] & _FARTHER
            if stored != OTHER:
                for j in range(k):
                    of_steps[of_ulps[j]] += 1
            for i in range(n):
                marks[i] += np.uint32(flags[i])
        row_changes[row - begin] = n_row
    for i in range(len(groups)):
        far, farther = (i & _FAR) // _FAR, i & _FARTHER
        counts[BF16_UNCHANGED] += groups[i] * (1 - far)
        counts[MUKHERJEE_UNCHANGED] += groups[i] * (1 - farther)
        wide_binades[i // 4] += groups[i] * far
        loose_binades[i // 4] += groups[i] * farther
    counts[BF16_UNCHANGED] += n_equal
    counts[MUKHERJEE_UNCHANGED] += n_equal
    counts[EQUAL] += n_equal
    counts[5] += n_flips
    largest[0] = most
    for i in range(N_ULP_BINS):
        ulps[i] += of_steps[i]
    binades[0] += zeros
    exponents[0] -= zeros + zeroed  # what was zeroed above has no exponent of its own
    for exponent in range(256):
        binade = min(max(exponent - 127, FIRST_BINADE - 1), LAST_BINADE + 1) - FIRST_BINADE + 2
        binades[binade] += exponents[exponent]
