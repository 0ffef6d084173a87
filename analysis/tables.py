"""The numbers behind a view as rows, for tables on the page and CSV files to take away."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence

from analysis.labels import visible
from analysis.measurements import RULES, Spectrum, Tally
from analysis.metrics import effective_rank, relative_update, stable_rank
from analysis.rollup import OUTSIDE_LAYERS, Cell, Curve, Grid, Venn
from analysis.tensors import Alignment, NotCompared

Row = dict[str, object]
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def as_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV with a heading line. Text that a spreadsheet would run as a formula gets a leading quote."""
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _harmless(value: object) -> object:
    if isinstance(value, str):
        shown = visible(value)
        return f"'{shown}" if shown.startswith(_FORMULA_STARTS) else shown
    return "" if isinstance(value, float) and math.isnan(value) else value


def tensor_rows(alignment: Alignment, tallies: Mapping[str, Tally], spectra: Mapping[str, Spectrum]) -> list[Row]:
    """One row a compared tensor that is measured: counts first, since shares follow from them."""
    rows: list[Row] = []
    for pair in alignment.pairs:
        tally = tallies.get(pair.name)
        if tally is None:
            continue
        part, whole = relative_update(tally)
        rows.append(
            {
                "name": pair.name,
                "layer": pair.place.layer,
                "module": pair.place.module,
                "expert": pair.place.expert,
                "shape": " x ".join(map(str, pair.shape)),
                "entries": tally.entries,
                "nonfinite": tally.nonfinite,
                **{f"unchanged_{rule}": tally.unchanged(rule) for rule in RULES},
                "relative_update": part / whole if whole else math.nan,
                **_spectral(spectra.get(pair.name)),
            }
        )
    return rows


def _spectral(spectrum: Spectrum | None) -> Row:
    names = ("rank", "max_rank", "stable_rank", "effective_rank")
    if spectrum is None or spectrum.reason:
        return dict.fromkeys(names, math.nan)
    values = spectrum.singular_values
    return dict(
        zip(names, (spectrum.rank, spectrum.max_rank, stable_rank(values), effective_rank(values)), strict=True)
    )


def not_compared_rows(entries: Sequence[NotCompared]) -> list[Row]:
    return [
        {"tensor": one.name, "side": one.side, "reason": one.reason, "parameters": one.parameters} for one in entries
    ]


def grid_rows(grid: Grid) -> list[Row]:
    """One row a cell of the heatmap."""
    return [
        {
            "module": module,
            "layer": "" if grid.layers[column] == OUTSIDE_LAYERS else grid.layers[column],
            grid.metric.key: float(grid.values[row, column]),
            "state": Cell(grid.states[row, column]).name.lower(),
            "tensors": len(grid.names[row][column]),
        }
        for row, module in enumerate(grid.modules)
        for column in range(len(grid.layers))
        if grid.states[row, column] != Cell.ABSENT
    ]


def curve_rows(curves: Sequence[Curve], x: str, y: str) -> list[Row]:
    """One row a point of the curves."""
    return [
        {"curve": curve.label, x: float(at), y: float(value)}
        for curve in curves
        for at, value in zip(curve.x, curve.y, strict=True)
    ]


def spectrum_rows(spectra: Sequence[tuple[str, Spectrum]]) -> list[Row]:
    """One row a singular value."""
    return [
        {"tensor": name, "position": position, "singular_value": float(value)}
        for name, spectrum in spectra
        for position, value in enumerate(spectrum.singular_values, start=1)
    ]


def overlap_rows(venn: Venn) -> list[Row]:
    """One row an ordered pair of models."""
    k = range(len(venn.labels))
    return [
        {
            "of": venn.labels[i],
            "in": venn.labels[j],
            "changed": venn.changed(i),
            "changed_by_both": venn.changed(i, j),
            "one_sided_overlap": venn.one_sided(i, j),
            "chance": venn.chance(i, j),
            "chance_matched": venn.matched_chance(i, j),
            "jaccard": venn.jaccard(i, j),
        }
        for i in k
        for j in k
        if i != j
    ]
