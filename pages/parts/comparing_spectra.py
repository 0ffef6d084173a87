"""Which spectra stand beside each other: matrices that were chosen, one matrix over the layers, or over models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from analysis.figures.spectra import MOST_NAMED
from analysis.labels import count, short_titles
from analysis.links import View
from analysis.measurements import Spectrum
from analysis.models import Pair
from pages.parts import handles, lookups, pickers

MOST_WITH_NOISE = 4  # lines; more would hide each other
MOST_MODELS = 28  # as many as have a colour and dash of their own

Named = Sequence[tuple[str, Spectrum]]


def choose(view: View, pair: Pair, measured: Mapping[str, Spectrum]) -> tuple[View, Sequence[str]]:
    """(the view with what the page chose by itself, the pair's matrices that are shown)."""
    names = lookups.names_to_choose(pair.key, measured)
    begin = lookups.middle_layer(pair.key, names)
    over = pickers.spectra_over(view)
    if over == "matrices":
        asked = pickers.several(view, "matrix", "Matrices", names, begin)
        kept = [name for name in asked if name in measured]
        return view.choosing("matrix", *kept), kept
    first = pickers.first_matrix(view, names, begin[0] if begin else names[0])
    view = view if first in view.many("matrix") else view.choosing("matrix", first)
    return view, [] if over == "models" else [name for _, name in _over_layers(pair, first) if name in measured]


def drawn(view: View, pair: Pair, measured: Mapping[str, Spectrum], *, own: bool) -> Named:
    """The spectra that the view lays over each other, by label."""
    names = lookups.names_to_choose(pair.key, measured)
    asked = [name for name in view.many("matrix") if name in measured] or lookups.middle_layer(pair.key, names)
    if view.one("over") == "matrices" or not asked:
        return _with_values(pair, [(name, name) for name in asked], own=own)
    if view.one("over") == "models":
        return _over_models(pair, asked[0], "adapter" if own else "update")
    named = [(words, name) for words, name in _over_layers(pair, asked[0]) if name in measured]
    return _with_values(pair, named, own=own)


def _with_values(pair: Pair, named: Sequence[tuple[str, str]], *, own: bool) -> Named:
    """(label, spectrum with its singular values) of these matrices, by label and name."""
    found = [(label, lookups.spectrum(pair.key, name, "adapter" if own else "update")) for label, name in named]
    return [(label, one) for label, one in found if one]


def _over_layers(pair: Pair, name: str) -> Sequence[tuple[str, str]]:
    """(layer in words, matrix) of this matrix in every layer."""
    known = lookups.tensor(pair.key, name)
    return list(lookups.same_module(pair.key, known).items()) if known else []


def _over_models(pair: Pair, name: str, of: str) -> Named:
    """This matrix in every stored comparison with the same base that has its singular values, this pair's own first."""
    store = handles.store()
    others = [one.pair for one in lookups.pairs() if one.pair.base == pair.base and one.n_spectra and one.pair != pair]
    pairs = [pair, *others]
    found = [(one, store.spectrum(one.key, name, "adapter" if of == "adapter" else "update")) for one in pairs]
    there = [(one.tuned, spectrum) for one, spectrum in found if spectrum and not spectrum.reason][:MOST_MODELS]
    titles = short_titles([model.title for model, _ in there], [model.short_commit for model, _ in there])
    return [(title, spectrum) for title, (_, spectrum) in zip(titles, there, strict=True)]


def has_noise(view: View, drawn: Named) -> bool:
    """Whether each line has its noise beside it."""
    return len(drawn) <= MOST_WITH_NOISE and view.one("over") != "layers"


def legend(view: View, drawn: Named) -> None:
    """What the lines are, where that is not in the figure."""
    words = []
    if view.one("over") == "layers" and len(drawn) > MOST_NAMED:
        words.append(f"{count(len(drawn))} layers, from the first (dark) to the last (light).")
    elif view.one("over") == "models":
        models = "one model" if len(drawn) == 1 else f"{count(len(drawn))} models"
        words.append(f"The same matrix of {models} compared here with this base.")
    if has_noise(view, drawn):
        words.append("Dotted: what unstructured noise of each matrix's size and shape has (Marchenko and Pastur).")
    st.caption(" ".join(words))
