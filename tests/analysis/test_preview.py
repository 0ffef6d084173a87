"""The quick estimate of a spectrum, against the exact one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis.metrics import effective_rank, stable_rank
from analysis.preview import POINTS, estimate


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sparse(m: int, n: int) -> torch.Tensor:
    return random(m, n) * 1e-4 * (random(m, n, seed=1) > 0.8)


def low_rank(m: int, n: int) -> torch.Tensor:
    return random(m, 16) @ random(16, n, seed=1) * 1e-3


def spiked(m: int, n: int) -> torch.Tensor:
    return sparse(m, n) + low_rank(m, n)


def frozen_rows(m: int, n: int) -> torch.Tensor:
    matrix = sparse(m, n)
    matrix[: m // 3] = 0
    return matrix


@pytest.mark.parametrize("kind", [sparse, low_rank, spiked, frozen_rows], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("shape", [(400, 400), (300, 900), (900, 300)], ids=str)
def test_ranks_and_curve_are_near_the_exact_ones(shape: tuple[int, int], kind):
    matrix = kind(*shape)
    exact = torch.linalg.svdvals(matrix.double()).numpy()

    found = estimate(matrix.clone())

    assert found.stable_rank == pytest.approx(stable_rank(exact), rel=0.02), "docs/methods.md"
    assert found.effective_rank == pytest.approx(effective_rank(exact), rel=0.08), "docs/methods.md"
    assert found.values[0] == pytest.approx(exact[0], rel=0.01)
    assert (np.diff(found.values) <= 0).all()
    off = np.abs(found.values - exact[found.positions.astype(int) - 1]) / exact[0]
    assert off.mean() < 0.03, "docs/methods.md"
    assert len(found.positions) <= POINTS
    assert (found.positions[0], found.positions[-1]) == (1, min(shape))


def test_a_thin_update_shows_its_directions_and_no_more():
    matrix = low_rank(500, 700)
    exact = torch.linalg.svdvals(matrix.double()).numpy()
    found = estimate(matrix)
    assert found.values[:16] == pytest.approx(exact[:16], rel=1e-3)
    assert (found.values[17:] < 1e-2 * exact[0]).all()


@pytest.mark.parametrize("of_one", [2.0**-100, 2.0**100], ids=["tiny", "huge"])
def test_scaling_an_update_scales_its_preview(of_one: float):
    one, scaled = estimate(sparse(200, 300)), estimate(sparse(200, 300) * of_one)
    assert scaled.values == pytest.approx(one.values * of_one)
    assert (scaled.stable_rank, scaled.effective_rank) == pytest.approx((one.stable_rank, one.effective_rank))


@pytest.mark.parametrize("shape", [(1, 5), (3, 2), (33, 40)], ids=str)
def test_small_matrices_leave_no_room_for_error(shape: tuple[int, int]):
    matrix = random(*shape)
    exact = torch.linalg.svdvals(matrix.double()).numpy()
    found = estimate(matrix.clone())
    assert found.values == pytest.approx(exact[found.positions.astype(int) - 1], abs=0.2 * exact[0])


def test_nothing_has_no_ranks():
    found = estimate(torch.zeros(30, 20))
    assert found.values.tolist() == [0, 0]
    assert np.isnan([found.stable_rank, found.effective_rank]).all()
