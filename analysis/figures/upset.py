"""Venn -> Figure: regions of any number of runs as bars over a dot matrix, and how many runs agree as bars."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.figures import theme
from analysis.figures.venn import region_name
from analysis.labels import count, letter, percent, scientific
from analysis.overlaps import Venn, over

MOST_BARS = 28
_BARS_PIXELS, _ROW_PIXELS = 270, 26
_LEVEL = 0.42  # columns that a line by chance reaches to either side: a little past its bar, never to its neighbour
_HOVER = (
    "%{customdata[0]}<br><b>%{customdata[1]}</b> entries, %{customdata[2]}<br>"
    "%{customdata[3]} by chance, %{customdata[4]} by magnitude-matched chance%{customdata[5]}<extra></extra>"
)


def upset(venn: Venn) -> go.Figure:
    """Regions as bars, the largest first, above a dot matrix that says which models each region belongs to, and on each
    bar what both chance levels would put there. Of many regions the largest; a note says what the others hold."""
    occurring = [int(region) for region in np.argsort(-venn.counts[1:], kind="stable") + 1 if venn.counts[region]]
    regions, k = occurring[:MOST_BARS], venn.n_models
    drawn = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.02,
        row_heights=[_BARS_PIXELS, _ROW_PIXELS * k],
    )
    drawn.update_layout(
        theme.figure(
            height=_BARS_PIXELS + _ROW_PIXELS * k + 60,
            bargap=0.35,
            legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        ).layout
    )
    hovers = [_region_hover(venn, region) for region in regions]
    _add_bars(drawn, venn.counts[regions], venn.expected[regions], venn.matched[regions], hovers, in_grid=True)
    _add_dots(drawn, regions, k)
    drawn.update_xaxes(theme.bare_axis(showticklabels=False, range=[-0.7, max(len(regions), 1) - 0.3]))
    drawn.update_yaxes(theme.axis("entries", rangemode="tozero", fixedrange=True), row=1, col=1)
    names = [f"{theme.tick(label, 28)} <b>{letter(i)}</b>" for i, label in enumerate(venn.labels)]
    drawn.update_yaxes(theme.bare_axis(tickvals=list(range(k)), ticktext=names, range=[k - 0.4, -0.6]), row=2, col=1)
    if len(occurring) > len(regions):
        _note(drawn, venn, occurring)
    return drawn


def agreement(venn: Venn) -> go.Figure:
    """Entries that exactly 1 ... n of the runs changed, as bars, with what both chance levels would give."""
    k = venn.n_models
    runs = list(range(1, k + 1))
    drawn = theme.figure(
        height=300,
        bargap=0.45,
        xaxis=theme.bare_axis(
            title=f"changed by exactly so many of the {k} runs",
            tickvals=list(range(k)),
            ticktext=[str(n) for n in runs],
            range=[-0.6, k - 0.4],
        ),
        yaxis=theme.axis("entries", rangemode="tozero", fixedrange=True),
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
    )
    amounts = venn.by_runs[1:], venn.expected_by_runs[1:], venn.matched_by_runs[1:]
    hovers = [_hover(f"exactly {n} of {k}", venn.union, *at) for n, *at in zip(runs, *amounts, strict=True)]
    _add_bars(drawn, *amounts, hovers, in_grid=False)
    return drawn


def _add_bars(
    drawn: go.Figure,
    counts: np.ndarray,
    expected: np.ndarray,
    matched: np.ndarray,
    hovers: Sequence[Sequence[str]],
    *,
    in_grid: bool,
) -> None:
    place = {"row": 1, "col": 1} if in_grid else {}
    positions = np.arange(len(counts), dtype=np.int32)
    bars = go.Bar(
        x=positions,
        y=counts.astype(np.float64),
        name="counted",
        marker={"color": theme.SERIES[0]},
        customdata=hovers,
        hovertemplate=_HOVER,
    )
    drawn.add_trace(bars, **place)
    for trace in (_levels(expected), _diamonds(matched)):
        if trace is not None:
            drawn.add_trace(trace, **place)


def _levels(amounts: np.ndarray) -> go.Scatter | None:
    """A line across each bar, in columns and not in pixels, so that it is as wide as its bar in every figure."""
    if not np.isfinite(amounts).any():
        return None
    return go.Scatter(
        x=[at for i in range(len(amounts)) for at in (i - _LEVEL, i + _LEVEL, None)],
        y=[at for amount in amounts.tolist() for at in (amount, amount, None)],
        mode="lines",
        name="by chance",
        hoverinfo="skip",
        line={"width": 2.5, "color": theme.NEUTRAL},
    )


def _diamonds(amounts: np.ndarray) -> go.Scatter | None:
    if not np.isfinite(amounts).any():
        return None
    outline = {"width": 1, "color": "rgba(255,255,255,0.85)"}
    return go.Scatter(
        x=np.arange(len(amounts), dtype=np.int32),
        y=amounts,
        mode="markers",
        name="by magnitude-matched chance",
        hoverinfo="skip",
        marker={"symbol": "diamond-tall", "size": 9, "color": theme.SERIES[1], "line": outline},
    )


def _add_dots(drawn: go.Figure, regions: Sequence[int], k: int) -> None:
    """A faint dot for each model, a full one for each that the region belongs to, these joined by a line."""
    members = [[i for i in range(k) if region >> i & 1] for region in regions]
    others = [(x, i) for x, inside in enumerate(members) for i in range(k) if i not in inside]
    joined_x = [at for x, inside in enumerate(members) for at in (*[x] * len(inside), None)]
    joined_y = [at for inside in members for at in (*inside, None)]
    faint = go.Scatter(
        x=[x for x, _ in others], y=[i for _, i in others], mode="markers", marker={"color": theme.FAINT}
    )
    full = go.Scatter(x=joined_x, y=joined_y, mode="markers+lines", marker={"color": theme.SERIES[0]})
    full.line = {"color": theme.SERIES[0], "width": 2}
    for trace in (faint, full):
        trace.update(hoverinfo="skip", showlegend=False, marker_size=10)
        drawn.add_trace(trace, row=2, col=1)


def _region_hover(venn: Venn, region: int) -> tuple[str, ...]:
    name = region_name(venn.labels, region)
    return _hover(name, venn.union, int(venn.counts[region]), venn.expected[region], venn.matched[region])


def _hover(name: str, union: int, counted: int, expected: float, matched: float) -> tuple[str, ...]:
    times = over(counted, matched)
    by_chance = (_rounded(expected), _rounded(matched))
    above = "" if math.isnan(times) else f"<br>{scientific(times)} times magnitude-matched chance"
    return (name, count(int(counted)), f"{percent(int(counted), union, 2)} of all changes", *by_chance, above)


def _rounded(amount: float) -> str:
    return "–" if math.isnan(amount) else count(round(amount)) if amount >= 10 else scientific(amount)


def _note(drawn: go.Figure, venn: Venn, occurring: Sequence[int]) -> None:
    others = occurring[MOST_BARS:]
    held = int(venn.counts[others].sum())
    drawn.add_annotation(
        text=f"the {MOST_BARS} largest of {count(len(occurring))} regions;<br>"
        f"the others hold {percent(held, venn.union, 2)} of all changes",
        xref="paper",
        yref="paper",
        x=1,
        y=1,
        xanchor="right",
        yanchor="top",
        align="right",
        showarrow=False,
    )
