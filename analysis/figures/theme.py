"""One look for every figure: colours that read on white and on near-black and for the colour-blind.

Backgrounds are transparent and neutral parts are greys between both themes, so that one figure serves light and dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from analysis.labels import power_of_ten, shorten, tolerance_text, visible

Figure = go.Figure

# Okabe & Ito's palette without its yellow and black, which vanish on white and on black; its blue a little lighter.
SERIES = ("#1F83C9", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C")
DASHES = ("solid", "dash", "dot", "dashdot")
NEUTRAL = "#808080"
FAINT = "rgba(128,128,128,0.22)"
PALE = "rgba(128,128,128,0.38)"
INK = "#75777c"

# Lightness rises evenly from end to end, so that both read for the colour-blind and in print; neither end vanishes on
# white or on near-black. Cold for every share, warm for what spans decades.
SHARE_COLOURS = ("#2e1e3c", "#413d7b", "#37659e", "#348fa7", "#40b7ad", "#8bdab2", "#c3edcf")
DECADE_COLOURS = ("#35193e", "#611f53", "#93235b", "#c43a54", "#e56f50", "#f2a272", "#f7d0ae")

_FONT = "Source Sans, system-ui, -apple-system, Segoe UI, sans-serif"
_TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": _FONT, "size": 13, "color": INK},
        "hoverlabel": {"align": "left", "font": {"family": _FONT, "size": 13}},
        "colorway": SERIES,
        "legend": {"bgcolor": "rgba(0,0,0,0)", "font": {"size": 12}},
    }
)


def figure(*, height: int, **layout: Any) -> go.Figure:
    """An empty figure in the theme. Text colours stand in the template, where the page's own theme replaces them."""
    look = {
        "template": _TEMPLATE,
        "height": height,
        "margin": {"l": 8, "r": 8, "t": 12, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "dragmode": False,
        "hovermode": "closest",
    }
    return go.Figure(layout=look | layout)


def axis(title: str = "", **settings: Any) -> dict[str, Any]:
    """An axis of a line plot: faint grid, no zero line, room made for its own labels."""
    return {
        "title": {"text": html.escape(title), "font": {"size": 13}, "standoff": 14},
        "gridcolor": FAINT,
        "linecolor": FAINT,
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": FAINT,
        "ticklen": 4,
        "automargin": True,
        "ticklabeloverflow": "allow",
        **settings,
    }


def bare_axis(**settings: Any) -> dict[str, Any]:
    """An axis that only places cells: no grid, no line."""
    return axis(**{"showgrid": False, "showline": False, "ticks": "", "fixedrange": True, **settings})


def share_axis(title: str, **settings: Any) -> dict[str, Any]:
    """0 to 100 %, whatever the data: a share has a fixed meaning."""
    return axis(title, **{"range": [-0.01, 1.01], "tickformat": ".0%", "dtick": 0.2, "fixedrange": True, **settings})


def log_axis(title: str, low: float, high: float, **settings: Any) -> dict[str, Any]:
    """A logarithmic axis from `low` to `high` with ticks at whole decades, written as powers of ten; where fewer than
    two of them lie in it, also at 2 and 5."""
    decades = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    decades = decades[:: max(1, math.ceil(len(decades) / 10))]
    ticks = [10.0**d for d in decades]
    texts = [power_of_ten(d) for d in decades]
    if len(ticks) < 2:
        ticks = [m * 10.0**d for d in _decades_around(low, high) for m in (1, 2, 5) if low <= m * 10.0**d <= high]
        texts = [tolerance_text(tick) for tick in ticks]
    return axis(
        title,
        type="log",
        range=[math.log10(low), math.log10(high)],
        tickvals=ticks,
        ticktext=texts,
        tickangle=0,
        **settings,
    )


def _decades_around(low: float, high: float) -> range:
    return range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)


def count_axis(title: str, most: float, **settings: Any) -> dict[str, Any]:
    """A logarithmic axis from 1 to `most` for whole numbers, with ticks at 1, 2, 5, 10, 20 ..."""
    ticks = [step * 10**decade for decade in range(7) for step in (1, 2, 5) if step * 10**decade <= most]
    return axis(
        title,
        type="log",
        range=[0, math.log10(max(most, 2))],
        tickvals=ticks,
        ticktext=[f"{tick:,}" for tick in ticks],
        **settings,
    )


