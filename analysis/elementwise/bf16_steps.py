"""A bfloat16 pair tallied by counting steps: one increment a changed entry, and the arithmetic once per kind of entry.

Nearly every update of a bfloat16 weight moves it by a few of its steps, so a changed entry is told by the base's 16
bits and a small number, how many steps up or down. Masks, rows, columns, and what unchanged entries add, are taken by
vector instructions (`sweep`); all else comes at the end from the table of counts, where each kind of entry is visited
once. Entries outside the table (a new sign, more than 32 steps, not finite) are collected and go through `cpu_blocks`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import no_type_check

import numpy as np
import torch
from numba.cpython.unsafe.numbers import trailing_zeros
from torch import Tensor

from analysis.compiled import compiled
from analysis.elementwise import cpu_blocks
from analysis.elementwise.block import BlockTally, Geometry
from analysis.elementwise.chunks import CHUNK
from analysis.elementwise.counting import ADDED, COUNTED, VALUES, count_down, sum_of_shorts
from analysis.elementwise.cpu_blocks import BF16_UNCHANGED, EQUAL, MUKHERJEE_UNCHANGED
from analysis.elementwise.step_table import StepTable, count_pairs
from analysis.elementwise.sweep import sweep, vectors_pick
from analysis.measurements import FIRST_BINADE, LAST_BINADE, MUKHERJEE_ATOL, Tally

_FEWEST_ENTRIES = 1 << 18  # below, the table costs more than it saves
_STRETCH = 1024
_WAITING = 2048  # changed entries that wait to be counted together
_MANY = 8192  # exponents that do
_STRANGE = 0x7F80  # bits without sign, from which on a number is not finite
_MOST_COUNTED = 2**32 - 1

# The largest float32 that rounds (ties to even) to the bfloat16 next to Mukherjee's tolerance or below, as bits.
_atol_bits = int(torch.tensor(MUKHERJEE_ATOL).bfloat16().view(torch.int16))
_sweep = sweep((_atol_bits << 16) + 0x8000 - _atol_bits % 2)

# What vector instructions count: entries by the base's exponent (0: zeros, 1: numbers below the normal ones as well),
# and then how many stayed the same.
_SAME = 256
_BINADE_OF_EXPONENT = np.clip(np.arange(_SAME) - 127, FIRST_BINADE - 1, LAST_BINADE + 1) - FIRST_BINADE + 2
_BINADE_OF_EXPONENT[0] = 0


def fits(before: Tensor, after: Tensor, shape: Geometry) -> bool:
    """Whether `StepPass` takes such blocks: bfloat16 on the CPU, whole bytes of mask a row, and enough of them."""
    are_bf16 = before.dtype == after.dtype == torch.bfloat16 and before.device.type == "cpu"
    return are_bf16 and shape.columns % 8 == 0 and shape.rows * shape.columns >= _FEWEST_ENTRIES


class StepPass:
    """The pass over one tensor: `add` its blocks in order, then `finish`. What comes out depends neither on `threads`
    nor, up to _MOST_COUNTED entries, on the blocks: entries are counted before any arithmetic, and sums are of rows."""

    def __init__(self, shape: Geometry, threads: int) -> None:
        self._shape = shape
        self._workers = [_Worker(shape) for _ in range(max(1, threads))]
        self._sheet = cpu_blocks.Sheet.blank()
        self._entries = self._in_tables = 0
        self._odd = np.empty(0, np.uint32)  # that fill no stretch yet: stretches are summed each for itself
        self._row_changes = np.zeros(shape.rows, np.int64)
        self._row_sums = np.zeros((shape.rows, 2))
        self._masks = np.empty((2, shape.rows, shape.columns // 8), np.uint8)

    def add(self, before: Tensor, after: Tensor, first_row: int) -> None:
        """Rows from `first_row` on; before, after: (rows, columns) in bfloat16."""
        left, right = (side.contiguous().view(torch.int16).numpy().view(np.uint16) for side in (before, after))
        if self._in_tables + left.size > _MOST_COUNTED:
            self._empty_tables()
        bounds = [len(left) * k // len(self._workers) for k in range(len(self._workers) + 1)]

        def run(k: int) -> None:
            part, rows = slice(*bounds[k : k + 2]), slice(first_row + bounds[k], first_row + bounds[k + 1])
            exact, loose = self._masks[:, rows]
            of_rows = exact, loose, self._row_changes[rows], self._row_sums[rows]
            self._workers[k].add(left[part], right[part], rows.start, *of_rows)

        if len(self._workers) == 1:
            run(0)
        else:
            with ThreadPoolExecutor(len(self._workers)) as pool:
                list(pool.map(run, range(len(self._workers))))
        odd = np.concatenate([self._odd, *(worker.odd[: worker.n_odd] for worker in self._workers)])
        n_whole = len(odd) - len(odd) % cpu_blocks.STRETCH
        self._add_odd(odd[:n_whole])
        self._odd = odd[n_whole:]
        self._entries += left.size
        self._in_tables += left.size

    def finish(self) -> tuple[Tally, np.ndarray, np.ndarray]:
        """The tensor's Tally and its packed masks (exact, Mukherjee's); the pass is over."""
        self._empty_tables()
        self._add_odd(self._odd)
        first, *others = self._workers
        for other in others:
            first.column_changes += other.column_changes
            first.density += other.density
            first.tallied += other.tallied
        self._add_unchanged(first.tallied)
        for worker in self._workers:
            worker.table.put_back()
        nothing = np.empty(0, np.uint8)
        amounts, bins = self._sheet.amounts(self._entries), self._sheet.bins()
        total = BlockTally(amounts, bins, nothing, first.column_changes, first.density, nothing, nothing)
        exact, loose = self._masks.reshape(2, -1)
        return total.as_tally(self._row_changes), exact, loose

    def _add_odd(self, pairs: np.ndarray) -> None:
        if len(pairs):
            cpu_blocks.add_values(pairs.astype(np.uint16), (pairs >> 16).astype(np.uint16), self._sheet)

    def _add_unchanged(self, tallied: np.ndarray) -> None:
        counts, sums, binades = self._sheet.counts, self._sheet.sums, self._sheet.binades
        np.add.at(binades, _BINADE_OF_EXPONENT, tallied[:_SAME])
        counts[[EQUAL, BF16_UNCHANGED, MUKHERJEE_UNCHANGED]] += tallied[_SAME]
        squares, plain = self._row_sums.T.copy().sum(1)  # along rows of memory: a tenth of the time
        sums += np.array([squares, squares, 0, 0, squares, plain, plain])

    def _empty_tables(self) -> None:
        first, *others = self._workers
        for other in others:
            other.table.move_into(first.table)
        first.table.empty_into(self._sheet)
        self._in_tables = 0


class _Worker:
    """One thread's share: its table of counts, and what changed by column and block."""

    def __init__(self, shape: Geometry) -> None:
        self._shape = shape
        self.table = StepTable.take()
        self.column_changes = np.zeros(shape.columns, np.int64)
        self.density = np.zeros(shape.density_shape, np.int64)
        self.odd, self.n_odd = np.empty(0, np.uint32), 0
        self.tallied = np.zeros(_SAME + 1, np.int64)
        self._marks = np.zeros(shape.columns + CHUNK, np.uint16)  # changes by column, within one row of the density map

    def add(
        self,
        left: np.ndarray,
        right: np.ndarray,
        first_row: int,
        exact: np.ndarray,
        loose: np.ndarray,
        changes: np.ndarray,
        sums: np.ndarray,
    ) -> None:
        """Leaves in `odd` the entries that the table does not hold."""
        if len(self.odd) < left.size:
            self.odd = np.empty(left.size, np.uint32)
        self.n_odd = _count(
            left, right, first_row, self._shape.row_step, self._shape.column_step, self.table.counts, self.table.reach,
            exact, loose, changes, sums, self._marks, self.column_changes, self.density, self.tallied, self.odd,
        )  # fmt: skip


