"""The job that follows a run of checkpoints: measures every pair of the series, then counts along the run.

What is stored already is not measured again, so a run to which a checkpoint was added costs that checkpoint, and the
counting.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from analysis.cost import seconds
from analysis.dynamics import same_names
from analysis.errors import MasksMissing
from analysis.measurements import MASK_RULES, Gap, MaskRule
from analysis.models import Pair
from analysis.plan import Plan
from analysis.series import Series
from cache.masks import MaskFile, enforce_quota
from cache.settings import Settings
from cache.store import Store
from cache.work import Job, fill

PLAN = Plan(spectra=False)
_COST_OF_STEP = 0.004  # seconds a checkpoint and tensor, only the ratio to what is measured matters

Masks = Mapping[tuple[str, MaskRule], MaskFile]


def follow(job: Job, store: Store, settings: Settings) -> None:
    """Measures the job's pairs and counts their masks along the run. Raises the errors of its children."""
    series = Series.of_pairs(job.pairs)
    _measure_pairs(job, store, settings)
    wanted = masks_of_run(series, store)
    stored = {rule: store.series.steps(series.key, rule) for rule in MASK_RULES}
    missing = [entry for entry in wanted if entry[0] not in stored[entry[1]]]
    cost = _COST_OF_STEP * len(series.checkpoints)
    job.meter.frame(before=0, after=0, cost_after=0.0)
    job.meter.plan(done=len(wanted) - len(missing), planned=len(wanted), cost_left=len(missing) * cost)
    job.meter.enter("dynamics")
    written: list[Future[Any]] = []
    lost: list[str] = []

    def on_message(message: dict[str, Any]) -> None:
        job.meter.measured(cost)
        if isinstance(message["measurement"], Gap):
            lost.append(message["name"])
        else:
            written.append(store.series.put_steps(series.key, message["name"], message["measurement"]))

    request = {"masks": missing, "masks_dir": settings.masks_dir}
    if missing:
        job.run("cache.backends.dynamics", request, on_message, network=False)
    for future in written:
        future.result()
    if lost:
        store.forget_masks([pair.key for pair in job.pairs]).result()
        raise MasksMissing(
            f"The stored update masks of {len(lost)} tensors, '{lost[0]}' among them, cannot be read any more",
            do="Start it again: the masks are then taken anew from the weights",
        )
    if gone := enforce_quota(settings.masks_dir, settings.mask_quota, job.keys_in_use()):
        store.forget_masks(gone).result()


def _measure_pairs(job: Job, store: Store, settings: Settings) -> None:
    """Fills one pair after the other, under one bar. Once everything of a series is counted, masks that the quota has
    removed since are not taken again."""
    series = Series.of_pairs(job.pairs)
    masks_too = not is_counted(series, store)
    n_planned, cost = {}, {}
    for pair in job.pairs:
        alignment = store.alignment(pair.key)
        tensors = {entry.name: entry for entry in alignment.pairs}
        holes = store.holes(pair.key, PLAN, masks_too=masks_too)
        n_planned[pair.key] = len(alignment.pairs)
        cost[pair.key] = sum(seconds(hole, tensors[hole.name], threads=settings.threads) for hole in holes)
    for position, pair in enumerate(job.pairs):
        before, after = job.pairs[:position], job.pairs[position + 1 :]
        job.meter.frame(
            before=sum(n_planned[one.key] for one in before),
            after=sum(n_planned[one.key] for one in after),
            cost_after=sum(cost[one.key] for one in after),
        )
        fill(job, pair, PLAN, store, settings, masks_too=masks_too)


def is_counted(series: Series, store: Store) -> bool:
    """Whether every tensor that can be followed through the run is counted, under both rules."""
    names = set(followed(series, store))
    return all(names <= store.series.steps(series.key, rule).keys() for rule in MASK_RULES)


def masks_of_run(
    series: Series, store: Store
) -> list[tuple[str, MaskRule, tuple[MaskFile, ...], tuple[MaskFile, ...]]]:
    """(tensor, rule, masks against the base, masks against the checkpoint before), for every tensor that has them all,
    in one size."""
    masks = {pair.key: store.masks(pair.key) for pair in series.pairs}
    wanted = []
    for name, names in followed(series, store).items():
        for rule in MASK_RULES:
            from_base = _all_there(series.from_base, [name] * len(names), rule, masks)
            moved = _all_there(series.from_previous, names, rule, masks)
            if from_base and moved and len({file.entries for file in (*from_base, *moved)}) == 1:
                wanted.append((name, rule, from_base, moved))
    return wanted


def followed(series: Series, store: Store) -> dict[str, tuple[str, ...]]:
    """By its name against the base, what each tensor is called in the comparisons with the checkpoint before. Tensors
    that some checkpoint has not, or holds in another way than its neighbour, are not in it."""
    aligned = [store.alignment(pair.key) for pair in series.from_base]
    names = {pair.name: [pair.name] for pair in aligned[0].pairs}
    shapes = [{pair.name: pair.shape for pair in one.pairs} for one in aligned]
    for step, pair in enumerate(series.from_previous[1:], start=1):
        same = same_names(aligned[step - 1], aligned[step], store.alignment(pair.key))
        names = {
            name: [*known, same[name]]
            for name, known in names.items()
            if name in same and shapes[step].get(name) == shapes[0][name]
        }
    return {name: tuple(known) for name, known in names.items()}


def _all_there(
    pairs: tuple[Pair, ...], names: tuple[str, ...] | list[str], rule: MaskRule, masks: Mapping[str, Masks]
) -> tuple[MaskFile, ...]:
    """One mask a pair, or nothing where one is missing."""
    files = [masks[pair.key].get((name, rule)) for pair, name in zip(pairs, names, strict=True)]
    there = tuple(file for file in files if file is not None)
    return there if len(there) == len(pairs) else ()
