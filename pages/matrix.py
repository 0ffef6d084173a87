"""One matrix in depth: where in it the changes lie, how large they are, along which directions they point."""

import streamlit as st

from analysis.tables import number_rows
from pages.parts import attention, charts, flow, lookups, one_matrix, panels, pickers, sides, take, views

view, pair = panels.open_pair("matrix", "One matrix")
known = one_matrix.choose(view, pair.key)
tally = one_matrix.measured(pair.key, known)
spectrum = lookups.spectrum(pair.key, known.name)
own = one_matrix.own_update(pair.key, known)
pickers.unchanged_by(view)
preview = None if spectrum else lookups.preview(pair.key, known.name)
one_matrix.headline(view, tally, spectrum, preview)
table = number_rows(known, tally, spectrum)
if own:
    one_matrix.own_headline(known, *own)
elif tally.unchanged("exact") == tally.entries:
    st.info("No entry of this tensor changed, so nothing of it can be drawn.")
    one_matrix.all_numbers(table)
    take.menu(view)
    flow.stop()

heads = attention.heads(pair.key, known)
if len(tally.row_changes) > 1:
    where, along = st.columns(2, gap="large")
    with where:
        st.subheader("Where in the matrix", anchor=False)
        pickers.colours(view)
        charts.show(views.block_map(view), "Changed entries by block")
    with along:
        st.subheader("Along its rows and columns", anchor=False)
        charts.show(views.along("row", view), "Changed share by row")
        charts.show(views.along("column", view), "Changed share by column")
        if heads:
            st.caption(f"Parted by head: {heads.words}.")
else:
    st.subheader("Along the vector", anchor=False)
    charts.show(views.along("column", view), "Changed entries along the vector")

st.caption(
    "Rows, columns and blocks show changed shares, counted under the exact rule, whatever counts as unchanged above. "
    "Darker blocks: more of them changed."
)
attention.show_most_changed(pair.key, known, tally)
sizes, magnitude = st.columns(2, gap="large")
with sizes:
    st.subheader("How large the changes are", anchor=False)
    one_matrix.unit_words(known, tally, pickers.sizes(view))
    charts.show(views.change_sizes(view), "Changed entries by size of change")
with magnitude:
    st.subheader("Which weights changed", anchor=False)
    charts.show(views.by_magnitude(view), "Changed share by base magnitude")

if spectrum and not spectrum.reason:
    st.subheader("Directions of the update", anchor=False)
    drawn = one_matrix.updates_to_draw(known, spectrum, own)
    values, energy = st.columns(2, gap="large")
    with values:
        charts.show(views.matrix_values(view), "Singular values")
    with energy:
        charts.show(views.matrix_energy(view), "Energy")
    one_matrix.against_noise(spectrum, tally)
elif preview:
    st.subheader("Directions of the update, preview", anchor=False)
    charts.show(views.matrix_values(view), "Singular values, preview")
    one_matrix.preview_words()
elif known.is_matrix:
    one_matrix.no_spectrum(pair.key, known, spectrum)

if known.is_matrix:
    sides.show(pair, [known.name])

one_matrix.all_numbers(table)
take.menu(view)
