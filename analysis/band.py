"""Singular values of a square matrix without squaring it: down to a band in float32, then exact to the end in float64.

Householder reflections from both sides turn the matrix into an upper band of BANDWIDTH diagonals; nearly all of that
is matrix products. The Gram matrix of a band is a band as well, and its eigenvalues take LAPACK a fraction of the time.
Squaring in float64 costs nothing that the float32 matrix had: errors stay near 1e-7 of the largest value.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.chase import BANDWIDTH, Blocks, tridiagonal
from analysis.lapack import Floats, subtract_product, tridiagonal_eigenvalues
from analysis.reflections import reflectors


def band_singular_values(matrix: Floats) -> NDArray[np.float64]:
    """All singular values, largest first, of a matrix (rows >= columns) whose entries are far from float32's limits."""
    columns = matrix.shape[1]
    band = _gram(*reduced_to_band(_padded(matrix)))
    squares = tridiagonal_eigenvalues(*tridiagonal(*band))[::-1][:columns]  # those of the padding are 0
    return np.sqrt(squares.clip(min=0))


def reduced_to_band(work: Floats) -> tuple[Blocks, Blocks]:
    """The band as blocks: upper triangles on the diagonal, and lower triangles right of them. Overwrites `work`,
    whose columns are a multiple of BANDWIDTH."""
    columns, width = work.shape[1], BANDWIDTH
    on = np.zeros((columns // width, width, width))
    right_of = np.zeros_like(on)
    for step, first in enumerate(range(0, columns, width)):
        last = first + width
        on[step], v, t = reflectors(work[first:, first:last].T)
        if last == columns:
            break
        # From the left (I - V^T T V)^T = I - V^T Y, of which the panel's own rows are needed at once.
        y = t.T @ (v @ work[first:, last:])
        rows = work[first:last, last:] - v[:, :width].T @ y
        triangle, w, s = reflectors(rows)
        right_of[step] = triangle.T
        # From the right I - W^T S W, and both in one product: A - V^T Y - X W, where X = (A - V^T Y) W^T S.
        v, ws, rest = v[:, width:], (s.T @ w).T, work[last:, last:]
        x = rest @ ws - v.T @ (y @ ws)
        subtract_product(np.hstack([v.T, x], dtype=np.float32), np.vstack([y, w], dtype=np.float32), rest)
    return on, right_of


def _padded(matrix: Floats) -> Floats:
    """A copy with zero columns, and rows, up to a multiple of BANDWIDTH."""
    rows, columns = matrix.shape
    more = -columns % BANDWIDTH
    work = np.zeros((rows + more, columns + more), np.float32)
    work[:rows, :columns] = matrix
    return work


def _gram(on: Blocks, right_of: Blocks) -> tuple[Blocks, Blocks]:
    """B B^T of the band B, itself a band: its blocks on the diagonal, and those below them."""
    below = np.zeros_like(on)
    below[:-1] = on[1:] @ right_of[:-1].transpose(0, 2, 1)
    return on @ on.transpose(0, 2, 1) + right_of @ right_of.transpose(0, 2, 1), below
