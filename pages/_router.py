"""The first thing every visit runs: is the store there, which pages are there, and the way between them."""

from pathlib import Path

import streamlit as st

from analysis.errors import SubnetscopeError
from pages.parts import address, flow, handles, panels, sidebar, unpinned

st.set_page_config(
    page_title="Subnetscope", layout="wide", initial_sidebar_state=230, menu_items={"About": "Subnetscope"}
)

st.html(Path(__file__).parent / "parts" / "page.css")

page = st.navigation(
    [
        st.Page("compare.py", title="Compare", url_path="compare", default=True),
        st.Page("pair.py", title="Overview", url_path="pair"),
        st.Page("layers.py", title="Layers", url_path="layers"),
        st.Page("matrix.py", title="Matrix", url_path="matrix", visibility="hidden"),
        st.Page("spectra.py", title="Spectra", url_path="spectra"),
        st.Page("overlap.py", title="Overlap of runs", url_path="overlap"),
        st.Page("dynamics.py", title="Training dynamics", url_path="dynamics"),
        st.Page("library.py", title="All comparisons", url_path="library"),
        st.Page("gallery.py", title="Published pairs", url_path="gallery"),
        st.Page("jobs.py", title="Jobs", url_path="jobs"),
    ],
    position="hidden",
)
try:
    handles.store()
except SubnetscopeError as error:
    panels.failure(error)
    flow.stop()
address.enter(page.url_path or "compare")
unpinned.resolve(address.page())
sidebar.draw()
page.run()
