"""Counts of changed bfloat16 entries by the base's 16 bits and how many steps they moved, and what they add up to.

Adding an entry is one increment. What each kind of entry adds to a Tally is worked out when the counts are read: for
both signs together, since only the plain sums tell them apart, and the bins of a kind once a process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from numba.cpython.unsafe.numbers import trailing_zeros

from analysis.compiled import SUMS, compiled
from analysis.elementwise.bins import (
    TABLES,
    bin_of_change,
    bin_of_ratio,
    bin_of_ulps,
    binade_of,
    within_bf16,
    within_mukherjee,
)
from analysis.elementwise.chunks import CHUNK
from analysis.elementwise.cpu_blocks import BF16_UNCHANGED, MUKHERJEE_UNCHANGED, Sheet
from analysis.elementwise.sweep import place
from analysis.measurements import N_CHANGE_BINS

FARTHEST = 32  # steps
_BEYOND = 2 * FARTHEST + 1  # the row of the table for what it does not hold, whose counts mean nothing
_CELLS = 64  # of the table, looked at together
_LARGEST_FINITE = 0x7F7F
_WITHIN_BF16, _WITHIN_MUKHERJEE, _RELATIVE_SHIFT = 1 << 30, 1 << 29, 16  # of a kind; its rest is a bin
_RELATIVE = 0xFF << _RELATIVE_SHIFT

_place = place(FARTHEST)


@dataclass(frozen=True, eq=False)
class StepTable:
    """One thread's counts. Used again for the next tensor: touching new memory takes longer than counting a matrix."""

    counts: np.ndarray  # (steps + FARTHEST) * 65536 + the base's bits -> entries
    reach: (
        np.ndarray
    )  # the most steps, and the smallest and largest size (bits without sign) of the base, counted so far
    kinds: np.ndarray  # (steps + FARTHEST) * 32768 + the base's size -> which bins, where `ends` says that it is known
    ends: np.ndarray  # (_CELLS of these each, 2): bits where a bin by relative change ends, and a rest; 0 until known

    @classmethod
    def take(cls) -> StepTable:
        """An empty one."""
        try:
            return _spare.pop()
        except IndexError:
            counts, kinds = np.zeros((_BEYOND + 1) << 16, np.uint32), np.zeros(_BEYOND << 15, np.uint32)
            ends = np.zeros((len(kinds) // _CELLS, 2), np.uint64)
            return cls(counts, np.array([0, 0x7FFF, 0], np.int64), kinds, ends)

    def put_back(self) -> None:
        """After `empty_into`."""
        _spare.append(self)

    def move_into(self, other: StepTable) -> None:
        """Adds its counts to another's, and is empty then."""
        _move(self.counts, self.reach, other.counts, other.reach)

    def empty_into(self, sheet: Sheet) -> None:
        """Adds what was counted, except by the base's binades, and is empty then."""
        _decode(
            self.counts, self.reach, self.kinds, self.ends, sheet.counts, sheet.sums, sheet.largest, sheet.joint,
            sheet.loose_binades, sheet.wide_binades, sheet.relative, sheet.ulps, *TABLES,
        )  # fmt: skip


_spare: list[StepTable] = []


@no_type_check
@compiled()
def count_pairs(pairs, n, index, counts, reach, odd):
    """Counts the first `n` of `pairs` (as `sweep` leaves them, with room up to a multiple of CHUNK); `odd` receives
    those that the table does not hold. Returns how many these are. `index` is as long as `pairs`."""
    if n == 0:
        return 0
    for i in range(n, n + -n % CHUNK):
        pairs[i] = pairs[0]
    n_chunks = (n + CHUNK - 1) // CHUNK
    beyond, reached = np.empty(n_chunks, np.uint32), np.empty(3, np.uint32)
    _place(pairs.ctypes.data, n_chunks, index.ctypes.data, beyond.ctypes.data, reached.ctypes.data)
    for i in range(n):
        counts[index[i]] += np.uint32(1)
    reach[0] = max(reach[0], np.int64(reached[0]))
    reach[1] = min(reach[1], np.int64(reached[1]))
    reach[2] = max(reach[2], np.int64(reached[2]))
    n_odd = 0
    for k in range(n_chunks):
        left = np.uint64(beyond[k])
        while left:
            i = k * CHUNK + np.int64(trailing_zeros(left))
            left &= left - np.uint64(1)
            if i < n:
                odd[n_odd] = pairs[i]
                n_odd += 1
    return n_odd


@no_type_check
@compiled(fastmath=SUMS)
def _decode(
    counts, reach, kinds, ends, integers, sums, largest, joint, loose_binades, wide_binades, relative, ulps,
    change_below, change_edge, relative_below, relative_edge,
):  # fmt: skip
    counts[_BEYOND << 16 :] = 0
    joint_bins = joint.reshape(-1)
    upto = np.empty(_CELLS, np.int64)
    for step in range(-reach[0], reach[0] + 1):
        if step == 0:
            continue
        ulp_bin = bin_of_ulps(abs(step))
        for size in range(reach[1] - reach[1] % _CELLS, reach[2] + 1, _CELLS):
            start = ((step + FARTHEST) << 16) + size
            plus, minus = counts[start : start + _CELLS], counts[start + 0x8000 : start + 0x8000 + _CELLS]
            used = np.uint32(0)
            for i in range(_CELLS):
                used |= plus[i] | minus[i]
            if not used:
                continue
            place = ((step + FARTHEST) << 15) + size
            known, ends_here = kinds[place : place + _CELLS], ends[place // _CELLS]
            if not ends_here[0]:
                _learn(size, step, known, ends_here, change_below, change_edge, relative_below, relative_edge)
            _add_sums(size, step, plus, minus, sums, largest)
            total = 0
            for i in range(_CELLS):
                total += np.int64(plus[i]) + np.int64(minus[i])
                upto[i] = total
            ulps[ulp_bin] += total
            left, counted = ends_here[0], 0
            while left:
                last = np.int64(trailing_zeros(left))
                left &= left - np.uint64(1)
                relative[(known[last] >> _RELATIVE_SHIFT) & 0xFF] += upto[last] - counted
                counted = upto[last]
            left, counted = ends_here[1], 0
            while left:
                last = np.int64(trailing_zeros(left))
                left &= left - np.uint64(1)
                _add_kind(
                    np.int64(known[last]), upto[last] - counted, integers, joint_bins, loose_binades, wide_binades
                )
                counted = upto[last]
            plus[:] = 0
            minus[:] = 0
    reach[0], reach[1], reach[2] = 0, 0x7FFF, 0


@no_type_check
@compiled(inline="always")
def _value(size):
    """The float32 of these bits of a bfloat16; of the nearest finite one where no entry has them."""
    return np.uint32(min(max(size, 0), _LARGEST_FINITE) << 16).view(np.float32)


@no_type_check
@compiled()
def _learn(size, step, known, ends, change_below, change_edge, relative_below, relative_edge):
    """Which bins entries belong to whose base has the size `size` + i, and that moved so many steps; and where the
    cells of a kind end, as bits."""
    ends[:] = np.uint64(1) << np.uint64(_CELLS - 1)
    for i in range(_CELLS):
        before, after = _value(size + i), _value(size + i + step)
        change, larger = abs(np.float32(after - before)), max(before, after)
        kind = _WITHIN_BF16 * within_bf16(change, larger)
        kind |= _WITHIN_MUKHERJEE * np.int64(within_mukherjee(before, after))
        ratio = bin_of_ratio(np.float64(change) / np.float64(larger), relative_below, relative_edge)
        binade = binade_of(np.uint32((size + i) << 16))
        change_bin = np.int64(bin_of_change(change, change_below, change_edge))
        known[i] = kind | (np.int64(ratio) << _RELATIVE_SHIFT) | (binade * N_CHANGE_BINS + change_bin)
        if i:
            ended = np.uint64(1) << np.uint64(i - 1)
            differs = np.int64(known[i]) ^ np.int64(known[i - 1])
            if differs & _RELATIVE:
                ends[0] |= ended
            if differs & ~_RELATIVE:
                ends[1] |= ended


@no_type_check
@compiled()
def _add_kind(kind, times, integers, joint_bins, loose_binades, wide_binades):
    joint_bin = kind & 0xFFFF
    binade = joint_bin // N_CHANGE_BINS
    same = times if kind & _WITHIN_BF16 else 0
    close = times if kind & _WITHIN_MUKHERJEE else 0
    joint_bins[joint_bin] += times
    integers[BF16_UNCHANGED] += same
    wide_binades[binade] += times - same
    integers[MUKHERJEE_UNCHANGED] += close
    loose_binades[binade] += times - close


@no_type_check
@compiled(fastmath=SUMS)
def _add_sums(size, step, plus, minus, sums, largest):
    base = tuned = update = moved = dot = plain_base = plain_tuned = 0.0
    most = np.uint32(0)
    for i in range(_CELLS):
        before, after = _value(size + i), _value(size + i + step)
        change = np.float32(abs(after - before)).view(np.uint32)  # as whole numbers they have the same order
        most = max(most, change if plus[i] | minus[i] else np.uint32(0))
        x, y = np.float64(before), np.float64(after)
        times, more = np.float64(plus[i]) + np.float64(minus[i]), np.float64(plus[i]) - np.float64(minus[i])
        base += times * (x * x)
        tuned += times * (y * y)
        update += times * ((y - x) * (y - x))
        moved += times * abs(y - x)
        dot += times * (x * y)
        plain_base += more * x
        plain_tuned += more * y
    sums[0] += base
    sums[1] += tuned
    sums[2] += update
    sums[3] += moved
    sums[4] += dot
    sums[5] += plain_base
    sums[6] += plain_tuned
    largest[0] = max(largest[0], np.uint32(most).view(np.float32))


@no_type_check
@compiled()
def _move(counts, reach, into, into_reach):
    counts[_BEYOND << 16 :] = 0
    for step in range(-reach[0], reach[0] + 1):
        for sign in (0, 0x8000):
            start = ((step + FARTHEST) << 16) + sign
            for cell in range(start + reach[1], start + reach[2] + 1):
                into[cell] += counts[cell]
                counts[cell] = 0
    into_reach[0] = max(into_reach[0], reach[0])
    into_reach[1] = min(into_reach[1], reach[1])
    into_reach[2] = max(into_reach[2], reach[2])
    reach[0], reach[1], reach[2] = 0, 0x7FFF, 0
