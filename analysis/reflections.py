"""Householder's QR of a panel, compiled: its reflections as one block, which products of matrices then apply."""

from __future__ import annotations

from typing import no_type_check

import numpy as np

from analysis.compiled import SUMS, compiled
from analysis.lapack import Floats
from analysis.vectors import LANES, ROWS, dots, subtract_rows

# Where the matrix's largest entry is near 1, what is left of a column is nothing to float32 if its squares sum to less.
# They would have few bits, and so would a reflection made from them, which turns columns of any size.
_VANISHING = np.float32(1e-26)


class Room:
    """What `reflectors` works in; made once for many panels of up to `longest` entries a column."""

    def __init__(self, width: int, longest: int) -> None:
        # By LANES longer: columns that are a power of two apart would share few places of the cache.
        self.panel, self.reflections = np.zeros((2, width, longest + LANES), np.float32)
        self.factors = np.empty(ROWS, np.float32)


def reflectors(columns: Floats, into: Floats, room: Room) -> tuple[Floats, Floats]:
    """R, T with panel = (I - V T V^T) [R; 0], where `columns` (width, m) are the panel's; width is a multiple of ROWS,
    m of LANES, and at least width. `into` (m, width) takes V, one reflection a column. The largest entry of the matrix
    that the panel belongs to is near 1: what is below 1e-13 of it may be taken for 0."""
    width, m = columns.shape
    triangle, together = np.zeros((2, width, width), np.float32)
    scales = np.zeros(width, np.float32)
    _reflect(columns, into, room.panel, room.reflections, triangle, scales, room.factors)
    _put_together(room.reflections[:, :m] @ into, scales, together)
    return triangle, together.T


@no_type_check
@compiled(fastmath=SUMS)
def _reflect(columns, into, panel, reflections, triangle, scales, factors):
    """Turns each column, a row of `panel`, to [R; 0], and the ones behind it along. What is left beyond R is waste."""
    width, m = columns.shape
    if columns.strides[1] == columns.itemsize:
        panel[:, :m] = columns
    else:
        _turn(columns.T, panel)
    stride = panel.strides[0]
    for j in range(width):
        first, rest = panel[j, j], reflections[j, j + 1 : m]
        triangle[:j, j], triangle[j, j] = panel[j, :j], first
        reflections[j, : j + 1], rest[:] = 0, panel[j, j + 1 : m]
        start = j // LANES * LANES  # the reflection is 0 before j: whole vectors may begin there
        along, length = reflections[j, start:].ctypes.data, m - start
        dots(along, 0, along, length, factors.ctypes.data)
        squares = factors[0]
        reflections[j, j] = 1
        if squares < _VANISHING:
            continue
        turned = -np.copysign(np.sqrt(first * first + squares), first)
        scale, shrink = (turned - first) / turned, 1 / (first - turned)
        for i in range(len(rest)):
            rest[i] *= shrink
        triangle[j, j], scales[j] = turned, scale
        for k in range((j + 1) // ROWS * ROWS, width, ROWS):
            others = panel[k, start:].ctypes.data
            dots(others, stride, along, length, factors.ctypes.data)
            for row in range(ROWS):
                factors[row] *= scale
            subtract_rows(others, stride, along, length, factors.ctypes.data)
    _turn(reflections.T[:m], into.T)


@no_type_check
@compiled(fastmath=SUMS)
def _put_together(products, scales, block):
    """block = T^T, row by row: above its diagonal T^-1 is V^T V, and 1 / scales on it."""
    for j in range(len(scales)):
        for k in range(j):
            for i in range(k + 1):
                block[j, i] -= products[j, k] * block[k, i]
        block[j, j] = 1
        for i in range(j + 1):
            block[j, i] *= scales[j]


@no_type_check
@compiled()
def _turn(tall, wide):
    """wide = tall.T, along the tall one's rows: wherever these lie, few columns stay in the cache."""
    rows, columns = tall.shape
    for i in range(rows):
        for j in range(columns):
            wide[j, i] = tall[i, j]
