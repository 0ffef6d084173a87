"""What to measure of a pair that was looked up: the layers, the modules, the spectra; a plan."""

from __future__ import annotations

import streamlit as st

from analysis.errors import BadSelection
from analysis.labels import counted
from analysis.plan import Plan
from analysis.selection import select
from analysis.tensors import Alignment
from pages.parts import panels
from pages.parts.text import plain, safe_label

_SPECTRA_TITLES = {"all": "of all matrices", "every": "of every n-th layer", "none": "none"}


def plan(key: str, alignment: Alignment) -> Plan | None:
    """The plan that the controls say, everything until somebody touches them; None, and the reason shown, where it
    cannot be read. `key` tells the pair's controls from another's."""
    layers = sorted({pair.place.layer for pair in alignment.pairs if pair.place.layer is not None})
    with st.expander("What to measure"):
        left, right = st.columns(2)
        text = left.text_input(
            "Layers",
            key=f"compare.layers.{key}",
            placeholder=f"all of {layers[0]} to {layers[-1]}" if layers else "all",
            help="By number: 0-3,30-31. Every fourth: every:4. What is in no layer, as the embedding: outside.",
            disabled=not layers,
        )
        modules = right.multiselect(
            "Modules",
            list(dict.fromkeys(pair.place.module for pair in alignment.pairs)),
            key=f"compare.modules.{key}",
            format_func=lambda name: plain(name, 80),
            placeholder="all; or choose, or type a pattern such as mlp.*",
            accept_new_options=True,
        )
        spectra, every = _spectra(key, len(layers))
    try:
        selection = select(text, modules)
        found = Plan(spectra=spectra != "none", selection=selection, spectra_every=every)
        if not any(map(found.chooses, alignment.pairs)):
            raise selection.names_nothing(alignment.pairs)
    except BadSelection as error:
        panels.failure(error)
        return None
    for sentence in selection.unmet(alignment.pairs):
        st.warning(safe_label(sentence, 500))
    return found


def _spectra(key: str, n_layers: int) -> tuple[str, int]:
    """Which matrices are to have singular values, and of each how-manieth layer."""
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    chosen = left.radio(
        "Singular values (rank, spectra); they take most of the time",
        list(_SPECTRA_TITLES),
        key=f"compare.spectra.{key}",
        format_func=_SPECTRA_TITLES.__getitem__,
        horizontal=True,
    )
    if chosen != "every":
        return chosen or "all", 1
    most = max(n_layers, 2)
    every = right.number_input("of every …-th layer", 2, most, min(4, most), key=f"compare.every.{key}")
    return chosen, every


def left_out(spectra: tuple[tuple[str, str], ...]) -> None:
    """Spectra that this machine's settings do not allow; everything else of these tensors is measured."""
    if spectra:
        with st.expander(f"{counted(len(spectra), 'matrix')} without singular values"):
            st.dataframe([{"tensor": name, "reason": reason} for name, reason in spectra[:1000]], hide_index=True)
            st.caption("Where the memory budget is the reason, the operator can raise SUBNETSCOPE_MEMORY.")
