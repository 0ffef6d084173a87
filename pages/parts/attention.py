"""Attention heads, neurons and lines on the page: what the base's config says of a matrix, and the most changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import streamlit as st

from analysis import lines
from analysis.figures.heatmap import cell_at, heatmap
from analysis.heads import Config, Heads, heads_of, names_of_lines
from analysis.links import View, beside
from analysis.measurements import Tally
from analysis.rollup import Grid
from analysis.tables import Row
from analysis.tensors import TensorPair
from pages.parts import address, charts, handles, lookups, pickers

_ONLY_TO_TAKE_AWAY = ("changed", "entries", "rows", "columns")


def config(key: str) -> Config:
    """What the base's config.json says of its sizes."""
    return lookups.base_config(key)


def heads(key: str, known: TensorPair) -> Heads | None:
    """The heads of this matrix, where the config accounts for its shape."""
    return heads_of(known.place.module, known.shape, config(key))


def most_changed(key: str, known: TensorPair, tally: Tally) -> Mapping[str, Sequence[Row]]:
    """The heads, rows and columns of a matrix, the most changed first, by what they are called."""
    found = heads(key, known)
    rows, columns = len(tally.row_changes), len(tally.column_changes)
    of_row, of_column = names_of_lines(known.place, config(key))
    along = {found.along: found} if found else {}
    tables: dict[str, Sequence[Row]] = {}
    if found:
        changes, width = (tally.row_changes, columns) if found.along == "row" else (tally.column_changes, rows)
        tables["heads"] = lines.head_rows(found, changes, width)
    if rows > 1:
        tables[f"{of_row}s"] = lines.line_rows(tally.row_changes, columns, of_row, along.get("row"))
    tables[f"{of_column}s"] = lines.line_rows(tally.column_changes, rows, of_column, along.get("column"))
    return tables


def show_most_changed(key: str, known: TensorPair, tally: Tally) -> None:
    """Tables of the most changed heads, rows and columns, side by side."""
    tables = most_changed(key, known, tally)
    st.subheader("The most changed", anchor=False)
    for place, (name, table) in zip(st.columns(len(tables), gap="medium"), tables.items(), strict=True):
        with place:
            st.caption(f"{name.capitalize()}, by changed share (exact rule)")
            _table(table[: lines.MOST_SHOWN])


def _table(rows: Sequence[Row]) -> None:
    shown = [{name: value for name, value in row.items() if name not in _ONLY_TO_TAKE_AWAY} for row in rows]
    columns = {
        "key-value head": st.column_config.NumberColumn("kv head"),
        "changed share": st.column_config.NumberColumn(format="percent"),
        "relative to matrix": st.column_config.NumberColumn(
            "vs. whole matrix", format="%.2f ×", help="Its changed share over that of the whole matrix."
        ),
    }
    st.dataframe(shown, hide_index=True, height=280, column_config=columns, placeholder="–")


def head_grid(view: View, key: str) -> Grid | None:
    """Heads over layers of the attention matrix that the view names; None where no head is known."""
    modules = _modules(key, lookups.generation(key))
    if not modules:
        return None
    module = view.one("heads") if view.one("heads") in modules else next(iter(modules))
    return _grid(key, lookups.generation(key), module, modules[module])


def over_layers(view: View, key: str) -> None:
    """The heatmap of heads over layers for one attention matrix, a click opens it; nothing where no head is known."""
    modules = _modules(key, lookups.generation(key))
    if not modules:
        return
    st.subheader("Attention heads", anchor=False)
    chosen, span = st.columns([3, 2], vertical_alignment="bottom")
    with chosen:
        module = pickers.heads_of(view, list(modules))
    grid = _grid(key, lookups.generation(key), module, modules[module])
    with span:
        st.caption(
            f"Unchanged share of each head's {modules[module]}s, by the exact rule, whatever counts as unchanged above."
        )
    clicked = charts.show_clickable(heatmap(grid, fitted=view.one("colours") == "fitted"), grid.metric.title)
    if clicked and (names := cell_at(grid, *clicked)):
        address.go(beside("matrix", view.base, view.tuned[0], view.choices, name=names[0]))


@lru_cache(maxsize=200)
def _modules(key: str, _: int) -> Mapping[str, lines.Along]:
    return lines.modules_with_heads(lookups.alignment(key), config(key))


@lru_cache(maxsize=16)
def _grid(key: str, _: int, module: str, along: lines.Along) -> Grid:
    store, alignment = handles.store(), lookups.alignment(key)
    names = [pair.name for pair in lines.members(alignment, module)]
    return lines.head_grid(alignment, module, config(key), store.line_changes(key, names, along))
