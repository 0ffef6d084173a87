"""Singular values of a square matrix without squaring it: down to a band in float32, then exact to the end in float64.

Householder reflections from both sides turn the matrix into an upper band of BANDWIDTH diagonals; nearly all of that
is matrix products. The Gram matrix of a band is a band as well, and its eigenvalues take a fraction of the time.
Squaring in float64 costs nothing that the float32 matrix had: errors stay near 1e-7 of the largest value.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.chase import BANDWIDTH, Blocks, tridiagonal
from analysis.eigenvalues import roots
from analysis.lapack import Floats, subtract_product
from analysis.reflections import Room, reflectors
from analysis.vectors import LANES

_CROWDED = 2048  # columns up to which the work's rows lie LANES further apart than they are long


def band_singular_values(matrix: Floats, largest: float) -> NDArray[np.float64]:
    """All singular values, largest first, of a matrix (rows >= columns) whose largest entry has the size `largest`, far
    from float32's limits."""
    columns, exponent = matrix.shape[1], int(np.frexp(largest)[1])
    diagonal, beside = tridiagonal(*_gram(*reduced_to_band(_padded(matrix, exponent))))
    values = roots(diagonal[:columns], beside[: columns - 1])[::-1]  # what was padded has stayed 0 and apart
    return np.ldexp(values, exponent)


def reduced_to_band(work: Floats) -> tuple[Blocks, Blocks]:
    """The band as blocks: upper triangles on the diagonal, and lower triangles right of them. Overwrites `work`, whose
    rows and columns are multiples of BANDWIDTH, and its largest entry near 1."""
    rows, columns, width = *work.shape, BANDWIDTH
    on = np.zeros((columns // width, width, width))
    right_of = np.zeros_like(on)
    left, right = (np.empty((side, 2 * width), np.float32) for side in work.shape)
    room = Room(width, rows)
    for step, first in enumerate(range(0, columns, width)):
        last = first + width
        v, x, y, w = left[first:, :width], left[last:, width:], right[last:, :width], right[last:, width:]
        on[step], t = reflectors(work[first:, first:last].T, v, room)
        if last == columns:
            break
        # From the left (I - V T V^T)^T = I - V Y^T, of which the panel's own rows are needed at once.
        np.matmul(work[first:, last:].T @ v, t, out=y)  # in this order twice as fast as Y^T
        head, rest = work[first:last, last:], work[last:, last:]
        subtract_product(v[:width], y, head)
        triangle, s = reflectors(head, w, room)
        right_of[step] = triangle.T
        # From the right I - W S W^T, and both in one product: A - V Y^T - X W^T, where X = (A - V Y^T) W S.
        np.matmul(rest @ w - v[width:] @ (y.T @ w), s, out=x)
        subtract_product(left[last:], right[last:], rest)
    return on, right_of


def _padded(matrix: Floats, exponent: int) -> Floats:
    """matrix / 2 ** exponent with zeros up to multiples of BANDWIDTH, as many new rows as new columns at least. While
    caches hold it, its rows are kept from lying a power of two apart, where they would share few places: at 1,024
    products from the left take a sixth less. At 4,096 subtracting would take a tenth more."""
    rows, columns = matrix.shape
    more = -columns % BANDWIDTH
    length = columns + more
    spare = LANES if length <= _CROWDED else 0
    work = np.zeros((rows + more + -(rows + more) % BANDWIDTH, length + spare), np.float32)[:, :length]
    np.multiply(matrix, np.float32(2.0**-exponent), out=work[:rows, :columns])
    return work


def _gram(on: Blocks, right_of: Blocks) -> tuple[Blocks, Blocks]:
    """B B^T of the band B, itself a band: its blocks on the diagonal, and those below them."""
    below = np.zeros_like(on)
    below[:-1] = on[1:] @ right_of[:-1].transpose(0, 2, 1)
    return on @ on.transpose(0, 2, 1) + right_of @ right_of.transpose(0, 2, 1), below
