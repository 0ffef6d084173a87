"""Which bin of a Tally's histograms a changed entry belongs to, compiled.

Bins are found by table, not by search: the top 16 bits of a float32 name a cell that is narrower than a bin, so a
cell holds at most one edge, and one comparison decides the side.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
import torch

from analysis.compiled import compiled
from analysis.measurements import (
    CHANGE_EDGES,
    FIRST_BINADE,
    LAST_BINADE,
    MUKHERJEE_ATOL,
    RELATIVE_EDGES,
)

# The type that both sides are stored in, as the compiled pass knows it; OTHER: two types, or one without steps.
OTHER, BF16, F16, F32 = range(4)
_RELATIVE_SHIFT = 45  # leaves sign, exponent and 7 mantissa bits of a float64
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
_CHANGE_CELLS, _RELATIVE_CELLS = len(_CHANGE_BELOW), len(_RELATIVE_BELOW)  # what lies outside is of the outermost bin
TABLES = (_CHANGE_BELOW, _CHANGE_EDGE, _RELATIVE_BELOW, _RELATIVE_EDGE)


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
    cell = min(np.float32(size).view(np.uint32) >> np.uint32(16), np.uint32(_CHANGE_CELLS - 1))
    return change_below[cell] + np.int32(size > change_edge[cell])


@no_type_check
@compiled(inline="always")
def bin_of_ratio(ratio, relative_below, relative_edge):
    """Which of the bins by relative change this ratio belongs to."""
    place = np.int64(np.float64(ratio).view(np.uint64) >> np.uint64(_RELATIVE_SHIFT)) - _RELATIVE_FIRST
    cell = np.uint64(min(max(place, 0), _RELATIVE_CELLS - 1))
    return relative_below[cell] + np.int32(ratio > relative_edge[cell])


@no_type_check
@compiled(inline="always")
def bin_of_ulps(steps):
    """Which of the bins by units in the last place so many steps belong to; at least one."""
    if steps <= 4:
        return steps - 1
    return np.int64(np.float64(steps - 1).view(np.uint64) >> np.uint64(52)) - 1021  # 1 + the bits of steps - 1


@no_type_check
@compiled(inline="always")
def steps_from_0(bits, stored):
    """How many steps of the stored type lie between 0 and the float32 with these bits, which it holds exactly."""
    size = np.int64(bits & np.uint32(0x7FFFFFFF))
    if stored == F32:
        return size
    if stored == BF16:
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
