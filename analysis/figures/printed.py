"""Figure -> the same figure for paper: white ground, black text of 8 points, one or two columns wide, nothing to hover.

Cells of a heatmap become vectors, which Plotly's own heatmaps are not; only very many stay a picture.
"""

from __future__ import annotations

import copy
import html
import json
import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from analysis.figures import theme

WIDTHS = {"3.5": 3.5, "7": 7.0}  # inches: one column, two columns
DPI = 300
CSS_DPI = 96
MOST_VECTORS = 6000  # cells

_POINTS = 8.0
_SCALE = _POINTS / 72 * CSS_DPI / 13  # the screen's text is 13 pixels
_INK = "#1a1a1a"
_FONT = "Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"
_CELL = 0.94
_ROOM_FOR_TEXT = 38  # pixels a cell needs for its number
_MARGIN = {"l": 6, "r": 6, "t": 10, "b": 6}
_MARKER_OF_COLUMN = 0.85
_TEXT = _POINTS / 72 * CSS_DPI  # pixels
_COLOUR_BAR = 80  # pixels, with its numbers and title
_BETWEEN_TICKS = 4  # pixels
_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_LEGEND_LINE = 17  # pixels
_LEAST_WIDTH = 520  # pixels; at 3.5 inches its text has 5.2 points


def printed(figure: go.Figure, inches: float) -> go.Figure:
    """The figure as it is laid out for this width, in pixels of CSS; its height follows the screen's, at the scale of
    the text. One that is dense with text is laid out wider, and `to_html` makes it smaller."""
    layout = _scaled(copy.deepcopy(figure.to_plotly_json()["layout"]))
    own = layout.get("margin", {})
    width = max(inches * CSS_DPI, _LEAST_WIDTH if _is_dense(figure) else 0)
    template = layout.setdefault("template", {}).setdefault("layout", {})
    template["font"] = {**template.get("font", {}), "family": _FONT, "color": _INK}
    layout |= {
        "width": round(width),
        "height": round(float(layout.get("height") or 360) * _SCALE),
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {side: max(least, _SCALE * own.get(side, 0)) for side, least in _MARGIN.items()},
        "hovermode": False,
    }
    over_cells = any(trace.type == "heatmap" for trace in figure.data)  # elsewhere axes may take their range from them
    drawn = [trace for trace in figure.data if not (over_cells and _invisible(trace))]
    traces = [_trace(trace, width) for trace in drawn]
    _fit_markers(traces, width)
    if any(trace["type"] == "bar" and isinstance(trace.get("base"), np.ndarray) for trace in traces):
        layout["barmode"] = "overlay"
    if over_cells:
        _thin_ticks(layout.get("xaxis", {}), _beside_names(layout, width))
    _add_legend(layout, [trace for trace in traces if trace.get("name") and trace.get("showlegend") is not False])
    return go.Figure(data=traces, layout=layout)


def _beside_names(layout: dict[str, Any], width: float) -> float:
    """About the pixels that cells have between the names of their rows and the colour bar."""
    names = layout.get("yaxis", {}).get("ticktext") or ("",)
    longest = max(theme.ems(html.unescape(str(name))) for name in names) * _TEXT
    return max(width - longest - _COLOUR_BAR, width / 5)


def _thin_ticks(axis: dict[str, Any], width: float) -> None:
    """Numbers below columns of cells at even steps, upright and clear of each other. A word before them ('outside')
    goes one line down where it would reach into the first."""
    texts = [str(text) for text in axis.get("ticktext") or ()]
    if not any(text.isdigit() for text in texts):
        return
    low, high = axis["range"]
    column = width / (high - low)
    widths = [theme.ems(text) * _TEXT for text in texts]
    widest = max(room for text, room in zip(texts, widths, strict=True) if text.isdigit())
    step = next((step for step in _STEPS if step * column >= widest + _BETWEEN_TICKS), _STEPS[-1])
    kept: list[tuple[Any, str]] = []
    end = -math.inf
    for at, text, room in zip(axis["tickvals"], texts, widths, strict=True):
        if text.isdigit() and int(text) % step:
            continue
        left = at * column - room / 2
        if left < end + _BETWEEN_TICKS and len(kept) == 1 and not kept[0][1].isdigit():
            kept[0] = kept[0][0], f"<br>{kept[0][1]}"
            end = -math.inf
        if left >= end + _BETWEEN_TICKS:
            kept.append((at, text))
            end = at * column + room / 2
    axis |= {"tickvals": [at for at, _ in kept], "ticktext": [text for _, text in kept], "tickangle": 0}


