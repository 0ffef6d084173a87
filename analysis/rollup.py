"""Measurements -> Headline, Grid, Curve, Profile: numbers ready to draw. With `overlaps`, the only place that divides.

Works on what is there: a tensor without its measurement is a cell that says so.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from analysis.coverage import Chosen, chosen_of, part_of, reasons_to_withhold
from analysis.measurements import (
    CHANGE_EDGES,
    RULES,
    TOLERANCES,
    Spectrum,
    Sums,
    Tally,
    first_changed_bin,
)
from analysis.metrics import CATALOG, Metric, Parts, correlation, effective_rank, stable_rank
from analysis.noise import noise_values
from analysis.plan import Plan
from analysis.tensors import Alignment, TensorPair

RELATED = 0.5  # a median correlation below it: the models do not come from one another
OUTSIDE_LAYERS = -1  # the grid's column for tensors that belong to no layer


class Cell(IntEnum):
    """Why a grid's cell has a value, or none."""

    ABSENT = 0  # the model has no such matrix in that layer
    WAITING = 1  # not measured: on its way, or not asked for
    GAP = 2  # could not be measured, or the metric has no meaning for it (a vector has no rank)
    READY = 3
    PARTIAL = 4  # some of the cell's tensors (experts) are still waiting
    LEFT_OUT = 5  # an overlap does without it: not all of the models have it in one shape


@dataclass(frozen=True)
class Share:
    """A count of a whole; `value` is nan where the whole is empty."""

    part: int
    whole: int

    @property
    def value(self) -> float:
        return self.part / self.whole if self.whole else math.nan


@dataclass(frozen=True, eq=False)
class Grid:
    """Layer x module, ready for a heatmap. `names[i][j]` holds the tensors behind a cell (several for experts)."""

    metric: Metric
    modules: tuple[str, ...]  # rows, in reading order
    layers: tuple[int, ...]  # columns; OUTSIDE_LAYERS first where it is needed
    values: NDArray[np.float64]  # (modules, layers), nan where there is none
    states: NDArray[np.int8]  # (modules, layers) of Cell
    names: tuple[tuple[tuple[str, ...], ...], ...]


@dataclass(frozen=True, eq=False)
class Curve:
    """One line: y over x, named."""

    label: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True)
class Headline:
    """The numbers at the top of a pair's overview, pooled over the entries of all tensors measured so far."""

    entries: int
    nonfinite: int
    unchanged: dict[str, Share]
    tensors_measured: int
    tensors_planned: int
    tensors_touched: int  # with at least one change under the exact rule
    matrices_touched: int
    matrices_measured: int
    relative_update: float  # Frobenius norm of all updates over that of all base tensors
    mean_of_layer_averages: float  # Mukherjee's per-tensor average of the unchanged share (mukherjee rule)
    mean_rank_share: float  # mean over matrices of rank / min(m, n), nan without spectra
    mean_effective_rank_share: float
    spectra_measured: int
    spectra_planned: int
    median_correlation: float = math.nan  # over matrices, of base and tuned entries; not pooled, see docs/methods.md
    matrices_correlated: int = 0
    same_of_block: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # (tensors, entries) without a change
    reasons_withheld: tuple[str, ...] = ()  # why too little was compared for a headline
    chosen: Chosen | None = None  # of which part of the pair all this is; None: of all of it

    @property
    def withheld(self) -> bool:
        return bool(self.reasons_withheld)

    @property
    def is_unrelated(self) -> bool:
        """Whether at least half is measured, and most matrices of the two do not resemble each other."""
        return _is_unrelated(self.tensors_measured, self.tensors_planned, self.median_correlation)


@dataclass(frozen=True)
class Resemblance:
    """How much the matrices of two models resemble each other, as far as they are measured."""

    matrices: int  # that have a correlation
    median_correlation: float  # nan without any
    is_unrelated: bool  # as of a Headline


def resemblance(alignment: Alignment, sums: Mapping[str, Tally | Sums]) -> Resemblance:
    """The median over matrices of the correlation of base and tuned entries."""
    measured = [pair for pair in alignment.pairs if pair.name in sums]
    by_matrix = [_ratio(*correlation(sums[pair.name])) for pair in measured if pair.is_matrix]
    known = [value for value in by_matrix if not math.isnan(value)]
    median = statistics.median(known) if known else math.nan
    return Resemblance(len(known), median, _is_unrelated(len(measured), len(alignment.pairs), median))


