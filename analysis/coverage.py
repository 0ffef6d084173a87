"""How much of two models stands behind a number, and whether it is enough for a headline."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.labels import count, percent
from analysis.tensors import Alignment, NotCompared

LEAST_PERCENT = 90  # of the parameters of either side
_MOST_REASONS = 3


def reasons_to_withhold(alignment: Alignment, least_percent: int = LEAST_PERCENT) -> tuple[str, ...]:
    """Why these numbers do not speak for the models, as sentences, the shares first; () where they do."""
    wholes = {"base": ("base", alignment.base_parameters), "tuned": ("tuned model", alignment.tuned_parameters)}
    compared = {"base": alignment.compared_of("base"), "tuned": alignment.compared_of("tuned")}
    short = [side for side, (_, whole) in wholes.items() if 100 * compared[side] < least_percent * whole]
    if not short:
        return ()
    shares = [
        f"Only {percent(compared[side], wholes[side][1], 2)} of the {wholes[side][0]}'s parameters could be compared; "
        f"a headline needs {least_percent} %."
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
        f"{count(len(left_out))} {'tensor' if len(left_out) == 1 else 'tensors'}, {count(sum(left_out))} parameters: "
        f"{reason}."
        for reason, left_out in heaviest
    ]
