"""Singular values and rank: against float64 SVD, against torch.linalg.matrix_rank, and where there are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis import spectral
from analysis.elementwise import geometry
from analysis.metrics import effective_rank, energy_rank, stable_rank
from analysis.spectral import spectrum


def spectrum_of(before: torch.Tensor, after: torch.Tensor, *, rows: int = 64, **options):
    def blocks():
        for first in range(0, len(before), rows):
            yield before[first : first + rows], after[first : first + rows]

    return spectrum(blocks, geometry(tuple(before.shape)), **options)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def dense(m: int, n: int) -> torch.Tensor:
    return random(m, n) * 1e-3


def sparse(m: int, n: int) -> torch.Tensor:
    return random(m, n) * 1e-4 * (random(m, n, seed=1) > 1.3)


def low_rank(m: int, n: int) -> torch.Tensor:
    return random(m, 16) @ random(16, n, seed=1) * 1e-3


def deficient(m: int, n: int) -> torch.Tensor:
    matrix = dense(m, n)
    matrix[: m // 4] = 0
    matrix[m // 4 : m // 2] = matrix[m // 2 : m // 2 + m // 2 - m // 4]
    return matrix


def badly_scaled(m: int, n: int) -> torch.Tensor:
    short = min(m, n)
    left, right = torch.linalg.qr(random(m, short))[0], torch.linalg.qr(random(n, short, seed=1))[0]
    return (left * torch.logspace(0, -8, short)) @ right.T


def spiked(m: int, n: int) -> torch.Tensor:
    return sparse(m, n) + 1e2 * low_rank(m, n)


KINDS = (dense, sparse, low_rank, deficient, badly_scaled, spiked)
SHAPES = ((96, 96), (96, 320), (320, 96), (700, 700), (660, 1300), (1300, 660))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_rank(shape: tuple[int, int], kind):
    before = random(*shape, seed=9) * 0.02 if kind is dense else torch.zeros(shape)
    after = before + kind(*shape)
    update = after - before
    exact = torch.linalg.svdvals(update.double()).numpy()

    found = spectrum_of(before, after)

    assert np.abs(found.singular_values - exact).max() < 1e-5 * exact[0], "float32 SVD's error, docs/methods.md"
    assert found.rank == int(torch.linalg.matrix_rank(update))
    assert found.rank_low <= found.rank <= found.rank_high <= found.max_rank


def test_both_routes_agree():
    update = dense(500, 600)
    direct = spectrum_of(torch.zeros_like(update), update)
    before = spectral.DIRECT_UP_TO
    spectral.DIRECT_UP_TO = 0
    try:
        gram = spectrum_of(torch.zeros_like(update), update)
    finally:
        spectral.DIRECT_UP_TO = before
    assert (direct.method, gram.method) == ("svd float32", "gram float64")
    assert gram.singular_values == pytest.approx(direct.singular_values, rel=1e-4)
    assert gram.rank == direct.rank


def test_scaling_an_update_scales_its_values_and_keeps_its_rank():
    update = low_rank(80, 120)
    one, eight = spectrum_of(torch.zeros(80, 120), update), spectrum_of(torch.zeros(80, 120), 8 * update)
    assert eight.singular_values == pytest.approx(8 * one.singular_values, rel=1e-5, abs=1e-6)
    assert one.rank == eight.rank == 16


@pytest.mark.parametrize("shape", [(64, 32), (700, 900)], ids=str)
def test_an_untouched_matrix_has_rank_zero_and_no_directions(shape: tuple[int, int]):
    before = random(*shape)
    found = spectrum_of(before, before.clone())
    assert (found.rank, found.singular_values.max(), found.method) == (0, 0.0, "zero matrix")
    assert np.isnan(stable_rank(found.singular_values))
    assert np.isnan(effective_rank(found.singular_values))
    assert np.isnan(energy_rank(found.singular_values, 0.9))


@pytest.mark.parametrize("shape", [(64, 32), (700, 900)], ids=str)
def test_a_matrix_with_a_nan_is_refused_with_its_reason(shape: tuple[int, int]):
    before, after = torch.zeros(shape), torch.ones(shape)
    after[5, 7] = torch.nan
    found = spectrum_of(before, after)
    assert found.rank is None
    assert found.reason.startswith("it has entries that are not finite")


def test_a_wide_matrix_over_the_budget_is_refused_with_the_figures():
    found = spectrum_of(torch.zeros(700, 4000), torch.ones(700, 4000), budget=10**6)
    assert found.reason == "it needs 11 MB, the memory budget is 1 MB"


def test_base_and_tuned_have_spectra_of_their_own():
    before, after = random(50, 70), random(50, 70, seed=1)
    for of, matrix in (("base", before), ("tuned", after), ("update", after - before)):
        found = spectrum_of(before, after, of=of)
        assert found.singular_values == pytest.approx(torch.linalg.svdvals(matrix).numpy(), rel=1e-4)


def test_a_float64_update_is_taken_before_it_is_rounded():
    """Entries of size 1 that move by 1e-10: rounding both sides to float32 first would leave noise of 1e-8."""
    before = random(40, 50).double()
    update = random(40, 50, seed=1).double() * 1e-10
    found = spectrum_of(before, before + update)
    assert float(np.square(found.singular_values.astype(np.float64)).sum()) == pytest.approx(
        float(update.square().sum()), rel=1e-4
    )


def test_ranks_by_hand():
    """Values 3, 4: energy 25, so 16 / 25 in the first; shares 3/7 and 4/7."""
    values = np.array([4.0, 3.0], np.float32)
    assert stable_rank(values) == 25 / 16
    assert effective_rank(values) == pytest.approx(np.exp(-(4 / 7) * np.log(4 / 7) - (3 / 7) * np.log(3 / 7)))
    assert (energy_rank(values, 0.64), energy_rank(values, 0.65)) == (1, 2)
    assert effective_rank(np.ones(8, np.float32)) == pytest.approx(8)
