"""The null for ranks: noise of any kind follows it, structure leaves it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis.elementwise import geometry, tally
from analysis.measurements import Spectrum, Tally
from analysis.noise import above_noise, kurtosis, noise_edge, noise_values
from analysis.spectral import spectrum

SHAPES = ((200, 200), (150, 600), (600, 150))


def noise(shape: tuple[int, int], changed: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=shape) * 1e-4 * (random.random(shape) < changed)


def measured(update: np.ndarray) -> tuple[Spectrum, Tally]:
    before, after = torch.zeros(update.shape), torch.from_numpy(update).float()
    shape = geometry(update.shape)
    return spectrum(lambda: iter([(before, after)]), shape), tally([(before, after)], shape)


@pytest.mark.parametrize("changed", [1.0, 0.2], ids=lambda share: f"{share:.0%} changed")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_noise_has_the_spectrum_of_the_law(shape: tuple[int, int], changed: float):
    update = noise(shape, changed, seed=1)
    values = np.linalg.svd(update, compute_uv=False)
    expected = noise_values(*shape, float(np.square(update).sum()))
    assert len(expected) == min(shape)
    assert np.abs(values - expected).max() < 0.05 * values[0]
    assert np.square(expected).sum() == pytest.approx(np.square(update).sum())


@pytest.mark.parametrize("changed", [1.0, 0.2, 0.05], ids=lambda share: f"{share:.0%} changed")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_noise_stays_below_its_edge(shape: tuple[int, int], changed: float):
    """Of six matrices at most one has a value above what one in a hundred exceeds, and by no more than a few."""
    counts = [above_noise(*measured(noise(shape, changed, seed)))[0] for seed in range(6)]
    assert sum(n > 0 for n in counts) <= 1 + (changed < 0.1)
    assert max(counts) <= 3


def test_a_shuffled_update_is_noise_and_the_update_is_not():
    """Sixteen directions under noise: seen in the update, gone once its entries change places."""
    random = np.random.default_rng(0)
    update = noise((400, 600), 0.2, seed=1)
    update += 6e-6 * random.normal(size=(400, 16)) @ random.normal(size=(16, 600))
    shuffled = random.permutation(update.ravel()).reshape(update.shape)
    found, energy, whole = above_noise(*measured(update))
    assert found == 16
    assert 0.02 < energy / whole < 0.6
    assert above_noise(*measured(shuffled))[0] == 0


def test_a_low_rank_update_is_all_structure():
    random = np.random.default_rng(0)
    update = 1e-5 * random.normal(size=(400, 16)) @ random.normal(size=(16, 600))
    found, energy, whole = above_noise(*measured(update))
    assert found == 16
    assert energy / whole == pytest.approx(1)


def test_kurtosis_from_the_histogram_is_the_updates():
    update = noise((300, 300), 0.1, seed=3).astype(np.float32)
    wide = update.astype(np.float64)
    expected = np.mean(wide**4) / np.mean(wide**2) ** 2
    assert kurtosis(measured(update)[1]) == pytest.approx(expected, rel=0.02)


def test_nothing_changed_has_no_noise():
    found, tallied = measured(np.zeros((20, 30)))
    assert above_noise(found, tallied) == (0, 0.0, 0.0)
    assert np.isnan(kurtosis(tallied))
    assert not noise_values(20, 30, 0.0).any()
    assert noise_edge(1, 30, 1.0) == np.inf
