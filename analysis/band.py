"""Singular values of a square matrix without squaring it: down to a band in float32, then exact to the end in float64.

Householder reflections from both sides turn the matrix into an upper band of BANDWIDTH diagonals; nearly all of that
is matrix products. The Gram matrix of a band is a band as well, and its eigenvalues take LAPACK a fraction of the time.
Squaring in float64 costs nothing that the float32 matrix had: errors stay near 1e-7 of the largest value.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.lapack import Floats, band_eigenvalues, reflectors, subtract_product

BANDWIDTH = 32

Blocks = NDArray[np.float64]  # (blocks, BANDWIDTH, BANDWIDTH)


def band_singular_values(matrix: Floats, bandwidth: int = BANDWIDTH) -> NDArray[np.float64]:
    """All singular values, largest first, of a matrix (rows >= columns) whose entries are far from float32's limits."""
    columns = matrix.shape[1]
    band = _gram(*reduced_to_band(_padded(matrix, bandwidth), bandwidth))
    squares = band_eigenvalues(band)[::-1][:columns]  # those of the padding are 0
    return np.sqrt(squares.clip(min=0))


def reduced_to_band(work: Floats, width: int) -> tuple[Blocks, Blocks]:
    """The band as blocks: upper triangles on the diagonal, and lower triangles right of them. Overwrites `work`,
    whose columns are a multiple of `width`."""
    columns = work.shape[1]
    on = np.zeros((columns // width, width, width))
    right_of = np.zeros_like(on)
    for step, first in enumerate(range(0, columns, width)):
        last = first + width
        on[step], v, t = reflectors(work[first:, first:last])
        if last == columns:
            break
        # From the left (I - V T V^T)^T = I - V Y, of which the panel's own rows are needed at once.
        y = t.T @ (v.T @ work[first:, last:])
        rows = work[first:last, last:] - v[:width] @ y
        triangle, w, s = reflectors(rows.T)
        right_of[step] = triangle.T
        # From the right I - W S W^T, and both in one product: A - V Y - X W^T, where X = (A - V Y) W S.
        v, ws, rest = v[width:], w @ s, work[last:, last:]
        x = rest @ ws - v @ (y @ ws)
        subtract_product(np.hstack([v, x], dtype=np.float32), np.vstack([y, w.T], dtype=np.float32), rest)
    return on, right_of


def _padded(matrix: Floats, width: int) -> Floats:
    """A copy with zero columns, and rows, up to a multiple of `width`."""
    rows, columns = matrix.shape
    more = -columns % width
    work = np.zeros((rows + more, columns + more), np.float32)
    work[:rows, :columns] = matrix
    return work


def _gram(on: Blocks, right_of: Blocks) -> NDArray[np.float64]:
    """B B^T of the band B, itself a band: its lower half, (columns, bandwidth + 1), as band_eigenvalues takes it."""
    n_blocks, width, _ = on.shape
    diagonal = on @ on.transpose(0, 2, 1) + right_of @ right_of.transpose(0, 2, 1)
    below = np.zeros_like(on)
    below[:-1] = on[1:] @ right_of[:-1].transpose(0, 2, 1)
    columns = np.concatenate([diagonal, below], axis=1)  # (blocks, 2 * width, width)
    of, down = np.arange(width)[:, None], np.arange(width + 1)
    return np.ascontiguousarray(columns[:, of + down, of]).reshape(n_blocks * width, width + 1)