def _is_unrelated(n_measured: int, n_planned: int, median: float) -> bool:
    return 2 * n_measured >= n_planned and median < RELATED


def headline(
    alignment: Alignment,
    tallies: Mapping[str, Tally],
    spectra: Mapping[str, Spectrum],
    *,
    spectra_planned: bool,
    n_spectra_planned: int | None = None,
    chosen: Chosen | None = None,
    effective_ranks: Mapping[str, Parts] | None = None,
) -> Headline:
    """The overview's numbers over what is measured so far. Of a part of a pair, `alignment` is that part's (see
    `analysis.coverage.part_of`), `chosen` says how much it is, and `n_spectra_planned` of how many of its matrices
    spectra are wanted, where that is not all of them. `effective_ranks` are the parts of that metric by tensor, for
    spectra that come without their values."""
    measured = [(pair, tallies[pair.name]) for pair in alignment.pairs if pair.name in tallies]
    matrices = [tally for pair, tally in measured if pair.is_matrix]
    entries = sum(tally.entries for _, tally in measured)
    names = {pair.name for pair in alignment.pairs}
    found = [spectrum for name, spectrum in spectra.items() if name in names]
    usable = [spectrum for spectrum in found if not spectrum.reason]
    if effective_ranks is None:
        effective_ranks = parts_by_name(CATALOG["effective-rank"], alignment, {}, spectra)
    n_matrices = sum(pair.is_matrix for pair in alignment.pairs) if n_spectra_planned is None else n_spectra_planned
    touched = [tally for _, tally in measured if tally.unchanged("exact") < tally.entries]
    alike = resemblance(alignment, tallies)
    return Headline(
        entries=entries,
        nonfinite=sum(tally.nonfinite for _, tally in measured),
        unchanged=_unchanged_by_rule([tally for _, tally in measured], entries),
        tensors_measured=len(measured),
        tensors_planned=len(alignment.pairs),
        tensors_touched=len(touched),
        matrices_touched=sum(t.unchanged("exact") < t.entries for t in matrices),
        matrices_measured=len(matrices),
        relative_update=_ratio(
            math.sqrt(sum(t.update_square_sum for _, t in measured)),
            math.sqrt(sum(t.base_square_sum for _, t in measured)),
        ),
        mean_of_layer_averages=_mean(t.unchanged("mukherjee") / t.entries for _, t in measured),
        mean_rank_share=_mean((s.rank or 0) / s.max_rank for s in usable),
        mean_effective_rank_share=_mean(_ratio(*effective_ranks[name]) for name in effective_ranks if name in names),
        spectra_measured=len(found),
        spectra_planned=n_matrices if spectra_planned else 0,
        median_correlation=alike.median_correlation,
        matrices_correlated=alike.matrices,
        same_of_block=_same_of_block(measured),
        reasons_withheld=reasons_to_withhold(alignment),
        chosen=chosen,
    )


def headline_of_part(
    alignment: Alignment,
    tallies: Mapping[str, Tally],
    spectra: Mapping[str, Spectrum],
    plans: Sequence[Plan],
    effective_ranks: Mapping[str, Parts] | None = None,
) -> Headline:
    """The overview's numbers of what these plans ask for, over what of it is measured so far."""
    part = part_of(alignment, plans, tallies)
    n_spectra = sum(
        pair.name in spectra or any(plan.chooses(pair) and plan.wants_spectrum(pair) for plan in plans)
        for pair in part.pairs
    )
    return headline(
        part,
        tallies,
        spectra,
        spectra_planned=n_spectra > 0,
        n_spectra_planned=n_spectra,
        chosen=chosen_of(alignment, part),
        effective_ranks=effective_ranks,
    )


