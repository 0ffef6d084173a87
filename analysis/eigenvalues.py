"""Eigenvalues of a positive semidefinite tridiagonal matrix, compiled, SHIFTS at a time.

Each is looked for between two numbers, by how many eigenvalues lie below a third (Sturm's sequence, as pivots of
elimination). Once it is the next one on that side, Laguerre's steps go to it, which never overshoot and triple the
digits (Li and Zeng, 1994). LAPACK's QR iteration takes four times as long, since each of its operations waits for the
one before; where eigenvalues lie so close together that steps do not help, it is asked all the same.

Distances are on the scale of square roots, which are what is wanted.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numpy.typing import NDArray

from analysis.compiled import compiled
from analysis.lapack import tridiagonal_eigenvalues
from analysis.vectors import SHIFTS, pivots

Doubles = NDArray[np.float64]

_ERROR = (
    1e-9  # of `top`, at most 1.8 of the largest root: no root is off by more, or, in what rounding leaves of zeros,
)
_ROUNDING = 1e-15  # of the largest eigenvalue: no eigenvalue is
_CONVERGED = 1e-10  # of the largest root: when the next step would be shorter, a root is checked
_NO_STEP = 1e-300
_SMALLEST = 1e-130  # of a largest root, whose pivots are still far from what float64 holds
_TURNS = 24  # of SHIFTS that are looked for together; seven do for most


def roots(diagonal: Doubles, beside: Doubles) -> Doubles:
    """The square roots of all eigenvalues, ascending; 0 for those that are nothing but rounding."""
    squares = np.concatenate([[0.0], beside * beside])
    found = np.zeros_like(diagonal)
    if not _find(diagonal, squares, found):
        found = np.sqrt(tridiagonal_eigenvalues(diagonal, beside).clip(min=0))
    return found


@no_type_check
@compiled()
def _find(diagonal, squares, found):
    """Whether all were found."""
    n = len(diagonal)
    top = _beyond(diagonal, squares)
    if not _SMALLEST < top < 1 / _SMALLEST:
        return False
    grid, below = _grid(diagonal, squares, top)
    at = 0
    for first in range(below[0], n, SHIFTS):
        wanted = np.minimum(np.arange(first, first + SHIFTS), n - 1)
        low, high = np.empty((2, SHIFTS)), np.empty((2, SHIFTS))  # ends, and how many eigenvalues lie below them
        for lane in range(SHIFTS):
            while below[at + 1] <= wanted[lane]:
                at += 1
            low[0, lane], low[1, lane] = grid[at], below[at]
            high[0, lane], high[1, lane] = grid[at + 1], below[at + 1]
        if not _close_in(diagonal, squares, wanted, low, high, top, found):
            return False
    return True


@no_type_check
@compiled()
def _beyond(diagonal, squares):
    """A root that is larger than all of them (Gershgorin)."""
    largest, before = 0.0, 0.0
    for i in range(len(diagonal)):
        after = np.sqrt(squares[i + 1]) if i + 1 < len(diagonal) else 0.0
        largest = max(largest, diagonal[i] + before + after)
        before = after
    return np.sqrt(largest * (1 + _ROUNDING * len(diagonal)))


@no_type_check
@compiled()
def _grid(diagonal, squares, top):
    """Roots from next to 0 to `top`, about as many as there are eigenvalues, evenly apart; how many lie below each."""
    n = len(diagonal)
    points = n + SHIFTS - n % SHIFTS
    grid, below = np.empty(points + 1), np.empty(points + 1, np.int64)
    for i in range(points + 1):
        grid[i] = top * max(i / points, np.sqrt(_ROUNDING))
    for first in range(0, points, SHIFTS):
        _count(diagonal, squares, grid[first:] ** 2, below[first:])
    below[points] = n
    return grid, below


@no_type_check
@compiled()
def _close_in(diagonal, squares, wanted, low, high, top, found):
    """Whether the roots of the wanted eigenvalues were found, each between its ends, and are these."""
    n = len(diagonal)
    below, sums = np.empty(SHIFTS, np.int64), np.empty((2, SHIFTS))
    step_before, is_close = np.full(SHIFTS, _NO_STEP), np.zeros(SHIFTS, np.bool_)
    tried = np.empty(SHIFTS)
    for lane in range(SHIFTS):
        tried[lane] = _between(wanted[lane], low[:, lane], high[:, lane])
    for turn in range(_TURNS):
        _look(diagonal, squares, tried * tried, below, sums)
        for lane in range(SHIFTS):
            if not is_close[lane]:
                _narrow(wanted[lane], low[:, lane], high[:, lane], tried, below)
        for lane in range(SHIFTS):
            if is_close[lane]:
                continue
            k = wanted[lane]
            if below[lane] == k or below[lane] == k + 1:  # nothing lies between here and there
                step = _laguerre(n, sums[0, lane], sums[1, lane], below[lane] == k)
                root = np.sqrt(max(tried[lane] ** 2 + step, 0.0))
                if low[0, lane] <= root <= high[0, lane]:
                    moved = abs(root - tried[lane])
                    is_close[lane] = moved * min((moved / step_before[lane]) ** 2, 1.0) <= _CONVERGED * top
                    tried[lane], step_before[lane] = root, moved
                    continue
            step_before[lane] = _NO_STEP
            if turn % 3 == 2:
                tried[lane] = 0.5 * (low[0, lane] + high[0, lane])
            else:
                tried[lane] = _between(k, low[:, lane], high[:, lane])
        if is_close.all():
            for lane in range(SHIFTS):
                found[wanted[lane]] = tried[lane]
            return _are_roots(diagonal, squares, wanted, tried, top)
    return False


@no_type_check
@compiled()
def _are_roots(diagonal, squares, wanted, tried, top):
    """Whether each wanted eigenvalue lies within its root's error, by counting on both sides."""
    below, above = np.empty(SHIFTS, np.int64), np.empty(SHIFTS, np.int64)
    error = top * (2 * _ERROR * tried + _ROUNDING * top)
    _count(diagonal, squares, tried * tried - error, below)
    _count(diagonal, squares, tried * tried + error, above)
    return ((below <= wanted) & (wanted < above)).all()


@no_type_check
@compiled()
def _between(k, low, high):
    """Where the root of eigenvalue k would be, were those between the two ends evenly apart."""
    return low[0] + (high[0] - low[0]) * (k + 0.5 - low[1]) / (high[1] - low[1])


@no_type_check
@compiled()
def _narrow(k, low, high, tried, below):
    """Brings the ends of eigenvalue k together, by what was learned of its neighbours as well."""
    for lane in range(SHIFTS):
        if below[lane] <= k:
            if tried[lane] > low[0]:
                low[0], low[1] = tried[lane], below[lane]
        elif tried[lane] < high[0]:
            high[0], high[1] = tried[lane], below[lane]


@no_type_check
@compiled()
def _laguerre(n, first, second, upwards):
    """The step from x to the next eigenvalue on one side, by the sums of 1 / (l - x) and of their squares."""
    root = np.sqrt(max((n - 1) * (n * second - first * first), 0.0))
    return n / (first + root) if upwards else n / (first - root)


@no_type_check
@compiled()
def _look(diagonal, squares, shifts, below, sums):
    at, beside, to = diagonal.ctypes.data, squares.ctypes.data, below.ctypes.data
    pivots(at, beside, len(diagonal), shifts.ctypes.data, to, sums.ctypes.data)


@no_type_check
@compiled()
def _count(diagonal, squares, shifts, below):
    _look(diagonal, squares, shifts, below, np.empty((2, SHIFTS)))
