"""Spectrum -> Figure: singular values on log axes, and how much of the update the leading directions hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from analysis.figures import theme
from analysis.labels import scientific
from analysis.measurements import Spectrum
from analysis.noise import noise_values
from analysis.rollup import Curve

MOST_POINTS = 400


def singular_values(
    spectra: Sequence[tuple[str, Spectrum]], *, with_threshold: bool = False, with_noise: bool = False
) -> go.Figure:
    """Singular values by their position, both axes logarithmic, one line a matrix.

    Values of exactly zero have no place on a log axis and are left out. `with_threshold` draws the value below which
    the first spectrum's directions don't count towards its numerical rank; `with_noise` what unstructured noise of each
    matrix's size and norm would have.
    """
    curves = [_descending(label, spectrum) for label, spectrum in spectra]
    longest = max((len(spectrum.singular_values) for _, spectrum in spectra), default=10)
    low, high = _span(curves, [spectrum.tolerance for _, spectrum in spectra] if with_threshold else [])
    drawn = theme.figure(
        height=360 + (30 + 20 * len(curves) if len(curves) > 1 else 0),
        legend={"y": -0.24, "yanchor": "top", "x": 0},
        xaxis=theme.count_axis("direction, from the largest singular value", longest, fixedrange=True),
        yaxis=theme.log_axis("singular value", low, high, fixedrange=True),
        showlegend=len(curves) > 1,
    )
    for position, curve in enumerate(curves):
        drawn.add_trace(_line(curve, position, "direction %{x}<br>singular value <b>%{y:.3e}</b>"))
    if with_noise:
        for position, (label, spectrum) in enumerate(spectra):
            drawn.add_trace(_noise_line(_noise(label, spectrum), position, "direction %{x}<br>noise <b>%{y:.3e}</b>"))
    if with_threshold and spectra and spectra[0][1].tolerance > 0:
        limit = spectra[0][1].tolerance
        theme.mark(drawn, f"counts towards the rank above {scientific(limit)}", y=limit)
    return drawn


def energy(curves: Sequence[Curve], *, noise: Sequence[Curve] = ()) -> go.Figure:
    """Share of the squared Frobenius norm in the first k directions, over k on a log axis; `noise` is the same of
    unstructured noise, in the same order.

    Lines have the colours of `singular_values` over the same matrices, whose legend serves both.
    """
    most = max((float(curve.x[-1]) for curve in curves if len(curve.x)), default=10.0)
    drawn = theme.figure(
        height=360,
        xaxis=theme.count_axis("leading directions", most, fixedrange=True),
        yaxis=theme.share_axis("share of the squared norm"),
        showlegend=False,
    )
    for position, curve in enumerate(curves):
        thin = Curve(curve.label, *_thinned(curve.x, curve.y))
        drawn.add_trace(_line(thin, position, "first %{x} directions hold <b>%{y:.2%}</b>"))
    for position, curve in enumerate(noise):
        thin = Curve(curve.label, *_thinned(curve.x, curve.y))
        drawn.add_trace(_noise_line(thin, position, "first %{x} directions of noise hold <b>%{y:.2%}</b>"))
    theme.mark(drawn, "90 %", y=0.9)
    return drawn


def _descending(label: str, spectrum: Spectrum) -> Curve:
    values = spectrum.singular_values.astype(np.float64)
    values = values[values > 0]
    return Curve(label, *_thinned(np.arange(1, len(values) + 1, dtype=np.float64), values))


def _noise(label: str, spectrum: Spectrum) -> Curve:
    square_sum = float(np.square(spectrum.singular_values.astype(np.float64)).sum())
    values = noise_values(spectrum.rows, spectrum.columns, square_sum)
    values = values[values > 0]
    return Curve(label, *_thinned(np.arange(1, len(values) + 1, dtype=np.float64), values))


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most MOST_POINTS points, evenly spaced on the log axis, always with the first and the last."""
    if len(x) <= MOST_POINTS:
        return x, y
    keep = np.unique(np.geomspace(1, len(x), MOST_POINTS).round().astype(np.int64)) - 1
    return x[keep], y[keep]


def _span(curves: Sequence[Curve], also: Sequence[float]) -> tuple[float, float]:
    """Room for what is drawn; at most nine decades, since below that the method's own rounding is all one sees."""
    ys = [curve.y for curve in curves if len(curve.y)]
    if not ys:
        return 1e-6, 1.0
    high = max(float(y[0]) for y in ys) * 2
    low = min([float(y[-1]) for y in ys] + [value for value in also if value > 0]) / 2
    return max(low, high * 1e-9), high


def _line(curve: Curve, position: int, hover: str) -> go.Scatter:
    return go.Scatter(
        x=curve.x,
        y=curve.y,
        mode="lines",
        name=theme.tick(curve.label, 40),
        line=theme.line_style(position),
        text=theme.full(curve.label),
        hovertemplate=f"%{{text}}<br>{hover}<extra></extra>",
    )


def _noise_line(curve: Curve, position: int, hover: str) -> go.Scatter:
    drawn = _line(Curve(f"noise like {curve.label}", curve.x, curve.y), position, hover)
    return drawn.update(line={**drawn.line.to_plotly_json(), "dash": "dot", "width": 1.2}, opacity=0.8)
