"""Everything that is compared here, side by side: to find, to sort, to note on, to overlay."""

import streamlit as st

from pages.parts import address, flow, library, permission, stored_pairs, take

st.header("All comparisons", anchor=False)
entries = library.entries()
permission.say_hidden()
if not entries:
    st.info("Nothing is compared on this server yet.")
    address.page_link("Compare two models", "compare")
    flow.stop()
shown = library.filtered(entries)
library.presets(shown)
library.table(shown)
picked = library.in_order(entries, library.picks())
if not picked:
    st.caption("Tick comparisons to see them side by side. Algorithm, data, tags and note are yours to write.")
else:
    library.ways_on(picked)
    library.overlay(picked)
take.menu_of_page("library")
stored_pairs.redraw_when_more_is_known()
