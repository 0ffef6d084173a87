"""A bfloat16 pair tallied by counting steps: one increment an entry, and the arithmetic once per kind of entry.

Nearly every update of a bfloat16 weight moves it by a few of its steps, so an entry is told by the base's 16 bits and
a small number, how many steps up or down. Masks, rows and columns are taken in the same pass, by vector instructions;
sums and histograms come at the end from the table of counts, where each kind of entry is visited once. Entries outside
the table (a new sign, more than 32 steps, not finite) are collected and go through `cpu_blocks`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import no_type_check

import numpy as np
import torch
from numba import njit
from torch import Tensor

from analysis.elementwise import cpu_blocks
from analysis.elementwise.block import BlockTally, Geometry
from analysis.elementwise.cpu_blocks import (
    bin_of_change,
    bin_of_ratio,
    bin_of_ulps,
    binade_of,
    within_bf16,
    within_mukherjee,
)
from analysis.measurements import MUKHERJEE_ATOL, Tally

_FEWEST_ENTRIES = 1 << 18  # below, the table costs more than it saves
_FARTHEST = 32  # steps
_STRETCH = 1024
_BEYOND = np.uint16(2 * _FARTHEST + 1)  # the row of the table for what it does not hold, whose counts mean nothing
_MOST_COUNTED = 2**32 - 1

# The largest float32 that rounds (ties to even) to the bfloat16 next to Mukherjee's tolerance or below, as bits.
_atol_bits = int(torch.tensor(MUKHERJEE_ATOL).bfloat16().view(torch.int16))
_LARGEST_WITHIN = np.uint32((_atol_bits << 16) + 0x8000 - _atol_bits % 2)

_spare_tables: list[np.ndarray] = []  # all zero; touching new memory takes longer than counting a matrix


def fits(before: Tensor, after: Tensor, shape: Geometry) -> bool:
    """Whether `StepPass` takes such blocks: bfloat16 on the CPU, whole bytes of mask a row, and enough of them."""
    are_bf16 = before.dtype == after.dtype == torch.bfloat16 and before.device.type == "cpu"
    return are_bf16 and shape.columns % 8 == 0 and shape.rows * shape.columns >= _FEWEST_ENTRIES


class StepPass:
    """The pass over one tensor: `add` its blocks in order, then `finish`. What comes out depends on the blocks, not on
    `threads`: counts are added before any arithmetic."""

    def __init__(self, shape: Geometry, threads: int) -> None:
        self._shape = shape
        self._workers = [_Worker(shape) for _ in range(max(1, threads))]
        self._sheet = cpu_blocks.Sheet.blank()
        self._entries = self._in_tables = 0
        self._row_changes: list[np.ndarray] = []
        self._masks = np.empty((2, 0, shape.columns // 8), np.uint8)

    def add(self, before: Tensor, after: Tensor, first_row: int) -> tuple[np.ndarray, np.ndarray]:
        """The block's packed masks (exact, Mukherjee's), overwritten by the next; before, after: (rows, columns) in
        bfloat16."""
        left, right = (side.contiguous().view(torch.int16).numpy().view(np.uint16) for side in (before, after))
        if self._masks.shape[1] < len(left):
            self._masks = np.empty((2, len(left), self._shape.columns // 8), np.uint8)
        if self._in_tables + left.size > _MOST_COUNTED:
            self._empty_tables()
        exact, loose = self._masks[:, : len(left)]
        changes = np.empty(len(left), np.int64)
        bounds = np.linspace(0, len(left), len(self._workers) + 1).astype(int).tolist()

        def run(k: int) -> None:
            part = slice(bounds[k], bounds[k + 1])
            masks = exact[part], loose[part]
            self._workers[k].add(left[part], right[part], first_row + bounds[k], *masks, changes[part])

        if len(self._workers) == 1:
            run(0)
        else:
            with ThreadPoolExecutor(len(self._workers)) as pool:
                list(pool.map(run, range(len(self._workers))))
        odd = [worker.odd[:, : worker.n_odd] for worker in self._workers if worker.n_odd]
        if odd:
            of_base, of_tuned = np.concatenate(odd, axis=1)
            cpu_blocks.add_values(of_base, of_tuned, self._sheet)
        self._entries += left.size
        self._in_tables += left.size
        self._row_changes.append(changes)
        return exact.ravel(), loose.ravel()

    def finish(self) -> Tally:
        """The tensor's Tally; the pass is over."""
        self._empty_tables()
        first, *others = self._workers
        for other in others:
            first.column_changes += other.column_changes
            first.density += other.density
        for worker in self._workers:
            _spare_tables.append(worker.table)
        nothing = np.empty(0, np.uint8)
        amounts, bins = self._sheet.amounts(self._entries), self._sheet.bins()
        total = BlockTally(amounts, bins, nothing, first.column_changes, first.density, nothing, nothing)
        return total.as_tally(np.concatenate(self._row_changes))

    def _empty_tables(self) -> None:
        first, *others = self._workers
        for other in others:
            _move(other.table, other.reach, first.table, first.reach)
        _decode(first.table, first.reach, *self._sheet.arrays(), *cpu_blocks.TABLES)
        self._in_tables = 0


