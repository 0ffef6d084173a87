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


def within_tensors(regions: Sequence[Regions]) -> Bins:
    """Each tensor as one bin."""
    subsets, counts, tensors = laid_out(regions)

    def by_tensor(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(tensors, weights=counts, minlength=len(regions)), np.float64)  # exact below 2**53

    n_models = regions[0].n_models if regions else 0
    changed = [by_tensor(counts * (subsets >> model & 1)) for model in range(n_models)]
    return by_tensor(counts), np.array(changed).reshape(n_models, len(regions))


def laid_out(regions: Sequence[Regions]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(subsets, counts, which tensor they are of) of all of them, one behind the other."""
    nothing = [np.zeros(0, np.int64)]
    subsets = np.concatenate(nothing + [region.subsets for region in regions])
    counts = np.concatenate(nothing + [region.counts for region in regions])
    return subsets, counts, np.repeat(np.arange(len(regions)), [len(region.subsets) for region in regions])


def at_equal_magnitude(models: Sequence[Sequence[Magnitudes | None]]) -> Bins | None:
    """Bins of base magnitude of each tensor, those that hold an entry, from its counts in each of the models; None
    where any of these is unknown."""
    known = [[one for one in of_model if one is not None] for of_model in models]
    if not known or any(len(some) < len(all_) for some, all_ in zip(known, models, strict=True)):
        return None
    entries = np.max([[one.entries for one in of_model] for of_model in known], axis=0).reshape(-1).astype(np.float64)
    filled = entries > 0
    changed = np.array([[one.changed for one in of_model] for of_model in known], np.float64)
    return entries[filled], changed.reshape(len(known), -1)[:, filled]


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
