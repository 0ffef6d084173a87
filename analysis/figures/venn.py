"""Venn -> Figure: two or three runs as circles, more as UpSet bars, pairs of runs as a matrix."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.figures import circles, theme
from analysis.labels import count, percent, share
from analysis.rollup import Venn

NOTABLE_ERROR = 0.02  # of the union: from here on the figure says that its areas are approximate
MOST_BARS = 32
_REGION_HOVER = "%{customdata[0]}<br><b>%{customdata[1]}</b> entries<br>%{customdata[2]} of all changed<extra></extra>"


def overlap(venn: Venn) -> go.Figure:
    """Circles for two or three models, bars with a dot matrix for more; true counts in both."""
    return circle_diagram(venn) if len(venn.labels) <= 3 else upset(venn)


def circle_diagram(venn: Venn) -> go.Figure:
    """Changed parameters of two or three models as circles, each region with its true count.

    Two circles have exact areas. Three cannot in general; where a region is off by more than 2 % of the union the
    figure says so. Regions too thin to be drawn have their counts listed below.
    """
    placed = circles.layout([int(n) for n in venn.counts])
    drawn = theme.figure(height=430, showlegend=False, xaxis=_plane(), yaxis=_plane(scaleanchor="x"))
    for position, circle in enumerate(placed.circles):
        _add_circle(drawn, circle, theme.SERIES[position])
        _add_name(drawn, circle, venn, position, placed)
    for region in range(1, len(venn.counts)):
        if venn.counts[region] and _has_room(venn, region, placed):
            _add_count(drawn, venn, region, placed.spots[region])
    drawn.add_trace(_hover_points(venn, placed))
    if notes := _notes(venn, placed):
        drawn.add_annotation(
            text=notes,
            xref="paper",
            yref="paper",
            x=0,
            y=0,
            yanchor="top",
            xanchor="left",
            align="left",
            showarrow=False,
        )
        drawn.update_layout(margin={"b": 52}, height=470)
    return drawn


def upset(venn: Venn) -> go.Figure:
    """Regions as bars, the largest first, above a dot matrix that says which models each region belongs to."""
    regions = sorted((r for r in range(1, len(venn.counts)) if venn.counts[r]), key=lambda r: -venn.counts[r])
    regions = regions[:MOST_BARS]
    k = len(venn.labels)
    drawn = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.03, row_heights=[0.62, 0.38])
    drawn.update_layout(theme.figure(height=260 + 34 * k, showlegend=False, bargap=0.35).layout)
    drawn.add_trace(_bars(venn, regions), row=1, col=1)
    drawn.add_trace(_dots(regions, k, member=False), row=2, col=1)
    drawn.add_trace(_dots(regions, k, member=True), row=2, col=1)
    drawn.update_xaxes(theme.bare_axis(showticklabels=False, range=[-0.7, len(regions) - 0.3]))
    drawn.update_yaxes(theme.axis("entries", rangemode="tozero", fixedrange=True), row=1, col=1)
    names = [f"{theme.tick(label, 32)}  {count(venn.changed(i))}" for i, label in enumerate(venn.labels)]
    drawn.update_yaxes(
        theme.bare_axis(tickvals=list(range(k)), ticktext=names, range=[k - 0.5, -0.5]),
        row=2,
        col=1,
    )
    return drawn


def pair_matrix(venn: Venn, measure: str = "one-sided") -> go.Figure:
    """Every model against every other: of what the row's model changed, the share that the column's changed too.

    `measure` is 'one-sided' or 'jaccard'; under each one-sided overlap stand both chance levels.
    """
    k = len(venn.labels)
    value = venn.one_sided if measure == "one-sided" else venn.jaccard
    table = np.array([[value(i, j) if i != j else np.nan for j in range(k)] for i in range(k)])
    names = [theme.tick(label, 96 // k) for label in venn.labels]
    drawn = theme.figure(
        height=110 + 74 * k,
        coloraxis=theme.share_colours() | {"showscale": False},
        xaxis=theme.bare_axis(tickvals=list(range(k)), ticktext=names, side="top", range=[-0.5, k - 0.5], tickangle=0),
        yaxis=theme.bare_axis(tickvals=list(range(k)), ticktext=names, range=[k - 0.5, -0.5]),
    )
    drawn.add_trace(
        go.Heatmap(
            z=table,
            coloraxis="coloraxis",
            xgap=2,
            ygap=2,
            text=[[_pair_text(venn, i, j, measure) if i != j else "" for j in range(k)] for i in range(k)],
            texttemplate="%{text}",
            customdata=[[count(venn.changed(i, j)) for j in range(k)] for i in range(k)],
            hovertemplate="%{customdata} entries changed by both<br><b>%{z:.4%}</b><extra></extra>",
        )
    )
    return drawn


def _pair_text(venn: Venn, one: int, other: int, measure: str) -> str:
    if measure == "jaccard":
        return f"<b>{share(venn.jaccard(one, other))}</b>"
    by_chance = f"chance {share(venn.chance(one, other))}<br>matched {share(venn.matched_chance(one, other))}"
    return f"<b>{share(venn.one_sided(one, other))}</b><br>{by_chance}"


def _plane(**settings: object) -> dict:
    return theme.bare_axis(showticklabels=False, **settings)


def _add_circle(drawn: go.Figure, circle: circles.Circle, colour: str) -> None:
    drawn.add_shape(
        type="circle",
        x0=circle.x - circle.radius,
        x1=circle.x + circle.radius,
        y0=circle.y - circle.radius,
        y1=circle.y + circle.radius,
        fillcolor=colour,
        opacity=0.32,
        line={"width": 0},
        layer="below",
    )
    drawn.add_shape(
        type="circle",
        x0=circle.x - circle.radius,
        x1=circle.x + circle.radius,
        y0=circle.y - circle.radius,
        y1=circle.y + circle.radius,
        line={"color": colour, "width": 1.6},
    )


def _add_name(drawn: go.Figure, circle: circles.Circle, venn: Venn, position: int, placed: circles.Layout) -> None:
    """The model's name and its whole count beside its circle, on the side away from the others."""
    middle_x = sum(c.x for c in placed.circles) / len(placed.circles)
    middle_y = sum(c.y for c in placed.circles) / len(placed.circles)
    if len(placed.circles) == 2:
        x, y, away = circle.x, max(c.radius for c in placed.circles), (0.0, 1.0)
        anchor = "right" if position == 0 else "left"
    else:
        away_x, away_y = circle.x - middle_x, circle.y - middle_y
        length = float(np.hypot(away_x, away_y)) or 1.0
        away = (away_x / length, away_y / length)
        x, y = circle.x + away[0] * circle.radius, circle.y + away[1] * circle.radius
        anchor = "left" if away[0] > 0.3 else "right" if away[0] < -0.3 else "center"
    drawn.add_annotation(
        x=x,
        y=y,
        text=f"{_dot(position)} <b>{theme.tick(venn.labels[position], 30)}</b>"
        f"<br>{count(venn.changed(position))} changed",
        showarrow=False,
        xanchor=anchor,
        yanchor="bottom" if away[1] >= 0 else "top",
        align=anchor,
    )