class _Worker:
    """One thread's share: its table of counts, and what changed by column and block."""

    def __init__(self, shape: Geometry) -> None:
        self._shape = shape
        self.table = _spare_table()
        self.reach = _nowhere()
        self.column_changes = np.zeros(shape.columns, np.int64)
        self.density = np.zeros(shape.density_shape, np.int64)
        self.odd, self.n_odd = np.empty((2, 0), np.uint16), 0
        self._marks = np.zeros(shape.columns, np.uint16)  # changes by column, within one row of the density map

    def add(
        self,
        left: np.ndarray,
        right: np.ndarray,
        first_row: int,
        exact: np.ndarray,
        loose: np.ndarray,
        changes: np.ndarray,
    ) -> None:
        """Leaves in `odd` the entries that the table does not hold."""
        if self.odd.shape[1] < left.size:
            self.odd = np.empty((2, left.size), np.uint16)
        self.n_odd = _count(
            left, right, first_row, self._shape.row_step, self._shape.column_step, self.table, self.reach,
            exact, loose, changes, self._marks, self.column_changes, self.density, self.odd[0], self.odd[1],
        )  # fmt: skip


def _spare_table() -> np.ndarray:
    try:
        return _spare_tables.pop()
    except IndexError:
        return np.zeros((int(_BEYOND) + 1) << 16, np.uint32)


def _nowhere() -> np.ndarray:
    """Which cells of a table are in use: as far as so many steps, and for sizes of the base from .. to (bits without
    sign, less one; zeros are not told)."""
    return np.array([0, 0xFFFF, 0], np.int64)


