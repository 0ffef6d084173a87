"""The way between pages. The views of a pair appear once one is open, and keep it open."""

from __future__ import annotations

import streamlit as st

from analysis.errors import BadReference
from analysis.links import pinned, view_of
from analysis.models import Pair
from pages.parts import handles, lookups, pickers
from pages.parts.text import safe_label

_VIEWS_OF_PAIR = {"pair": "Overview", "layers": "Layers", "spectra": "Spectra"}


def draw() -> None:
    """The sidebar: where to start, the open pair's views, the jobs."""
    with st.sidebar:
        st.markdown("### Subnetscope")
        st.page_link(pickers.SCRIPT_OF_PAGE["compare"], label="Compare")
        _views()
        n = len(handles.jobs().active())
        st.page_link(pickers.SCRIPT_OF_PAGE["jobs"], label=f"Jobs ({n} active)" if n else "Jobs")


def _views() -> None:
    base, tuned = st.query_params.get_all("base"), st.query_params.get_all("tuned")
    try:
        pair = pinned(base[0]), pinned(tuned[0])
    except (BadReference, IndexError):
        st.page_link(pickers.SCRIPT_OF_PAGE["overlap"], label="Overlap of runs")
        return
    st.caption(f"{safe_label(pair[1].title, 60)} against {safe_label(pair[0].title, 60)}")
    for page, label in _VIEWS_OF_PAIR.items():
        pickers.link(label, view_of(page, *pair))
    pickers.link("Overlap", lookups.overlap_view(Pair(*pair)))
