"""Along how many directions the update points, over the layers and matrix against matrix."""

import streamlit as st

from analysis import rollup
from analysis.figures import curves, spectra
from analysis.metrics import CATALOG
from analysis.tables import tensor_rows
from pages.parts import charts, flow, lookups, numbers, panels, pickers

view, pair = panels.open_pair("spectra", "Spectra")
found = lookups.spectra(pair.key)
measured = {name: spectrum for name, spectrum in found.items() if not spectrum.reason}
if not measured:
    panels.no_spectra(pair.key)
    flow.stop()

metric = CATALOG[pickers.metric(view)]
st.caption(metric.help)
charts.show(curves.layer_profiles(lookups.profile(pair.key, metric.key), metric), metric.title)

st.subheader("Matrix against matrix", anchor=False)
names = [entry.name for entry in lookups.alignment(pair.key).pairs if entry.name in measured]
chosen = pickers.several(view, "matrix", "Matrices", names, lookups.middle_layer(pair.key, names))
values, energy = st.columns(2, gap="large")
with values:
    charts.show(spectra.singular_values([(name, measured[name]) for name in chosen]), "Singular values")
with energy:
    charts.show(spectra.energy([rollup.energy_curve(measured[name], name) for name in chosen]), "Energy")
numbers.take_away(view, tensor_rows(lookups.alignment(pair.key), lookups.tallies(pair.key), measured), "spectra")
