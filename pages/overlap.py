"""Whether several models tuned from one base changed the same parameters, and more so than by chance."""

import streamlit as st

from analysis.figures import pairs as pairwise
from analysis.figures import upset, venn
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
overlapping.warn_of_strangers(pairs, labels)
overlapping.left_out(pairs, labels)

found = runs.venn(pairs, labels, rule)
if not found.tensors:
    flow.stop()
in_circles = len(pairs) <= venn.MOST_CIRCLES and pickers.drawn_as(view) == "circles"
drawing, words = st.columns([6, 5], gap="large") if in_circles else (st.container(), st.container())
with drawing:
    drawn = venn.circle_diagram(found) if in_circles else upset.upset(found)
    charts.show(drawn, "Changed parameters of each run and their overlap")
with words:
    overlapping.explain(found, runs.stored_in(pairs))

st.subheader("Run against run", anchor=False)
if len(pairs) > 2:
    by = pickers.pairs_by(view)
    st.caption(overlapping.caption_of_pairs(by, len(pairs)))
    charts.show(pairwise.pair_matrix(found, by), "Run against run")
overlapping.table(found)

st.subheader("How many runs agree", anchor=False)
bars, table = st.columns(2, gap="large")
with bars:
    charts.show(upset.agreement(found), "Parameters changed by exactly so many runs")
with table:
    overlapping.agreement_table(found)
overlapping.consensus_map(view, pairs, rule)

st.subheader("Layer by layer", anchor=False)
how_many, shown, span = st.columns([3, 4, 4], vertical_alignment="bottom")
with how_many:
    n_runs = pickers.n_runs(view, len(pairs))
with shown:
    agree = pickers.agreement(view)
with span:
    fitted = pickers.colours(view)
agreeing = runs.agreement_by_place(pairs, agree, rule, n_runs)
st.caption(agreeing.metric.help)
charts.show(heatmap(agreeing, fitted=fitted), "Agreement of the runs by layer and matrix")

what, who = st.columns([3, 8], vertical_alignment="bottom")
with what:
    measure = pickers.measure(view)
with who:
    of, other = pickers.two_models(view, labels)
grid = runs.overlap_by_place(pairs, measure, rule, of, other)
st.caption(grid.metric.help)
charts.show(heatmap(grid, fitted=fitted), grid.metric.title)
take.menu(view)
