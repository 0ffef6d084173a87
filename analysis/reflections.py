"""Householder's QR of a panel, compiled: its reflections as one block, which products of matrices then apply."""

from __future__ import annotations

from typing import no_type_check

import numpy as np

from analysis.compiled import SUMS, compiled
from analysis.lapack import Floats
from analysis.vectors import LANES, ROWS, dots, subtract_rows


def reflectors(columns: Floats) -> tuple[Floats, Floats, Floats]:
    """R, V, T with panel = (I - V^T T V) [R; 0], where `columns` (width, m) are the panel's; width is a multiple of
    ROWS, and at most m. V (width, m) holds one reflection a row."""
    width, m = columns.shape
    panel = np.zeros((width, m + -m % LANES), np.float32)
    panel[:, :m] = columns
    reflections, scales = np.zeros_like(panel), np.zeros(width, np.float32)
    _reflect(panel, reflections, scales, np.empty(ROWS, np.float32))
    together = _as_block(reflections @ reflections.T, scales)
    return np.tril(panel[:, :width]).T, reflections[:, :m], together


@no_type_check
@compiled(fastmath=SUMS)
def _reflect(panel, reflections, scales, factors):
    """Turns each column, a row of `panel`, to [R; 0], and the ones behind it along. What is left beyond R is waste."""
    width, m = panel.shape
    stride = panel.strides[0]
    for j in range(width):
        column, v = panel[j], reflections[j]
        squares = np.float32(0)
        for i in range(j + 1, m):
            squares += column[i] * column[i]
        first, v[j] = column[j], 1
        if squares == 0:
            continue
        turned = -np.copysign(np.sqrt(first * first + squares), first)
        scales[j] = (turned - first) / turned
        for i in range(j + 1, m):
            v[i] = column[i] / (first - turned)
        start = j // LANES * LANES  # v is 0 before j: whole vectors may begin there
        along, length = v.ctypes.data + 4 * start, m - start
        for k in range((j + 1) // ROWS * ROWS, width, ROWS):
            others = panel.ctypes.data + k * stride + 4 * start
            dots(others, stride, along, length, factors.ctypes.data)
            for row in range(ROWS):
                factors[row] *= scales[j]
            subtract_rows(others, stride, along, length, factors.ctypes.data)
        panel[j, j] = turned


@no_type_check
@compiled()
def _as_block(products, scales):
    """T of the product of all reflections, from the products of each two."""
    width = len(scales)
    block = np.zeros((width, width), np.float32)
    for j in range(width):
        block[j, j] = scales[j]
        for k in range(j):
            factor = -scales[j] * products[j, k]
            for i in range(k + 1):
                block[i, j] += block[i, k] * factor
    return block
