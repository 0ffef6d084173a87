"""Spectra of base and tuned on request: measured only for the matrices that somebody asks for."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from analysis.figures import spectra
from analysis.labels import count, scientific
from analysis.measurements import Spectrum
from analysis.models import Pair
from analysis.plan import Plan
from analysis.shift import normalized_spectral_shift, shift_row
from analysis.tables import Row
from analysis.tensors import SIDES
from pages.parts import charts, flow, handles, lookups, panels
from pages.parts.text import safe_label

MOST_DRAWN = 4  # pairs of lines; more would hide each other


def show(pair: Pair, names: Sequence[str]) -> list[Row]:
    """Base and tuned spectra of these matrices over each other, with the normalized spectral shift; a button that
    measures those which are not stored. Rows to take away."""
    st.subheader("Spectra of base and tuned", anchor=False)
    stored = [(name, *_stored(pair.key, name)) for name in names]
    found = [(name, base, tuned) for name, base, tuned in stored if base and tuned]
    _offer(pair, [name for name, base, tuned in stored if not (base and tuned)])
    if not found:
        return []
    overlaid, moved = st.columns(2, gap="large")
    with overlaid:
        charts.show(spectra.base_and_tuned(found[:MOST_DRAWN]), "Singular values of base and tuned")
    with moved:
        charts.show(spectra.spectral_shifts(found[:MOST_DRAWN]), "How far each singular value moved")
    tallies = lookups.tallies(pair.key)
    rows = [shift_row(name, base, tuned, tallies.get(name)) for name, base, tuned in found]
    _words(found, rows)
    return rows


def rows(key: str) -> list[Row]:
    """One row a matrix of the pair whose base and tuned spectra are both stored."""
    base, tuned = (handles.store().spectra(key, side) for side in SIDES)
    tallies = lookups.tallies(key)
    both = [name for name in base if name in tuned and not base[name].reason and not tuned[name].reason]
    return [shift_row(name, base[name], tuned[name], tallies.get(name)) for name in both]


def _words(found: Sequence[tuple[str, Spectrum, Spectrum]], rows: Sequence[Row]) -> None:
    if len(found) == 1:
        [(_, base, tuned)], [row] = found, rows
        shift, bound = scientific(normalized_spectral_shift(base, tuned)), scientific(float(str(row["update / base"])))
        st.markdown(f"**Normalized spectral shift {shift}**; at most {bound} is possible, the size of the update.")
    else:
        kept = ("tensor", "normalized spectral shift", "update / base", "shift / update")
        number = st.column_config.NumberColumn(format="scientific")
        columns = {"normalized spectral shift": number, "update / base": number}
        st.dataframe([{name: row[name] for name in kept} for row in rows], hide_index=True, column_config=columns)
    st.caption(
        "Dotted: the base. Shift: ‖σ(tuned) − σ(base)‖ / ‖σ(base)‖ over all singular values (Zhu, arXiv 2511.08567). "
        "The part of the update that does not move singular values turns their directions. A shift below about 10⁻⁶ is "
        "rounding."
    )


def _stored(key: str, name: str) -> tuple[Spectrum | None, Spectrum | None]:
    base, tuned = (handles.store().spectrum(key, name, side) for side in SIDES)
    return base, tuned


def _offer(pair: Pair, missing: Sequence[str]) -> None:
    """The button for what is missing; where measuring it failed, why."""
    reasons = {
        name: reason
        for side in SIDES
        for (kind, name), reason in handles.store().gaps(pair.key, side).items()
        if kind == "spectrum" and name in missing
    }
    for name, reason in reasons.items():
        st.info(f"No singular values of {safe_label(name, 120)}: {safe_label(reason, 300)}")
    wanted = tuple(name for name in missing if name not in reasons)
    if not wanted:
        return
    words = "this matrix" if len(wanted) == 1 else f"{count(len(wanted))} matrices"
    if lookups.working(pair.key):
        st.caption(f"The spectra of base and tuned of {words} are not measured; a job is at work on this pair.")
    elif st.button(f"Measure base and tuned spectra of {words}") and panels.start(pair, Plan(sides=wanted)):
        flow.again()
