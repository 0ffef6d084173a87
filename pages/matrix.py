"""One matrix in depth: where in it the changes lie, how large they are, along which directions they point."""

import streamlit as st

from analysis import rollup
from analysis.figures import density, profiles, spectra
from analysis.tables import number_rows, size_rows
from pages.parts import attention, charts, lookups, numbers, one_matrix, panels, pickers, sides

view, pair = panels.open_pair("matrix", "One matrix")
known = one_matrix.choose(view, pair.key)
tally = one_matrix.measured(pair.key, known)
spectrum = lookups.spectrum(pair.key, known.name)
own = one_matrix.own_update(pair.key, known)
pickers.unchanged_by(view)
one_matrix.headline(view, tally, spectrum)
if own:
    one_matrix.own_headline(known, *own)

heads = attention.heads(pair.key, known)
of_rows, of_columns = (heads if heads and heads.along == side else None for side in ("row", "column"))
rows, columns = len(tally.row_changes), len(tally.column_changes)
if rows > 1:
    where, along = st.columns(2, gap="large")
    with where:
        st.subheader("Where in the matrix", anchor=False)
        whole = not pickers.colours(view)
        charts.show(density.density_map(tally.density, rows, columns, whole_range=whole), "Changed entries by block")
    with along:
        st.subheader("Along its rows and columns", anchor=False)
        charts.show(profiles.along(tally.row_changes, columns, "row", of_rows), "Changed share by row")
        charts.show(profiles.along(tally.column_changes, rows, "column", of_columns), "Changed share by column")
        if heads:
            st.caption(f"Parted by head: {heads.words}.")
else:
    st.subheader("Along the vector", anchor=False)
    charts.show(profiles.along(tally.column_changes, rows, "entry", of_columns), "Changed entries along the vector")

st.caption("Rows, columns and blocks are counted under the exact rule, whatever counts as unchanged above.")
most_changed = attention.most_changed(pair.key, known, tally, heads)
more = {f"changed-{name}": found for name, found in most_changed.items()} | {"sizes": size_rows(tally)}

sizes, magnitude = st.columns(2, gap="large")
with sizes:
    st.subheader("How large the changes are", anchor=False)
    charts.show(one_matrix.sizes(view, known, tally, pickers.sizes(view)), "Changed entries by size of change")
with magnitude:
    st.subheader("Which weights changed", anchor=False)
    by_rule = one_matrix.changed_by_magnitude(view, tally)
    charts.show(profiles.by_magnitude(by_rule, tally.base_binades), "Changed share by base magnitude")

if spectrum and not spectrum.reason:
    st.subheader("Directions of the update", anchor=False)
    drawn = one_matrix.updates_to_draw(known, spectrum, own)
    values, energy = st.columns(2, gap="large")
    with values:
        charts.show(spectra.singular_values(drawn, with_threshold=True, with_noise=True), "Singular values")
    with energy:
        curves = [rollup.energy_curve(one, label) for label, one in drawn]
        noise = [rollup.noise_energy_curve(one, label) for label, one in drawn]
        charts.show(spectra.energy(curves, noise=noise), "Energy")
    one_matrix.against_noise(spectrum, tally)
elif known.is_matrix:
    one_matrix.no_spectrum(pair.key, known, spectrum)

if known.is_matrix:
    more |= {"spectral-shift": shifts} if (shifts := sides.show(pair, [known.name])) else {}

table = number_rows(known, tally, spectrum)
st.subheader("All numbers", anchor=False)
one_matrix.all_numbers(table)
numbers.take_away(view, table, "matrix", **more)
