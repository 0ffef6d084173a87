"""Venn -> Figure: the changed parameters of two or three runs as circles."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go

from analysis.figures import circles, theme
from analysis.labels import count, percent
from analysis.overlaps import Venn

NOTABLE_ERROR = 0.02  # of the union: from here on the figure says that its areas are approximate
MOST_CIRCLES = 3
_PAPER_IN_EMS = (44.0, 26.0)  # room for circles at 3.5 inches, width and height, beside names and notes
_HEIGHT_IN_EMS, _CLEAR_IN_EMS = 0.75, 0.4  # of a number's digits; between them and a region's lines
_FROM_CIRCLE = 4  # pixels between a name and its circle
_REGION_HOVER = "%{customdata[0]}<br><b>%{customdata[1]}</b> entries<br>%{customdata[2]} of all changed<extra></extra>"


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
        yshift=_FROM_CIRCLE if away[1] >= 0 else -_FROM_CIRCLE,
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
    return region_name(venn.labels, region), count(number), percent(number, union, 2)


def region_name(labels: tuple[str, ...], region: int) -> str:
    """'only run-1', 'only run-1 and run-2', 'both', for a figure."""
    names = [theme.full(label) for i, label in enumerate(labels) if region >> i & 1]
    if len(names) == len(labels):
        return "all of them" if len(labels) > 2 else "both"
    return f"only {' and '.join(names)}"


def _notes(venn: Venn, placed: circles.Layout) -> str:
    thin = [r for r in range(1, len(venn.counts)) if venn.counts[r] and not _has_room(venn, r, placed)]
    listed = [f"{_swatches(r)} {count(int(venn.counts[r]))}" for r in sorted(thin, key=lambda r: -venn.counts[r])]
    notes = ["not labelled above: " + ", ".join(listed)] if listed else []
    if placed.worst_error > NOTABLE_ERROR:
        notes.append(f"areas approximate (off by up to {100 * placed.worst_error:.0f} % of the union), counts exact")
    return "<br>".join(notes)


def _has_room(venn: Venn, region: int, placed: circles.Layout) -> bool:
    """Whether the region's number stands inside it clear of its lines: the disc that fits there holds the text's box,
    as on paper, where the drawing is smallest beside its text."""
    number = count(int(venn.counts[region]))
    box = math.hypot(theme.ems(number), _HEIGHT_IN_EMS) / 2 + _CLEAR_IN_EMS
    return placed.room.get(region, 0.0) * _side_in_ems(placed) > box


def _side_in_ems(placed: circles.Layout) -> float:
    """The drawing's longer side in widths of an em of a region's number: paper limits its height and its width."""
    width, height = (
        max(centre + radius for centre, radius in along) - min(centre - radius for centre, radius in along)
        for along in ([(c.x, c.radius) for c in placed.circles], [(c.y, c.radius) for c in placed.circles])
    )
    side = max(width, height)
    return min(_PAPER_IN_EMS[0] * side / max(width, 1e-9), _PAPER_IN_EMS[1] * side / max(height, 1e-9))


def _swatches(region: int) -> str:
    """The colours of the models a region belongs to, as dots."""
    return "".join(_dot(position) for position in range(region.bit_length()) if region >> position & 1)


def _dot(position: int) -> str:
    return f'<span style="color:{theme.SERIES[position]}">●</span>'
