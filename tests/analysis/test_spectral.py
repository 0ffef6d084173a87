"""Singular values and rank: against float64 SVD, against torch.linalg.matrix_rank, and where there are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis.band import band_singular_values
from analysis.elementwise import geometry
from analysis.metrics import effective_rank, energy_rank, stable_rank
from analysis.singular import ERROR_OF, direct, gram, roots, singular_values
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


def repeated(m: int, n: int) -> torch.Tensor:
    matrix = dense(m, n)
    matrix[:40] = matrix[40:80]
    return matrix


def badly_scaled(m: int, n: int) -> torch.Tensor:
    short = min(m, n)
    left, right = torch.linalg.qr(random(m, short))[0], torch.linalg.qr(random(n, short, seed=1))[0]
    return (left * torch.logspace(0, -8, short)) @ right.T


def spiked(m: int, n: int) -> torch.Tensor:
    return sparse(m, n) + 1e2 * low_rank(m, n)


KINDS = (dense, sparse, low_rank, deficient, repeated, badly_scaled, spiked)
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


WAYS = {
    "svd float32": direct,
    "gram float64": lambda matrix: roots(gram(matrix)),
    "gram float32": lambda matrix: roots(matrix.T @ matrix),
    "band float32": lambda matrix: band_singular_values(matrix, np.abs(matrix).max()),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_way_finds_the_same_values(way):
    update = dense(700, 500).numpy()
    exact = np.linalg.svd(update.astype(np.float64), compute_uv=False)
    assert np.abs(way(update) - exact).max() < 1e-5 * exact[0], "what docs/methods.md states"


@pytest.mark.parametrize(
    ("kind", "shape", "method"),
    [
        (dense, (640, 2000), "svd float32"),
        (dense, (700, 900), "band float32"),
        (dense, (900, 700), "band float32"),
        (dense, (700, 1000), "gram float32"),
        (dense, (1000, 700), "gram float32"),
        (sparse, (700, 1000), "gram float32"),
        (repeated, (700, 1000), "gram float64"),
        (low_rank, (700, 900), "thin float64"),
        (low_rank, (1400, 700), "thin float64"),
        (lambda m, n: dense(m, n) * (torch.arange(m) < 500)[:, None], (900, 700), "svd float32"),
    ],
)
def test_which_way_is_taken(kind, shape: tuple[int, int], method: str):
    update = kind(*shape)
    assert spectrum_of(torch.zeros_like(update), update).method == method


@pytest.mark.parametrize("of_one", [2.0**-100, 2.0**100], ids=["tiny", "huge"])
@pytest.mark.parametrize("shape", [(700, 700), (700, 1000)], ids=str)
def test_entries_whose_squares_float32_does_not_hold(shape: tuple[int, int], of_one: float):
    one = dense(*shape)
    plain, scaled = (spectrum_of(torch.zeros_like(one), update) for update in (one, one * of_one))
    assert (scaled.singular_values == plain.singular_values * np.float32(of_one)).all()
    assert (scaled.rank, scaled.method) == (plain.rank, plain.method)


@pytest.mark.parametrize(
    ("decades", "of_a_row", "seed"), [((-14, -7), 1.2, 0), ((-14, -7), 1.2, 2), ((-20, -5), 1.2, 2), ((-14, -7), 2, 3)]
)
def test_entries_of_any_size_beside_each_other(decades: tuple[int, int], of_a_row: float, seed: int):
    """Reflections of what nearly vanishes must not turn what does not."""
    n, draw = 960, np.random.default_rng(seed)
    changed = round(of_a_row * n)
    update = np.zeros((n, n), np.float32)
    places = draw.integers(0, n, changed), draw.integers(0, n, changed)
    update[places] = draw.choice([-1, 1], changed) * 10.0 ** draw.uniform(*decades, changed)
    exact = np.linalg.svd(update.astype(np.float64), compute_uv=False)

    found, method = singular_values(update)

    assert method == "band float32"
    assert np.abs(found - exact).max() < ERROR_OF[method] * exact[0]


@pytest.mark.parametrize("shape", [(705, 705), (1400, 705)], ids=str)
@pytest.mark.parametrize("size", [2.7e-23, 1e-21, 1e-18])
def test_an_entry_that_nearly_vanishes_spoils_nothing(shape: tuple[int, int], size: float):
    """Alone in its column, in the row of the largest direction: its square has few bits left in float32."""
    matrix = random(*shape, seed=3).numpy() * np.float32(0.02)
    matrix[5] *= 30
    matrix[:, 0] = 0
    without = singular_values(matrix.copy())[0][:-1]
    matrix[5, 0] = size

    found, method = singular_values(matrix)

    assert method in ("band float32", "gram float64")
    assert np.abs(found[:-1] - without).max() < 1e-6 * without[0]


def test_a_tall_matrix_over_the_budget_leaves_its_gram_matrix_block_by_block():
    update = dense(1400, 700)
    found = spectrum_of(torch.zeros_like(update), update, budget=10**6)
    whole = spectrum_of(torch.zeros_like(update), update)
    assert (found.method, whole.method) == ("gram float64", "gram float32")
    assert found.singular_values == pytest.approx(whole.singular_values, rel=2e-5)
    assert found.rank == whole.rank == 700


@pytest.mark.parametrize("shape", [(700, 700), (700, 900)], ids=str)
def test_a_rank_that_its_way_leaves_open_is_settled_in_float64(shape: tuple[int, int], monkeypatch):
    """Six values a few hundred-thousandths of the threshold from it, where a band's float32 could be off by 1 %."""
    monkeypatch.setattr("analysis.spectral.DECIDED_DIRECTLY_UP_TO", 640)
    values = torch.logspace(0, -2, 700, dtype=torch.float64)
    values[-6:] = max(shape) * 2.0**-23 * (1 + torch.tensor([3, 2, 1, -1, -2, -3]) * 1e-3)
    left, right = (torch.linalg.qr(random(side, 700, seed=side).double())[0] for side in shape)
    update = ((left * values) @ right.T).float()
    exact = np.linalg.svd(update.double().numpy(), compute_uv=False)

    found = spectrum_of(torch.zeros_like(update), update)

    assert found.method == "gram float64"
    assert found.rank == int((exact > max(shape) * 2.0**-23 * exact[0]).sum())
    assert found.rank_low <= min(found.rank, int(torch.linalg.matrix_rank(update)))
    assert found.rank_high >= max(found.rank, int(torch.linalg.matrix_rank(update)))
    assert np.abs(found.singular_values - exact).max() < 1e-6 * exact[0]


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


@pytest.mark.parametrize("values", [[], [0, 0], [np.inf, 1], [np.inf, -np.inf], [np.nan, 1], [3, -3]], ids=str)
def test_what_is_no_spectrum_has_no_directions(values: list[float]):
    sigma = np.array(values, np.float32)
    assert np.isnan([stable_rank(sigma), effective_rank(sigma), energy_rank(sigma, 0.9)]).all()


def test_ranks_by_hand():
    """Values 3, 4: energy 25, so 16 / 25 in the first; shares 3/7 and 4/7."""
    values = np.array([4.0, 3.0], np.float32)
    assert stable_rank(values) == 25 / 16
    assert effective_rank(values) == pytest.approx(np.exp(-(4 / 7) * np.log(4 / 7) - (3 / 7) * np.log(3 / 7)))
    assert (energy_rank(values, 0.64), energy_rank(values, 0.65)) == (1, 2)
    assert effective_rank(np.ones(8, np.float32)) == pytest.approx(8)