def _unchanged_by_rule(tallies: Sequence[Tally], entries: int) -> dict[str, Share]:
    """The unchanged share under every rule, the histograms summed before they are read."""
    whole, of_tolerance = summed(tallies), tuple(rule for rule in RULES if rule in TOLERANCES)
    counts = {rule: sum(tally.unchanged(rule) for tally in tallies) for rule in RULES if rule not in of_tolerance}
    counts |= {rule: counts["exact"] + int(whole[: first_changed_bin(rule)].sum()) for rule in of_tolerance}
    return {rule: Share(counts[rule], entries) for rule in RULES}


def summed(tallies: Iterable[Tally]) -> NDArray[np.int64]:
    """(N_CHANGE_BINS,): changed entries of all of them by size."""
    changes = np.zeros(len(CHANGE_EDGES) + 1, np.int64)
    for tally in tallies:
        changes += tally.changes
    return changes


def _same_of_block(measured: Iterable[tuple[TensorPair, Tally]]) -> dict[str, tuple[int, int]]:
    """(tensors, entries) that have the same values in both models, by block."""
    found: dict[str, tuple[int, int]] = {}
    for pair, tally in measured:
        if tally.unchanged("exact") == tally.entries:
            tensors, entries = found.get(pair.place.block, (0, 0))
            found[pair.place.block] = tensors + 1, entries + tally.entries
    return found


def grid(
    alignment: Alignment,
    metric: Metric,
    tallies: Mapping[str, Tally],
    spectra: Mapping[str, Spectrum],
    gaps: Iterable[str] = (),
) -> Grid:
    """One metric by layer and module. `gaps` names tensors whose measurement for this metric failed."""
    return grid_of_parts(alignment, metric, parts_by_name(metric, alignment, tallies, spectra), gaps)


def parts_by_name(
    metric: Metric, alignment: Alignment, tallies: Mapping[str, Tally], spectra: Mapping[str, Spectrum]
) -> dict[str, Parts]:
    """The metric's parts of every tensor that has it, before anything is pooled or divided."""
    found = ((p.name, metric.parts(tallies.get(p.name), spectra.get(p.name))) for p in alignment.pairs)
    return {name: parts for name, parts in found if parts is not None}


def grid_of_parts(
    alignment: Alignment, metric: Metric, parts_of_name: Mapping[str, Parts], gaps: Iterable[str] = ()
) -> Grid:
    """The same of parts that were taken before."""
    pairs = [pair for pair in alignment.pairs if metric.needs == "tally" or pair.is_matrix]
    modules, layers = _axes(pairs)
    values = np.full((len(modules), len(layers)), math.nan)
    states = np.full(values.shape, Cell.ABSENT, np.int8)
    names: list[list[tuple[str, ...]]] = [[() for _ in layers] for _ in modules]
    failed = set(gaps)
    for (row, column), members in _cells(pairs, modules, layers).items():
        of_cell = tuple(p.name for p in members)
        values[row, column], states[row, column] = _cell(
            [parts_of_name.get(name) for name in of_cell], [name in failed for name in of_cell]
        )
        names[row][column] = of_cell
    return Grid(metric, modules, layers, values, states, tuple(tuple(row) for row in names))


def pooled(alignment: Alignment, metric: Metric, tallies: Mapping[str, Tally]) -> Share:
    """A share over all of the alignment's tensors that are measured."""
    return pooled_parts(parts_by_name(metric, alignment, tallies, {}).values())


def pooled_parts(parts: Collection[Parts]) -> Share:
    """The share that these counts add up to."""
    return Share(int(sum(part for part, _ in parts)), int(sum(whole for _, whole in parts)))


def tolerance_curve(tallies: Iterable[Tally], label: str) -> Curve:
    """Unchanged share over tolerance, at every edge of the histogram. Each point is exact."""
    tallies = list(tallies)
    always = sum(tally.equal + tally.nonfinite_same for tally in tallies)
    entries = sum(tally.entries for tally in tallies)
    unchanged = always + np.cumsum(summed(tallies))[: len(CHANGE_EDGES)]
    return Curve(label, CHANGE_EDGES.astype(np.float64), _per(unchanged, entries))


def layer_profile(
    alignment: Alignment, metric: Metric, tallies: Mapping[str, Tally], spectra: Mapping[str, Spectrum]
) -> list[Curve]:
    """One curve a module: the metric over layers."""
    return profile_of_grid(grid(alignment, metric, tallies, spectra))


