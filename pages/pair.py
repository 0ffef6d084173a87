"""A pair at a glance: how much changed, on what that stands, and what follows, in numbers and in words."""

import streamlit as st

from analysis.links import EDGE_OF_TOLERANCE, view_of
from analysis.published import published
from analysis.summary import summarize
from pages.parts import address, charts, flow, lookups, numbers, overview, panels, pickers, runs, take, views

view, pair = panels.open_pair("pair", "Overview")
alignment, found = lookups.part(pair.key), lookups.headline(pair.key)
overview.headline(found, alignment)
overview.alerts(lookups.alerts(pair.key), pair)
adapter = lookups.adapter(pair.key)
if adapter:
    overview.both_updates(adapter)
if not found.entries:
    numbers.failures(lookups.gaps(pair.key))
    flow.stop()
if known := published().find(*view.models):
    overview.published(known, lookups.ours(pair.key))

words, drawing = st.columns([5, 7], gap="large")
with words:
    st.subheader("In words", anchor=False)
    for sentence in summarize(found, alignment, adapter):
        st.markdown(sentence)
    overview.matches(alignment)
    numbers.not_compared(lookups.alignment(pair.key))
    numbers.failures(lookups.gaps(pair.key))
    address.link("Where it changed: layers and matrices", view_of("layers", *view.models))
    address.link("Along how many directions: spectra", view_of("spectra", *view.models))
    address.link("Did another run change the same: overlap", runs.overlap_view(pair))
with drawing:
    st.subheader("Unchanged share over tolerance", anchor=False)
    tolerance = pickers.tolerance(view)
    overview.at_tolerance(tolerance, lookups.tolerance_curve(pair.key).y[EDGE_OF_TOLERANCE[tolerance]])
    charts.show(views.over_tolerance(view.choosing("tolerance", tolerance)), "Unchanged share over tolerance")
    overview.rule_table(found)
take.menu(view)
