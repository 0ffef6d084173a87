"""Before a comparison: two models looked up, pinned, aligned, and what it will cost to measure them."""

from __future__ import annotations

import streamlit as st

from analysis.bases import another_declared
from analysis.labels import count, counted, percent
from analysis.links import view_of
from analysis.models import Pair
from analysis.own_updates import words
from analysis.plan import Plan
from analysis.tensors import Alignment
from cache.jobs import Preparation
from cache.records import ModelCard
from pages.parts import address, choosing, handles, numbers, overview, panels, pickers
from pages.parts.text import safe_label


def prepared(base: str, tuned: str) -> Preparation:
    """What is known of the two models that were typed; looked up once, not at every rerun. Raises model errors."""
    known = st.session_state.setdefault(pickers.PREPARED, {})
    if (base, tuned) in known:
        return known[base, tuned]
    with st.spinner("Looking up both models"):
        found = handles.jobs().prepare(base, tuned)
    if found.pair is not None:
        known[base, tuned] = found
    return found


def show(found: Preparation, tuned: str) -> None:
    """Both models with their pins and coverage, what to measure of them, what that takes, and the button that starts;
    or the base that might be meant."""
    if found.pair is None or found.alignment is None or found.base is None or found.tuned is None:
        _suggest(found.suggested_base, tuned)
        return
    left, right = st.columns(2)
    with left:
        panels.card("Base", found.pair.base, found.base)
    with right:
        panels.card("Fine-tuned", found.pair.tuned, found.tuned)
    if found.pair.is_one_model:
        _refuse(found.pair)
        return
    for note in found.notes:
        st.warning(safe_label(note, 500))
    _declared(found.pair, found.tuned)
    _coverage(found.alignment)
    if not found.alignment.pairs:
        st.error("No tensor of one model has a partner on the other: there is nothing to compare. Check both ids.")
    elif not handles.store().holes(found.pair.key, Plan()):
        _open(found.pair, "This pair is compared already, at exactly these commits.")
    elif plan := choosing.plan(found.pair.key, found.alignment):
        _start(found.pair, found, plan)


def _refuse(pair: Pair) -> None:
    """That base and tuned are one model."""
    what = "at the same commit" if pair.base.where == "hub" else "with the same weight files"
    st.error(
        f"**Base and fine-tuned are the same model**, {what} (`{pair.base.short_commit}`): there is nothing to "
        "compare. Name another model, or another revision of this one as 'org/name@revision'."
    )


def _suggest(suggested: str | None, tuned: str) -> None:
    if not suggested:
        st.info("The tuned model does not say which base it was trained from. Name the base above.")
        return
    words, button = st.columns([4, 1], vertical_alignment="center")
    words.info(f"{safe_label(tuned, 120)} says it was tuned from **{safe_label(suggested, 120)}**.")
    button.button("Use it as base", type="primary", on_click=pickers.put_texts, args=(suggested, tuned))


def _coverage(alignment: Alignment) -> None:
    if alignment.is_adapter:
        st.info(
            f"The tuned side is an adapter ({words(alignment)}): compared as if merged into the base, and by itself."
        )
    st.markdown(
        f"{counted(len(alignment.pairs), 'tensor')} with a partner of the same shape: "
        f"{count(alignment.compared_parameters)} parameters, "
        f"**{percent(alignment.compared_of('base'), alignment.base_parameters, 2)}** of the base and "
        f"**{percent(alignment.compared_of('tuned'), alignment.tuned_parameters, 2)}** of the tuned model."
    )
    overview.matches(alignment)
    numbers.not_compared(alignment)


def _declared(pair: Pair, tuned: ModelCard) -> None:
    """A way to each base that the tuned model names, where it names others than this one."""
    for alert in another_declared(pair.base, tuned.declared):
        for text in alert.models:
            label = f"Use {safe_label(text, 80)} as base"
            st.button(label, key=f"base-{text}", on_click=pickers.put_texts, args=(text, str(pair.tuned)))


def _open(pair: Pair, words: str) -> None:
    st.success(words)
    address.link("Open it", view_of("pair", pair.base, pair.tuned))


def _start(pair: Pair, found: Preparation, plan: Plan) -> None:
    """What the plan will take of this machine, and the button that starts it; or why it cannot be done here."""
    forecast = handles.jobs().forecast(found, plan)
    if not forecast.measurements:
        _open(pair, "All of this selection is measured already, at exactly these commits.")
        return
    with numbers.row():
        for label, value, below in forecast.in_words():
            numbers.number(label, value, safe_label(below))
    choosing.left_out(forecast.left_out)
    refusals = forecast.refusals()
    for refusal in refusals:
        panels.failure(refusal)
    if st.button("Start", type="primary", width=160, disabled=bool(refusals)) and panels.start(found, plan):
        address.go(view_of("pair", pair.base, pair.tuned))
