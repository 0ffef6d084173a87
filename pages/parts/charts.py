"""Figures on the page. One place for how a chart sits there: width, theme, toolbar, words for a screen reader."""

from __future__ import annotations

import streamlit as st

from analysis.figures.theme import Figure

_CONFIG = {
    "displaylogo": False,
    "modeBarButtons": [["toImage"]],
    "toImageButtonOptions": {"format": "svg", "filename": "subnetscope"},
}


# Of words inside a figure and of those at its axes; Streamlit's own for light axes is too pale for small text.
INK_OF_THEME = {"light": ("#1b1f24", "#545a63"), "dark": ("#f2f4f6", "#c3c7cc")}


def show(figure: Figure, what: str) -> None:
    """The figure, `what` it shows in words for those who cannot see it."""
    st.plotly_chart(_inked(figure), width="stretch", config=_CONFIG, alt=what, key=f"chart-{what}")


def show_clickable(figure: Figure, what: str) -> tuple[float, float] | None:
    """The figure; (x, y) of the point that was clicked, if one was."""
    event = st.plotly_chart(
        _inked(figure),
        width="stretch",
        config=_CONFIG,
        alt=what,
        key=f"chart-{what}",
        on_select="rerun",
        selection_mode="points",
    )
    points = event["selection"]["points"]
    return (points[0]["x"], points[0]["y"]) if points else None


def _inked(figure: Figure) -> Figure:
    """The figure with its words in inks that read in the theme of the page."""
    inside, beside = INK_OF_THEME.get(st.context.theme.type or "", (None, None))
    if beside:
        figure.update_annotations(font_color=inside)
        for update in (figure.update_xaxes, figure.update_yaxes, figure.update_coloraxes):
            prefix = "colorbar_" if update == figure.update_coloraxes else ""
            update({f"{prefix}tickfont_color": beside, f"{prefix}title_font_color": beside})
        figure.update_layout(legend_font_color=inside)
    return figure
