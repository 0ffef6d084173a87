"""Counts of one tensor -> Figure: changes along its rows or columns, and by the weights' magnitude."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from analysis.figures import theme
from analysis.figures.apart import told_apart
from analysis.heads import Heads
from analysis.labels import power_of_two
from analysis.measurements import FIRST_BINADE, LAST_BINADE, N_BINADES

MOST_BINS = 512


def along(changes: NDArray[np.int64], width: int, what: str, heads: Heads | None = None) -> go.Figure:
    """Changed share along the rows or columns: `changes[i]` of the `width` entries of line i changed.

    More than 512 lines are pooled, and a band then shows the least and the most changed line of each pool.
    `what` is 'row' or 'column'. Lines of `heads` are parted where one begins, more strongly where another key-value
    head does.
    """
    side = max(math.ceil(len(changes) / MOST_BINS), 1)
    pools = np.split(changes.astype(np.float64) / max(width, 1), range(side, len(changes), side))
    sizes = np.array([len(pool) for pool in pools])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    pooled = np.array([pool.mean() if len(pool) else np.nan for pool in pools])
    drawn = theme.figure(
        height=220,
        xaxis=theme.axis(what, fixedrange=True, rangemode="nonnegative"),
        yaxis=theme.axis("changed share", tickformat=".3~%", rangemode="tozero", fixedrange=True),
        showlegend=False,
    )
    if len(changes) > MOST_BINS:
        _band(drawn, starts, pools)
    drawn.add_trace(
        go.Scatter(
            x=starts.astype(np.int32),
            y=pooled,
            mode="lines",
            line={"color": theme.SERIES[0], "width": 1.3, "shape": "hv"},
            customdata=[
                _range_text(what, start, size) + _head_text(heads, start)
                for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)
            ],
            hovertemplate="%{customdata}<br><b>%{y:.4%}</b> changed<extra></extra>",
        )
    )
    if heads:
        _part(drawn, heads)
    return drawn


def _head_text(heads: Heads | None, line: int) -> str:
    head = heads.at(line) if heads else None
    return f"<br>{head.title}" if head else ""


def _part(drawn: go.Figure, heads: Heads) -> None:
    """A thin line where a head begins; a stronger one where its neighbour belongs to another key-value head or kind."""
    between = list(pairwise(heads.heads))
    strong = [head.first for before, head in between if (before.kind, before.group) != (head.kind, head.group)]
    strong = strong if len(strong) < len(between) else []  # where each head has its own, all are alike
    weak = [head.first for _, head in between if head.first not in strong]
    for starts, colour, width in ((weak, theme.PALE, 1), (strong, theme.NEUTRAL, 1.5)):
        if starts:
            path = " ".join(f"M{start},0L{start},1" for start in starts)
            line = {"color": colour, "width": width}
            drawn.add_shape(type="path", path=path, yref="paper", line=line, layer="below")


def by_magnitude(changed: Mapping[str, NDArray[np.int64]], entries: NDArray[np.int64]) -> go.Figure:
    """Changed share by the base weight's power of two, a line for each of `changed` by its title, over how many weights
    lie there (the pale bars).

    Small weights cross a bf16 step more easily: what two updates share may come from that alone.
    """
    filled = np.flatnonzero(entries)
    shown = slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, N_BINADES)
    positions = np.arange(N_BINADES, dtype=np.int32)[shown]
    marked = positions[:: max(1, math.ceil(len(positions) / 8))]
    spread = max(3.0 - len(positions) / 2, 0.7)
    drawn = theme.figure(
        height=300,
        bargap=0.08,
        xaxis=theme.axis(
            "|before|",
            tickvals=marked,
            ticktext=[_binade_text(p) for p in marked],
            tickangle=0,
            range=[positions[0] - spread, positions[-1] + spread],
            fixedrange=True,
        ),
        yaxis=theme.share_axis("share"),
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
    )
    whole = max(int(entries.sum()), 1)
    drawn.add_trace(_weights(positions, entries[shown], whole))
    for position, (name, counts) in enumerate(changed.items()):
        drawn.add_trace(_changed_share(positions, counts[shown], entries[shown], name, position))
    return told_apart(drawn)


def _weights(positions: NDArray[np.int32], entries: NDArray[np.int64], whole: int) -> go.Bar:
    return go.Bar(
        x=positions,
        y=entries / whole,
        name="of all weights",
        marker={"color": theme.PALE},
        customdata=[[_binade_range(p), int(n)] for p, n in zip(positions, entries, strict=True)],
        hovertemplate="|before| %{customdata[0]}<br><b>%{customdata[1]:,}</b> weights, %{y:.2%} of all<extra></extra>",
    )


def _changed_share(
    positions: NDArray[np.int32], changed: NDArray[np.int64], entries: NDArray[np.int64], name: str, place: int
) -> go.Scatter:
    return go.Scatter(
        x=positions,
        y=np.where(entries > 0, changed / np.maximum(entries, 1), np.nan),
        name=name,
        mode="lines+markers",
        line=theme.line_style(place),
        marker={"size": 5},
        customdata=[[_binade_range(p), int(c), int(n)] for p, c, n in zip(positions, changed, entries, strict=True)],
        hovertemplate=f"{name}<br>|before| %{{customdata[0]}}<br><b>%{{y:.4%}}</b>: %{{customdata[1]:,}} of "
        "%{customdata[2]:,}<extra></extra>",
    )


def _band(drawn: go.Figure, starts: NDArray[np.int64], pools: list[NDArray[np.float64]]) -> None:
    for values, fill in (([pool.min() for pool in pools], None), ([pool.max() for pool in pools], "tonexty")):
        drawn.add_trace(
            go.Scatter(
                x=starts.astype(np.int32),
                y=np.array(values),
                mode="lines",
                line={"width": 0, "shape": "hv"},
                fill=fill,
                fillcolor=theme.PALE,
                hoverinfo="skip",
            )
        )


def _range_text(what: str, start: int, size: int) -> str:
    return f"{what} {start}" if size == 1 else f"{what}s {start} to {start + size - 1}"


def _binade_text(position: int) -> str:
    if position == 0:
        return "0"
    if position == 1:
        return f"< {power_of_two(FIRST_BINADE)}"
    if position == N_BINADES - 1:
        return f"≥ {power_of_two(LAST_BINADE + 1)}"
    return power_of_two(FIRST_BINADE + position - 2)


def _binade_range(position: int) -> str:
    if position == 0:
        return "= 0"
    if position == 1:
        return f"below {power_of_two(FIRST_BINADE)}"
    if position == N_BINADES - 1:
        return f"from {power_of_two(LAST_BINADE + 1)}"
    exponent = FIRST_BINADE + position - 2
    return f"from {power_of_two(exponent)} to {power_of_two(exponent + 1)}"