def share_colours(
    top: float = 1.0, bottom: float = 0.0, title: str = "", *, of_changes: bool = False
) -> dict[str, Any]:
    """A colour axis for shares, by default from 0 to 1 even where the data is narrower. Dark is much changed: the low
    end of an unchanged share, the high end of a share `of_changes`."""
    fine = top - bottom < 0.1
    return {
        "colorscale": SHARE_COLOURS[::-1] if of_changes else SHARE_COLOURS,
        "cmin": bottom,
        "cmax": top,
        "colorbar": _colorbar(title) | {"tickformat": ".2%" if fine else ".0%"},
    }


def decade_colours(values: NDArray[np.float64], title: str = "") -> dict[str, Any]:
    """A colour axis for log10 of `values` (its positive ones), whole decades, with ticks that show the value itself."""
    positive = values[np.isfinite(values) & (values > 0)]
    low = math.floor(math.log10(positive.min())) if positive.size else 0
    high = max(math.ceil(math.log10(positive.max())) if positive.size else 1, low + 1)
    ticks = list(range(low, high + 1, max(1, math.ceil((high - low) / 8))))
    return {
        "colorscale": DECADE_COLOURS,
        "cmin": low,
        "cmax": high,
        "colorbar": _colorbar(title) | {"tickvals": ticks, "ticktext": [power_of_ten(tick) for tick in ticks]},
    }


def plain_colours(values: NDArray[np.float64], title: str = "") -> dict[str, Any]:
    """A colour axis over the data's own range, for numbers that are neither a share nor span decades."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    return {"colorscale": DECADE_COLOURS, "cmin": low, "cmax": max(high, low + 1e-12), "colorbar": _colorbar(title)}


def _colorbar(title: str) -> dict[str, Any]:
    return {
        "title": {"text": html.escape(title), "side": "right", "font": {"size": 12}},
        "thickness": 10,
        "outlinewidth": 0,
        "ticks": "outside",
        "tickcolor": FAINT,
        "ticklen": 4,
        "tickfont": {"size": 12},
        "xpad": 6,
    }


def tick(name: str, limit: int = 30) -> str:
    """A stranger's name as tick or legend text: strange characters spelled out, shortened in the middle, escaped."""
    return _escaped(shorten(visible(name), limit))


def full(name: str) -> str:
    """A stranger's name in full, for hover text."""
    return _escaped(shorten(visible(name), 200))


def ems(text: str) -> float:
    """About how wide `text` is, in sizes of its font: a sans serif's digits and most letters take 0.556 of it."""
    return sum(0.278 if character in ",.: ilj" else 0.556 for character in text)


def _escaped(text: str) -> str:
    """`text` without markup, and never a word that Plotly's own objects know ('__proto__' came out '[object Object]'):
    the first character stands as its number, which reads the same."""
    return f"&#{ord(text[0])};{html.escape(text[1:])}" if text.isidentifier() else html.escape(text)


def line_style(position: int) -> dict[str, Any]:
    """Colour and dash of the line at `position`, distinct for 28 of them."""
    dash = DASHES[position // len(SERIES) % len(DASHES)]
    return {"color": SERIES[position % len(SERIES)], "dash": dash, "width": 1.8}


def mark(drawn: go.Figure, words: str = "", *, x: float | None = None, y: float | None = None) -> None:
    """A thin line across the figure at `x` or at `y`, with words beside it. On a log axis too the value itself."""
    along, value, across = ("x", x, "y") if x is not None else ("y", y, "x")
    log = drawn.layout[f"{along}axis"].type == "log"
    drawn.add_shape(
        type="line",
        line={"color": NEUTRAL, "width": 1, "dash": "dot"},
        **{f"{along}0": value, f"{along}1": value, f"{across}0": 0, f"{across}1": 1, f"{across}ref": "paper"},
    )
    if words:
        drawn.add_annotation(
            text=html.escape(words),
            font={"size": 12},
            showarrow=False,
            xanchor="right" if _right_of_middle(drawn, x, log=log) else "left",
            yanchor="bottom",
            **{along: math.log10(value or 1) if log else value, across: 0.01, f"{across}ref": "paper"},
        )


def _right_of_middle(drawn: go.Figure, x: float | None, *, log: bool) -> bool:
    """Whether words at `x` have more room to the left of it."""
    if x is None or drawn.layout.xaxis.range is None:
        return False
    low, high = drawn.layout.xaxis.range
    return (math.log10(x) if log else x) > (low + high) / 2


def every(count: int, at_most: int) -> Sequence[int]:
    """Evenly spaced positions, at most `at_most` of them, for ticks that don't collide."""
    return range(0, count, max(1, math.ceil(count / at_most)))
