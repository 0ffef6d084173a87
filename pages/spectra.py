"""Along how many directions the update points, over the layers and matrix against matrix."""

import streamlit as st

from analysis import rollup
from analysis.figures import curves, spectra
from analysis.metrics import CATALOG
from pages.parts import charts, flow, lookups, numbers, panels, pickers

MOST_WITH_NOISE = 4  # lines; more would hide each other

view, pair = panels.open_pair("spectra", "Spectra")
own = lookups.alignment(pair.key).is_adapter and pickers.own_update(view)
found = lookups.own_updates(pair.key).spectra if own else lookups.spectra(pair.key)
measured = {name: spectrum for name, spectrum in found.items() if not spectrum.reason}
if not measured:
    panels.no_spectra(pair.key)
    flow.stop()

metric = CATALOG[pickers.metric(view)]
st.caption(metric.help)
charts.show(curves.layer_profiles(lookups.profile(pair.key, metric.key, own=own), metric), metric.title)

st.subheader("Matrix against matrix", anchor=False)
names = lookups.names_to_choose(pair.key, measured)
asked = pickers.several(view, "matrix", "Matrices", names, lookups.middle_layer(pair.key, names))
chosen = [name for name in asked if name in measured]
view = view.choosing("matrix", *chosen)
values, energy = st.columns(2, gap="large")
with values:
    of_chosen = [(name, measured[name]) for name in chosen]
    charts.show(spectra.singular_values(of_chosen, with_noise=len(chosen) <= MOST_WITH_NOISE), "Singular values")
with energy:
    charts.show(spectra.energy([rollup.energy_curve(measured[name], name) for name in chosen]), "Energy")
if len(chosen) <= MOST_WITH_NOISE:
    st.caption("Dotted: what unstructured noise of each matrix's size and shape would have (Marchenko and Pastur).")
numbers.take_away(view, lookups.tensor_rows(pair.key), "spectra")