def _add_count(drawn: go.Figure, venn: Venn, region: int, spot: tuple[float, float]) -> None:
    drawn.add_annotation(x=spot[0], y=spot[1], text=count(int(venn.counts[region])), showarrow=False, font={"size": 13})


def _hover_points(venn: Venn, placed: circles.Layout) -> go.Scatter:
    union = int(venn.counts[1:].sum())
    regions = sorted(placed.spots)
    return go.Scatter(
        x=[placed.spots[region][0] for region in regions],
        y=[placed.spots[region][1] for region in regions],
        mode="markers",
        marker={"size": 40, "opacity": 0},
        customdata=[_region_hover(venn, region, union) for region in regions],
        hovertemplate=_REGION_HOVER,
    )


def _region_hover(venn: Venn, region: int, union: int) -> tuple[str, str, str]:
    number = int(venn.counts[region])
    return region_name(venn.labels, region, escape=True), count(number), percent(number, union, 2)


def region_name(labels: tuple[str, ...], region: int, *, escape: bool = False) -> str:
    """'only run-1', 'run-1 and run-2 and no other', in words."""
    names = [theme.full(label) if escape else label for i, label in enumerate(labels) if region >> i & 1]
    if len(names) == len(labels):
        return "all of them" if len(labels) > 2 else "both"
    return f"only {' and '.join(names)}"


def _notes(venn: Venn, placed: circles.Layout) -> str:
    thin = [r for r in range(1, len(venn.counts)) if venn.counts[r] and not _has_room(venn, r, placed)]
    listed = [f"{_swatches(r)} {count(int(venn.counts[r]))}" for r in sorted(thin, key=lambda r: -venn.counts[r])]
    notes = ["no room for: " + ", ".join(listed)] if listed else []
    if placed.worst_error > NOTABLE_ERROR:
        notes.append(f"areas approximate (off by up to {100 * placed.worst_error:.0f} % of the union), counts exact")
    return "<br>".join(notes)


def _has_room(venn: Venn, region: int, placed: circles.Layout) -> bool:
    """Whether the region's number can be read inside it: a digit is about a hundredth of the drawing wide."""
    return placed.room.get(region, 0.0) > 0.009 * len(count(int(venn.counts[region])))


def _swatches(region: int) -> str:
    """The colours of the models a region belongs to, as dots."""
    return "".join(_dot(position) for position in range(region.bit_length()) if region >> position & 1)


def _dot(position: int) -> str:
    return f'<span style="color:{theme.SERIES[position]}">●</span>'


def _bars(venn: Venn, regions: list[int]) -> go.Bar:
    union = int(venn.counts[1:].sum())
    return go.Bar(
        x=np.arange(len(regions), dtype=np.int32),
        y=np.array([venn.counts[r] for r in regions], np.float64),
        marker={"color": theme.SERIES[0]},
        customdata=[_region_hover(venn, r, union) for r in regions],
        hovertemplate=_REGION_HOVER,
    )


def _dots(regions: list[int], k: int, *, member: bool) -> go.Scatter:
    places = [(x, i) for x, region in enumerate(regions) for i in range(k) if bool(region >> i & 1) == member]
    return go.Scatter(
        x=[x for x, _ in places],
        y=[i for _, i in places],
        mode="markers",
        hoverinfo="skip",
        marker={"size": 10, "color": theme.SERIES[0] if member else theme.FAINT},
    )
