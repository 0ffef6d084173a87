"""The way between pages: the same names in the same order on every page. The views of one comparison open the one that
is open, or the one that was open last; where there was none, they ask which."""

from __future__ import annotations

import streamlit as st

from analysis.errors import BadReference
from analysis.links import CARRIED, View, beside, pinned
from analysis.models import Pair
from pages.parts import address, handles, runs
from pages.parts.text import safe_label

_VIEWS_OF_PAIR = {"pair": "Overview", "layers": "Layers", "spectra": "Spectra"}
_OVERLAP = "Overlap of runs"
_ABOUT_PAIRS = (*_VIEWS_OF_PAIR, "matrix", "overlap")
_LAST = "sidebar.last"
_NAME = 60  # characters of a model's name


def draw() -> None:
    """The sidebar: the pages that are about no one comparison, below them the views of one."""
    pair, choices = _open(address.query())
    with st.sidebar:
        st.markdown("### Subnetscope")
        address.page_link("Compare", "compare")
        address.page_link("All comparisons", "library")
        address.page_link("Published pairs", "gallery")
        address.page_link("Training dynamics", "dynamics")
        n = len(handles.jobs().active())
        address.page_link(f"Jobs ({n} active)" if n else "Jobs", "jobs")
        st.caption("One comparison")
        if pair is None:
            _asking()
        else:
            _views(pair, choices)


def _open(named: address.Query) -> tuple[Pair | None, address.Query]:
    """The pair that the page is about and what counts as unchanged there; else those that were open last in this
    window."""
    last, choices = st.session_state.get(_LAST, (None, {}))
    if address.page() not in _ABOUT_PAIRS:
        return last, choices
    try:
        pairs = [Pair(pinned(named["base"][0]), pinned(tuned)) for tuned in named["tuned"]]
    except (BadReference, KeyError, IndexError):
        return last, choices
    pair = last if last in pairs else pairs[0]  # an overlap is of several: the one that led to it stays open
    chosen = {name: named[name] for name in CARRIED if name in named}
    st.session_state[_LAST] = pair, chosen
    return pair, chosen


def _asking() -> None:
    """The views where no comparison is open: each asks for one."""
    for page, label in _VIEWS_OF_PAIR.items():
        address.page_link(label, page)
    address.page_link(_OVERLAP, "overlap")
    st.caption("None is open.")


def _views(pair: Pair, choices: address.Query) -> None:
    """The pair's views, each as it was left."""
    for page, label in _VIEWS_OF_PAIR.items():
        address.link(label, address.as_left(beside(page, pair.base, pair.tuned, choices)))
    address.link(_OVERLAP, _overlap_as_left(pair) or runs.overlap_view(pair))
    st.caption(f"Open: {safe_label(pair.tuned.title, _NAME)} against {safe_label(pair.base.title, _NAME)}")


def _overlap_as_left(pair: Pair) -> View | None:
    left = address.seen("overlap")
    return left if left and left.base == pair.base and pair.tuned in left.tuned else None
