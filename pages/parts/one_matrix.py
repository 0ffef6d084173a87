"""The matrix page's own parts: which tensor, its neighbours, its numbers."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from analysis.labels import count, counted, percent, rule_title, scientific, share
from analysis.links import View
from analysis.measurements import Preview, Spectrum, Tally
from analysis.metrics import CATALOG, effective_rank, relative_update
from analysis.noise import above_noise
from analysis.tables import Row
from analysis.tensors import TITLE_OF_MATCH, TensorInfo, TensorPair
from pages.parts import flow, lookups, numbers, pickers
from pages.parts.text import safe_label


def choose(view: View, key: str) -> TensorPair:
    """The tensor that the link names, with pickers for its neighbours. Stops the page where there is none of it."""
    known = lookups.tensor(key, view.one("name"))
    if known is None:
        st.error("The pair has no compared tensor of this name. Pick one on the layers page.")
        flow.stop()
    st.markdown(f"#### {safe_label(known.name, 120)}")
    sides = " × ".join(map(count, known.shape)) + " = " if len(known.shape) > 1 else ""
    st.caption(f"{sides}{count(known.entries)} entries · base {known.base.dtype}, tuned {known.tuned.dtype}")
    if known.match in ("adapter", "untouched"):
        st.caption(TITLE_OF_MATCH[known.match].capitalize())
    elif known.match != "exact":
        names = " and ".join(f"{side} {safe_label(part.name, 120)}" for side, part in _sides(known))
        st.caption(f"Matched by rule ({TITLE_OF_MATCH[known.match]}): {names}")
    layer, module, expert = st.columns(3)
    with layer:
        pickers.neighbour(view, "Layer", lookups.same_module(key, known), known.name, place="layer")
    with module:
        pickers.neighbour(view, "Matrix", lookups.same_layer(key, known), known.name, place="module")
    if known.place.expert is not None:
        with expert:
            pickers.neighbour(view, "Expert", lookups.same_place(key, known), known.name, place="expert")
    return known


def _sides(known: TensorPair) -> tuple[tuple[str, TensorInfo], tuple[str, TensorInfo]]:
    return ("base", known.base), ("tuned", known.tuned)


def measured(key: str, known: TensorPair) -> Tally:
    """The tensor's tally. Stops the page where it isn't measured, saying why."""
    tally = lookups.tally(key, known.name)
    if tally is None:
        reason = lookups.gaps(key).get(("tally", known.name))
        if reason:
            st.error(f"This tensor could not be measured: {safe_label(reason, 400)}")
        else:
            st.info("This tensor is not measured yet.")
        flow.stop()
    return tally


def headline(view: View, tally: Tally, spectrum: Spectrum | None, preview: Preview | None) -> None:
    """The numbers one came for, the unchanged share under the rule chosen first."""
    part, whole = relative_update(tally)
    with numbers.row():
        for rule in dict.fromkeys((view.one("rule"), "exact", "mukherjee")):
            _unchanged(rule, view.one("tolerance"), tally)
        size = scientific(part / whole) if whole else "–"
        numbers.number("Size of the update", size, "‖update‖ / ‖base‖", help=CATALOG["relative-update"].help)
        if preview is None:
            _rank(spectrum)
        else:
            _preview_of_rank(preview)
        largest, flips = scientific(tally.max_abs_update), f"{counted(tally.sign_flips, 'sign')} flipped"
        numbers.number("Largest change", largest, flips, help=CATALOG["largest-change"].help)


def unit_words(known: TensorPair, tally: Tally, measure: str) -> None:
    """What a unit is, where sizes are in units of the stored type."""
    if measure == "ulps":
        st.caption(_what_a_unit_is(known, tally))


def _what_a_unit_is(known: TensorPair, tally: Tally) -> str:
    changed = int(tally.changes.sum())
    if changed and tally.ulps.sum() + tally.sign_flips != changed:
        return f"Not counted: base ({known.base.dtype}) and tuned ({known.tuned.dtype}) share no type of 16 or 32 bits."
    if known.base.dtype not in ("BF16", "F16", "F32"):
        return "In units of float32, in which these values are compared."
    return f"One unit is the distance to the next number that {known.base.dtype} holds."


def own_update(key: str, known: TensorPair) -> tuple[Tally, Spectrum | None] | None:
    """What an adapter itself adds to this tensor; None where the tuned side is a whole model, or leaves it alone."""
    tally = lookups.own_tally(key, known.name) if known.merge else None
    return (tally, lookups.own_updates(key).spectra.get(known.name)) if tally else None


def own_headline(known: TensorPair, tally: Tally, spectrum: Spectrum | None) -> None:
    """The adapter's own update, before it is rounded to the base's type, below what is left of it."""
    moved = tally.entries - tally.unchanged("exact")
    st.caption(f"Above: merged, in {known.base.dtype}. Below: the adapter's own update, in float32.")
    with numbers.row():
        numbers.number("Entries moved", percent(moved, tally.entries), f"{count(moved)} of {count(tally.entries)}")
        norm = tally.update_square_sum**0.5
        scale = f"r {known.merge.rank}, α {known.merge.alpha:g}" if known.merge and known.merge.rank else ""
        numbers.number("Size of the own update", scientific(norm), f"Frobenius norm; {scale}" if scale else "Frobenius")
        _rank(spectrum)
        numbers.number("Largest entry", scientific(tally.max_abs_update), "of the own update")


def updates_to_draw(
    known: TensorPair, spectrum: Spectrum, own: tuple[Tally, Spectrum | None] | None
) -> list[tuple[str, Spectrum]]:
    """The spectra of this matrix by what they are called: of an adapter both, the merged one first."""
    if own is None or own[1] is None:
        return [(known.name, spectrum)]
    return [("merged, in the base's type", spectrum), ("the adapter's own update", own[1])]


def _unchanged(rule: str, tolerance: str, tally: Tally) -> None:
    metric = lookups.metric_at(f"unchanged-{rule}", tolerance)
    unchanged, entries = map(int, metric.parts(tally, None) or (0, 0))
    label = f"Unchanged, {rule_title(rule, tolerance)}"
    numbers.number(label, percent(unchanged, entries), f"{count(unchanged)} of {count(entries)}", help=metric.help)


def _rank(spectrum: Spectrum | None) -> None:
    if spectrum is None or spectrum.reason or spectrum.rank is None:
        numbers.number("Rank of the update", "–", "no singular values")
        return
    effective = scientific(effective_rank(spectrum.singular_values))
    below = f"{count(spectrum.rank)} of {count(spectrum.max_rank)}; effective {effective}"
    rank = share(spectrum.rank / spectrum.max_rank)
    numbers.number("Rank of the update", rank, below, help=CATALOG["rank"].help)


def _preview_of_rank(preview: Preview) -> None:
    stable, effective = scientific(preview.stable_rank), scientific(preview.effective_rank)
    numbers.number("Rank of the update", "–", f"still to come; preview: effective about {effective}, stable {stable}")


def preview_words() -> None:
    """What the dashed line is."""
    st.caption(
        "Dashed: a preview, estimated from a few products with random vectors. The singular values themselves, and "
        "the numerical rank, take its place as soon as they are computed."
    )


def against_noise(spectrum: Spectrum, tally: Tally) -> None:
    """What of the spectrum unstructured noise does not explain, in words."""
    n, energy, whole = above_noise(spectrum, tally)
    if not whole:
        return
    stronger = counted(n, "direction of the update is", "directions of the update are")
    found = (
        f"{stronger} stronger than that, with {share(energy / whole)} of the energy"
        if n
        else "No direction of the update is stronger than that"
    )
    st.caption(
        "Dotted: unstructured noise of this size and shape, independent entries of one variance (Marchenko, Pastur). "
        f"{found}. Such noise is full-rank too."
    )


def no_spectrum(key: str, known: TensorPair, spectrum: Spectrum | None) -> None:
    """Why there are no singular values to draw."""
    reason = spectrum.reason if spectrum else lookups.gaps(key).get(("spectrum", known.name), "")
    if reason:
        st.info(f"No singular values: {safe_label(reason, 300)}")
    else:
        st.info("The singular values of this matrix are not measured yet.")


def all_numbers(rows: Sequence[Row]) -> None:
    """Every number of the tensor: what is unchanged by which rule, and everything else."""
    st.subheader("All numbers", anchor=False)
    rules, amounts = st.columns(2, gap="large")
    left, right = [row for row in rows if row["share"]], [row for row in rows if not row["share"]]
    rules.dataframe([_without(row, "tensor") for row in left], hide_index=True, height="content")
    amounts.dataframe([_without(row, "tensor", "share") for row in right], hide_index=True, height="content")


def _without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}
