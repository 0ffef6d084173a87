"""All singular values of a matrix in memory, on the CPU, by the cheapest way that is sound for it. docs/methods.md
states the error of each way; `benchmarks/spectra_accuracy.py` measures it.

| method | for | in |
|---|---|---|
| svd float32 | a short side up to DIRECT_UP_TO | the call that torch.linalg.matrix_rank makes |
| thin float64 | a rank far below the short side, whatever the shape | a basis of the range, its residual measured |
| gram float32 | a rectangle whose own values prove it well conditioned | half the work of a float64 Gram matrix |
| gram float64 | every other rectangle | keeps eight digits at the threshold of the rank |
| band float32 | a square, or nearly | as many digits as the matrix has |

Rows and columns of zeros are left out first: they add zeros, and the rest may be much smaller.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.band import band_singular_values
from analysis.footprint import COLUMNS_AT_ONCE, DIRECT_UP_TO
from analysis.lapack import Floats
from analysis.magnitudes import largest_entries
from analysis.symmetric import roots_of_gram

Doubles = NDArray[np.float64]
Found = tuple[NDArray[np.floating], str]  # singular values, largest first; the method's name

# Of the largest value: what each way is off by at most, where that could move a value across the rank's threshold.
# A certified 'gram float32' has none near it; 'gram float64' is off by 1e-9 there.
ERROR_OF = {"svd float32": 1e-5, "band float32": 2e-6, "thin float64": 5e-6}

_EPS = float(np.finfo(np.float32).eps)
_RECTANGLE = 1.3  # long side over short, from where squaring is cheaper than reflecting from both sides
_CERTAIN = 6.25  # times long side * eps: what a float32 Gram matrix's least eigenvalue must exceed, of the largest
_PLAIN = 30  # the largest entry is between 2 ** -30 and 2 ** 30: squares that matter neither overflow nor vanish
_THIN_WIDTH = 32  # of the short side's directions, one in so many is probed
_THIN_GAP = 1e-5  # of the largest value: where a probe ends below it, the matrix may be thin
_THIN_ERROR = 5e-6  # of the largest value: what the basis may leave out, in all


def singular_values(matrix: Floats) -> Found:
    """min(rows, columns) values of a matrix without NaN or infinity; 'zero matrix' where all are 0."""
    if min(matrix.shape) <= DIRECT_UP_TO and matrix.any():
        return direct(matrix), "svd float32"
    return _by(_of_tall, matrix)


def by_gram(matrix: Floats) -> Found:
    """The same by a float64 Gram matrix, which has the most digits at the rank's threshold, whatever the shape."""
    return _by(lambda tall, _: (roots(gram(tall)), "gram float64"), matrix)


def _by(way: Callable[[Floats, float], Found], matrix: Floats) -> Found:
    """Values of the matrix from its tall orientation, scaled, and without rows and columns of zeros; `way` is told the
    size of its largest entry, too."""
    n_values = min(matrix.shape)
    by_row, by_column = largest_entries(matrix)
    largest = float(by_row.max(initial=0))
    if largest == 0:
        return np.zeros(n_values, np.float32), "zero matrix"
    if not (by_row.all() and by_column.all()):
        matrix = matrix[np.ix_(by_row > 0, by_column > 0)]
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    exponent = int(np.frexp(largest)[1])
    if abs(exponent) < _PLAIN:
        exponent = 0
    else:
        tall = np.ldexp(tall, -exponent)
    values, method = way(tall, largest / 2.0**exponent)
    every = np.zeros(n_values)
    every[: len(values)] = values
    return np.ldexp(every, exponent), method


def direct(matrix: Floats) -> Floats:
    """By torch's float32 SVD, of the tall orientation: MKL takes four times as long for the wide one."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    values: Floats = torch.linalg.svdvals(torch.from_numpy(tall)).numpy()
    return values


def _of_tall(matrix: Floats, largest: float) -> Found:
    rows, columns = matrix.shape
    if columns <= DIRECT_UP_TO:
        return direct(matrix), "svd float32"
    if (thin := _thin(matrix)) is not None:
        return thin, "thin float64"
    if rows < _RECTANGLE * columns:
        return band_singular_values(matrix, largest), "band float32"
    if (certain := _certain(matrix)) is not None:
        return certain, "gram float32"
    return roots(gram(matrix)), "gram float64"


def gram(matrix: Floats) -> Doubles:
    """A^T A of a tall matrix in float64, over stretches of rows: a float64 copy would be twice its size."""
    step = max(1, COLUMNS_AT_ONCE // (8 * matrix.shape[1]))
    total = np.zeros((matrix.shape[1],) * 2)
    for first in range(0, len(matrix), step):
        rows = np.ascontiguousarray(matrix[first : first + step], np.float64)
        total += rows.T @ rows  # BLAS's syrk, which takes half the work
    return total


def roots(gram: Doubles) -> Doubles:
    """Singular values, largest first, from the Gram matrix."""
    squares = torch.linalg.eigvalsh(torch.from_numpy(gram)).numpy()[::-1]
    return np.sqrt(squares.clip(min=0))


def _certain(matrix: Floats) -> Doubles | None:
    """From the Gram matrix in float32, if its least eigenvalue lies far above all that rounding can have done."""
    values = roots_of_gram(matrix.T @ matrix)
    margin = _CERTAIN * len(matrix) * _EPS
    return values if values[-1] ** 2 > margin * values[0] ** 2 else None


def _thin(matrix: Floats) -> Doubles | None:
    """From the rows' components in the range of a random probe (Halko, Martinsson and Tropp, 2011), if these leave out
    less than _THIN_ERROR of the largest value: no value is then off by more. Those beyond the probe come back as 0."""
    columns = matrix.shape[1]
    width = columns // _THIN_WIDTH
    probe = np.random.default_rng(0).random((columns, width), np.float32) - np.float32(0.5)  # sooner than normal
    few = np.linalg.svd(matrix[: 4 * width] @ probe, compute_uv=False)
    if few[-1] > _THIN_GAP * few[0]:
        return None  # a few rows already take more directions
    basis, sizes = np.linalg.qr((matrix @ probe).astype(np.float64))
    seen = np.linalg.svd(sizes, compute_uv=False)
    if seen[-1] > _THIN_GAP * seen[0]:
        return None
    step = max(1, COLUMNS_AT_ONCE // (8 * columns))
    stretches = [slice(first, first + step) for first in range(0, len(matrix), step)]
    within = sum(basis[rows].T @ matrix[rows].astype(np.float64) for rows in stretches)
    values: Doubles = np.linalg.svd(within, compute_uv=False)
    left_out = sum(float(np.square(matrix[rows] - basis[rows] @ within).sum()) for rows in stretches)
    return values if np.sqrt(left_out) <= _THIN_ERROR * values[0] else None
