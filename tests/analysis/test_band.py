"""The two compiled steps of singular values by a band, each against numpy on the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.band import _gram, _padded, band_singular_values, reduced_to_band
from analysis.chase import BANDWIDTH, tridiagonal
from analysis.lapack import tridiagonal_eigenvalues
from analysis.reflections import Room, reflectors


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


@pytest.mark.parametrize("m", [BANDWIDTH, 2 * BANDWIDTH, 11 * BANDWIDTH])
@pytest.mark.parametrize("lies", ["upright", "flat"])
def test_reflections_turn_a_panel_into_a_triangle(m: int, lies: str):
    panel = normal(m, BANDWIDTH).astype(np.float32)
    panel[:, 7] = 0
    panel[:, 9] = panel[:, 8]
    room = Room(BANDWIDTH, 12 * BANDWIDTH)
    room.panel[:], room.reflections[:] = np.nan, np.nan  # what an earlier panel left there is not used
    v = np.full((m, 2 * BANDWIDTH), np.nan, np.float32)[:, BANDWIDTH:]

    triangle, t = reflectors(panel.T if lies == "upright" else np.ascontiguousarray(panel.T), v, room)

    turn = np.eye(m) - v.astype(np.float64) @ t @ v.T
    assert np.abs(turn.T @ turn - np.eye(m)).max() < 1e-5, "an orthogonal matrix, to float32"
    assert np.abs(turn[:, :BANDWIDTH] @ triangle - panel).max() < 1e-4
    assert (np.tril(triangle, -1) == 0).all()


@pytest.mark.parametrize("n_blocks", [1, 2, 3, 7])
@pytest.mark.parametrize("zeros", [False, True], ids=["full", "with zeros"])
def test_a_band_keeps_its_eigenvalues_on_three_diagonals(n_blocks: int, zeros: bool):
    on = normal(n_blocks, BANDWIDTH, BANDWIDTH)
    on += on.transpose(0, 2, 1)
    below = np.triu(normal(n_blocks, BANDWIDTH, BANDWIDTH))
    below[-1] = 0
    if zeros:
        below[0] = 0
        on[0, :5], on[0, :, :5] = 0, 0
    whole = np.zeros((n_blocks * BANDWIDTH,) * 2)
    for block in range(n_blocks):
        rows = slice(block * BANDWIDTH, (block + 1) * BANDWIDTH)
        under = slice(rows.stop, rows.stop + BANDWIDTH)
        whole[rows, rows] = on[block]
        if block + 1 < n_blocks:
            whole[under, rows], whole[rows, under] = below[block], below[block].T
    exact = np.linalg.eigvalsh(whole)

    found = tridiagonal_eigenvalues(*tridiagonal(on, below))

    assert np.abs(found - exact).max() < 1e-13 * np.abs(exact).max() * len(exact)


@pytest.mark.parametrize(("smallest", "seed"), [(-8, 0), (-90, 1), (-160, 1), (-160, 3)])
def test_a_band_of_entries_of_any_size_keeps_its_eigenvalues(smallest: int, seed: int):
    random, n = np.random.default_rng(seed), 8 * BANDWIDTH
    whole = np.zeros((n, n))
    i, j = np.triu_indices(n)
    inside = (j - i <= BANDWIDTH) & ((random.random(len(i)) < 0.02) | (i == j))
    i, j = i[inside], j[inside]
    whole[i, j] = whole[j, i] = random.choice([-1, 1], len(i)) * 10.0 ** random.uniform(smallest, 0, len(i))
    cuts = range(0, n, BANDWIDTH)
    on = np.stack([whole[cut : cut + BANDWIDTH, cut : cut + BANDWIDTH] for cut in cuts])
    below = np.zeros_like(on)
    for block, cut in enumerate(cuts[1:]):
        below[block] = whole[cut : cut + BANDWIDTH, cut - BANDWIDTH : cut]
    exact = np.linalg.eigvalsh(whole)

    found = tridiagonal_eigenvalues(*tridiagonal(on, below))

    assert np.abs(found - exact).max() < 1e-13 * np.abs(exact).max() * n


def test_a_long_band_stays_within_its_memory():
    values = np.arange(300 * BANDWIDTH, dtype=np.float64)
    on = np.zeros((300, BANDWIDTH, BANDWIDTH))
    on[:, range(BANDWIDTH), range(BANDWIDTH)] = values.reshape(300, BANDWIDTH)
    diagonal, beside = tridiagonal(on, np.zeros_like(on))
    assert (diagonal == values).all()
    assert not beside.any()


@pytest.mark.parametrize("shape", [(1, 1), (31, 31), (64, 40), (257, 201), (300, 256)], ids=str)
def test_singular_values_by_a_band(shape: tuple[int, int]):
    matrix = normal(*shape).astype(np.float32)
    exact = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    assert np.abs(band_singular_values(matrix, np.abs(matrix).max()) - exact).max() < 1e-6 * exact[0], "docs/methods.md"


@pytest.mark.parametrize("n_columns", [1, 33, 70, 95])
def test_padding_stays_apart(n_columns: int):
    band = reduced_to_band(_padded(normal(110, n_columns).astype(np.float32), 0))
    diagonal, beside = tridiagonal(*_gram(*band))
    assert len(diagonal) % BANDWIDTH == 0
    assert diagonal[:n_columns].all()
    assert not diagonal[n_columns:].any()
    assert not beside[n_columns - 1 :].any()
