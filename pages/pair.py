"""A pair at a glance: how much changed, on what that stands, and what follows, in numbers and in words."""

import streamlit as st

from analysis.labels import rule_title
from analysis.links import beside
from analysis.published import published
from analysis.summary import summarize
from pages.parts import address, charts, flow, lookups, numbers, overview, panels, pickers, runs, take, views

view, pair = panels.open_pair("pair", "Overview")
alignment, found = lookups.part(pair.key), lookups.headline(pair.key)
pickers.unchanged_by(view)
chosen = rule_title(view.one("rule"), view.one("tolerance"))
unchanged = lookups.unchanged(pair.key, view.unchanged_metric, view.one("tolerance"))
overview.headline(found, alignment, {chosen: unchanged})
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
    address.link("Where it changed: layers and matrices", beside("layers", pair.base, pair.tuned, view.choices))
    address.link("Along how many directions: spectra", beside("spectra", pair.base, pair.tuned, view.choices))
    address.link("Did another run change the same parameters: overlap of runs", runs.overlap_view(pair))
with drawing:
    st.subheader("Unchanged share over tolerance", anchor=False)
    charts.show(views.over_tolerance(view), "Unchanged share over tolerance")
    overview.rule_table(found)
take.menu(view)
