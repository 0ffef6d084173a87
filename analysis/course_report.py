"""A run of checkpoints as rows and as one JSON document: every count beside the models, commits and rule it is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.dynamics import Course, Landed, course, fate, unchanged_shares
from analysis.measurements import MASK_RULES, MaskRule, StepCounts
from analysis.patches import ENCODINGS, PatchSize, Sized, patch_size
from analysis.report import SCHEMA, model
from analysis.rollup import Share
from analysis.series import Axis, Series
from analysis.tables import Row
from analysis.tensors import Alignment


def patches(alignments: Sequence[Alignment], landed: Landed) -> list[PatchSize | None]:
    """One patch a checkpoint, from the changed entries (exact rule) of the pair behind it; None where not every tensor
    of the pair is measured: a patch of some of them would look small."""
    found: list[PatchSize | None] = []
    for alignment, tensors in zip(alignments, landed, strict=True):
        whole = alignment.pairs and all(pair.name in tensors for pair in alignment.pairs)
        sized = (
            Sized(one.entries, one.entries - one.exact, pair.tuned.end - pair.tuned.begin)
            for pair in alignment.pairs
            if (one := tensors.get(pair.name))
        )
        found.append(patch_size(sized) if whole else None)
    return found


def step_rows(
    series: Series, axis: Axis, rule: MaskRule, from_base: Landed, from_previous: Landed, run: Course | None
) -> list[Row]:
    """One row a checkpoint. What is not counted yet is empty."""
    against = [unchanged_shares(landed, rule) for landed in (from_base, from_previous)]
    return [
        {
            axis.title: axis.positions[step],
            "name": axis.labels[step],
            "checkpoint": str(checkpoint),
            "base": str(series.base),
            "rule": rule,
            **_counts("unchanged_since_base", against[0][step]),
            **_counts("unchanged_since_previous", against[1][step]),
            **_followed(run, step),
        }
        for step, checkpoint in enumerate(series.checkpoints)
    ]


def _counts(name: str, share: Share) -> Row:
    return {name: share.part if share.whole else None, f"of_{name.removeprefix('unchanged_')}": share.whole or None}


_FOLLOWED = ("changed", "changed_outside", "returned", "union", "moved", "moved_outside")


def _followed(run: Course | None, step: int) -> Row:
    """Counts along the run, by names that say of what."""
    names = {
        "changed": "changed",
        "changed_outside": "changed_outside_final",
        "returned": "came_back",
        "union": "changed_so_far",
        "moved": "moved",
        "moved_outside": "moved_outside_final",
    }
    if run is None or not run.tensors:
        return dict.fromkeys((*names.values(), "entries_followed"))
    counts: Row = {names[field]: int(getattr(run, field)[step]) for field in _FOLLOWED}
    return counts | {"entries_followed": run.entries}


def patch_rows(axis: Axis, against: str, sizes: Sequence[PatchSize | None]) -> list[Row]:
    """One row a checkpoint that is measured."""
    return [
        {
            axis.title: axis.positions[step],
            "name": axis.labels[step],
            "against": against,
            "changed": one.changed,
            "values_bytes": one.values,
            **{f"{encoding}_bytes": round(one.total(encoding)) for encoding in ENCODINGS},
            "full_bytes": one.full,
            **{f"{encoding}_share": one.ratio(encoding) for encoding in ENCODINGS},
        }
        for step, one in enumerate(sizes)
        if one is not None
    ]


def document(
    series: Series,
    axis: Axis,
    from_base: tuple[Sequence[Alignment], Landed],
    from_previous: tuple[Sequence[Alignment], Landed],
    counts: Mapping[MaskRule, Mapping[str, StepCounts]],
    not_followed: Sequence[str],
) -> dict[str, Any]:
    """Everything about a run, with counts of each followed tensor; see docs/methods.md for their meaning."""
    sizes = {"base": patches(*from_base), "previous": patches(*from_previous)}
    return {
        "schema": SCHEMA,
        "base": model(series.base),
        "checkpoints": [
            model(checkpoint) | {"name": axis.labels[step], axis.title: axis.positions[step]}
            for step, checkpoint in enumerate(series.checkpoints)
        ],
        "rules": {rule: _of_rule(rule, from_base[1], from_previous[1], counts[rule], series) for rule in MASK_RULES},
        "patches": {against: [_patch(one) for one in of_steps] for against, of_steps in sizes.items()},
        "not_followed": list(not_followed),
    }


def _of_rule(
    rule: MaskRule, from_base: Landed, from_previous: Landed, counts: Mapping[str, StepCounts], series: Series
) -> dict[str, Any]:
    run = course(rule, counts, len(series.checkpoints))
    told = fate(run)
    return {
        "unchanged_since_base": [_share(one) for one in unchanged_shares(from_base, rule)],
        "unchanged_since_previous": [_share(one) for one in unchanged_shares(from_previous, rule)],
        "entries_followed": run.entries,
        "fates": {"never": told.never.part, "came_back": told.returned.part, "final": told.final.part},
        **{field: getattr(run, field).tolist() for field in _FOLLOWED},
        "tensors": [
            {"name": name, "entries": one.entries}
            | {field: getattr(one, field).tolist() for field in _FOLLOWED if field != "returned"}
            for name, one in counts.items()
        ],
    }


def _share(one: Share) -> dict[str, int]:
    return {"unchanged": one.part, "entries": one.whole}


def _patch(one: PatchSize | None) -> dict[str, float] | None:
    if one is None:
        return None
    sizes = {f"{encoding}_bytes": one.total(encoding) for encoding in ENCODINGS}
    return {"changed": one.changed, "values_bytes": one.values, **sizes, "full_bytes": one.full}
