"""How much of two models stands behind a number, and whether it is enough for a headline.

Three things that a number may lack are kept apart: what could not be compared, what was not asked for, and what was
asked for and is not measured yet. What was not asked for makes the part smaller that a number speaks of, and says so;
only what could not be compared, within that part, withholds a headline.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from analysis.labels import count, counted, percent
from analysis.places import place_of
from analysis.plan import Plan
from analysis.tensors import Alignment, NotCompared

LEAST_PERCENT = 90  # of the parameters of either side
_MOST_REASONS = 3
_ROWS = re.compile(r"\[\d+:\d+\]$")


@dataclass(frozen=True)
class Chosen:
    """How much of a pair was asked for, where that isn't all of it. `parameters` are the base's that are compared."""

    layers: int
    layers_whole: int
    tensors: int
    tensors_whole: int
    parameters: int
    parameters_whole: int

    @property
    def words(self) -> str:
        """'3 of 32 layers, 9.11 % of the parameters'."""
        share = f"{percent(self.parameters, self.parameters_whole, 2)} of the parameters"
        if 0 < self.layers < self.layers_whole:
            return f"{count(self.layers)} of {count(self.layers_whole)} layers, {share}"
        return f"{count(self.tensors)} of {count(self.tensors_whole)} tensors, {share}"


def part_of(alignment: Alignment, plans: Sequence[Plan], measured: Container[str] = ()) -> Alignment:
    """What the plans ask for, and what is measured all the same, with the parameters of both models in it: the
    alignment itself where that is all. Of a tensor whose shapes differ, the base's parameters stand for both sides."""
    plans = [plan for plan in plans if not plan.sides] or [Plan()]  # singular values of a side are no part of a pair
    if any(plan.selection.is_everything for plan in plans):
        return alignment
    pairs = tuple(p for p in alignment.pairs if p.name in measured or any(plan.chooses(p) for plan in plans))
    if len(pairs) == len(alignment.pairs):
        return alignment
    left_out = tuple(one for one in alignment.not_compared if _asked(one, plans))
    part = replace(alignment, pairs=pairs, not_compared=left_out)
    return replace(part, base_parameters=_parameters(part, "base"), tuned_parameters=_parameters(part, "tuned"))


def chosen_of(alignment: Alignment, part: Alignment) -> Chosen | None:
    """How much of the pair `part` is; None where it is all of it."""
    if part is alignment:
        return None
    layers, whole = ({p.place.layer for p in one.pairs} - {None} for one in (part, alignment))
    return Chosen(
        layers=len(layers),
        layers_whole=len(whole),
        tensors=len(part.pairs),
        tensors_whole=len(alignment.pairs),
        parameters=part.compared_of("base"),
        parameters_whole=alignment.base_parameters,
    )


def _asked(one: NotCompared, plans: Sequence[Plan]) -> bool:
    name = _ROWS.sub("", one.name)
    return any(plan.selection.includes(place_of(name), name) for plan in plans)


def _parameters(part: Alignment, side: Literal["base", "tuned"]) -> int:
    left_out = (one for one in part.not_compared if one.side in (side, "both") and one.is_parameter)
    return part.compared_of(side) + sum(one.parameters for one in left_out)


def reasons_to_withhold(alignment: Alignment) -> tuple[str, ...]:
    """Why these numbers do not speak for the models, as sentences, the shares first; () where they do."""
    wholes = {"base": ("base", alignment.base_parameters), "tuned": ("tuned model", alignment.tuned_parameters)}
    compared = {"base": alignment.compared_of("base"), "tuned": alignment.compared_of("tuned")}
    short = [side for side, (_, whole) in wholes.items() if 100 * compared[side] < LEAST_PERCENT * whole]
    if not short:
        return ()
    shares = [
        f"Only {percent(compared[side], wholes[side][1], 2)} of the {wholes[side][0]}'s parameters could be compared; "
        f"a headline needs {LEAST_PERCENT} %."
        for side in short
    ]
    return *shares, *_largest_reasons([entry for entry in alignment.not_compared if entry.side in (*short, "both")])


def _largest_reasons(entries: Sequence[NotCompared]) -> list[str]:
    """What was left out for the reasons that weigh most."""
    of_reason: dict[str, list[int]] = {}
    for entry in entries:
        reason = entry.reason.partition(":")[0].partition(";")[0]
        of_reason.setdefault(reason, []).append(entry.parameters)
    heaviest = sorted(of_reason.items(), key=lambda item: -sum(item[1]))[:_MOST_REASONS]
    return [
        f"{counted(len(left_out), 'tensor')}, {count(sum(left_out))} parameters: {reason}."
        for reason, left_out in heaviest
    ]
