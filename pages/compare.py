"""Ask for two models, show what comparing them will cost, start; below, what is compared already."""

import streamlit as st

from analysis.errors import SubnetscopeError
from analysis.links import view_of
from pages.parts import address, courses, lookups, panels, permission, pickers, preparing, runs, stored_pairs

st.header("Compare two models", anchor=False)
st.markdown(
    "What did fine-tuning do to the weights: how much changed, where, along how many directions, and did another run "
    "change the same parameters?"
)

base, tuned = pickers.two_texts()
if tuned:
    try:
        found = preparing.prepared(base, tuned)
    except SubnetscopeError as error:
        panels.failure(error)
    else:
        preparing.show(found, tuned)
elif base:
    st.info(
        "Name the fine-tuned model too. The base may be left out instead: the fine-tuned model's card mostly names it."
    )

pairs = courses.without_steps(runs.begun(lookups.pairs()))
if pairs:
    st.subheader("Compared here", anchor=False)
    chosen = stored_pairs.pair_table(pairs, key="compare.pairs")
    if chosen:
        address.go(view_of("pair", chosen.pair.base, chosen.pair.tuned))
    stored_pairs.families(runs.families(pairs))
permission.say_hidden()
stored_pairs.redraw_when_more_is_known()
