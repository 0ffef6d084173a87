"""Which comparisons a page may show: those whose private and gated models the Hub still lets this server read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import streamlit as st

from analysis.errors import HubUnreachable, SubnetscopeError
from analysis.labels import counted
from analysis.models import Pair
from cache.records import StoredPair
from pages.parts import flow, handles

_POLL = "2s"


def refusal(*pairs: Pair) -> SubnetscopeError | None:
    """Why a page about these pairs may not be shown; None where it may."""
    found = hidden([pair.key for pair in pairs])
    return next(iter(found.values()), None)


def shown(pairs: Sequence[StoredPair]) -> list[StoredPair]:
    """Those of the stored pairs that may be shown."""
    found = hidden([known.pair.key for known in pairs])
    return [known for known in pairs if known.pair.key not in found]


def hidden(keys: Collection[str] | None = None) -> Mapping[str, SubnetscopeError]:
    """The pairs of these keys (of all, without) that may not be shown, and why. The page waits some seconds where
    nothing is known."""
    access = handles.access()
    if access.makes_wait(keys):
        with st.spinner("Asking the Hub what this server may still show"):
            return access.hidden(keys)
    return access.hidden(keys)


def say_hidden() -> None:
    """How many comparisons the lists of a page leave out, in one line; nothing where they are whole."""
    found = hidden()
    if not found:
        return
    begun = {known.pair.key for known in handles.store().pairs() if known.n_tallies or known.n_gaps}
    unknown = sum(isinstance(error, HubUnreachable) for key, error in found.items() if key in begun)
    if refused := len(found.keys() & begun) - unknown:
        st.caption(f"{_comparisons(refused)} hidden: the Hub does not let this server read their models (see the log).")
    if unknown:
        st.caption(f"{_comparisons(unknown)} hidden until the Hub says whether this server may read their models.")
    if unknown and handles.access().is_asking:
        _redraw_when_answered()


@st.fragment(run_every=_POLL)
def _redraw_when_answered() -> None:
    if not handles.access().is_asking:
        flow.again()


def _comparisons(n: int) -> str:
    return counted(n, "comparison is", "comparisons are")
