"""Eigenvalues of a Gram matrix in float32: down to a band by reflections from both sides at once, then as those of
`band`. Of the matrix only the lower triangle is kept up to date, in strips of columns, whole where these cross the
diagonal. LAPACK's way to three diagonals reads the whole matrix for every column, and takes twice as long.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from analysis.chase import BANDWIDTH, Blocks, tridiagonal
from analysis.eigenvalues import roots
from analysis.lapack import Floats, subtract_product
from analysis.reflections import Room, reflectors

_STRIP = 512  # columns, from 0 on


def roots_of_gram(gram: Floats) -> NDArray[np.float64]:
    """The square roots of its eigenvalues, largest first: singular values of what it was made from. 0 for those that
    rounding has left below 0."""
    n, exponent = len(gram), 2 * (int(np.frexp(gram.diagonal().max())[1]) // 2)
    diagonal, beside = tridiagonal(*symmetric_to_band(_padded(gram, exponent)))
    values = roots(diagonal[:n], beside[: n - 1])[::-1]  # what was padded has stayed 0 and apart
    return np.ldexp(values, exponent // 2)


def symmetric_to_band(work: Floats) -> tuple[Blocks, Blocks]:
    """The band as blocks: those on the diagonal, and upper triangles below them. Overwrites `work`, whose side is a
    multiple of BANDWIDTH, and its largest entry near 1."""
    n, width = len(work), BANDWIDTH
    on = np.zeros((n // width, width, width))
    below = np.zeros_like(on)
    left, right = np.empty((2, n, 2 * width), np.float32)
    room = Room(width, n)
    for step, first in enumerate(range(0, n, width)):
        last = first + width
        on[step] = work[first:last, first:last]
        if last == n:
            break
        v, w = left[last:, :width], left[last:, width:]
        below[step], t = reflectors(work[last:, first:last].T, v, room)
        # (I - V T V^T)^T A (I - V T V^T) = A - V W^T - W V^T, where X = A V T and W = X - V (V T)^T X / 2.
        vt = v @ t
        x = _product(work, last, vt)
        np.subtract(x, v @ (0.5 * (vt.T @ x)), out=w)
        right[last:, :width], right[last:, width:] = w, v
        for strip in _strips(last, n):
            subtract_product(left[strip.start :], right[strip], work[strip.start :, strip])
    return on, below


def _product(work: Floats, first: int, factor: Floats) -> Floats:
    """A @ factor, where A are rows and columns from `first` on."""
    n = len(work)
    product = np.zeros((n, factor.shape[1]), np.float32)
    whole = np.empty_like(product)
    whole[first:] = factor
    for strip in _strips(first, n):
        under = slice(strip.stop, n)
        product[strip] += work[strip, strip] @ whole[strip]
        product[under] += work[under, strip] @ whole[strip]
        product[strip] += work[under, strip].T @ whole[under]
    return product[first:]


def _strips(first: int, n: int) -> Iterator[slice]:
    """Columns from `first` on, strip by strip; the first one may have fewer left."""
    for start in range(first - first % _STRIP, n, _STRIP):
        yield slice(max(start, first), min(start + _STRIP, n))


def _padded(gram: Floats, exponent: int) -> Floats:
    """gram / 2 ** exponent with zeros up to a multiple of BANDWIDTH."""
    n = len(gram)
    work = np.zeros((n + -n % BANDWIDTH,) * 2, np.float32)
    np.multiply(gram, np.float32(2.0**-exponent), out=work[:n, :n])
    return work
