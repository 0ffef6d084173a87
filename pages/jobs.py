"""What is being measured now, and what was."""

import streamlit as st

from pages.parts import handles, ledger

st.header("Jobs", anchor=False)
ledger.active()
st.subheader("Ended", anchor=False)
ledger.history(handles.store().ledger.jobs(limit=200))
