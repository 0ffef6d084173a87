"""One metric over layers and matrices, attention heads over layers; a click opens the matrix."""

import streamlit as st

from analysis.figures.heatmap import cell_at, heatmap
from analysis.links import beside
from analysis.metrics import CATALOG
from pages.parts import address, attention, charts, flow, lookups, panels, pickers, take

view, pair = panels.open_pair("layers", "Layers and matrices")

chosen, span = st.columns([3, 2], vertical_alignment="bottom")
with chosen:
    pickers.metric(view)
metric = view.metric
with span:
    fitted = pickers.colours(view) if CATALOG[metric].scale == "share" else False
if metric == view.unchanged_metric:
    pickers.unchanged_by(view)

grid = lookups.grid(pair.key, metric, view.one("tolerance"))
st.caption(grid.metric.help)
if not grid.modules:
    st.info("No tensor of this pair has this metric: it needs matrices.")
    flow.stop()
clicked = charts.show_clickable(heatmap(grid, fitted=fitted), grid.metric.title)
if clicked and (names := cell_at(grid, *clicked)):
    address.go(beside("matrix", view.base, view.tuned[0], view.choices, name=names[0]))
darker = " Darker: more of it changed." if metric == view.unchanged_metric else ""
st.caption(f"Click a cell to open its matrix.{darker}")
attention.over_layers(view, pair.key)
take.menu(view)
