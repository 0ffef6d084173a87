"""What happened to the parameters while a model was trained: sparsity, fates and patch sizes over its checkpoints."""

import streamlit as st

from analysis.course_report import patch_rows, step_rows
from analysis.dynamics import MEASURES
from analysis.figures import steps
from pages.parts import charts, checkpoints, courses, pickers, take

st.header("Training dynamics", anchor=False)
view, series, axis = checkpoints.open_series()
rule, fitted = checkpoints.choices(view)
checkpoints.follow_or_wait(series)

from_base, from_previous = courses.landed(series, "base"), courses.landed(series, "previous")
run = courses.course(series, rule)
checkpoints.headline(series, run, from_base, rule)

sparsity, growth = st.columns(2, gap="large")
with sparsity:
    st.subheader("Unchanged over the run", anchor=False)
    lines = courses.sparsity(series, rule)
    charts.show(steps.sparsity_over_steps(lines, axis, fitted=fitted), "Unchanged share over the steps")
with growth:
    st.subheader("Growth of what changed", anchor=False)
    if run:
        charts.show(steps.union_growth(run, axis, fitted=fitted), "Changed entries over the steps")
    else:
        checkpoints.not_counted()

st.subheader("What became of the entries", anchor=False)
if run:
    charts.show(steps.fates_over_steps(run, axis, fitted=fitted), "Fates of all entries over the steps")
    checkpoints.left_out(series, run)
else:
    checkpoints.not_counted()

st.subheader("Layer by layer", anchor=False)
what, rows = checkpoints.grid_choices(view)
grid = courses.grid(series, rule, what, rows)
st.caption(MEASURES[what].help)
charts.show(steps.step_heatmap(grid, axis, fitted=fitted, rows=rows), MEASURES[what].title)

st.subheader("Size of a lossless sparse patch", anchor=False)
against = pickers.patch_from(view)
sizes = courses.patches(series, against)
checkpoints.patch_words()
charts.show(steps.patch_sizes(sizes, axis), "Patch size over the steps")
checkpoints.patch_table(patch_rows(axis, against, sizes))

st.subheader("All numbers", anchor=False)
table = step_rows(series, axis, rule, from_base, from_previous, run)
checkpoints.table(table)
take.menu(view)
