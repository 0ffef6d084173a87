"""What papers have published of pairs of models, beside what is measured here; a click compares a pair."""

import streamlit as st

from analysis.published import published
from pages.parts import address, permission, publications, take

st.header("Published pairs", anchor=False)
st.markdown(
    "Shares of unchanged parameters that papers report, and ours under the same definition once the pair is compared "
    "here. Click a row to compare it."
)
data = published()
measured = publications.measured(data.pairs)
permission.say_hidden()
clicked = publications.table(data.pairs, measured)
if clicked:
    address.go_compare(clicked.base, clicked.tuned)
publications.links(measured)

st.subheader("Rank of the updates", anchor=False)
publications.ranks(data.pairs, measured)
st.subheader("Unchanged share over tolerance, as published", anchor=False)
publications.over_tolerance(data.pairs)
st.subheader("Experiments of the paper, for reference", anchor=False)
publications.experiments(data)
publications.sources(data)
take.menu_of_page("gallery")
