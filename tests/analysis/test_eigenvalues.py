"""Eigenvalues of tridiagonal matrices, against LAPACK's and against those that are known."""

from __future__ import annotations

import numpy as np
import pytest

from analysis import eigenvalues
from analysis.eigenvalues import roots
from analysis.lapack import tridiagonal_eigenvalues

N = 200


def normal(n: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal(n)


def square_of(diagonal: np.ndarray, beside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """B B^T of a matrix B with two diagonals."""
    squares = diagonal**2
    squares[:-1] += beside**2
    return squares, diagonal[1:] * beside


def falling(n: int) -> np.ndarray:
    return 10.0 ** np.linspace(0, -12, n)


EASY = {  # found by Laguerre's steps
    "normal": square_of(normal(N), normal(N - 1)),
    "more than two groups": square_of(normal(1030), normal(1029)),
    "apart": (np.linspace(1, 2, N), np.zeros(N - 1)),
    "evenly in cosines": (np.full(N, 2.0), np.full(N - 1, -1.0)),
    "falling to nothing": square_of(falling(N), falling(N)[1:] / 2),
    "rising from nothing": square_of(falling(N)[::-1].copy(), falling(N)[1:][::-1] / 2),
    "a zero among them": square_of(np.r_[normal(N - 1), 0.0], np.r_[normal(N - 2), 0.0]),
    "a large one": (np.r_[1e4, np.linspace(1, 2, N - 1)], np.full(N - 1, 0.3)),
    "next to each other": (np.abs(np.arange(N) - N // 2).astype(float) + 2, np.full(N - 1, 1e-9)),
    "small": tuple(1e-15 * each for each in square_of(normal(N), normal(N - 1))),
}
HARD = {  # where LAPACK is asked
    "zeros": (np.zeros(N), np.zeros(N - 1)),
    "all the same": (np.ones(N), np.zeros(N - 1)),
    "two of them, often": (np.where(normal(N) > 0, 1.0, 4.0), np.zeros(N - 1)),
}


@pytest.mark.parametrize("name", [*EASY, *HARD])
def test_roots_are_lapacks(name: str):
    diagonal, beside = (EASY | HARD)[name]
    exact = np.sqrt(tridiagonal_eigenvalues(diagonal.copy(), beside.copy()).clip(min=0))

    found = roots(diagonal.copy(), beside.copy())

    assert (np.diff(found) >= -1e-9 * exact[-1]).all(), "ascending"
    # An eigenvalue that is off by 1e-15 of the largest is the root of zeros of up to 3e-8.
    assert np.abs(found**2 - exact**2).max() <= 4e-15 * exact[-1] ** 2 + 2e-9 * (found * exact[-1]).max()
    assert np.abs(found - exact).max() <= 1e-7 * exact[-1]


@pytest.mark.parametrize("name", EASY)
def test_lapack_is_not_asked_without_need(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(eigenvalues, "tridiagonal_eigenvalues", None)
    diagonal, beside = EASY[name]
    assert len(roots(diagonal, beside)) == len(diagonal)


@pytest.mark.parametrize("name", HARD)
def test_where_steps_do_not_help_no_root_is_claimed(name: str):
    diagonal, beside = HARD[name]
    assert not eigenvalues._find(diagonal, np.r_[0.0, beside**2], np.zeros_like(diagonal))


def test_known_roots():
    k = np.arange(1, N + 1)
    known = 2 * np.sin(np.pi * k / (2 * (N + 1)))  # of the second difference
    found = roots(np.full(N, 2.0), np.full(N - 1, -1.0))
    assert np.abs(found - known).max() < 1e-9 * known[-1]


@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 63, 65])
def test_any_number_of_them(n: int):
    diagonal, beside = square_of(normal(n), normal(n)[1:])
    exact = np.sqrt(np.linalg.eigvalsh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)).clip(min=0))
    assert np.abs(roots(diagonal, beside) - exact).max() < 1e-8 * exact[-1]


def test_a_root_that_is_off_is_noticed():
    diagonal, beside = EASY["evenly in cosines"]
    right = roots(diagonal.copy(), beside.copy())[: eigenvalues.SHIFTS]
    squares, wanted, top = np.r_[0.0, beside**2], np.arange(eigenvalues.SHIFTS), 2.0
    assert eigenvalues._are_roots(diagonal, squares, wanted, right, top)
    for lane in (0, 7, 31):
        off = right.copy()
        off[lane] += 1e-8
        assert not eigenvalues._are_roots(diagonal, squares, wanted, off, top)
