"""Changed entries by line -> by head, by neuron, by row: tables of the most changed, and heads over layers.

Divides, as `rollup` does, after counts are added; every share is of the exact rule, by which rows and columns are
counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from analysis.heads import Along, Config, Head, Heads, heads_of
from analysis.metrics import Metric
from analysis.rollup import OUTSIDE_LAYERS, Cell, Grid
from analysis.tables import Row
from analysis.tensors import Alignment, TensorPair

MOST_SHOWN = 20

UNCHANGED_BY_HEAD = Metric(
    "unchanged-by-head",
    "Unchanged share by attention head, exact",
    "unchanged share",
    "share",
    "Entries of a head's rows (of an output projection: its columns) that are equal in value before and after.",
    "tally",
)


def changed_of_heads(heads: Heads, changes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Changed entries of each head; `changes` are those of each line."""
    return np.add.reduceat(changes, [head.first for head in heads.heads])


def head_rows(heads: Heads, changes: NDArray[np.int64], width: int) -> list[Row]:
    """One row a head, the most changed first: its share beside the matrix's own. `width` entries lie on a line."""
    whole = _over(int(changes.sum()), len(changes) * width)
    of_heads = changed_of_heads(heads, changes)
    order = np.argsort(-of_heads, kind="stable")  # all heads have as many lines
    return [_head_row(heads.heads[i], int(of_heads[i]), heads, width, whole) for i in order]


def _head_row(head: Head, changed: int, heads: Heads, width: int, whole: float) -> Row:
    entries = (head.last - head.first) * width
    shared = {"key-value head": head.group} if heads.shared_by > 1 else {}
    return {
        "head": head.title,
        **shared,
        f"{heads.along}s": f"{head.first} to {head.last - 1}",
        **_changed(changed, entries, whole),
    }


def line_rows(changes: NDArray[np.int64], width: int, name: str, heads: Heads | None = None) -> list[Row]:
    """One row a line (called `name`: a neuron, a row), the most changed first, with its head where it has one."""
    whole = _over(int(changes.sum()), len(changes) * width)
    order = np.argsort(-changes, kind="stable")
    names = _head_of_line(heads, len(changes))
    return [
        {
            name: line,
            **({"head": names[line]} if heads else {}),
            **_changed(int(changes[line]), width, whole),
        }
        for line in order.tolist()
    ]


def _head_of_line(heads: Heads | None, n_lines: int) -> list[str]:
    names = [""] * n_lines
    for head in heads.heads if heads else ():
        names[head.first : head.last] = [head.title] * (head.last - head.first)
    return names


def _changed(changed: int, entries: int, whole: float) -> Row:
    share = _over(changed, entries)
    return {"changed": changed, "entries": entries, "changed share": share, "relative to matrix": _over(share, whole)}


def modules_with_heads(alignment: Alignment, config: Config) -> dict[str, Along]:
    """The attention matrices whose heads are known, and whether they lie along rows or columns."""
    return {
        pair.place.module: heads.along
        for pair in alignment.pairs
        if pair.is_matrix and pair.place.layer is not None and (heads := _heads(pair, config))
    }


def members(alignment: Alignment, module: str) -> list[TensorPair]:
    """This matrix in every layer."""
    of_module = (pair for pair in alignment.pairs if pair.place.module == module and pair.place.layer is not None)
    return sorted(of_module, key=lambda pair: pair.place.layer or 0)


def head_grid(alignment: Alignment, module: str, config: Config, changes_of: Mapping[str, NDArray[np.int64]]) -> Grid:
    """Unchanged share by head (rows) and layer (columns) of one matrix; `changes_of` holds the changed entries of each
    line by tensor name, for the tensors that are measured. A layer whose shape has other heads has no value."""
    pairs = members(alignment, module)
    known = [(pair, _heads(pair, config)) for pair in pairs]
    titles = next(tuple(head.title for head in heads.heads) for _, heads in known if heads)
    values = np.full((len(titles), len(pairs)), math.nan)
    states = np.full(values.shape, Cell.WAITING, np.int8)
    for column, (pair, heads) in enumerate(known):
        if heads is None or len(heads.heads) != len(titles):
            states[:, column] = Cell.GAP
        elif (changes := changes_of.get(pair.name)) is not None:
            values[:, column] = 1 - changed_of_heads(heads, changes) * len(titles) / pair.entries
            states[:, column] = Cell.READY
    layers = tuple(OUTSIDE_LAYERS if pair.place.layer is None else pair.place.layer for pair in pairs)
    names = tuple(tuple((pair.name,) for pair in pairs) for _ in titles)
    return Grid(UNCHANGED_BY_HEAD, titles, layers, values, states, names)


def _heads(pair: TensorPair, config: Config) -> Heads | None:
    return heads_of(pair.place.module, pair.shape, config)


def _over(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
