"""The way between pages. The views of a pair appear once one is open, and keep it open."""

from __future__ import annotations

import streamlit as st

from analysis.errors import BadReference
from analysis.links import beside, pinned
from analysis.models import Pair
from pages.parts import address, handles, runs
from pages.parts.text import safe_label

_VIEWS_OF_PAIR = {"pair": "Overview", "layers": "Layers", "spectra": "Spectra"}


def draw() -> None:
    """The sidebar: the pages that are about no one pair, below them the open pair's views."""
    named = address.query()
    pair = _open_pair(named)
    with st.sidebar:
        st.markdown("### Subnetscope")
        address.page_link("Compare", "compare")
        address.page_link("All comparisons", "library")
        address.page_link("Published pairs", "gallery")
        if pair is None:
            address.page_link("Overlap of runs", "overlap")
        address.page_link("Training dynamics", "dynamics")
        n = len(handles.jobs().active())
        address.page_link(f"Jobs ({n} active)" if n else "Jobs", "jobs")
        if pair:
            _views(pair, named)


def _open_pair(named: address.Query) -> Pair | None:
    try:
        return Pair(pinned(named["base"][0]), pinned(named["tuned"][0]))
    except (BadReference, KeyError, IndexError):
        return None


def _views(pair: Pair, named: address.Query) -> None:
    """The pair's views, each as it was left."""
    st.caption(f"{safe_label(pair.tuned.title, 60)} against {safe_label(pair.base.title, 60)}")
    for page, label in _VIEWS_OF_PAIR.items():
        address.link(label, address.as_left(beside(page, pair.base, pair.tuned, named)))
    address.link("Overlap", runs.overlap_view(pair))
