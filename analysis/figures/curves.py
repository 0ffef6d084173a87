"""Curve -> Figure: shares over tolerance, a metric over layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import plotly.graph_objects as go

from analysis.figures import theme
from analysis.figures.apart import told_apart
from analysis.figures.heatmap import value_text
from analysis.labels import share, tolerance_text
from analysis.measurements import TOLERANCES
from analysis.metrics import Metric
from analysis.rollup import Curve

_MOST_INSIDE = 3  # curves whose names find room among them
_PUBLISHED = np.array([float(np.float32(tolerance)) for tolerance in TOLERANCES])


def sparsity_over_tolerance(curves: Sequence[Curve], *, chosen: float | None = None) -> go.Figure:
    """Unchanged share over absolute tolerance, dots at the published tolerances, a line at the chosen one.

    The horizontal axis spans what is interesting: from below the first published tolerance to where all curves
    have reached their end.
    """
    drawn = theme.figure(
        height=320,
        xaxis=theme.log_axis("tolerance on |after − before|", *_span(curves), fixedrange=True),
        yaxis=theme.share_axis("unchanged share"),
        legend={"x": 1, "xanchor": "right", "y": 0.02, "yanchor": "bottom"} if len(curves) <= _MOST_INSIDE else {},
        showlegend=len(curves) > 1,
    )
    for position, curve in enumerate(curves):
        drawn.add_trace(_line(curve, position))
        drawn.add_trace(_dots(curve, position))
    if chosen is not None:
        theme.mark(drawn, f"chosen: {tolerance_text(chosen)}", x=chosen)
    return told_apart(drawn)


def layer_profiles(curves: Sequence[Curve], metric: Metric) -> go.Figure:
    """One line a matrix over the layers. A share has the axis 0 to 100 %, a log metric a logarithmic one."""
    drawn = theme.figure(
        height=max(340, 60 + 19 * len(curves)),
        xaxis=theme.axis("layer", fixedrange=True, dtick=_layer_step(curves)),
        yaxis=_metric_axis(curves, metric),
    )
    for position, curve in enumerate(curves):
        drawn.add_trace(
            go.Scatter(
                x=curve.x.astype(np.int32),
                y=_positive(curve.y) if metric.scale == "log" else curve.y,
                mode="lines+markers",
                name=theme.tick(curve.label, 34),
                line=theme.line_style(position),
                marker={"size": 4},
                customdata=[[value_text(metric, value), theme.full(curve.label)] for value in curve.y],
                hovertemplate="%{customdata[1]}<br>layer %{x}<br><b>%{customdata[0]}</b><extra></extra>",
            )
        )
    return told_apart(drawn)


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)


def _metric_axis(curves: Sequence[Curve], metric: Metric) -> dict:
    if metric.scale == "share":
        return theme.share_axis(metric.unit)
    if metric.scale == "linear":
        return theme.axis(metric.unit, fixedrange=True)
    known = np.concatenate([curve.y for curve in curves]) if curves else np.array([])
    known = known[np.isfinite(known) & (known > 0)]
    if not known.size:
        return theme.axis(metric.unit, fixedrange=True)
    return theme.log_axis(metric.unit, float(known.min()) / 1.5, float(known.max()) * 1.5, fixedrange=True)


def _layer_step(curves: Iterable[Curve]) -> int:
    last = max((int(curve.x[-1]) for curve in curves if len(curve.x)), default=1)
    return max(1, round(last / 16))


def _span(curves: Sequence[Curve]) -> tuple[float, float]:
    """From a decade below the published tolerances to where every curve has come to its end, but past them too."""
    ends = [curve.x[int(np.argmax(curve.y >= np.nanmax(curve.y)))] for curve in curves if np.isfinite(curve.y).any()]
    return 0.9e-10, 1.1 * float(min(max([*ends, 1e-2]), 1e3))


def _line(curve: Curve, position: int) -> go.Scatter:
    shown = np.isfinite(curve.y) & (curve.x >= 1e-10)
    return go.Scatter(
        x=curve.x[shown],
        y=curve.y[shown],
        mode="lines",
        name=theme.tick(curve.label, 40),
        line=theme.line_style(position),
        hovertemplate="%{y:.4%} within %{x:.2e}<extra></extra>",
    )


def _dots(curve: Curve, position: int) -> go.Scatter:
    at = np.searchsorted(curve.x, _PUBLISHED)
    return go.Scatter(
        x=_PUBLISHED,
        y=curve.y[at],
        mode="markers",
        showlegend=False,
        cliponaxis=False,  # whole at 100 % too
        marker={"size": 7, "color": theme.line_style(position)["color"]},
        customdata=[
            [f"{tolerance}", share(value, 4)] for tolerance, value in zip(TOLERANCES, curve.y[at], strict=True)
        ],
        hovertemplate="published tolerance %{customdata[0]}<br><b>%{customdata[1]}</b><extra></extra>",
    )