def _fit_markers(traces: list[dict[str, Any]], width: float) -> None:
    """Markers no wider than the columns of bars they stand on: on paper many bars have less room than on the page."""
    columns = max((len(trace["x"]) for trace in traces if trace["type"] == "bar" and "base" not in trace), default=1)
    widest = _MARKER_OF_COLUMN * width / 2 / max(columns, 1)
    for trace in traces:
        size = trace.get("marker", {}).get("size") if trace["type"] == "scatter" else None
        if isinstance(size, int | float) and trace.get("mode", "").startswith("markers"):
            trace["marker"]["size"] = min(size, widest)


def _add_legend(layout: dict[str, Any], named: list[dict[str, Any]]) -> None:
    """A legend below a figure of several lines that has none: on the page its neighbour's serves both."""
    if layout.get("showlegend") is False and len(named) > 1:
        layout |= {"showlegend": True, "legend": {"y": -0.24, "yanchor": "top", "x": 0}}
        layout["height"] += _LEGEND_LINE * len(named) + 10


def to_html(figure: go.Figure, form: str, title: str, inches: float) -> str:
    """The printed figure at this width, as a page without any other file: 'pdf' is to be printed, of 'png' and 'svg'
    the picture stands in it as text. Nothing in it can ask a network: its own policy forbids that."""
    width, height = int(figure.layout.width), int(figure.layout.height)
    drawn = figure.to_json().replace("<", "\\u003c")
    size = {"format": form, "width": width, "height": height, "scale": DPI * inches / width if form == "png" else 1}
    show = "Plotly.newPlot('plot', figure.data, figure.layout, {staticPlot: true})"
    write = f"Plotly.toImage(figure, {json.dumps(size)}).then(u => out(u), e => out('failed ' + e))"
    return _PAGE.format(
        page=f"{inches}in {height * inches / width}in",
        zoom=inches * CSS_DPI / width,
        title=json.dumps(title).replace("<", "\\u003c"),
        plotly=get_plotlyjs(),
        figure=drawn,
        action=show if form == "pdf" else write,
    )


_PAGE = """<!doctype html><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<style>@page {{ size: {page}; margin: 0 }} body {{ margin: 0; zoom: {zoom} }}</style>
<body><div id="plot"></div><script>{plotly}</script><script>
document.title = {title};
const figure = {figure};
const out = text => {{
  document.documentElement.innerHTML = '<body><pre id="out"></pre>';
  document.getElementById('out').textContent = text;
}};
{action};
</script>"""


def _scaled(node: Any, within: str = "") -> Any:
    """Sizes of fonts at the scale of paper, wherever they stand."""
    if isinstance(node, dict):
        return {
            name: value * _SCALE
            if name == "size" and within.endswith("font") and isinstance(value, int | float)
            else _scaled(value, name)
            for name, value in node.items()
        }
    return [_scaled(one, within) for one in node] if isinstance(node, list | tuple) else node


def _is_dense(figure: go.Figure) -> bool:
    """Whether it is drawn to scale with words around it, or has several lines of text in a cell."""
    to_scale = figure.layout.xaxis.scaleanchor or figure.layout.yaxis.scaleanchor
    texts = (str(trace.text) for trace in figure.data if trace.type == "heatmap" and trace.text is not None)
    return bool(to_scale) or any("<br>" in text for text in texts)


def _invisible(trace: Any) -> bool:
    """Whether a trace is only there to be pointed at."""
    return trace.type == "scatter" and trace.mode == "markers" and trace.marker.opacity == 0


def _trace(trace: Any, width: float) -> dict[str, Any]:
    plain = {
        name: value
        for name, value in _scaled(copy.deepcopy(trace.to_plotly_json())).items()
        if name not in ("customdata", "hovertemplate", "selected", "unselected")
    }
    positions = trace.type == "heatmap" and trace.x is None and trace.y is None
    if positions and np.size(trace.z) <= MOST_VECTORS:
        return _cells(trace, plain, width)
    return plain | {"hoverinfo": "skip"}


def _cells(trace: Any, plain: dict[str, Any], width: float) -> dict[str, Any]:
    """The heatmap as one bar a cell, since bars are vectors; its numbers carry their ink with them (see `ink`)."""
    values = np.asarray(trace.z, np.float64)
    rows, columns = np.nonzero(np.isfinite(values))
    bars: dict[str, Any] = {
        "type": "bar",
        "x": columns,
        "y": np.full(len(columns), _CELL),
        "base": rows - _CELL / 2,
        "width": _CELL,
        "marker": {"color": values[rows, columns], "coloraxis": "coloraxis", "line": {"width": 0}},
        "showlegend": False,
        "hoverinfo": "skip",
    }
    if trace.text is not None and width / 2 / values.shape[1] >= _ROOM_FOR_TEXT:
        bars["text"] = [str(trace.text[i][j]) for i, j in zip(rows, columns, strict=True)]
        bars |= {"textposition": "inside", "insidetextanchor": "middle", "textangle": 0, "constraintext": "none"}
        bars["textfont"] = plain.get("textfont", {})
    return bars
