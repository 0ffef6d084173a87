"""The comparisons that are stored here, to choose from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from analysis.labels import rough_count
from analysis.links import view_of
from analysis.models import PinnedModel
from cache.records import StoredPair
from pages.parts import address, flow, handles, lookups, permission, runs
from pages.parts.text import plain, safe_label

_NAME = 42  # characters of a model's name in the table


def pick_pair(page: str) -> None:
    """For a page opened without a pair: the stored ones to choose from."""
    pairs = runs.begun(lookups.pairs())
    permission.say_hidden()
    if not pairs:
        st.info("Nothing is compared on this server yet.")
        address.page_link("Compare two models", "compare")
        return
    st.write("Which comparison?")
    chosen = pair_table(pairs, key=f"{page}.pairs")
    if chosen:
        address.go(view_of(page, chosen.pair.base, chosen.pair.tuned))


def pair_table(pairs: Sequence[StoredPair], *, key: str) -> StoredPair | None:
    """Stored comparisons as a table; the one that was clicked, if any."""
    rows = [
        {
            "tuned": plain(pair.pair.tuned.title, _NAME),
            "base": plain(pair.pair.base.title, _NAME),
            "unchanged, exact": _unchanged(pair),
            "measured": lookups.measured_share(pair),
            "parameters": rough_count(pair.entries),
            "tuned commit": pair.pair.tuned.short_commit,
            "base commit": pair.pair.base.short_commit,
            "last measured": pair.last_activity,
        }
        for pair in pairs
    ]
    event = st.dataframe(
        rows,
        key=key,
        hide_index=True,
        placeholder="–",
        on_select="rerun",
        selection_mode="single-cell",
        column_config={
            "tuned": st.column_config.TextColumn(width=290),
            "base": st.column_config.TextColumn(width=210),
            "unchanged, exact": st.column_config.NumberColumn(format="%.4f %%", width=105),
            "measured": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1, width=105),
            **{name: st.column_config.Column(width=85) for name in ("parameters", "tuned commit", "base commit")},
            "last measured": st.column_config.DatetimeColumn("last measured (UTC)", format="YYYY-MM-DD HH:mm"),
        },
    )
    cells = event["selection"]["cells"]
    return pairs[cells[0][0]] if cells else None


def redraw_when_more_is_known() -> None:
    """Draws the page again as results land, while any job is at work or the demo is about to ask for its own."""
    if handles.jobs().active() or (handles.settings().demo and not handles.store().pairs()):
        _watch(handles.store().generation())


@st.fragment(run_every="3s")
def _watch(drawn: int) -> None:
    if handles.store().generation() != drawn or not handles.jobs().active():
        flow.again()


def families(of_base: Mapping[PinnedModel, Sequence[PinnedModel]]) -> None:
    """Links to the overlap of what was tuned from one base, where there are at least two."""
    for base, tuned in of_base.items():
        shown = runs.to_begin_with(base, tuned)
        number = f"{len(shown)} of the {len(tuned)}" if len(shown) < len(tuned) else f"the {len(tuned)}"
        label = f"Overlap of {number} models tuned from {safe_label(base.title, 60)}"
        address.link(label, view_of("overlap", base, *shown))


def _unchanged(pair: StoredPair) -> float | None:
    """Percent, of what is measured; left out for very large pairs, whose own page has it."""
    if not pair.n_tallies or pair.n_tensors > 5000:
        return None
    return 100 * lookups.headline(pair.pair.key).unchanged["exact"].value
