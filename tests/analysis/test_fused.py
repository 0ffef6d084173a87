"""Products and sums that may be fused are: a flag that does not reach LLVM costs time, and shows in no result. What
must be rounded as it is written is not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba import njit, types

from analysis.blocks import first_reflection, reflect_below, reflect_diagonal
from analysis.elementwise.sweep import sweep
from analysis.vectors import SHIFTS, dots, pivots, subtract_rows

_diagonal, _below, _first, _sweep = reflect_diagonal(8), reflect_below(8), first_reflection(8), sweep(1)
_PLACE = types.intp
_WITHOUT_FLAGS = re.compile(r"= (f(?:add|sub|mul)) (?!reassoc)")


@pytest.mark.parametrize(
    ("function", "kinds", "plain"),
    [
        (lambda a, b, c, d, e: dots(a, b, c, d, e), [_PLACE] * 5, set()),
        (lambda a, b, c, d, e: subtract_rows(a, b, c, d, e), [_PLACE] * 5, set()),
        (lambda a, b, c, d: _diagonal(a, b, c, d), [_PLACE] * 3 + [types.float64], set()),
        (lambda a, b, c, d, e: _below(a, b, c, d, e), [_PLACE] * 3 + [types.float64, _PLACE], {"fsub"}),
        (lambda a, b: _first(a, b), [_PLACE] * 2, {"fsub"}),
        (lambda a, b, c, d, e, f, g, h, i, j: _sweep(a, b, c, d, e, f, g, h, i, j), [_PLACE] * 10, {"fsub"}),
        (lambda a, b, c, d, e, f: pivots(a, b, c, d, e, f), [_PLACE] * 6, {"fmul", "fsub"}),
    ],
    ids=["dots", "subtract_rows", "reflect_diagonal", "reflect_below", "first_reflection", "sweep", "pivots"],
)
def test_products_may_be_fused(function: Callable[..., Any], kinds: list[Any], plain: set[str]):
    compiled = njit(tuple(kinds))(function)
    (code,) = compiled.inspect_llvm().values()
    assert "fmul reassoc" in code
    assert set(_WITHOUT_FLAGS.findall(code)) == plain


@njit
def counted(diagonal: Any, squares: Any, shifts: Any, below: Any, sums: Any) -> None:
    n = len(diagonal)
    pivots(
        diagonal.ctypes.data, squares.ctypes.data, n, shifts.ctypes.data, below.ctypes.data, sums.ctypes.data
    )  # fmt: skip


def recurrence(diagonal: np.ndarray, squares: np.ndarray, shift: float) -> int:
    """How many pivots are negative, each operation rounded by itself."""
    inverse, n_below = 0.0, 0
    for entry, square in zip(diagonal.tolist(), squares.tolist(), strict=True):
        pivot = (entry - shift) - square * inverse
        n_below += pivot < 0
        inverse = 1 / pivot
    return n_below


@pytest.mark.parametrize("seed", range(40))
def test_eigenvalues_are_counted_by_pivots_as_they_are_rounded(seed: int):
    """At neighbouring numbers around an eigenvalue: fused, their counts could fall where the shift rises."""
    random = np.random.default_rng(seed)
    diagonal = random.random(40) if seed % 2 else np.abs(np.arange(40.0) - 20) + random.random()
    beside = random.random(39) if seed % 2 else np.ones(39)
    values = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    centre = float(values[seed])
    shifts = centre + np.arange(-SHIFTS // 2, SHIFTS // 2) * abs(np.spacing(centre))
    squares = np.concatenate([[0.0], beside**2])
    below, sums = np.empty(SHIFTS, np.int64), np.empty((2, SHIFTS))
    counted(diagonal, squares, shifts, below, sums)
    assert below.tolist() == [recurrence(diagonal, squares, shift) for shift in shifts.tolist()]
    assert below.tolist() == sorted(below.tolist())
