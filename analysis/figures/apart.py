"""Lines that lie on each other told apart: the one below is wide, those above are dashed, so that each is seen."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

_DASHES = ("16px,14px", "16px,6px,3px,6px", "6px,14px")  # none dotted, as noise and bases are
_WIDE, _ABOVE = 4.6, 2.0
_NEAR = 0.01  # of the axis: nearer lines look like one
_MOSTLY = 0.6  # of the points: lines that part somewhere else still hide each other there
_MOST = 80  # lines; of more, none could be told from another anyway


def told_apart(drawn: go.Figure, *, mostly: float = _MOSTLY) -> go.Figure:
    """The figure, each of its solid lines of which this part of the points lies on an earlier one dashed, the earlier
    one wider; where their values are the same, the legend says so."""
    lines = [one for one in drawn.data if one.type == "scatter" and "lines" in (one.mode or "") and one.name]
    if len(lines) < 2 or len(lines) > _MOST:
        return drawn
    log = drawn.layout.yaxis.type == "log"
    heights, names = [_heights(one, log=log) for one in lines], [one.name for one in lines]
    near = _NEAR * _span(drawn, heights)
    for at, line in enumerate(lines):
        below = [i for i in range(at) if _together(lines[i], line, heights[i], heights[at], near) >= mostly]
        if not below:
            continue
        if _is_solid(lines[below[0]]):
            lines[below[0]].line.width = _WIDE
        if _is_solid(line):
            line.line.update(dash=_DASHES[(len(below) - 1) % len(_DASHES)], width=_ABOVE)
        equal = [names[i] for i in below if np.array_equal(heights[i], heights[at], equal_nan=True)]
        if equal:
            line.name = f"{line.name} (same as {equal[0]})"
    return drawn


def _heights(line: go.Scatter, *, log: bool) -> NDArray[np.float64]:
    values = np.asarray(line.y, np.float64)
    return np.log10(np.where(values > 0, values, math.nan)) if log else values


def _span(drawn: go.Figure, heights: list[NDArray[np.float64]]) -> float:
    """The length of the vertical axis, in its own measure."""
    if drawn.layout.yaxis.range:
        low, high = drawn.layout.yaxis.range
        return float(high - low)
    known = np.concatenate([one[np.isfinite(one)] for one in heights])
    return float(np.ptp(known)) if known.size else 0.0


def _is_solid(line: go.Scatter) -> bool:
    return line.line.dash in (None, "solid")


def _together(
    one: go.Scatter, other: go.Scatter, first: NDArray[np.float64], second: NDArray[np.float64], near: float
) -> float:
    """The part of their points at which two lines are near each other."""
    if not np.array_equal(np.asarray(one.x), np.asarray(other.x)):
        return 0.0
    known = np.isfinite(first) & np.isfinite(second)
    return float(np.mean(np.abs(first - second)[known] <= near)) if known.any() else 0.0
