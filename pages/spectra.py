"""Along how many directions the update points: over the layers, matrix against matrix, one matrix everywhere."""

import streamlit as st

from analysis.metrics import CATALOG
from pages.parts import charts, comparing_spectra, flow, lookups, panels, pickers, sides, take, views

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
view, names = comparing_spectra.choose(view, pair, measured)
values, energy = st.columns(2, gap="large")
with values:
    charts.show(views.chosen_values(view), "Singular values")
with energy:
    charts.show(views.chosen_energy(view), "Energy")
comparing_spectra.legend(view, views.chosen_spectra(view))
if names and not views.shows_own(view):
    sides.show(pair, names)
take.menu(view)
