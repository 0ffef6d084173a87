"""The overlap page's own parts: which models, counting them, and what the numbers mean."""

from __future__ import annotations

import streamlit as st

from analysis.errors import BadReference, SubnetscopeError
from analysis.labels import count
from analysis.links import View, to_query, view_of
from analysis.measurements import MaskRule
from analysis.models import Pair
from analysis.rollup import Venn
from analysis.summary import summarize_overlap
from analysis.tables import overlap_rows
from pages.parts import address, flow, handles, lookups, panels, pickers, runs
from pages.parts.text import safe_label


def open_overlap() -> View:
    """The view, with pickers for the base and for two to six models tuned from it. Stops the page where something is
    missing, saying what."""
    families = runs.families(handles.store().pairs())
    view = _named() or _first(families)
    _stop_at_strangers(view)
    base, rule = st.columns(2)
    with base:
        pickers.base_model("Base", view, list(families))
    with rule:
        pickers.rule(view)
    pickers.tuned_models("Models tuned from it", view, families.get(view.base, ()))
    if len(view.tuned) < 2:
        st.info("Choose at least two tuned models.")
        flow.stop()
    return view


def _named() -> View | None:
    if not address.names_models():
        return None
    try:
        return address.open_view("overlap")
    except BadReference as error:
        panels.failure(error)
        flow.stop()


def _first(families: runs.Families) -> View:
    """Without models in the address: those of the base that was chosen, or of the one with the last activity."""
    if not families:
        st.info("An overlap needs two models tuned from one base, each compared with that base here.")
        address.page_link("Compare two models", "compare")
        flow.stop()
    base = address.named_base(list(families))
    view = view_of("overlap", base, *runs.to_begin_with(base, families[base]))
    address.complete(to_query(view))
    return view


def _stop_at_strangers(view: View) -> None:
    """Stops where a pair of the link was never compared here, and offers to do it."""
    strangers = [Pair(view.base, model) for model in view.tuned if lookups.stored(Pair(view.base, model)) is None]
    for pair in strangers:
        panels.missing(pair)
    if strangers:
        flow.stop()


def count_or_wait(view: View, pairs: tuple[Pair, ...], rule: MaskRule) -> None:
    """The progress of the counting, or what is needed to start it."""
    panels.progress(*[pair.key for pair in pairs])
    if any(job and job.kind == "overlap" for job in map(lookups.working, [pair.key for pair in pairs])):
        return
    n_counted, n_tensors = runs.n_counted(pairs, rule), runs.n_common(pairs)
    if n_counted >= n_tensors:
        return
    words, button = st.columns([4, 1], vertical_alignment="center")
    if n_counted:
        words.info(f"The overlap is counted for {count(n_counted)} of {count(n_tensors)} tensors.")
    else:
        words.info(
            "The overlap of these models is not counted yet. It needs their update masks; where these are no longer "
            "kept, the weights are read again."
        )
    if button.button("Count it", type="primary", width="stretch"):
        try:
            handles.jobs().submit_overlap(view.base, view.tuned)
        except SubnetscopeError as error:
            panels.failure(error)
        else:
            flow.again()


def explain(found: Venn) -> None:
    """What the circles say, in words."""
    st.subheader("In words", anchor=False)
    for sentence in summarize_overlap(found, [safe_label(name, 60) for name in found.labels]):
        st.markdown(sentence)


def table(found: Venn) -> None:
    """Every ordered pair of models: both counts, the overlaps, both chance levels."""
    in_percent = st.column_config.NumberColumn(format="percent")
    grouped = st.column_config.NumberColumn(format="localized")
    st.dataframe(
        overlap_rows(found),
        hide_index=True,
        column_config={
            "changed": grouped,
            "changed_by_both": st.column_config.NumberColumn("changed by both", format="localized"),
            "one_sided_overlap": st.column_config.NumberColumn("one-sided overlap", format="percent"),
            "chance": in_percent,
            "chance_matched": st.column_config.NumberColumn("chance at equal magnitude", format="percent"),
            "jaccard": in_percent,
        },
    )
