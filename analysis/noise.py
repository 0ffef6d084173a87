"""The spectrum that unstructured noise would have: the null that a rank or an effective rank is read against.

A matrix of independent entries of mean zero and equal variance has, in the limit of large sides, singular values that
follow Marchenko and Pastur's law (1967), whatever its entries' distribution; sparse noise too, as long as rows and
columns hold many changed entries. So random sparse updates are full-rank, and only what leaves this curve is structure.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from analysis.measurements import CHANGE_EDGES, Spectrum, Tally

_GRID = 4096
_TRACY_WIDOM_99 = 2.0234  # 99 % quantile of the Tracy-Widom law of order 1


def noise_values(rows: int, columns: int, square_sum: float) -> NDArray[np.float64]:
    """(min(rows, columns),): the singular values, descending, of a typical matrix of independent entries whose squares
    sum to `square_sum` (its squared Frobenius norm): the law's quantiles at (k - 1/2) / min(rows, columns)."""
    short, long = sorted((rows, columns))
    if not short or square_sum <= 0:
        return np.zeros(short)
    ratio = short / long
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    # x = low + (high - low) (1 - cos t) / 2 takes the square roots out of the density's ends.
    t = np.linspace(0.0, math.pi, _GRID)
    x = low + (high - low) * (1 - np.cos(t)) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        density = np.where(x > 0, np.sin(t) ** 2 / x, 2 / (high - low) * (1 + np.cos(t)))
    cumulative = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    quantiles = (np.arange(short, 0, -1) - 0.5) / short
    values = np.sqrt(np.interp(quantiles, cumulative / cumulative[-1], x))
    return values * math.sqrt(square_sum / np.square(values).sum())


def noise_edge(rows: int, columns: int, square_sum: float, kurtosis: float = 3.0) -> float:
    """The largest singular value that such noise exceeds in one of a hundred matrices.

    Johnstone (2001, theorem 1.1) for normal entries; rare large entries push the edge out, to first order by
    (kurtosis - 3) / sqrt(rows * columns) of its square (Hwang, Lee and Schnelli 2019, theorem 2.9).
    """
    short, long = sorted((rows, columns))
    if short < 2 or square_sum <= 0:
        return math.inf
    sides = math.sqrt(long - 1) + math.sqrt(short)
    width = sides * (1 / math.sqrt(long - 1) + 1 / math.sqrt(short)) ** (1 / 3)
    rare = 1 + max(kurtosis - 3, 0.0) / math.sqrt(rows * columns)
    return math.sqrt((sides**2 * rare + _TRACY_WIDOM_99 * width) * square_sum / (rows * columns))


def kurtosis(tally: Tally) -> float:
    """n sum(u^4) / sum(u^2)^2 of the update's finite entries, from the histogram of |u| (bins of 12 %, their middles):
    3 for a normal update, about 3 / p where a share p changed. nan where nothing changed."""
    middles = np.sqrt(CHANGE_EDGES[:-1].astype(np.float64) * CHANGE_EDGES[1:])
    counts = tally.changes[1:-1]
    square_sum = float((counts * middles**2).sum())
    n = tally.entries - tally.nonfinite
    return n * float((counts * middles**4).sum()) / square_sum**2 if square_sum else math.nan


def above_noise(spectrum: Spectrum, tally: Tally | None = None) -> tuple[int, float, float]:
    """(directions above the noise's edge, their squared singular values, all squared singular values). The noise has
    the whole update's norm, so a few strong directions raise the edge: the count is a lower bound."""
    squares = np.square(spectrum.singular_values.astype(np.float64))
    total = float(squares.sum())
    peaked = kurtosis(tally) if tally is not None else 3.0
    edge = noise_edge(spectrum.rows, spectrum.columns, total, peaked if math.isfinite(peaked) else 3.0)
    n = int((spectrum.singular_values > edge).sum())
    return n, float(squares[:n].sum()), total
