"""The gallery's own parts: published pairs with ours beside them, and the papers' other numbers to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from analysis import published
from analysis.labels import shorten
from analysis.links import view_of
from analysis.published import Published, PublishedPair
from analysis.tables import Row
from cache.records import StoredPair
from pages.parts import address, lookups
from pages.parts.text import safe_label

Measured = Mapping[PublishedPair, StoredPair]
_WIDTHS = {"tuned": 228, "base": 228, "algorithm": 92, "published": 76, "ours": 85}
_WIDTHS |= {"verdict": 130, "definition": 112, "source": 135}
_NAME = 36  # characters of a model's name in the tables; files and links have all of it


def measured(pairs: Sequence[PublishedPair]) -> Measured:
    """Which of the published pairs are in the store: at any commits, those that were worked on last."""
    stored = lookups.pairs()
    found = {
        pair: next((known for known in stored if pair.is_of(known.pair.base, known.pair.tuned)), None) for pair in pairs
    }
    return {pair: known for pair, known in found.items() if known is not None}


def table(pairs: Sequence[PublishedPair], of_pair: Measured) -> PublishedPair | None:
    """Every published number with its verdict; the pair that was clicked, if any."""
    lines = all_rows(pairs, of_pair, "unchanged")
    event = st.dataframe(
        [_shortened(row) for _, row in lines],
        key="gallery.pairs",
        hide_index=True,
        height="content",
        placeholder="",
        on_select="rerun",
        selection_mode="single-cell",
        column_config=_columns(),
    )
    cells = event["selection"]["cells"]
    return lines[cells[0][0]][0] if cells else None


def links(of_pair: Measured) -> None:
    """A way to the overview of each published pair that is compared here."""
    for pair, known in of_pair.items():
        label = f"Open {safe_label(pair.tuned, 80)} against {safe_label(pair.base, 80)}"
        address.link(label, view_of("pair", known.pair.base, known.pair.tuned))


def ranks(pairs: Sequence[PublishedPair], of_pair: Measured) -> None:
    """The published ranks with ours."""
    rows = [_shortened(row) for pair, row in all_rows(pairs, of_pair, "rank") if pair.claims_of("rank")]
    st.dataframe(rows, hide_index=True, height="content", placeholder="", column_config=_columns())


def over_tolerance(pairs: Sequence[PublishedPair]) -> None:
    st.caption("Differences taken in bfloat16. Only the last column is a rule that is also measured here.")
    rows = [published.tolerance_row(pair) for pair in pairs if pair.by_tolerance]
    _reference([_shortened(row) for row in rows], digits=2, plain=("tuned", "base"))


def experiments(data: Published) -> None:
    """Overlaps, dynamics and subnetwork runs, as they are printed."""
    st.caption(
        "Overlap of the subnetworks of two runs of one base: o1 is the share of what the first changed that the second "
        "changed too, o2 the other way round; beside each what chance gives."
    )
    _reference(data.overlaps, digits=1, plain=("varied", "first run", "second run"))
    one, other = st.columns(2, gap="large")
    with one:
        st.caption("What became of the parameters in the course of one run.")
        _reference(data.dynamics, digits=0, plain=("run", "parameters"))
    with other:
        st.caption("Training only what a full run had changed: weights equal to the full run's, and mean test scores.")
        _reference(data.subnetwork_runs, digits=1, plain=("algorithm", "score, full", "score, subnetwork"))


def sources(data: Published) -> None:
    """The papers, each with its definition."""
    for source in dict.fromkeys(pair.source for pair in data.pairs if pair.source):
        st.caption(safe_label(f"{source.authors}: {source.title}, arXiv {source.arxiv}.", 300))


def all_rows(
    pairs: Sequence[PublishedPair], of_pair: Measured, measure: published.Measure
) -> list[tuple[PublishedPair, Row]]:
    """Every published number of this measure with ours beside it, each with its pair."""
    return [(pair, row) for pair in pairs for row in _rows(pair, of_pair, measure)]


def _rows(pair: PublishedPair, of_pair: Measured, measure: published.Measure) -> list[Row]:
    known = of_pair.get(pair)
    commit = {"tuned commit": known.pair.tuned.short_commit if known else ""}
    return [row | commit for row in published.rows(pair, lookups.ours(known.pair.key) if known else None, measure)]


def _shortened(row: Row) -> Row:
    return {**row, **{side: shorten(str(row[side]), _NAME) for side in ("tuned", "base")}}


def _columns() -> dict[str, object]:
    """Widths at which the verdict and the definition are seen without scrolling in an ordinary window."""
    return {
        **{name: st.column_config.Column(width=width) for name, width in _WIDTHS.items()},
        "ours": st.column_config.NumberColumn(format="%.4f %%", width=_WIDTHS["ours"]),
        "compared": st.column_config.NumberColumn(format="percent"),
    }


def _reference(rows: Sequence[Row], *, digits: int, plain: Sequence[str]) -> None:
    """Numbers with the digits they are printed with, percent but for the `plain` columns."""
    column = st.column_config.NumberColumn(format=f"%.{digits}f %%")
    percent = {name: column for name in rows[0] if name not in plain}
    st.dataframe(list(rows), hide_index=True, height="content", column_config=percent)