def profile_of_grid(table: Grid) -> list[Curve]:
    """One curve a row of the grid."""
    layers = np.array([layer for layer in table.layers if layer != OUTSIDE_LAYERS], np.float64)
    start = len(table.layers) - len(layers)
    return [
        Curve(module, layers, table.values[row, start:])
        for row, module in enumerate(table.modules)
        if np.isfinite(table.values[row, start:]).any()
    ]


def layer_totals(
    alignment: Alignment, metric: Metric, tallies: Mapping[str, Tally], spectra: Mapping[str, Spectrum]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(layers, the metric pooled over each layer's tensors that have it); what lies outside the layers is left out."""
    return totals_of_parts(alignment, parts_by_name(metric, alignment, tallies, spectra))


def totals_of_parts(
    alignment: Alignment, parts_of_name: Mapping[str, Parts]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same of parts that were taken before."""
    amounts: dict[int, tuple[float, float]] = {}
    for pair in alignment.pairs:
        parts = parts_of_name.get(pair.name)
        if pair.place.layer is not None and parts is not None:
            part, whole = amounts.get(pair.place.layer, (0.0, 0.0))
            amounts[pair.place.layer] = part + parts[0], whole + parts[1]
    layers = sorted(amounts)
    return np.array(layers, np.float64), np.array([_ratio(*amounts[layer]) for layer in layers], np.float64)


def energy_curve(spectrum: Spectrum, label: str) -> Curve:
    """Share of the squared Frobenius norm in the first k directions, k = 1 ... min(m, n)."""
    energy = np.cumsum(np.square(spectrum.singular_values.astype(np.float64)))
    whole = energy[-1] if len(energy) and energy[-1] > 0 else math.nan
    return Curve(label, np.arange(1, len(energy) + 1, dtype=np.float64), energy / whole)


def noise_energy_curve(spectrum: Spectrum, label: str) -> Curve:
    """The same of unstructured noise of this shape, whatever its size."""
    energy = np.cumsum(np.square(noise_values(spectrum.rows, spectrum.columns, 1.0)))
    return Curve(label, np.arange(1, len(energy) + 1, dtype=np.float64), energy)


def spectrum_summary(spectrum: Spectrum) -> dict[str, float]:
    """Rank, stable rank and effective rank of one spectrum, nan where they mean nothing."""
    values = spectrum.singular_values
    rank = math.nan if spectrum.rank is None else float(spectrum.rank)
    return {"rank": rank, "stable_rank": stable_rank(values), "effective_rank": effective_rank(values)}


def _axes(pairs: Sequence[TensorPair]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    modules = tuple(dict.fromkeys(pair.place.module for pair in pairs))
    layers = sorted({OUTSIDE_LAYERS if pair.place.layer is None else pair.place.layer for pair in pairs})
    return modules, tuple(layers)


def _cells(
    pairs: Sequence[TensorPair], modules: Sequence[str], layers: Sequence[int]
) -> dict[tuple[int, int], list[TensorPair]]:
    row_of, column_of = {m: i for i, m in enumerate(modules)}, {x: j for j, x in enumerate(layers)}
    cells: dict[tuple[int, int], list[TensorPair]] = {}
    for pair in pairs:
        layer = OUTSIDE_LAYERS if pair.place.layer is None else pair.place.layer
        cells.setdefault((row_of[pair.place.module], column_of[layer]), []).append(pair)
    return cells


def _cell(parts: Sequence[tuple[float, float] | None], failed: Sequence[bool]) -> tuple[float, Cell]:
    there = [part for part in parts if part is not None]
    if not there:
        return math.nan, Cell.GAP if all(failed) else Cell.WAITING
    value = _ratio(sum(part for part, _ in there), sum(whole for _, whole in there))
    if math.isnan(value):
        return value, Cell.GAP
    waiting = any(part is None and not fail for part, fail in zip(parts, failed, strict=True))
    return value, Cell.PARTIAL if waiting else Cell.READY


def _per(counts: NDArray[np.int64], whole: int) -> NDArray[np.float64]:
    return counts.astype(np.float64) / (whole or math.nan)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
