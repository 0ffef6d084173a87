"""Grid -> Figure: one metric by layer and matrix.

Streamlit reports clicks on scatter points only, so invisible ones lie over the cells. Axis values are positions;
names appear as escaped tick and hover text (Plotly drops a category named '__proto__' and renders '<b>').
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from analysis.figures import theme
from analysis.figures.ink import inked
from analysis.labels import scientific, share
from analysis.metrics import Metric
from analysis.rollup import OUTSIDE_LAYERS, Cell, Grid

MOST_TARGETS = 20_000  # points that can be clicked; a larger grid has them on some of its cells only
MOST_WRITTEN, MOST_COLUMNS_WRITTEN = 200, 10  # cells and columns that still have room for their numbers
_ROW_PIXELS, _LOWEST, _HIGHEST = 26, 180, 900

_WORD_OF_STATE = {
    Cell.WAITING: "not measured yet",
    Cell.GAP: "no value",
    Cell.PARTIAL: "still filling",
    Cell.LEFT_OUT: "left out: shapes differ between the models",
}
_SYMBOL_OF_STATE = {
    Cell.WAITING: "circle-open",
    Cell.GAP: "x-thin",
    Cell.PARTIAL: "triangle-up-open",
    Cell.LEFT_OUT: "diamond-tall-open",
}


def heatmap(grid: Grid, *, fitted: bool = False) -> go.Figure:
    """Layers from left to right, matrices from top to bottom, colour for the metric.

    A share is coloured from 0 to 1; `fitted` stretches the colours over the data instead, and the colour bar says so.
    Cells without a value carry a sign that the legend explains; a matrix that the model doesn't have is empty.
    """
    drawn = theme.figure(
        height=min(max(len(grid.modules) * _ROW_PIXELS + 110, _LOWEST), _HIGHEST),
        coloraxis=_colours(grid, fitted=fitted),
        hoverdistance=-1,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "itemclick": False},
        xaxis=_layer_axis(grid),
        yaxis=_module_axis(grid),
    )
    drawn.add_trace(_cells(grid, _colours(grid, fitted=fitted)))
    for state in _SYMBOL_OF_STATE:
        if (grid.states == state).any():
            drawn.add_trace(_signs(grid, state))
    drawn.add_trace(_targets(grid))
    return drawn


def cell_at(grid: Grid, x: float, y: float) -> tuple[str, ...]:
    """Tensors behind the point that was clicked; none where it lies outside the grid."""
    row, column = round(y), round(x)
    inside = 0 <= row < len(grid.modules) and 0 <= column < len(grid.layers)
    return grid.names[row][column] if inside else ()


def value_text(metric: Metric, value: float) -> str:
    """A metric's value as one reads it: a share in percent, the rest in three digits."""
    return share(value, 4) if metric.scale == "share" else scientific(value)


def layer_text(layer: int) -> str:
    return "outside the layers" if layer == OUTSIDE_LAYERS else f"layer {layer}"


def _cells(grid: Grid, colours: Mapping[str, Any]) -> go.Heatmap:
    """The coloured cells. Of a log metric the logarithm is drawn; its zeros take the lowest colour."""
    drawn = _drawn_values(grid)
    written: dict[str, Any] = {}
    if grid.values.size <= MOST_WRITTEN and len(grid.layers) <= MOST_COLUMNS_WRITTEN:
        texts = inked(_numbers(grid), drawn, colours)
        written = {"text": texts, "texttemplate": "%{text}", "textfont": {"size": 11}}
    return go.Heatmap(z=drawn.astype(np.float32), coloraxis="coloraxis", hoverinfo="skip", xgap=1, ygap=1, **written)


def _numbers(grid: Grid) -> list[list[str]]:
    def short(value: float) -> str:
        if math.isnan(value):
            return ""
        return f"{100 * value:.2f}" if grid.metric.scale == "share" else _short_number(value)

    return [[short(value) for value in row] for row in grid.values]


def _short_number(value: float) -> str:
    """'8.9e-4': as little ink as a cell has room for."""
    if value == 0 or 0.01 <= abs(value) < 1000:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _drawn_values(grid: Grid) -> NDArray[np.float64]:
    if grid.metric.scale != "log":
        return grid.values
    lowest = _colours(grid, fitted=False)["cmin"]
    positive = np.where(grid.values > 0, grid.values, 1.0)
    return np.where(grid.values > 0, np.log10(positive), np.where(grid.values == 0, lowest, np.nan))


def _colours(grid: Grid, *, fitted: bool) -> dict[str, Any]:
    if grid.metric.scale == "log":
        return theme.decade_colours(grid.values, grid.metric.unit)
    if grid.metric.scale == "linear":
        return theme.plain_colours(grid.values, grid.metric.unit)
    known = grid.values[np.isfinite(grid.values)]
    if fitted and known.size and known.max() > known.min():
        return theme.share_colours(float(known.max()), float(known.min()), f"{grid.metric.unit}, colours fitted")
    return theme.share_colours(title=grid.metric.unit)


def _signs(grid: Grid, state: Cell) -> go.Scatter:
    rows, columns = np.nonzero(grid.states == state)
    return go.Scatter(
        x=columns.astype(np.int32),
        y=rows.astype(np.int32),
        mode="markers",
        name=_WORD_OF_STATE[state],
        hoverinfo="skip",
        marker={
            "symbol": _SYMBOL_OF_STATE[state],
            "size": 6,
            "color": theme.NEUTRAL,
            "line": {"width": 1, "color": theme.NEUTRAL},
        },
    )


def _targets(grid: Grid) -> go.Scatter:
    rows, columns = np.nonzero(grid.states != Cell.ABSENT)
    step = max(1, math.ceil(len(rows) / MOST_TARGETS))
    rows, columns = rows[::step], columns[::step]
    return go.Scatter(
        x=columns.astype(np.int32),
        y=rows.astype(np.int32),
        mode="markers",
        name="",
        showlegend=False,
        customdata=[_hover(grid, int(row), int(column)) for row, column in zip(rows, columns, strict=True)],
        hovertemplate="%{customdata[0]}<br>%{customdata[1]}<br><b>%{customdata[2]}</b><extra></extra>",
        marker={"symbol": "square-open", "size": 14, "opacity": 0, "color": theme.SERIES[1], "line": {"width": 2}},
        selected={"marker": {"opacity": 1}},
        unselected={"marker": {"opacity": 0}},
    )


def _hover(grid: Grid, row: int, column: int) -> tuple[str, str, str]:
    state, value, names = Cell(grid.states[row, column]), grid.values[row, column], grid.names[row][column]
    words = value_text(grid.metric, value) if not math.isnan(value) else _WORD_OF_STATE.get(state, "")
    if state == Cell.PARTIAL:
        words += " so far"
    where = layer_text(grid.layers[column]) + (f", {len(names)} tensors" if len(names) > 1 else "")
    return theme.full(grid.modules[row]), where, words


def _layer_axis(grid: Grid) -> dict[str, Any]:
    shown = theme.every(len(grid.layers), 32)
    text = ["outside" if grid.layers[i] == OUTSIDE_LAYERS else str(grid.layers[i]) for i in shown]
    return theme.bare_axis(
        title="layer",
        tickvals=list(shown),
        ticktext=text,
        range=[-0.5, len(grid.layers) - 0.5],
    )


def _module_axis(grid: Grid) -> dict[str, Any]:
    shown = theme.every(len(grid.modules), 60)
    return theme.bare_axis(
        tickvals=list(shown),
        ticktext=[theme.tick(grid.modules[i]) for i in shown],
        range=[len(grid.modules) - 0.5, -0.5],
    )
