"""Regions by tensor -> Grid: how two models' updates overlap, layer by layer and matrix by matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from analysis.measurements import Regions, Tally
from analysis.metrics import Metric
from analysis.rollup import OUTSIDE_LAYERS, Cell, Grid, Venn, venn
from analysis.tensors import Alignment

MEASURES: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric(
            "one-sided",
            "One-sided overlap",
            "share of the first's changes",
            "share",
            "Of the entries that the first model changed, those that the second changed too (Mukherjee's o1, o2).",
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
            "Overlap over chance at equal magnitude",
            "times",
            "log",
            "One-sided overlap over what it would be if both had chosen at random among weights of the same magnitude.",
            "tally",
        ),
    )
}


def _over(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


_VALUE_OF_MEASURE: dict[str, Callable[[Venn, int, int], float]] = {
    "one-sided": lambda cell, of, other: cell.one_sided(of, other),
    "jaccard": lambda cell, of, other: cell.jaccard(of, other),
    "chance": lambda cell, of, other: _over(cell.one_sided(of, other), cell.chance(of, other)),
    "matched": lambda cell, of, other: _over(cell.one_sided(of, other), cell.matched_chance(of, other)),
}


def overlap_grid(
    alignment: Alignment,
    measure: str,
    regions: Mapping[str, Regions],
    of: int,
    other: int,
    *,
    rule: str,
    tallies: Sequence[Mapping[str, Tally]] = (),
) -> Grid:
    """One measure of overlap between models `of` and `other` by layer and module; experts of a cell pool their counts.

    A cell where neither changed anything has no overlap to speak of and shows as one without a value.
    """
    names = _names_by_cell(alignment)
    modules = tuple(dict.fromkeys(module for module, _ in names))
    layers = tuple(sorted({layer for _, layer in names}))
    values = np.full((len(modules), len(layers)), math.nan)
    states = np.full(values.shape, Cell.ABSENT, np.int8)
    for (module, layer), members in names.items():
        row, column = modules.index(module), layers.index(layer)
        there = {name: regions[name] for name in members if name in regions}
        k = next(iter(there.values())).n_models if there else 0
        pooled = venn(rule, [""] * k, there, tallies) if there else None
        values[row, column] = _VALUE_OF_MEASURE[measure](pooled, of, other) if pooled else math.nan
        states[row, column] = _state(pooled is not None, values[row, column], len(there) < len(members))
    cells = tuple(tuple(names.get((module, layer), ()) for layer in layers) for module in modules)
    return Grid(MEASURES[measure], modules, layers, values, states, cells)


def _names_by_cell(alignment: Alignment) -> dict[tuple[str, int], tuple[str, ...]]:
    names: dict[tuple[str, int], tuple[str, ...]] = {}
    for pair in alignment.pairs:
        cell = pair.place.module, OUTSIDE_LAYERS if pair.place.layer is None else pair.place.layer
        names[cell] = (*names.get(cell, ()), pair.name)
    return names


def _state(counted: bool, value: float, some_missing: bool) -> Cell:
    if not counted:
        return Cell.WAITING
    if math.isnan(value):
        return Cell.GAP
    return Cell.PARTIAL if some_missing else Cell.READY
