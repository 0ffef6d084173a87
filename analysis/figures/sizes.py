"""Counts of one tensor -> Figure: how large its changes are, absolute, relative, and in steps of the stored type."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from analysis.figures import theme
from analysis.labels import power_of_ten
from analysis.measurements import BF16_ETA, CHANGE_EDGES, RELATIVE_EDGES, TOLERANCES, ULP_EDGES


def change_sizes(changes: NDArray[np.int64], chosen: float | None = None) -> go.Figure:
    """How large the changes are: changed entries by |after - before|, on a log axis, with the published tolerances and
    the chosen one."""
    drawn = _sizes(changes, CHANGE_EDGES.astype(np.float64), "|after − before|", reach=(-8, -3))
    for tolerance in TOLERANCES:
        theme.mark(drawn, x=math.log10(float(tolerance)))
    if chosen is not None:
        theme.mark(drawn, "chosen", x=math.log10(chosen))
    return drawn


def relative_sizes(relative: NDArray[np.int64]) -> go.Figure:
    """Changed entries by |after - before| / max(|after|, |before|), on a log axis, with the bf16 rule's border."""
    drawn = _sizes(relative, RELATIVE_EDGES, "|after − before| / max(|after|, |before|)", reach=(-5, 0))
    theme.mark(drawn, "bf16 rule", x=math.log10(BF16_ETA))
    return drawn


def ulp_sizes(ulps: NDArray[np.int64], sign_flips: int) -> go.Figure:
    """Changed entries by how many values of the stored type they moved; those whose sign turned stand apart."""
    filled = np.flatnonzero(ulps)
    shown = max(int(filled[-1]) + 1 if filled.size else 0, 8)
    words = [_ulp_range(position) for position in range(shown)]
    counts = [*ulps[:shown].tolist(), sign_flips]
    drawn = theme.figure(
        height=300,
        bargap=0.15,
        xaxis=theme.axis(
            "units in the last place",
            tickvals=list(range(shown + 1)),
            ticktext=[*words, "sign flipped"],
            tickangle=-45 if shown > 8 else 0,
            fixedrange=True,
        ),
        yaxis=theme.axis("changed entries", rangemode="tozero", fixedrange=True),
        showlegend=False,
    )
    drawn.add_trace(
        go.Bar(
            x=list(range(shown + 1)),
            y=counts,
            marker={"color": [theme.SERIES[0]] * shown + [theme.SERIES[1]], "line": {"width": 0}},
            customdata=[*(f"{text} units" if text != "1" else "1 unit" for text in words), "sign flipped"],
            hovertemplate="%{customdata}<br><b>%{y:,}</b> entries<extra></extra>",
        )
    )
    return drawn


def _ulp_range(position: int) -> str:
    last = int(ULP_EDGES[position])
    first = int(ULP_EDGES[position - 1]) + 1 if position else 1
    return f"{last:,}" if first == last else f"{first:,} to {last:,}" if last < 1000 else f"to {last:,}"


def _sizes(counts: NDArray[np.int64], edges: NDArray[np.float64], title: str, *, reach: tuple[int, int]) -> go.Figure:
    """Counts by bins between `edges` on a log axis, which shows the decades of `reach` in any case."""
    filled = np.flatnonzero(counts)
    first, last = (int(filled[0]), int(filled[-1])) if filled.size else (0, len(counts) - 1)
    logs = np.log10(edges)
    rights = np.append(logs, logs[-1] + 0.05)
    lefts = np.concatenate([[logs[0] - 0.05], logs])
    rights, lefts = rights[first : last + 1], lefts[first : last + 1]
    low, high = min(rights[0] - 0.3, reach[0] - 0.3), max(rights[-1] + 0.25, reach[1] + 0.3)
    drawn = theme.figure(
        height=300,
        bargap=0,
        xaxis=_decade_axis(title, low, high),
        yaxis=theme.axis("changed entries", rangemode="tozero", fixedrange=True),
        showlegend=False,
    )
    drawn.add_trace(
        go.Bar(
            x=(lefts + rights) / 2,
            y=counts[first : last + 1],
            width=rights - lefts,
            marker={"color": theme.SERIES[0], "line": {"width": 0}},
            customdata=[[f"{10**left:.3g}", f"{10**right:.3g}"] for left, right in zip(lefts, rights, strict=True)],
            hovertemplate="%{customdata[0]} to %{customdata[1]}<br><b>%{y:,}</b> entries<extra></extra>",
        )
    )
    return drawn


def _decade_axis(title: str, low: float, high: float) -> dict:
    decades = range(int(np.ceil(low)), int(np.floor(high)) + 1)
    return theme.axis(
        title,
        range=[low, high],
        tickvals=list(decades),
        ticktext=[power_of_ten(decade) for decade in decades],
        fixedrange=True,
    )
