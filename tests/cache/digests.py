"""All that is stored of a pair, as one number: equal only where every measurement and every mask is, bit by bit."""

from __future__ import annotations

import hashlib

from cache.masks import read_mask
from cache.settings import Settings
from cache.store import Store
from tests.cache.samples import bits


def digest(store: Store, key: str, settings: Settings) -> str:
    """SHA-256 over tallies, spectra, gaps and the bits of the masks, in the order of their names."""
    found = hashlib.sha256()
    for name, measurement in [*sorted(store.tallies(key).items()), *sorted(store.spectra(key).items())]:
        found.update(repr((name, bits(measurement))).encode())
    found.update(repr(sorted(store.gaps(key).items())).encode())
    for place, mask in sorted(store.masks(key).items()):
        found.update(repr((place, mask.entries, mask.changed, mask.sha256)).encode())
        for chunk in read_mask(settings.masks_dir, mask):
            found.update(chunk)
    return found.hexdigest()
