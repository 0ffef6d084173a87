"""Regions by tensor -> Grid: overlap of two models and agreement of all, layer by layer and matrix by matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from analysis import chance
from analysis.measurements import Magnitudes, Regions
from analysis.metrics import Metric
from analysis.overlaps import Venn, matched_bins, over, venn
from analysis.rollup import OUTSIDE_LAYERS, Cell, Grid
from analysis.tensors import Alignment

ByName = Mapping[str, Regions]
ByMagnitude = Sequence[Mapping[str, Magnitudes]]  # one mapping a model, by tensor name

MEASURES: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric(
            "one-sided",
            "One-sided overlap",
            "share of the first's changes",
            "share",
            "Of the entries that the first model changed, the share that the second changed too (Mukherjee's o1, o2).",
            "tally",
        ),
        Metric(
            "jaccard",
            "Jaccard index",
            "share of all changes",
            "share",
            "Entries changed by both over entries changed by either.",
            "tally",
        ),
        Metric(
            "chance",
            "Overlap over chance",
            "times",
            "log",
            "One-sided overlap over what it would be if both had chosen their entries at random within each tensor.",
            "tally",
        ),
        Metric(
            "matched",
            "Overlap over magnitude-matched chance",
            "times",
            "log",
            "One-sided overlap over what it would be if both had chosen at random among weights of the same magnitude.",
            "tally",
        ),
    )
}

AGREEMENTS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric(
            "share",
            "Share of parameters",
            "share of parameters",
            "share",
            "Share of all entries that exactly so many of the runs changed, whichever runs these are.",
            "tally",
        ),
        Metric(
            "chance",
            "Over chance",
            "times",
            "log",
            "That share over what it would be if the runs had chosen their entries at random within each tensor.",
            "tally",
        ),
        Metric(
            "matched",
            "Over magnitude-matched chance",
            "times",
            "log",
            "That share over what it would be if the runs had chosen at random among weights of the same magnitude.",
            "tally",
        ),
    )
}

_VALUE_OF_MEASURE: dict[str, Callable[[Venn], float]] = {
    "one-sided": lambda pair: pair.one_sided(0, 1),
    "jaccard": lambda pair: pair.jaccard(0, 1),
    "chance": lambda pair: over(pair.one_sided(0, 1), pair.chance(0, 1)),
    "matched": lambda pair: pair.over_matched(0, 1),
}


def overlap_grid(
    alignment: Alignment,
    measure: str,
    regions: ByName,
    of: int,
    other: int,
    *,
    rule: str,
    magnitudes: ByMagnitude = (),
    left_out: Collection[str] = (),
) -> Grid:
    """One measure of overlap between models `of` and `other` by layer and module; experts of a cell pool their counts.

    A cell where neither changed anything has no overlap to speak of and shows as one without a value; one whose tensors
    are all `left_out` says that.
    """
    of_two = [magnitudes[of], magnitudes[other]] if magnitudes else []

    def value(members: ByName) -> float:
        return _VALUE_OF_MEASURE[measure](venn(rule, ("", ""), members, of_two))

    return _grid(alignment, MEASURES[measure], _among(regions, of, other), value, left_out)


def _among(regions: ByName, of: int, other: int) -> ByName:
    """`Regions.among` of these two, of all tensors at once."""
    subsets, counts, tensors = chance.laid_out(list(regions.values()))
    of_two = np.zeros((len(regions), 4), np.int64)
    np.add.at(of_two, (tensors, (subsets >> of & 1) | (subsets >> other & 1) << 1), counts)
    named = zip(regions.items(), of_two, strict=True)
    return {name: Regions.of(region.rule, of_tensor) for (name, region), of_tensor in named}


def agreement_grid(
    alignment: Alignment,
    measure: str,
    regions: ByName,
    n_runs: int,
    *,
    magnitudes: ByMagnitude = (),
    left_out: Collection[str] = (),
) -> Grid:
    """The share of parameters that exactly `n_runs` of the models changed by layer and module, or how many times chance
    that is; experts of a cell pool their counts."""

    def value(members: ByName) -> float:
        subsets, counts, _ = chance.laid_out(list(members.values()))
        counted = int(counts[np.bitwise_count(subsets) == n_runs].sum())
        if measure == "share":
            return over(counted, int(counts.sum()))
        return over(counted, _expected(members))

    def _expected(members: ByName) -> float:
        by_chance = measure == "chance"
        bins = chance.within_tensors(list(members.values())) if by_chance else matched_bins(members, magnitudes)
        return float(chance.expected_by_runs(bins)[n_runs]) if bins else math.nan

    return _grid(alignment, AGREEMENTS[measure], regions, value, left_out)


def _grid(
    alignment: Alignment,
    metric: Metric,
    regions: ByName,
    value: Callable[[ByName], float],
    left_out: Collection[str],
) -> Grid:
    names = _names_by_cell(alignment)
    modules = tuple(dict.fromkeys(module for module, _ in names))
    layers = tuple(sorted({layer for _, layer in names}))
    values = np.full((len(modules), len(layers)), math.nan)
    states = np.full(values.shape, Cell.ABSENT, np.int8)
    for (module, layer), members in names.items():
        row, column = modules.index(module), layers.index(layer)
        there = {name: regions[name] for name in members if name in regions}
        waiting = any(name not in there and name not in left_out for name in members)
        values[row, column] = value(there) if there else math.nan
        states[row, column] = _state(bool(there), values[row, column], waiting)
    cells = tuple(tuple(names.get((module, layer), ()) for layer in layers) for module in modules)
    return Grid(metric, modules, layers, values, states, cells)


def _names_by_cell(alignment: Alignment) -> dict[tuple[str, int], tuple[str, ...]]:
    names: dict[tuple[str, int], list[str]] = {}
    for pair in alignment.pairs:
        cell = pair.place.module, OUTSIDE_LAYERS if pair.place.layer is None else pair.place.layer
        names.setdefault(cell, []).append(pair.name)
    return {cell: tuple(members) for cell, members in names.items()}


def _state(counted: bool, value: float, some_missing: bool) -> Cell:
    if not counted:
        return Cell.WAITING if some_missing else Cell.LEFT_OUT
    if math.isnan(value):
        return Cell.GAP
    return Cell.PARTIAL if some_missing else Cell.READY
