"""StepCounts by tensor -> Course, Fate, StepGrid: what became of the parameters while a model was trained.

Counts add over tensors; division comes last, here. An entry has one of three fates over a run (Mukherjee, figure 2):
never changed at any checkpoint; changed at some checkpoint and at the base's value again at the last; changed at the
last, that is, in the final subnetwork. What happened between two checkpoints and was undone is not seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.measurements import MaskRule, StepCounts
from analysis.rollup import OUTSIDE_LAYERS, Cell, Share
from analysis.tensors import Alignment, TensorInfo, TensorPair

Against = Literal["base", "previous"]


@dataclass(frozen=True)
class Unchanged:
    """What one tensor's tally says under the two rules that have masks: the least that dynamics need of it."""

    entries: int
    exact: int
    mukherjee: int

    def under(self, rule: MaskRule) -> int:
        return self.mukherjee if rule == "mukherjee" else self.exact


Landed = Sequence[Mapping[str, Unchanged]]  # one mapping a checkpoint, by tensor; empty where nothing is measured


@dataclass(frozen=True, eq=False)
class Course:
    """The whole run over all counted tensors. All arrays are (k,) counts of `entries`."""

    rule: MaskRule
    tensors: int
    entries: int
    changed: NDArray[np.int64]
    moved: NDArray[np.int64]
    changed_outside: NDArray[np.int64]
    moved_outside: NDArray[np.int64]
    union: NDArray[np.int64]

    @property
    def n_steps(self) -> int:
        return len(self.changed)

    @property
    def final(self) -> int:
        """Entries of the final subnetwork."""
        return int(self.changed[-1]) if self.n_steps else 0

    @property
    def returned(self) -> NDArray[np.int64]:
        """(k,): changed at an earlier checkpoint, and at the base's value again at this one."""
        return self.union - self.changed

    @property
    def changed_inside(self) -> NDArray[np.int64]:
        """(k,): changed at this checkpoint, and in the final subnetwork."""
        return self.changed - self.changed_outside

    @property
    def untouched(self) -> NDArray[np.int64]:
        """(k,): at the base's value at this checkpoint and all before it."""
        return self.entries - self.union

    def share(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """`counts` as shares of all entries; nan where there are none."""
        return counts.astype(np.float64) / (self.entries or math.nan)


@dataclass(frozen=True)
class Fate:
    """What became of every entry by the end of the run; the three parts make the whole."""

    never: Share
    returned: Share
    final: Share


def course(rule: MaskRule, counts: Mapping[str, StepCounts], n_steps: int) -> Course:
    """The run summed over the tensors of `counts`."""
    total = {name: np.zeros(n_steps, np.int64) for name in _COUNTED}
    for one in counts.values():
        for name in _COUNTED:
            total[name] += getattr(one, name)
    return Course(rule, len(counts), sum(one.entries for one in counts.values()), **total)


_COUNTED = ("changed", "moved", "changed_outside", "moved_outside", "union")


def fate(run: Course) -> Fate:
    """Never changed, changed and came back, in the final subnetwork."""
    union = int(run.union[-1]) if run.n_steps else 0
    parts = run.entries - union, union - run.final, run.final
    return Fate(*(Share(part, run.entries) for part in parts))


def unchanged_shares(landed: Landed, rule: MaskRule) -> list[Share]:
    """One pooled share a checkpoint, of what is measured; of nothing (nan) where nothing is."""
    return [
        Share(sum(one.under(rule) for one in tensors.values()), sum(one.entries for one in tensors.values()))
        for tensors in landed
    ]


@dataclass(frozen=True)
class Measure:
    """What a cell of the heatmap over steps shows."""

    key: str
    title: str
    unit: str
    help: str
    of_changes: bool = False  # a share of what changed, not of what did not


MEASURES: dict[str, Measure] = {
    measure.key: measure
    for measure in (
        Measure(
            "base",
            "Unchanged against the base",
            "unchanged share",
            "Share of a layer's entries that the checkpoint holds exactly as the base does, under the chosen rule.",
        ),
        Measure(
            "previous",
            "Unchanged against the checkpoint before",
            "unchanged share",
            "Share of a layer's entries that did not change since the checkpoint before; of the first one, since the "
            "base.",
        ),
        Measure(
            "outside",
            "Changed, outside the final subnetwork",
            "share of the changed entries",
            "Of the entries that differ from the base at this checkpoint, the share that does not differ at the last "
            "one: updates that will be undone.",
        ),
        Measure(
            "union",
            "Changed at this checkpoint or before",
            "changed share",
            "Share of a layer's entries that differed from the base at this checkpoint or at any earlier one.",
            of_changes=True,
        ),
    )
}
ROWS = ("layer", "module")


@dataclass(frozen=True, eq=False)
class StepGrid:
    """Rows (layers, or kinds of matrix) by checkpoints, ready for a heatmap."""

    measure: Measure
    rows: tuple[str, ...]
    values: NDArray[np.float64]  # (rows, k), nan where there is none
    states: NDArray[np.int8]  # (rows, k) of Cell


Parts = Callable[[str, int], tuple[int, int] | None]  # (tensor, step) -> (part, whole), None where it is not counted


def grid_of_landed(
    alignments: Sequence[Alignment], landed: Landed, rule: MaskRule, against: Against, rows: str
) -> StepGrid:
    """Unchanged shares by row and checkpoint. `alignments[t]` is that of the pair behind checkpoint t."""

    def parts(name: str, step: int) -> tuple[int, int] | None:
        found = landed[step].get(name)
        return (found.under(rule), found.entries) if found else None

    return _grid(MEASURES[against], [alignment.pairs for alignment in alignments], parts, rows)


def grid_of_counts(
    alignment: Alignment, counts: Mapping[str, StepCounts], measure: str, n_steps: int, rows: str
) -> StepGrid:
    """'outside' or 'union' by row and checkpoint. A cell without a change has no share outside, and shows none."""

    def parts(name: str, step: int) -> tuple[int, int] | None:
        found = counts.get(name)
        if found is None:
            return None
        if measure == "outside":
            return int(found.changed_outside[step]), int(found.changed[step])
        return int(found.union[step]), found.entries

    return _grid(MEASURES[measure], [alignment.pairs] * n_steps, parts, rows)


def _grid(measure: Measure, pairs_of_step: Sequence[Sequence[TensorPair]], parts: Parts, rows: str) -> StepGrid:
    names = _row_names(pairs_of_step, rows)
    row_of = {name: row for row, name in enumerate(names)}
    shape = len(names), len(pairs_of_step)
    part, whole = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    known, planned = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for step, pairs in enumerate(pairs_of_step):
        for pair in pairs:
            at = row_of[_row_name(pair, rows)], step
            planned[at] += 1
            if (found := parts(pair.name, step)) is not None:
                known[at] += 1
                part[at] += found[0]
                whole[at] += found[1]
    values = np.where(whole > 0, part / np.maximum(whole, 1), math.nan)
    states = np.select(
        [planned == 0, known == 0, whole == 0, known < planned],
        [Cell.ABSENT, Cell.WAITING, Cell.GAP, Cell.PARTIAL],
        Cell.READY,
    ).astype(np.int8)
    return StepGrid(measure, names, values, states)


def _row_names(pairs_of_step: Sequence[Sequence[TensorPair]], rows: str) -> tuple[str, ...]:
    """Layers in their order, what lies outside them first; matrices in reading order."""
    every = [pair for pairs in pairs_of_step for pair in pairs]
    if rows == "module":
        return tuple(dict.fromkeys(pair.place.module for pair in every))
    layers = sorted({_layer(pair) for pair in every})
    return tuple(_layer_name(layer) for layer in layers)


def _row_name(pair: TensorPair, rows: str) -> str:
    return pair.place.module if rows == "module" else _layer_name(_layer(pair))


def _layer(pair: TensorPair) -> int:
    return OUTSIDE_LAYERS if pair.place.layer is None else pair.place.layer


def _layer_name(layer: int) -> str:
    return "outside" if layer == OUTSIDE_LAYERS else str(layer)


def same_names(before: Alignment, after: Alignment, between: Alignment) -> dict[str, str]:
    """By a tensor's name against the base: its name in the comparison of two neighbouring checkpoints (`between`).
    `before` and `after` are the alignments of the two, each against the base; only tensors whose both ends are exactly
    the same stretch of the files in both comparisons are in it."""
    span_before = {pair.name: _span(pair.tuned) for pair in before.pairs}
    span_after = {pair.name: _span(pair.tuned) for pair in after.pairs}
    named = {(_span(pair.base), _span(pair.tuned)): pair.name for pair in between.pairs}
    found = {name: named.get((span, span_after[name])) for name, span in span_before.items() if name in span_after}
    return {name: other for name, other in found.items() if other is not None}


def _span(info: TensorInfo) -> tuple[str, tuple[int, ...], int]:
    return info.name, info.shape, info.begin
