"""The numbers of a comparison or an overlap as one JSON document: the interface other tools are built on.

Counts are integers, pooled over entries; null stands for a number that does not exist (a rank of a vector, an effective
rank of a zero update), and for one that is not measured. `withheld` is true where too little was compared for the
totals to speak for the models; `coverage.reasons_withheld` says why. `selection` says what was asked for: where that is
a part, totals, coverage and alerts are of that part, and tensors outside it are there with nulls and `selected` false.
`schema` is 1; fields are only ever added to it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from analysis.alerts import Alert, alerts
from analysis.checks import Verdict
from analysis.coverage import part_of, reasons_to_withhold
from analysis.forecast import Forecast
from analysis.measurements import RULES, Magnitudes, MaskRule, Regions, Spectrum, Tally
from analysis.metrics import correlation
from analysis.models import Pair, PinnedModel
from analysis.overlaps import Venn, venn
from analysis.own_updates import AdapterSummary, OwnUpdates, Side, summarize_adapter
from analysis.plan import Plan
from analysis.rollup import headline_of_part, spectrum_summary
from analysis.tensors import Alignment, TensorPair

SCHEMA = 1
WHOLE = Plan()


def comparison(
    pair: Pair,
    alignment: Alignment,
    tallies: Mapping[str, Tally],
    spectra: Mapping[str, Spectrum],
    gaps: Mapping[tuple[str, str], str],
    plan: Plan = WHOLE,
    about_bases: Sequence[Alert] = (),
    own: OwnUpdates | None = None,
) -> dict[str, Any]:
    """One pair: coverage, totals over everything tallied, and every compared tensor in reading order. Of what `plan`
    selects, where that isn't all: then `tallies` are of that alone, and so are totals, coverage and alerts. Of an
    adapter, `own` is its own updates; everything else is of the base with it merged in."""
    own = own or OwnUpdates()
    known = [tallies[entry.name] for entry in alignment.pairs if entry.name in tallies]
    found, part = headline_of_part(alignment, tallies, spectra, [plan]), part_of(alignment, [plan], tallies)
    return {
        "schema": SCHEMA,
        "base": model(pair.base),
        "tuned": model(pair.tuned),
        "selection": selection(alignment, plan),
        "coverage": coverage(part, tallies),
        "alerts": [
            dataclasses.asdict(alert) | {"tensors": list(alert.tensors), "models": list(alert.models)}
            for alert in alerts(found, part, tallies, about_bases)
        ],
        "withheld": found.withheld,
        "adapter": adapter(summarize_adapter(alignment, tallies, spectra, own)),
        "totals": {
            "entries": sum(tally.entries for tally in known),
            "nonfinite": sum(tally.nonfinite for tally in known),
            "unchanged": {rule: sum(tally.unchanged(rule) for tally in known) for rule in RULES},
            "frobenius_update": _number(math.sqrt(sum(tally.update_square_sum for tally in known))),
            "frobenius_base": _number(math.sqrt(sum(tally.base_square_sum for tally in known))),
            "median_correlation": _number(found.median_correlation),
        },
        "tensors": [
            tensor(entry, tallies.get(entry.name), spectra.get(entry.name), _reasons(entry.name, gaps))
            | {"selected": plan.chooses(entry)}
            | {"adapter": own_update(entry, own.tallies.get(entry.name), own.spectra.get(entry.name))}
            for entry in alignment.pairs
        ],
    }


def selection(alignment: Alignment, plan: Plan) -> dict[str, Any]:
    """What was asked for, as the terminal's options say it, and how much of the pair that is."""
    chosen = [pair for pair in alignment.pairs if plan.chooses(pair)]
    return {
        "is_everything": len(chosen) == len(alignment.pairs),
        "layers": plan.selection.layers_text,
        "modules": list(plan.selection.modules),
        "spectra": plan.spectra_text,
        "selected_layers": sorted({pair.place.layer for pair in chosen if pair.place.layer is not None}),
        "selected_tensors": len(chosen),
        "selected_matrices_with_spectra": sum(map(plan.wants_spectrum, chosen)),
        "selected_parameters": sum(pair.entries for pair in chosen),
        "comparable_tensors": len(alignment.pairs),
        "comparable_parameters": alignment.compared_parameters,
    }


