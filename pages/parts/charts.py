"""Figures on the page. One place for how a chart sits there: width, theme, toolbar, words for a screen reader."""

from __future__ import annotations

import streamlit as st

from analysis.figures.theme import Figure

_CONFIG = {
    "displaylogo": False,
    "modeBarButtons": [["toImage"]],
    "toImageButtonOptions": {"format": "svg", "filename": "subnetscope"},
}


_INK_OF_THEME = {"light": "#1b1f24", "dark": "#f2f4f6"}


def show(figure: Figure, what: str) -> None:
    """The figure, `what` it shows in words for those who cannot see it. Words inside it take the page's own ink: on
    coloured ground the theme's paler one for axes would be lost."""
    figure.update_annotations(font_color=_INK_OF_THEME.get(st.context.theme.type or ""))
    st.plotly_chart(figure, width="stretch", config=_CONFIG, alt=what, key=f"chart-{what}")


def show_clickable(figure: Figure, what: str) -> tuple[float, float] | None:
    """The figure; (x, y) of the point that was clicked, if one was."""
    event = st.plotly_chart(
        figure,
        width="stretch",
        config=_CONFIG,
        alt=what,
        key=f"chart-{what}",
        on_select="rerun",
        selection_mode="points",
    )
    points = event["selection"]["points"]
    return (points[0]["x"], points[0]["y"]) if points else None
