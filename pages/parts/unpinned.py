"""Links that name models without their commits, as people write them by hand: they open the comparison of these models
that was measured last, and say at which commits."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from analysis.errors import BadReference
from analysis.links import pinned
from analysis.models import ModelRef, PinnedModel, parse_model
from pages.parts import address, lookups, runs

_PAGES = ("pair", "layers", "matrix", "spectra", "overlap")
_RESOLVED = "unpinned.resolved"
_FEWEST_DIGITS = 7  # of a commit, as git shows it


def resolve(page: str) -> None:
    """Brings the address to commits where it names models without, and their comparison is stored."""
    refs = _refs() if page in _PAGES else None
    found = _measured_last(*refs) if refs else None
    if found is not None:
        commits = {"base": [str(found[0])], "tuned": [str(model) for model in found[1:]]}
        address.put({**address.query(), **commits})
        st.session_state[_RESOLVED] = tuple(found)


def texts() -> tuple[str, str] | None:
    """Base and first tuned model that the address names without their commits; None where it does not."""
    named = address.query()
    return ("".join(named["base"]), named["tuned"][0]) if _refs() else None


def _refs() -> tuple[ModelRef, list[ModelRef]] | None:
    """Base and tuned models as the address names them; None where all have commits, or a text is no model's."""
    named = address.query()
    base, tuned = named.get("base", ()), named.get("tuned", ())
    if len(base) != 1 or not tuned or all(map(_is_pinned, (*base, *tuned))):
        return None
    try:
        return parse_model(base[0]), [parse_model(text) for text in tuned]
    except BadReference:
        return None  # the page says what is wrong with it


def say(models: Sequence[PinnedModel]) -> None:
    """That a link without commits led to these models, if one did."""
    if st.session_state.get(_RESOLVED) == tuple(models):
        commits = ", ".join(f"`{model.short_commit}`" for model in models)
        st.info(f"The link named no commits. This is what was measured last of these models, base first: {commits}.")


def _is_pinned(text: str) -> bool:
    try:
        pinned(text)
    except BadReference:
        return False
    return True


def _measured_last(base: ModelRef, tuned: Sequence[ModelRef]) -> list[PinnedModel] | None:
    """The base and the tuned models at commits of which all comparisons are stored, those active last."""
    pairs = [known.pair for known in runs.begun(lookups.pairs()) if _fits(base, known.pair.base)]
    for at in dict.fromkeys(pair.base for pair in pairs):
        of_base = [pair.tuned for pair in pairs if pair.base == at]
        models = [next((model for model in of_base if _fits(ref, model)), None) for ref in tuned]
        found = [model for model in models if model is not None]
        if len(found) == len(tuned):
            return [at, *found]
    return None


def _fits(ref: ModelRef, model: PinnedModel) -> bool:
    """Whether the model is the one named: at any commit, or at the one whose first digits are named."""
    if (ref.where, ref.name, ref.subfolder) != (model.where, model.name, model.subfolder):
        return False
    return not ref.revision or (len(ref.revision) >= _FEWEST_DIGITS and model.commit.startswith(ref.revision))
