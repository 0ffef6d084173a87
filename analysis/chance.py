"""What chance alone would give: how k models' changes would overlap if each had picked its entries independently.

Independence is taken within bins: the whole of one tensor (Mukherjee's baseline), or its entries of one power of two of
|before| (the matched baseline). Amounts add over bins and tensors; nothing is divided by here but a bin's entries.
docs/methods.md derives both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.measurements import Magnitudes, Regions

Bins = tuple[NDArray[np.float64], NDArray[np.float64]]  # entries (bins,), changed (k, bins)


def within_tensor(regions: Regions) -> Bins:
    """The tensor as one bin."""
    counts = regions.counts.astype(np.float64)
    changed = [[counts[regions.subsets >> model & 1 == 1].sum()] for model in range(regions.n_models)]
    return counts.sum(keepdims=True), np.array(changed)


def at_equal_magnitude(models: Sequence[Magnitudes | None]) -> Bins | None:
    """Bins of base magnitude, those that hold an entry; None where a model's counts by magnitude are unknown."""
    known = [model for model in models if model is not None]
    if not known or len(known) < len(models):
        return None
    entries = np.max([model.entries for model in known], axis=0).astype(np.float64)
    filled = entries > 0
    return entries[filled], np.array([model.changed for model in known], np.float64)[:, filled]


def expected_regions(bins: Bins) -> NDArray[np.float64]:
    """(2 ** k,): entries that exactly the models of each subset would change.

    In a bin of N entries of which model i changed the share p_i: N times the product of p_i over the subset's models
    and of 1 - p_i over the others."""
    entries, shares = bins[0], _shares(bins)
    expected = entries[np.newaxis]  # (1, bins), doubled by each model: without it, then with it
    for share in shares:
        expected = np.concatenate([expected * (1 - share), expected * share])
    return expected.sum(axis=1)


def expected_by_runs(bins: Bins) -> NDArray[np.float64]:
    """(k + 1,): entries that exactly 0 ... k of the models would change, in each bin the Poisson binomial distribution
    of the k shares."""
    entries, shares = bins[0], _shares(bins)
    expected = np.zeros((len(shares) + 1, len(entries)))
    expected[0] = entries
    for share in shares:
        expected[1:] = expected[1:] * (1 - share) + expected[:-1] * share
        expected[0] *= 1 - share
    return expected.sum(axis=1)


def _shares(bins: Bins) -> NDArray[np.float64]:
    entries, changed = bins
    return np.minimum(changed / np.maximum(entries, 1), 1.0)
