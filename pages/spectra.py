"""Along how many directions the update points: over the layers, matrix against matrix, one matrix everywhere."""

import streamlit as st

from analysis import rollup
from analysis.figures import curves, spectra
from analysis.metrics import CATALOG
from analysis.tables import spectrum_rows
from pages.parts import charts, comparing_spectra, flow, lookups, numbers, panels, pickers, sides

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
view, names, drawn = comparing_spectra.chosen(view, pair, measured, own=own)
in_order = view.one("over") == "layers"
with_noise = comparing_spectra.has_noise(view, drawn)
values, energy = st.columns(2, gap="large")
with values:
    charts.show(spectra.singular_values(drawn, with_noise=with_noise, in_order=in_order), "Singular values")
with energy:
    curves_of_energy = [rollup.energy_curve(one, label) for label, one in drawn]
    charts.show(spectra.energy(curves_of_energy, in_order=in_order), "Energy")
comparing_spectra.legend(view, drawn)
shifts = sides.show(pair, names) if names and not own else []

more = {"singular-values": spectrum_rows(drawn)} | ({"spectral-shifts": shifts} if shifts else {})
numbers.take_away(view, lookups.tensor_rows(pair.key), "spectra", **more)