@no_type_check
@njit(cache=True, nogil=True, boundscheck=False, error_model="numpy")
def _count(
    left, right, first_row, row_step, column_step, table, reach, exact, loose, changes,
    marks, column_changes, density, odd_left, odd_right,
):  # fmt: skip
    """Fills the masks (rows, columns / 8), the row changes and the table; how many entries went to `odd_left` and
    `odd_right` instead."""
    rows, columns = left.shape
    index = np.empty(_STRETCH, np.uint32)
    flags, loose_flags = np.empty(_STRETCH, np.uint8), np.empty(_STRETCH, np.uint8)
    steps, beyond = np.empty(_STRETCH, np.uint16), np.empty(_STRETCH, np.uint8)
    beyond_words = beyond.view(np.uint64)
    words, loose_words = flags.view(np.uint64), loose_flags.view(np.uint64)
    n_odd = np.uint64(0)
    middle = np.uint16(_FARTHEST)
    smallest, largest = np.uint16(0xFFFF), np.uint16(0)
    since_flush = 0
    for row in range(rows):
        n_row = np.uint64(0)
        for first in range(0, columns, _STRETCH):
            n = min(_STRETCH, columns - first)
            pb, pa = left[row, first : first + n], right[row, first : first + n]
            of_column = marks[first : first + n]
            for i in range(n):
                p, q = pb[i], pa[i]
                moved = np.uint8(p != q) & np.uint8(np.uint16((p | q) & np.uint16(0x7FFF)) != 0)
                x, y = np.uint32(np.uint32(p) << np.uint32(16)), np.uint32(np.uint32(q) << np.uint32(16))
                size = np.float32(y.view(np.float32) - x.view(np.float32)).view(np.uint32) & np.uint32(0x7FFFFFFF)
                flags[i] = moved
                loose_flags[i] = moved & np.uint8(np.uint32(size) > _LARGEST_WITHIN)
            for i in range(n):
                p, q = pb[i], pa[i]
                step = np.uint16(q - p + np.uint16(_FARTHEST))
                other_sign = np.uint16((p ^ q) & np.uint16(0x8000))
                p_strange = np.uint16(np.uint16(p & np.uint16(0x7F80)) == np.uint16(0x7F80))
                q_strange = np.uint16(np.uint16(q & np.uint16(0x7F80)) == np.uint16(0x7F80))
                steps[i] = max(step, np.uint16(other_sign | np.uint16(-p_strange) | np.uint16(-q_strange)))
            for i in range(n):
                size_bits = np.uint16(np.uint16(pb[i] & np.uint16(0x7FFF)) - np.uint16(1))
                smallest = min(smallest, size_bits)
                largest = max(largest, np.uint16(size_bits & np.uint16(0x7FFF)))
            farthest = np.uint16(0)
            for i in range(n):
                farthest = max(farthest, np.uint16(max(steps[i], middle) - min(steps[i], middle)))
            for i in range(n):
                index[i] = (np.uint32(min(steps[i], _BEYOND)) << np.uint32(16)) | np.uint32(pb[i])
            for i in range(n):
                table[index[i]] += np.uint32(1)
            if farthest > middle:
                farthest = middle
                for i in range(n):
                    beyond[i] = np.uint8(steps[i] >= _BEYOND)
                for w in range(n >> 3):
                    if beyond_words[w]:
                        for i in range(8 * w, 8 * w + 8):
                            odd_left[n_odd] = pb[i]
                            odd_right[n_odd] = pa[i]
                            n_odd += np.uint64(beyond[i])
            reach[0] = max(reach[0], np.int64(farthest))
            for i in range(n):
                of_column[i] += np.uint16(flags[i])
            for w in range(n >> 3):
                n_row += (words[w] * np.uint64(0x0101010101010101)) >> np.uint64(56)
                exact[row, (first >> 3) + w] = (words[w] * np.uint64(0x0102040810204080)) >> np.uint64(56)
                loose[row, (first >> 3) + w] = (loose_words[w] * np.uint64(0x0102040810204080)) >> np.uint64(56)
        changes[row] = n_row
        since_flush += 1
        map_row = (first_row + row) // row_step
        if row == rows - 1 or (first_row + row + 1) // row_step != map_row or since_flush == 60_000:
            since_flush = 0
            for column in range(columns):
                column_changes[column] += marks[column]
                density[map_row, column // column_step] += marks[column]
                marks[column] = 0
    reach[1] = min(reach[1], np.int64(smallest))
    reach[2] = max(reach[2], np.int64(largest))
    return np.int64(n_odd)


@no_type_check
@njit(cache=True, nogil=True, boundscheck=False, error_model="numpy")
def _decode(
    table, reach, counts, sums, largest, joint, binades, loose_binades, wide_binades, relative, ulps,
    change_below, change_edge, relative_below, relative_edge,
):  # fmt: skip
    """Adds what the table counted, and leaves it all zero and `reach` as new: `_nowhere`."""
    table[np.int64(_BEYOND) << 16 :] = 0
    first, last = reach[1] + 1, reach[2] + 1
    for step in range(-reach[0], reach[0] + 1):
        ulp_bin = bin_of_ulps(max(abs(step), 1))
        row = (step + _FARTHEST) << 16
        for k in range(-2, 2 * max(last - first + 1, 0)):
            # both zeros, then every size with either sign
            size_bits = np.int64(0) if k < 0 else first + (k >> 1)
            p = np.uint32(size_bits | ((k & 1) << 15))
            cell = row | np.int64(p)
            times = np.int64(table[cell])
            if times == 0:
                continue
            table[cell] = 0
            bits = np.uint32(p) << np.uint32(16)
            before = np.uint32(bits).view(np.float32)
            after = np.uint32(np.uint32(p + step) << np.uint32(16)).view(np.float32)
            x, y = np.float64(before), np.float64(after)
            sums[0] += times * (x * x)
            sums[1] += times * (y * y)
            sums[4] += times * (x * y)
            sums[5] += times * x
            sums[6] += times * y
            binades[binade_of(np.uint32(bits))] += times
            if step == 0:
                counts[2] += times
                counts[3] += times
                counts[4] += times
                continue
            size, larger = abs(np.float32(after - before)), max(abs(before), abs(after))
            sums[2] += times * ((y - x) * (y - x))
            sums[3] += times * abs(y - x)
            binade = binade_of(np.uint32(bits))
            joint[binade, bin_of_change(size, change_below, change_edge)] += times
            relative[bin_of_ratio(np.float64(size) / np.float64(larger), relative_below, relative_edge)] += times
            ulps[ulp_bin] += times
            is_within = within_bf16(size, larger)
            counts[3] += times * is_within
            wide_binades[binade] += times * (1 - is_within)
            if within_mukherjee(before, after):
                counts[4] += times
            else:
                loose_binades[binade] += times
            largest[0] = max(largest[0], size)
    reach[0], reach[1], reach[2] = 0, 0xFFFF, 0


@no_type_check
@njit(cache=True, nogil=True, boundscheck=False, error_model="numpy")
def _move(table, reach, into, into_reach):
    """Adds one table's counts to another's, and leaves it as new."""
    table[np.int64(_BEYOND) << 16 :] = 0
    for step in range(-reach[0], reach[0] + 1):
        row = (step + _FARTHEST) << 16
        for cell in range(row, row + (1 << 16)):
            into[cell] += table[cell]
            table[cell] = 0
    into_reach[0] = max(into_reach[0], reach[0])
    into_reach[1] = min(into_reach[1], reach[1])
    into_reach[2] = max(into_reach[2], reach[2])
    reach[0], reach[1], reach[2] = 0, 0xFFFF, 0
