"""Courses, step grids and patch sizes -> Figure: what happened over the checkpoints of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from analysis.dynamics import Course, StepGrid
from analysis.figures import theme
from analysis.figures.apart import told_apart
from analysis.figures.ink import inked
from analysis.labels import count, share, size
from analysis.patches import ENCODINGS, PatchSize
from analysis.rollup import Cell, Share
from analysis.series import Axis

_MOST_TICKS = 16
_ROW_PIXELS, _LOWEST, _HIGHEST = 26, 200, 900
_WORD_OF_STATE = {Cell.WAITING: "waiting to be measured", Cell.GAP: "no value", Cell.PARTIAL: "still filling"}
_SYMBOL_OF_STATE = {Cell.WAITING: "circle-open", Cell.GAP: "x-thin", Cell.PARTIAL: "triangle-up-open"}

# From what stays to what goes: the final subnetwork carries the theme's first colour everywhere on the page.
_BANDS = (
    ("in the final subnetwork", "changed_inside", theme.SERIES[0]),
    ("changed, outside the final subnetwork", "changed_outside", theme.SERIES[1]),
    ("came back to the base's value", "returned", theme.SERIES[4]),
    ("never changed so far", "untouched", theme.PALE),
)


def sparsity_over_steps(lines: Sequence[tuple[str, Sequence[Share]]], axis: Axis, *, fitted: bool = False) -> go.Figure:
    """Unchanged shares over the steps, one line a name. Steps stand at their distances."""
    values = [np.array([one.value for one in shares]) for _, shares in lines]
    drawn = theme.figure(
        height=320,
        xaxis=_step_axis(axis),
        yaxis=_share_axis("unchanged share", values, fitted=fitted),
        legend=_LEGEND_ABOVE,
    )
    for position, ((name, shares), heights) in enumerate(zip(lines, values, strict=True)):
        drawn.add_trace(
            go.Scatter(
                x=np.array(axis.positions),
                y=heights,
                mode="lines+markers",
                name=name,
                line=theme.line_style(position),
                marker={"size": 6},
                customdata=[
                    [theme.full(label), f"{count(one.part)} of {count(one.whole)}", share(one.value, 4)]
                    for label, one in zip(axis.names, shares, strict=True)
                ],
                hovertemplate=f"{name}<br>%{{customdata[0]}}<br><b>%{{customdata[2]}}</b> unchanged: "
                "%{customdata[1]}<extra></extra>",
            )
        )
    return told_apart(drawn)


def fates_over_steps(run: Course, axis: Axis, *, fitted: bool = False) -> go.Figure:
    """All entries at each checkpoint, stacked: changed and staying so, changed but not in the end, back at the base's
    value, never changed so far. The last bar holds the three fates. `fitted` cuts the never changed off above."""
    top = float(np.nanmax(run.share(run.union))) if run.entries and run.n_steps else 1.0
    whole = theme.share_axis("of all entries")
    drawn = theme.figure(
        height=340,
        barmode="stack",
        bargap=0.15,
        xaxis=_ordinal_axis(axis),
        yaxis=_fitted_axis("of all entries", 0.0, top * 1.06) if fitted and top > 0 else whole,
        legend={**_LEGEND_ABOVE, "traceorder": "normal"},
    )
    for name, field, colour in _BANDS:
        counts = getattr(run, field)
        drawn.add_trace(
            go.Bar(
                x=np.arange(run.n_steps),
                y=run.share(counts),
                name=name,
                marker={"color": colour, "line": {"width": 0}},
                customdata=_counted(axis, counts, run.entries),
                hovertemplate=f"%{{customdata[0]}}<br>{name}<br><b>%{{customdata[1]}}</b>: "
                "%{customdata[2]}<extra></extra>",
            )
        )
    return drawn


def union_growth(run: Course, axis: Axis, *, fitted: bool = False) -> go.Figure:
    """Entries changed so far at any checkpoint, those changed now, and those of these in the final subnetwork."""
    lines = (
        ("changed so far", run.union),
        ("changed now", run.changed),
        ("changed now and at the end", run.changed_inside),
    )
    heights = [run.share(counts) for _, counts in lines]
    drawn = theme.figure(
        height=320,
        xaxis=_step_axis(axis),
        yaxis=_share_axis("of all entries", heights, fitted=fitted, from_zero=True),
        legend=_LEGEND_ABOVE,
    )
    for position, (name, counts) in enumerate(lines):
        drawn.add_trace(
            go.Scatter(
                x=np.array(axis.positions),
                y=heights[position],
                mode="lines+markers",
                name=name,
                line=theme.line_style((2, 1, 0)[position]),
                marker={"size": 6},
                customdata=_counted(axis, counts, run.entries),
                hovertemplate=f"{name}<br>%{{customdata[0]}}<br><b>%{{customdata[1]}}</b>: "
                "%{customdata[2]}<extra></extra>",
            )
        )
    return told_apart(drawn)


def step_heatmap(grid: StepGrid, axis: Axis, *, fitted: bool = False, rows: str = "layer") -> go.Figure:
    """Checkpoints from left to right, layers (or matrices) from top to bottom, colour for the share."""
    colours = _colours(grid, fitted=fitted)
    drawn = theme.figure(
        height=min(max(len(grid.rows) * _ROW_PIXELS + 110, _LOWEST), _HIGHEST),
        coloraxis=colours,
        hoverdistance=-1,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "itemclick": False},
        xaxis=_ordinal_axis(axis),
        yaxis=_row_axis(grid, rows),
    )
    written: dict[str, Any] = {}
    if len(axis.labels) <= 12 and grid.values.size <= 300:
        texts = [["" if math.isnan(v) else f"{100 * v:.2f}" for v in row] for row in grid.values]
        written = {"text": inked(texts, grid.values, colours), "texttemplate": "%{text}", "textfont": {"size": 11}}
    words = np.empty((*grid.values.shape, 3), object)
    for row, step in np.ndindex(grid.values.shape):
        value, state = float(grid.values[row, step]), Cell(int(grid.states[row, step]))
        said = share(value, 4) if not math.isnan(value) else _WORD_OF_STATE.get(state, "")
        words[row, step] = (
            _row_text(grid.rows[row], rows),
            theme.full(axis.names[step]),
            said + (" so far" if state == Cell.PARTIAL else ""),
        )
    drawn.add_trace(
        go.Heatmap(
            z=grid.values.astype(np.float32),
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            customdata=words,
            hovertemplate="%{customdata[0]}<br>%{customdata[1]}<br><b>%{customdata[2]}</b><extra></extra>",
            hoverongaps=True,
            **written,
        )
    )
    for sign, symbol in _SYMBOL_OF_STATE.items():
        if (grid.states == sign).any():
            drawn.add_trace(_signs(grid, sign, symbol))
    return drawn


def patch_sizes(sizes: Sequence[PatchSize | None], axis: Axis) -> go.Figure:
    """Size of a lossless patch over the full checkpoint, one line an encoding; gaps where nothing is measured. Above
    the line at 100 % it is cheaper to ship everything."""
    drawn = theme.figure(
        height=320,
        xaxis=_step_axis(axis),
        yaxis=theme.axis("of the full checkpoint", tickformat=".3~%", rangemode="tozero", fixedrange=True),
        legend=_LEGEND_ABOVE,
    )
    most = 0.0
    for position, (encoding, title) in enumerate(ENCODINGS.items()):
        ratios = [math.nan if one is None else one.ratio(encoding) for one in sizes]
        most = max([most, *(ratio for ratio in ratios if not math.isnan(ratio))])
        drawn.add_trace(
            go.Scatter(
                x=np.array(axis.positions),
                y=np.array(ratios),
                mode="lines+markers",
                name=title,
                line=theme.line_style(position),
                marker={"size": 6},
                customdata=[
                    [theme.full(label), "–" if one is None else size(one.total(encoding))]
                    for label, one in zip(axis.names, sizes, strict=True)
                ],
                hovertemplate=f"{title}<br>%{{customdata[0]}}<br><b>%{{customdata[1]}}</b>, %{{y:.2%}} of the full "
                "checkpoint<extra></extra>",
            )
        )
    if most > 0.9:
        theme.mark(drawn, "as large as the checkpoint", y=1.0)
    return told_apart(drawn)


_LEGEND_ABOVE = {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"}


def _counted(axis: Axis, counts: NDArray[np.int64], entries: int) -> list[list[str]]:
    return [
        [theme.full(label), share(int(n) / entries if entries else math.nan, 4), f"{count(int(n))} of {count(entries)}"]
        for label, n in zip(axis.names, counts, strict=True)
    ]


def _share_axis(
    title: str, values: Sequence[NDArray[np.float64]], *, fitted: bool, from_zero: bool = False
) -> dict[str, Any]:
    known = np.concatenate([one[np.isfinite(one)] for one in values]) if values else np.array([])
    if not fitted or not known.size or known.max() <= 0:
        return theme.share_axis(title)
    low, high = (0.0 if from_zero else float(known.min())), float(known.max())
    room = max((high - low) * 0.08, 1e-6)
    return _fitted_axis(title, 0.0 if from_zero else max(low - room, -0.01), min(high + room, 1.01))


def _fitted_axis(title: str, low: float, high: float) -> dict[str, Any]:
    return theme.axis(f"{title}, axis fitted", range=[low, high], tickformat=".4~%", fixedrange=True)


def _step_axis(axis: Axis) -> dict[str, Any]:
    """Steps at their distances; names where steps are not known."""
    low, high = axis.positions[0], axis.positions[-1]
    room = max((high - low) * 0.03, 0.3)
    shown = _apart(axis)
    return theme.axis(
        axis.title,
        range=[low - room, high + room],
        tickvals=[axis.positions[i] for i in shown],
        ticktext=[_tick(axis, i) for i in shown],
        tickangle=0 if axis.title == "step" else None,
        fixedrange=True,
    )


def _apart(axis: Axis) -> list[int]:
    """Positions whose ticks do not collide: at least a part of the axis away from the one before; the last always."""
    span = max(axis.positions[-1] - axis.positions[0], 1)
    shown = [len(axis.positions) - 1]
    for i in range(len(axis.positions) - 2, -1, -1):
        if axis.positions[shown[-1]] - axis.positions[i] >= span / _MOST_TICKS:
            shown.append(i)
    return shown[::-1]


def _ordinal_axis(axis: Axis) -> dict[str, Any]:
    shown = theme.every(len(axis.labels), 32)
    return theme.bare_axis(
        title=axis.title,
        tickvals=list(shown),
        ticktext=[_tick(axis, i) for i in shown],
        range=[-0.5, len(axis.labels) - 0.5],
    )


def _tick(axis: Axis, position: int) -> str:
    return f"{axis.positions[position]:,}" if axis.title == "step" else theme.tick(axis.labels[position], 18)


def _row_axis(grid: StepGrid, rows: str) -> dict[str, Any]:
    shown = theme.every(len(grid.rows), 60)
    return theme.bare_axis(
        title="layer" if rows == "layer" else "",
        tickvals=list(shown),
        ticktext=[theme.tick(grid.rows[i]) for i in shown],
        range=[len(grid.rows) - 0.5, -0.5],
    )


def _row_text(row: str, rows: str) -> str:
    if rows == "layer":
        return "outside the layers" if row == "outside" else f"layer {theme.full(row)}"
    return theme.full(row)


def _colours(grid: StepGrid, *, fitted: bool) -> dict[str, Any]:
    known = grid.values[np.isfinite(grid.values)]
    if fitted and known.size and known.max() > known.min():
        top, bottom, title = float(known.max()), float(known.min()), f"{grid.measure.unit}, fitted"
        return theme.share_colours(top, bottom, title, of_changes=grid.measure.of_changes)
    return theme.share_colours(title=grid.measure.unit, of_changes=grid.measure.of_changes)


def _signs(grid: StepGrid, state: Cell, symbol: str) -> go.Scatter:
    rows, columns = np.nonzero(grid.states == state)
    return go.Scatter(
        x=columns.astype(np.int32),
        y=rows.astype(np.int32),
        mode="markers",
        name=_WORD_OF_STATE[state],
        hoverinfo="skip",
        marker={"symbol": symbol, "size": 6, "color": theme.NEUTRAL, "line": {"width": 1, "color": theme.NEUTRAL}},
    )
