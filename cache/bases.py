"""What the store knows of other bases that a tuned model could be compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.alerts import Alert
from analysis.bases import another_declared, nearer
from analysis.measurements import Tally
from cache.records import StoredPair
from cache.store import Store

_MOST_BASES = 8


def alerts_about_bases(
    store: Store, known: StoredPair, tallies: Mapping[str, Tally], others: Sequence[str] | None = None
) -> list[Alert]:
    """That the tuned model names another base than this pair's, and that one of the bases it was compared with here is
    nearer. `tallies` are the pair's own; `others` the keys of the pairs with the same tuned model that may be told of,
    None for all."""
    same_tuned = store.pairs_of_same_tuned(known.pair.key) if others is None else others
    keys = same_tuned[:_MOST_BASES] if tallies else []
    found = [other for key in keys if (other := store.find_pair(key))]
    measured = {other.pair.base: store.tallies(other.pair.key, arrays=False) for other in found}
    return [*another_declared(known.pair.base, known.tuned.declared), *nearer(tallies, measured)]