@no_type_check
@compiled()
def _count(
    left, right, first_row, row_step, column_step, table, reach, exact, loose, changes, sums,
    marks, column_changes, density, tallied, odd,
):  # fmt: skip
    """Fills the masks (rows, columns / 8), the row changes and sums, and the table; how many entries went to `odd`
    instead, as pairs of bits."""
    rows, columns = left.shape
    exponents, n_exponents, largest_seen = np.empty(_MANY + 2 * _STRETCH, np.uint8), 0, 0
    pairs, n_pairs = np.empty(_WAITING + 2 * _STRETCH, np.uint32), 0
    index = np.empty(len(pairs), np.uint32)
    rest = np.zeros((2, CHUNK), np.uint16)  # the end of a row, filled up with zeros
    rest_bits = np.empty((2, CHUNK // 8), np.uint8)
    largest = np.empty(1, np.uint16)
    at_left, at_right, at_marks, at_sums = left.ctypes.data, right.ctypes.data, marks.ctypes.data, sums.ctypes.data
    at_exact, at_loose, at_rest, at_bits = exact.ctypes.data, loose.ctypes.data, rest.ctypes.data, rest_bits.ctypes.data
    at_exponents, at_pairs, at_largest = exponents.ctypes.data, pairs.ctypes.data, largest.ctypes.data
    n_odd = since_flush = 0
    for row in range(rows):
        n_row = 0
        for first in range(0, columns, _STRETCH):
            n = min(_STRETCH, columns - first)
            n_whole = n - n % CHUNK
            before_stretch = sums[row, 0], sums[row, 1]
            n_changed, seen = 0, 0
            if n_whole:
                place, byte = row * columns + first, (row * columns + first) >> 3
                n_changed = _sweep(
                    at_left + 2 * place, at_right + 2 * place, n_whole // CHUNK, at_marks + 2 * first, at_exact + byte,
                    at_loose + byte, at_exponents + n_exponents, at_pairs + 4 * n_pairs, at_sums + 16 * row, at_largest,
                )  # fmt: skip
                seen = np.int64(largest[0])
            if n_whole < n:
                for i in range(n - n_whole):
                    rest[0, i] = left[row, first + n_whole + i]
                    rest[1, i] = right[row, first + n_whole + i]
                for i in range(n - n_whole, CHUNK):
                    rest[0, i] = rest[1, i] = 0
                n_changed += _sweep(
                    at_rest, at_rest + 2 * CHUNK, 1, at_marks + 2 * (first + n_whole), at_bits, at_bits + CHUNK // 8,
                    at_exponents + n_exponents + n_whole, at_pairs + 4 * (n_pairs + n_changed), at_sums + 16 * row,
                    at_largest,
                )  # fmt: skip
                seen = max(seen, np.int64(largest[0]))
                for i in range((n - n_whole) >> 3):
                    exact[row, ((first + n_whole) >> 3) + i] = rest_bits[0, i]
                    loose[row, ((first + n_whole) >> 3) + i] = rest_bits[1, i]
            n_row += n_changed
            if seen >= _STRANGE:
                sums[row, 0], sums[row, 1] = before_stretch
                n_odd += _leave_out(odd[n_odd:], count_pairs(pairs, n_pairs, index, table, reach, odd[n_odd:]), tallied)
                n_pairs = 0  # so that odd entries come in the order of stretches, however rows are cut into blocks
                stretch = left[row, first : first + n], right[row, first : first + n]
                n_pairs, n_odd = _count_strange(*stretch, sums[row], tallied, pairs, odd, n_odd)
            else:
                if not vectors_pick():
                    stretch = left[row, first : first + n], right[row, first : first + n]
                    _pick(*stretch, exact[row, first >> 3 :], pairs[n_pairs:])
                n_pairs += n_changed
                n_exponents += n
                tallied[_SAME] += n - n_changed
                largest_seen = max(largest_seen, seen)
            if n_exponents >= _MANY:
                _count_exponents(exponents, n_exponents, largest_seen >> 7, tallied)
                n_exponents = largest_seen = 0
            if n_pairs >= _WAITING:
                n_odd += _leave_out(odd[n_odd:], count_pairs(pairs, n_pairs, index, table, reach, odd[n_odd:]), tallied)
                n_pairs = 0
        changes[row] = n_row
        since_flush += 1
        map_row = (first_row + row) // row_step
        if row == rows - 1 or (first_row + row + 1) // row_step != map_row or since_flush == 60_000:
            since_flush = 0
            _spread(marks, columns, column_step, column_changes, density[map_row])
    _count_exponents(exponents, n_exponents, largest_seen >> 7, tallied)
    return n_odd + _leave_out(odd[n_odd:], count_pairs(pairs, n_pairs, index, table, reach, odd[n_odd:]), tallied)


@no_type_check
@compiled()
def _count_strange(before, after, sums, tallied, pairs, odd, n_odd):
    """Goes through a stretch with entries that are not finite one by one; how many `pairs` it leaves, and how
    many odd ones there are now."""
    n_pairs = 0
    for i in range(len(before)):
        p, q = np.int64(before[i]), np.int64(after[i])
        size = p & 0x7FFF
        if size >= _STRANGE or (q & 0x7FFF) >= _STRANGE:
            odd[n_odd] = p | (q << 16)
            n_odd += 1
            continue
        tallied[max(size >> 7, min(size, 1))] += 1
        if p != q and (p | q) & 0x7FFF:
            pairs[n_pairs] = p | (q << 16)
            n_pairs += 1
        else:
            value = np.float64(np.uint32(p << 16).view(np.float32))
            sums[0] += value * value
            sums[1] += value
            tallied[_SAME] += 1
    return n_pairs, n_odd


@no_type_check
@compiled()
def _pick(before, after, bits, pairs):
    """The changed entries' pairs of bits, one by one."""
    n = 0
    for k in range(len(before) >> 3):
        left = np.uint64(bits[k])
        while left:
            i = 8 * k + np.int64(trailing_zeros(left))
            pairs[n] = np.int64(before[i]) | (np.int64(after[i]) << 16)
            n += 1
            left &= left - np.uint64(1)


@no_type_check
@compiled()
def _count_exponents(exponents, n, largest, tallied):
    """Adds how often each of `exponents`, as `sweep` writes them, occurs: from the largest down, VALUES at once, which
    is mostly all. `largest` is that of the numbers' bits, where those below the normal ones have 0."""
    for i in range(n, n + -n % COUNTED):
        exponents[i] = 0xFF  # no finite number's
    found = 0
    exponent = max(largest, 1)
    while found < n and exponent >= 0:
        times = np.zeros(VALUES, np.int64)
        count_down(exponents.ctypes.data, (n + COUNTED - 1) // COUNTED, exponent, times.ctypes.data)
        for i in range(min(VALUES, exponent + 1)):
            tallied[exponent - i] += times[i]
            found += times[i]
        exponent -= VALUES


@no_type_check
@compiled()
def _leave_out(odd, n, tallied):
    """Takes back what their exponents were counted as, since others count them again; returns `n`."""
    for i in range(n):
        size = np.int64(odd[i]) & 0x7FFF
        tallied[max(size >> 7, min(size, 1))] -= 1
    return n


@no_type_check
@compiled()
def _spread(marks, columns, column_step, column_changes, density_row):
    """Adds the changes by column, and forgets them."""
    for column in range(columns):
        column_changes[column] += np.int64(marks[column])
    for block in range(len(density_row)):
        first, last = block * column_step, min((block + 1) * column_step, columns)
        n_whole = (last - first) // ADDED
        found = sum_of_shorts(marks.ctypes.data + 2 * first, n_whole)
        for column in range(first + n_whole * ADDED, last):
            found += np.int64(marks[column])
        density_row[block] += found
    marks[:] = 0