def forecast(pair: Pair, alignment: Alignment, plan: Plan, found: Forecast) -> dict[str, Any]:
    """What a comparison would take, from headers alone; `refusals` says why this machine cannot do it. Bytes are upper
    bounds, seconds a rough estimate."""
    return {
        "schema": SCHEMA,
        "base": model(pair.base),
        "tuned": model(pair.tuned),
        "selection": selection(alignment, plan),
        "coverage": coverage(part_of(alignment, [plan]), {}),
        "measurements": found.measurements,
        "bytes_to_fetch": found.bytes_to_fetch,
        "mask_bytes": found.mask_bytes,
        "row_bytes": found.row_bytes,
        "memory_bytes": found.memory,
        "largest_tensor": found.largest or None,
        "seconds_for_tallies": found.seconds_for_tallies,
        "seconds": found.seconds,
        "spectra_left_out": [{"name": name, "reason": reason} for name, reason in found.left_out],
        "machine": dataclasses.asdict(found.machine),
        "refusals": [str(refusal) for refusal in found.refusals()],
    }


def model(pinned: PinnedModel) -> dict[str, str]:
    return {"id": pinned.title, "commit": pinned.commit}


def coverage(alignment: Alignment, tallies: Mapping[str, Tally]) -> dict[str, Any]:
    """How much of both models stands behind the numbers, and what does not, with reasons."""
    return {
        "compared_parameters": sum(pair.entries for pair in alignment.pairs if pair.name in tallies),
        "base_parameters": alignment.base_parameters,
        "tuned_parameters": alignment.tuned_parameters,
        "reasons_withheld": list(reasons_to_withhold(alignment)),
        "by_match": {side: alignment.covered(side, tallies) for side in ("base", "tuned")},
        "not_compared": [
            {"name": entry.name, "side": entry.side, "reason": entry.reason, "parameters": entry.parameters}
            for entry in alignment.not_compared
        ],
    }


def tensor(
    pair: TensorPair, tally: Tally | None, spectrum: Spectrum | None, reasons: Mapping[str, str]
) -> dict[str, Any]:
    """One compared tensor. `gaps` says why a measurement is missing, by its kind."""
    place = pair.place
    fields: dict[str, Any] = {
        "name": pair.name,
        "match": pair.match,
        "base_name": pair.base.name,
        "tuned_name": pair.tuned.name,
        "layer": place.layer,
        "block": place.block,
        "module": place.module,
        "expert": place.expert,
        "shape": list(pair.shape),
        "dtype": {"base": pair.base.dtype, "tuned": pair.tuned.dtype},
        "entries": pair.entries,
        "nonfinite": None if tally is None else tally.nonfinite,
        "unchanged": None if tally is None else {rule: tally.unchanged(rule) for rule in RULES},
        "sign_flips": None if tally is None else tally.sign_flips,
        "max_abs_update": None if tally is None else _number(tally.max_abs_update),
        "frobenius_update": None if tally is None else _number(math.sqrt(tally.update_square_sum)),
        "frobenius_base": None if tally is None else _number(math.sqrt(tally.base_square_sum)),
        "frobenius_tuned": None if tally is None else _number(math.sqrt(tally.tuned_square_sum)),
        "correlation": None if tally is None else _over(*correlation(tally)),
        "max_rank": min(pair.shape) if pair.is_matrix else None,
    }
    summary = spectrum_summary(spectrum) if spectrum is not None else {}
    return fields | {
        "rank": spectrum.rank if spectrum is not None else None,
        "rank_interval": [spectrum.rank_low, spectrum.rank_high] if spectrum is not None else None,
        "rank_tolerance": _number(spectrum.tolerance) if spectrum is not None else None,
        "stable_rank": _number(summary.get("stable_rank", math.nan)),
        "effective_rank": _number(summary.get("effective_rank", math.nan)),
        "singular_values": [float(v) for v in spectrum.singular_values] if spectrum is not None else None,
        "spectrum_method": spectrum.method if spectrum is not None else None,
        "gaps": dict(reasons),
    }


def adapter(found: AdapterSummary | None) -> dict[str, Any] | None:
    """The adapter in total: its own update, and what is left of it in the base's type; null for a whole model."""
    if found is None:
        return None

    def side(one: Side) -> dict[str, Any]:
        return {
            "moved": one.changed.part,
            "frobenius": _number(one.norm),
            "ranks": list(one.ranks),
            "mean_rank_share": _number(one.mean_rank_share),
            "mean_effective_rank": _number(one.mean_effective_rank),
        }

    return {
        "words": found.words,
        "base_type": found.dtype,
        "tensors": found.tensors,
        "tensors_measured": found.tensors_measured,
        "entries": found.own.changed.whole,
        "own": side(found.own),
        "merged": side(found.merged),
        "lost_in_rounding": found.lost.part,
    }


