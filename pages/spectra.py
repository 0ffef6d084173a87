"""Along how many directions the update points, over the layers and matrix against matrix."""

import streamlit as st

from analysis.metrics import CATALOG
from pages.parts import charts, flow, lookups, panels, pickers, take, views

view, pair = panels.open_pair("spectra", "Spectra")
if lookups.alignment(pair.key).is_adapter:
    pickers.own_update(view)
measured = views.measured_spectra(view)
if not measured:
    panels.no_spectra(pair.key)
    flow.stop()

metric = CATALOG[pickers.metric(view)]
st.caption(metric.help)
charts.show(views.layer_profiles(view.choosing("metric", metric.key)), metric.title)

st.subheader("Matrix against matrix", anchor=False)
names = lookups.names_to_choose(pair.key, measured)
asked = pickers.several(view, "matrix", "Matrices", names, lookups.middle_layer(pair.key, names))
chosen = [name for name in asked if name in measured]
view = view.choosing("matrix", *chosen)
values, energy = st.columns(2, gap="large")
with values:
    charts.show(views.chosen_values(view), "Singular values")
with energy:
    charts.show(views.chosen_energy(view), "Energy")
if len(chosen) <= views.MOST_WITH_NOISE:
    st.caption("Dotted: what unstructured noise of each matrix's size and shape would have (Marchenko and Pastur).")
take.menu(view)
