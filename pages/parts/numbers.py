"""Numbers on the page, and what stands behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from analysis import encoding
from analysis.labels import count, counted, size
from analysis.rollup import Share
from analysis.tables import Row, not_compared_rows
from analysis.tensors import Alignment

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


def of(found: Share) -> str:
    """The counts behind a share: '345 of 742'; that there are none yet."""
    return f"{count(found.part)} of {count(found.whole)}" if found.whole else "not measured yet"


def not_compared(alignment: Alignment) -> None:
    """What could not be compared, each with its reason; nothing is skipped in silence."""
    left_out = alignment.not_compared
    if not left_out:
        return
    lost = sum(entry.is_parameter for entry in left_out)
    others = len(left_out) - lost
    none = f"; beside them {count(others)} that hold no parameters" if others else ""
    with st.expander(f"Not compared: {counted(lost, 'tensor')}{none}"):
        st.dataframe(
            not_compared_rows(left_out[:_MOST_LISTED]),
            hide_index=True,
            column_order=("tensor", "side", "parameters", "reason"),
            column_config={
                "tensor": st.column_config.TextColumn(width=380),
                "side": st.column_config.TextColumn(width=60),
                "parameters": st.column_config.NumberColumn(format="localized", width=110),
            },
        )
        if len(left_out) > _MOST_LISTED:
            st.caption(f"The {count(_MOST_LISTED)} largest of {count(len(left_out))}.")
        _download(not_compared_rows(left_out), "not-compared")


def failures(reasons: Mapping[tuple[str, str], str]) -> None:
    """Tensors that could not be measured, each with its reason."""
    if not reasons:
        return
    with st.expander(f"{counted(len(reasons), 'measurement')} failed"):
        rows = [{"tensor": name, "kind": kind, "reason": reason} for (kind, name), reason in reasons.items()]
        st.dataframe(rows[:_MOST_LISTED], hide_index=True)


def _download(rows: Sequence[Row], name: str) -> None:
    """The rows as a CSV file."""
    text = b"".join(encoding.csv(rows, {}))
    if len(text) > _MOST_DOWNLOAD:
        st.caption(f"All of them are {size(len(text))} of CSV; the pair's overview has them at its end.")
    elif rows:
        st.download_button(f"{counted(len(rows), 'row')} as CSV", text, f"{name}.csv", "text/csv", on_click="ignore")
