"""Singular values from a Gram matrix in float32, against numpy's in float64."""

from __future__ import annotations

import numpy as np
import pytest

from analysis import symmetric
from analysis.chase import BANDWIDTH
from analysis.symmetric import _padded, roots_of_gram, symmetric_to_band


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("n", [1, BANDWIDTH, 100, 256])
@pytest.mark.parametrize("strip", [BANDWIDTH, 3 * BANDWIDTH, 512])
def test_a_band_has_the_matrix_eigenvalues(n: int, strip: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(symmetric, "_STRIP", strip)
    tall = normal(3 * n, n)
    on, below = symmetric_to_band(_padded(tall.T @ tall, 0))

    whole = np.zeros((len(on) * BANDWIDTH,) * 2)
    for block, (here, under) in enumerate(zip(on, below, strict=True)):
        rows = slice(block * BANDWIDTH, (block + 1) * BANDWIDTH)
        whole[rows, rows] = here
        if block + 1 < len(on):
            whole[rows.stop : rows.stop + BANDWIDTH, rows] = under
            whole[rows, rows.stop : rows.stop + BANDWIDTH] = under.T
    exact = np.linalg.eigvalsh(tall.T.astype(np.float64) @ tall)

    assert (np.tril(below, -1) == 0).all(), "a band"
    found = np.linalg.eigvalsh(whole)[len(whole) - n :]
    assert np.abs(found - exact).max() < 1e-6 * exact[-1]


@pytest.mark.parametrize(("rows", "columns"), [(5, 1), (90, 33), (400, 200), (1500, 1030)])
def test_roots_are_singular_values(rows: int, columns: int):
    tall = normal(rows, columns)
    exact = np.linalg.svd(tall.astype(np.float64), compute_uv=False)
    assert np.abs(roots_of_gram(tall.T @ tall) - exact).max() < 1e-6 * exact[0]


def test_a_rank_that_is_not_full_leaves_nothing_but_rounding():
    tall = normal(200, 20) @ normal(20, 96)
    found = roots_of_gram(tall.T @ tall)
    assert (found >= 0).all()
    assert (found[:20] > 0.1 * found[0]).all()
    assert (found[20:] < 2e-3 * found[0]).all(), "the root of float32's rounding"
