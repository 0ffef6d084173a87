"""Numbers on the page, what stands behind them, and a way to take them along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from analysis.labels import count, size
from analysis.links import View
from analysis.tables import Row, as_csv, not_compared_rows
from analysis.tensors import Alignment
from pages.parts import address

_NUMBER_WIDTH = 195
_MOST_LISTED = 1000
_MOST_DOWNLOAD = 1_000_000  # bytes; larger files Streamlit tells apart by samples, and could mix up


def row() -> DeltaGenerator:
    """A row for numbers, which go on below where the window is narrow."""
    return st.container(horizontal=True, gap="medium")


def number(label: str, value: str, below: str, *, help: str | None = None) -> None:
    """One number one came for, and beneath it what stands behind it."""
    with st.container(gap=None, width=_NUMBER_WIDTH):
        st.metric(label, value, help=help)
        st.caption(below)


def not_compared(alignment: Alignment) -> None:
    """What could not be compared, each with its reason; nothing is skipped in silence."""
    left_out = alignment.not_compared
    if not left_out:
        return
    lost = sum(entry.is_parameter for entry in left_out)
    none = f", {count(len(left_out) - lost)} are no parameters" if lost < len(left_out) else ""
    with st.expander(f"{count(lost)} tensors are not compared{none}"):
        st.dataframe(
            not_compared_rows(left_out[:_MOST_LISTED]),
            hide_index=True,
            column_config={"parameters": st.column_config.NumberColumn(format="localized")},
        )
        if len(left_out) > _MOST_LISTED:
            st.caption(f"The {count(_MOST_LISTED)} largest of {count(len(left_out))}.")
        _download(not_compared_rows(left_out), "not-compared")


def failures(reasons: Mapping[tuple[str, str], str]) -> None:
    """Tensors that could not be measured, each with its reason."""
    if not reasons:
        return
    with st.expander(f"{count(len(reasons))} measurements failed"):
        rows = [{"tensor": name, "kind": kind, "reason": reason} for (kind, name), reason in reasons.items()]
        st.dataframe(rows[:_MOST_LISTED], hide_index=True)


def take_away(view: View, rows: Sequence[Row], name: str, **more: Sequence[Row]) -> None:
    """The link to this view, and its numbers as CSV; `more` are further tables by name."""
    take_away_at(address.whole(view), rows, name, **more)


def take_away_at(link: str, rows: Sequence[Row], name: str, **more: Sequence[Row]) -> None:
    """A link, and the numbers behind it as CSV; `more` are further tables by name."""
    with st.expander("Copy link, take the numbers away"):
        st.code(link, language=None, wrap_lines=True)
        for title, table in {name: rows, **more}.items():
            _download(table, title, named=bool(more))


def _download(rows: Sequence[Row], name: str, *, named: bool = False) -> None:
    """The rows as a CSV file."""
    text, what = as_csv(rows), f"{name}: " if named else ""
    if len(text.encode()) > _MOST_DOWNLOAD:
        st.caption(f"{what}the numbers behind this are {size(len(text.encode()))}; the terminal writes them: --json")
    elif rows:
        words = f"{what}{count(len(rows))} rows as CSV"
        st.download_button(words, text, f"{name}.csv", "text/csv", on_click="ignore")
