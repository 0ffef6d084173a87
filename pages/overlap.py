"""Whether several models tuned from one base changed the same parameters, and more so than by chance."""

import streamlit as st

from analysis.figures import venn as circles
from analysis.figures.heatmap import heatmap
from analysis.labels import short_titles
from analysis.models import Pair
from pages.parts import charts, flow, overlapping, pickers, runs, take

st.header("Overlap of runs", anchor=False)
view = overlapping.open_overlap()
pairs = tuple(Pair(view.base, model) for model in view.tuned)
labels = short_titles([model.title for model in view.tuned], [model.short_commit for model in view.tuned])
rule = view.mask_rule
overlapping.count_or_wait(view, pairs, rule)

found = runs.venn(pairs, labels, rule)
if not found.tensors:
    flow.stop()
drawing, words = st.columns([6, 5], gap="large")
with drawing:
    charts.show(circles.overlap(found), "Changed parameters of each run and their overlap")
with words:
    overlapping.explain(found)

st.subheader("Run against run", anchor=False)
overlapping.table(found)
if len(pairs) > 2:
    one_sided, jaccard = st.columns(2, gap="large")
    with one_sided:
        st.caption("Of what the row's run changed, the share that the column's changed too, over both chance levels.")
        charts.show(circles.pair_matrix(found), "One-sided overlaps")
    with jaccard:
        st.caption("Jaccard index: changed by both over changed by either.")
        charts.show(circles.pair_matrix(found, "jaccard"), "Jaccard indices")

st.subheader("Layer by layer", anchor=False)
what, who, span = st.columns([3, 5, 3], vertical_alignment="bottom")
with what:
    measure = pickers.measure(view)
with who:
    of, other = pickers.two_models(view, labels)
with span:
    fitted = pickers.colours(view)
grid = runs.overlap_by_place(pairs, measure, rule, of, other)
st.caption(grid.metric.help)
charts.show(heatmap(grid, fitted=fitted), grid.metric.title)
take.menu(view)
