"""Spectrum -> Figure: singular values on log axes, and how much of the update the leading directions hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.colors import sample_colorscale

from analysis.figures import theme
from analysis.figures.apart import told_apart
from analysis.labels import scientific
from analysis.measurements import Preview, Spectrum
from analysis.noise import noise_values
from analysis.rollup import Curve
from analysis.shift import relative_shifts

MOST_POINTS = 400
MOST_NAMED = 12  # lines in a legend; more are named where one points at them


def singular_values(
    spectra: Sequence[tuple[str, Spectrum]],
    *,
    with_threshold: bool = False,
    with_noise: bool = False,
    in_order: bool = False,
) -> go.Figure:
    """Singular values by their position, both axes logarithmic, one line a matrix.

    Values of exactly zero have no place on a log axis and are left out. `with_threshold` draws the value below which
    the first spectrum's directions don't count towards its numerical rank; `with_noise` what unstructured noise of each
    matrix's size and norm would have; `in_order` colours from dark to light, as layers follow each other.
    """
    curves = [_descending(label, spectrum) for label, spectrum in spectra]
    longest = max((len(spectrum.singular_values) for _, spectrum in spectra), default=10)
    low, high = _span(curves, [spectrum.tolerance for _, spectrum in spectra] if with_threshold else [])
    drawn = theme.figure(
        height=360 + (30 + 20 * len(curves) if 1 < len(curves) <= MOST_NAMED else 0),
        legend={"y": -0.24, "yanchor": "top", "x": 0},
        xaxis=theme.count_axis("direction, from the largest singular value", longest, fixedrange=True),
        yaxis=theme.log_axis("singular value", low, high, fixedrange=True),
        showlegend=1 < len(curves) <= MOST_NAMED,
    )
    for position, curve in enumerate(curves):
        drawn.add_trace(_line(curve, position, "direction %{x}<br>singular value <b>%{y:.3e}</b>"))
    if in_order:
        _colour_in_order(drawn)
    else:
        told_apart(drawn)
    if with_noise:
        for position, (label, spectrum) in enumerate(spectra):
            drawn.add_trace(_noise_line(_noise(label, spectrum), position, "direction %{x}<br>noise <b>%{y:.3e}</b>"))
    if with_threshold and spectra and spectra[0][1].tolerance > 0:
        limit = spectra[0][1].tolerance
        theme.mark(drawn, f"counts towards the rank above {scientific(limit)}", y=limit)
    return drawn


def preview(label: str, estimated: Preview) -> go.Figure:
    """The estimated singular values of one matrix, dashed, and called a preview in the figure itself."""
    there = estimated.values > 0
    x, y = (array.astype(np.float64)[there] for array in (estimated.positions, estimated.values))
    values = Curve(f"preview of {label}", x, y)
    longest = float(estimated.positions[-1])
    drawn = theme.figure(
        height=360,
        xaxis=theme.count_axis("direction, from the largest singular value", longest, fixedrange=True),
        yaxis=theme.log_axis("singular value, estimated (preview)", *_span([values], []), fixedrange=True),
        showlegend=False,
    )
    line = _line(values, 0, "direction %{x}<br>about <b>%{y:.1e}</b>")
    drawn.add_trace(line.update(line={**line.line.to_plotly_json(), "dash": "dash"}))
    return drawn


def base_and_tuned(sides: Sequence[tuple[str, Spectrum, Spectrum]]) -> go.Figure:
    """Singular values of the base (dotted) and of the tuned matrix (drawn out) by their position, on log axes."""
    before = [_descending(f"base of {label}", base) for label, base, _ in sides]
    after = [_descending(label, tuned) for label, _, tuned in sides]
    low, high = _span([*before, *after], [])
    drawn = _by_direction(sides, theme.log_axis("singular value", low, high, fixedrange=True))
    for position, (one, other) in enumerate(zip(before, after, strict=True)):
        drawn.add_trace(_line(other, position, "direction %{x}<br>tuned <b>%{y:.5e}</b>"))
        dotted = _dotted(one, position, "direction %{x}<br>base <b>%{y:.5e}</b>")
        drawn.add_trace(dotted.update(line={"color": theme.NEUTRAL}, opacity=1, showlegend=False))
    return drawn


def spectral_shifts(sides: Sequence[tuple[str, Spectrum, Spectrum]]) -> go.Figure:
    """How far each singular value moved, relative to the base's, on log axes; one that did not move is left out."""
    curves = [_shift_curve(label, base, tuned) for label, base, tuned in sides]
    ys = np.concatenate([curve.y for curve in curves]) if curves else np.zeros(0)
    low, high = (float(ys.min()) / 2, float(ys.max()) * 2) if ys.size else (1e-6, 1.0)
    drawn = _by_direction(sides, theme.log_axis("|tuned − base| / base", low, high, fixedrange=True))
    for position, curve in enumerate(curves):
        drawn.add_trace(_line(curve, position, "direction %{x}<br>moved by <b>%{y:.2e}</b> of itself"))
    return drawn


def _shift_curve(label: str, base: Spectrum, tuned: Spectrum) -> Curve:
    moved = relative_shifts(base, tuned)
    there = np.flatnonzero(np.nan_to_num(moved) > 0)
    return Curve(label, *_thinned((there + 1).astype(np.float64), moved[there]))


def _by_direction(sides: Sequence[tuple[str, Spectrum, Spectrum]], yaxis: dict[str, Any]) -> go.Figure:
    longest = max((len(base.singular_values) for _, base, _ in sides), default=10)
    return theme.figure(
        height=360 + (30 + 20 * len(sides) if len(sides) > 1 else 0),
        legend={"y": -0.24, "yanchor": "top", "x": 0},
        xaxis=theme.count_axis("direction, from the largest singular value", longest, fixedrange=True),
        yaxis=yaxis,
        showlegend=len(sides) > 1,
    )


def energy(curves: Sequence[Curve], *, noise: Sequence[Curve] = (), in_order: bool = False) -> go.Figure:
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
    if in_order:
        _colour_in_order(drawn)
    else:
        told_apart(drawn, mostly=1.0)  # most of these curves meet at their ends; the legend is the other figure's
    for position, curve in enumerate(noise):
        thin = Curve(curve.label, *_thinned(curve.x, curve.y))
        drawn.add_trace(_noise_line(thin, position, "first %{x} directions of noise hold <b>%{y:.2%}</b>"))
    theme.mark(drawn, "90 %", y=0.9)
    return drawn


def _colour_in_order(drawn: go.Figure) -> None:
    """The lines so far from the dark to the light end of the colours, both a little short of the page's."""
    at = np.linspace(0.2, 0.85, len(drawn.data))
    for line, colour in zip(drawn.data, sample_colorscale(list(theme.SHARE_COLOURS), at.tolist()), strict=True):
        line.update(line={"color": colour, "dash": "solid", "width": 1.4})


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
    return _dotted(Curve(f"noise like {curve.label}", curve.x, curve.y), position, hover)


def _dotted(curve: Curve, position: int, hover: str) -> go.Scatter:
    drawn = _line(curve, position, hover)
    return drawn.update(line={**drawn.line.to_plotly_json(), "dash": "dot", "width": 1.2}, opacity=0.8)