def own_update(pair: TensorPair, tally: Tally | None, spectrum: Spectrum | None) -> dict[str, Any] | None:
    """What the adapter itself adds to one tensor, in float32; null where it leaves it alone."""
    merge = pair.merge
    if merge is None:
        return None
    return {
        "kind": merge.kind,
        "rank": merge.rank or None,
        "alpha": merge.alpha if merge.rank else None,
        "scaling": merge.scaling,
        "tensors": [info.name for info in merge.tensors],
        "moved": None if tally is None else tally.entries - tally.unchanged("exact"),
        "max_abs_update": None if tally is None else _number(tally.max_abs_update),
        "frobenius_update": None if tally is None else _number(math.sqrt(tally.update_square_sum)),
        "numerical_rank": None if spectrum is None else spectrum.rank,
        "singular_values": None if spectrum is None else [float(value) for value in spectrum.singular_values],
        "spectrum_method": None if spectrum is None else spectrum.method,
    }


def check(
    pair: Pair, alignment: Alignment, tallies: Mapping[str, Tally], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """One pair's assertions. `value` is a share or a count, null where it cannot be told; `part` and `whole` are the
    entries of a share that pools entries."""
    return {
        "schema": SCHEMA,
        "base": model(pair.base),
        "tuned": model(pair.tuned),
        "coverage": coverage(alignment, tallies),
        "holds": all(verdict.holds for verdict in verdicts),
        "assertions": [_verdict(verdict) for verdict in verdicts],
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    found = verdict.found
    pooled = found if found is not None and found.kind == "pooled" else None
    return {
        "assertion": verdict.assertion.text,
        "holds": verdict.holds,
        "value": None if found is None else found.value,
        "part": None if pooled is None else int(pooled.part),
        "whole": None if pooled is None else pooled.whole,
        "entries": verdict.entries,
        "tensors": verdict.tensors,
        "why_not": verdict.why_not or None,
    }


def overlap(
    base: PinnedModel,
    tuned: Sequence[PinnedModel],
    regions_of_rule: Mapping[MaskRule, Mapping[str, Regions]],
    magnitudes_of_rule: Mapping[MaskRule, Sequence[Mapping[str, Magnitudes]]],
    not_counted: Sequence[str] = (),
) -> dict[str, Any]:
    """Several tuned models of one base: for each rule, in total and a tensor, the regions and each pair's overlap.

    `models` gives the bits: region '5' (binary 101) counts the entries that exactly the first and third changed. What
    chance would give stands beside everything in total, and beside each pair and the counts by runs of a tensor.
    """
    labels = [pinned.title for pinned in tuned]
    return {
        "schema": SCHEMA,
        "base": model(base),
        "models": [model(pinned) | {"bit": 1 << index} for index, pinned in enumerate(tuned)],
        "not_counted": list(not_counted),
        "rules": {
            rule: {
                "total": _total(venn(rule, labels, regions, magnitudes_of_rule[rule])),
                "tensors": [
                    {"name": name, **overlap_numbers(venn(rule, labels, {name: region}, magnitudes_of_rule[rule]))}
                    for name, region in regions.items()
                ],
            }
            for rule, regions in regions_of_rule.items()
        },
    }


def _total(found: Venn) -> dict[str, Any]:
    """What overlap_numbers has, with every region, also those without entries, and what chance gives for each."""
    by_chance = {"expected": found.expected, "expected_matched": found.matched}
    every_region = {str(subset): int(count) for subset, count in enumerate(found.counts)}
    return overlap_numbers(found) | {
        "regions": every_region,
        **{
            f"regions_{name}": {str(subset): _number(amount) for subset, amount in enumerate(amounts)}
            for name, amounts in by_chance.items()
        },
    }


def overlap_numbers(found: Venn) -> dict[str, Any]:
    """Regions that occur, each pair's overlap, and how many entries exactly 0, 1 ... of the models changed."""
    k = found.n_models
    return {
        "entries": found.entries,
        "changed": [found.changed(index) for index in range(k)],
        "regions": {str(subset): int(count) for subset, count in enumerate(found.counts) if count},
        "by_runs": [int(count) for count in found.by_runs],
        "by_runs_expected": [_number(amount) for amount in found.expected_by_runs],
        "by_runs_expected_matched": [_number(amount) for amount in found.matched_by_runs],
        "pairs": [
            {
                "models": [one, other],
                "both": found.changed(one, other),
                "o1": _number(found.one_sided(one, other)),
                "o2": _number(found.one_sided(other, one)),
                "jaccard": _number(found.jaccard(one, other)),
                "chance": {"o1": _number(found.chance(one, other)), "o2": _number(found.chance(other, one))},
                "chance_matched": {
                    "o1": _number(found.matched_chance(one, other)),
                    "o2": _number(found.matched_chance(other, one)),
                },
            }
            for one, other in combinations(range(k), 2)
        ],
    }


def _over(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _reasons(name: str, gaps: Mapping[tuple[str, str], str]) -> dict[str, str]:
    return {kind: reason for (kind, of), reason in gaps.items() if of == name}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
