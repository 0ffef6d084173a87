"""Before a comparison: two models looked up, pinned, aligned, and what it will cost to measure them."""

from __future__ import annotations

import streamlit as st

from analysis.labels import count, duration, percent, size
from analysis.links import view_of
from analysis.models import Pair
from analysis.own_updates import words
from analysis.plan import Plan
from analysis.tensors import Alignment
from cache.jobs import Preparation
from pages.parts import address, handles, numbers, panels, pickers
from pages.parts.text import safe_label

_SPARE_DISK = 5_000_000_000


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
    """Both models with their pins, coverage and cost, and the button that starts; or the base that might be meant."""
    if found.pair is None or found.alignment is None or found.base is None or found.tuned is None:
        _suggest(found.suggested_base, tuned)
        return
    left, right = st.columns(2)
    with left:
        panels.card("Base", found.pair.base, found.base)
    with right:
        panels.card("Fine-tuned", found.pair.tuned, found.tuned)
    for note in found.notes:
        st.warning(safe_label(note, 500))
    _coverage(found.alignment)
    if _is_complete(found.pair, found.alignment):
        st.success("This pair is compared already, at exactly these commits.")
        address.link("Open it", view_of("pair", found.pair.base, found.pair.tuned))
        return
    if found.alignment.pairs:
        _start(found.pair, found)
    else:
        st.error("No tensor of one model has a partner on the other: there is nothing to compare. Check both ids.")


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
        f"{count(len(alignment.pairs))} tensors have a partner of their shape: "
        f"{count(alignment.compared_parameters)} parameters, "
        f"**{percent(alignment.compared_of('base'), alignment.base_parameters, 2)}** of the base and "
        f"**{percent(alignment.compared_of('tuned'), alignment.tuned_parameters, 2)}** of the tuned model."
    )
    numbers.not_compared(alignment)


def _start(pair: Pair, found: Preparation) -> None:
    st.markdown(_cost(found))
    if found.bytes_to_fetch + _SPARE_DISK > found.disk_free and found.bytes_to_fetch:
        st.warning(f"Only {size(found.disk_free)} of disk are free.")
    button, box = st.columns([1, 4], vertical_alignment="center")
    spectra = box.checkbox("Singular values too (rank, spectra); they take most of the time", value=True)
    if button.button("Start", type="primary", width="stretch"):
        handles.jobs().submit(pair, Plan(spectra=spectra))
        address.go(view_of("pair", pair.base, pair.tuned))


def _cost(found: Preparation) -> str:
    words = [f"To fetch: {size(found.bytes_to_fetch)}" if found.bytes_to_fetch else "All weights are here already"]
    if found.seconds_for_tallies is not None and found.seconds_estimated is not None:
        words.append(f"about {duration(found.seconds_for_tallies)} for what changed and where")
        words.append(f"{duration(found.seconds_estimated)} with singular values, by a rough estimate")
    return "; ".join(words) + "."


def _is_complete(pair: Pair, alignment: Alignment) -> bool:
    return bool(alignment.pairs) and not handles.store().holes(pair.key, Plan())
