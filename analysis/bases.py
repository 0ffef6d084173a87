"""Is the base that a pair was compared with the one it was tuned from? What the model says of itself, and what the
other bases that it was compared with say.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from analysis.alerts import Alert
from analysis.errors import BadReference
from analysis.labels import count, percent, scientific
from analysis.measurements import Tally
from analysis.metrics import relative_update
from analysis.models import PinnedModel, parse_model

CLEARLY = 2.0  # times the distance of the nearer one: below it two bases are equally near
_MOST_NAMED = 5


@dataclass(frozen=True)
class Distance:
    """How far a tuned model is from a base: over the tensors that both comparisons have."""

    changed: int
    entries: int
    median_update: float  # over tensors, of the update's norm over that of the base's weights
    tensors: int


def distance(tallies: Mapping[str, Tally], names: Sequence[str]) -> Distance:
    """From the tallies of these tensors; each must be there."""
    known = [tallies[name] for name in names]
    ratios = [part / whole for part, whole in map(relative_update, known) if whole and math.isfinite(part / whole)]
    return Distance(
        changed=sum(tally.entries - tally.unchanged("exact") for tally in known),
        entries=sum(tally.entries for tally in known),
        median_update=statistics.median(ratios) if ratios else math.nan,
        tensors=len(known),
    )


def is_named(base: PinnedModel, declared: str) -> bool:
    """Whether `declared`, a reference in a model's card, may mean this base: the same repository or folder, or, for a
    folder, one that bears the declared name's last part."""
    try:
        ref = parse_model(declared)
    except BadReference:
        return False
    same = ref.name.rstrip("/").casefold() == base.name.rstrip("/").casefold()
    if base.where == "folder":
        return same or ref.name.rpartition("/")[2].casefold() == base.name.rpartition("/")[2].casefold()
    return same and ref.subfolder in ("", base.subfolder)


def another_declared(base: PinnedModel, declared: Sequence[str]) -> Iterator[Alert]:
    """That the tuned model's own card or config names other bases than the one compared with."""
    if not declared or any(is_named(base, name) for name in declared):
        return
    named = tuple(declared[:_MOST_NAMED])
    if len(declared) == 1:
        sentence = "The tuned model says that it was made from another base than the one it is compared with here."
    else:
        sentence = (
            f"The tuned model says that it was made from {count(len(declared))} other models, and not from the base "
            "it is compared with here (a merge, or a chain of tunings)."
        )
    yield Alert("declared_base", f"{sentence} Against that one, more or less may have changed.", models=named)


def nearer(own: Mapping[str, Tally], others: Mapping[PinnedModel, Mapping[str, Tally]]) -> Iterator[Alert]:
    """That another base which this tuned model was compared with is clearly nearer; of several the nearest. `others`
    are the tallies against each. Judged over the tensors that both have, if those are at least half of this pair's."""
    found: list[tuple[float, PinnedModel, Distance, Distance]] = []
    for base, tallies in others.items():
        names = [name for name in own if name in tallies]
        if not names or 2 * len(names) < len(own):
            continue
        here, there = distance(own, names), distance(tallies, names)
        is_near = CLEARLY * there.median_update < here.median_update and there.changed <= here.changed
        if is_near or (there.changed == 0 < here.changed):
            found.append((there.median_update, base, here, there))
    if not found:
        return
    _, base, here, there = min(found, key=lambda entry: entry[0])
    yield Alert(
        "nearer_base",
        "Another base that this model was compared with is clearly nearer: "
        f"{percent(there.changed, there.entries, 2)} against {percent(here.changed, here.entries, 2)} of the values "
        f"changed, the median tensor by {scientific(there.median_update, 2)} against "
        f"{scientific(here.median_update, 2)} of its norm.",
        models=(str(base),),
    )
