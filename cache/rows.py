"""Measurements as rows and back, bit for bit: dataclasses <-> Arrow tables. Knows the columns, not the database.

Arrays travel as Arrow lists. The joint histogram, mostly zeros, is stored as its filled cells; its sum over binades is
stored beside it, so that a pair of 50,000 tensors can be drawn without reading any of the large arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from analysis.measurements import N_BINADES, N_CHANGE_BINS, Regions, Spectrum, StepCounts, Tally
from analysis.places import place_of
from analysis.tensors import Alignment, NotCompared, TensorInfo, TensorPair
from cache.tables import HEAVY_LISTS, LIGHT_LISTS, SPECTRUM_NUMBERS, STEP_LISTS, TALLY_JOINT, TALLY_NUMBERS, Table

Row = Mapping[str, Any]


def arrow_table(table: Table, rows: Sequence[Row]) -> pa.Table:
    """The rows as one Arrow table of the table's own types; a number that does not fit is refused."""
    return pa.table({name: _column(kind, [row[name] for row in rows]) for name, kind in table.columns.items()})


def _column(kind: pa.DataType, values: list[Any]) -> pa.Array:
    if not pa.types.is_list(kind):
        return pa.array(values, kind)
    offsets = pa.array(np.cumsum([0, *map(len, values)]), pa.int32())
    flat = pa.array(np.concatenate(values)).cast(kind.value_type)  # safe: what does not fit is refused
    return pa.ListArray.from_arrays(offsets, flat, type=kind)


def tally_row(tally: Tally) -> dict[str, Any]:
    """The columns of one tally, without its key."""
    joint = tally.joint.reshape(-1)
    cells = np.flatnonzero(joint)
    rows, columns = tally.density.shape
    return {
        **{name: getattr(tally, name) for name in TALLY_NUMBERS},
        **{name: getattr(tally, name) for name in LIGHT_LISTS},
        "joint_cells": cells,
        "joint_counts": joint[cells],
        "row_changes": tally.row_changes,
        "column_changes": tally.column_changes,
        "density": tally.density.reshape(-1),
        "density_rows": rows,
        "density_columns": columns,
    }


def tallies(table: pa.Table) -> dict[str, Tally]:
    """Tallies by name. Without the heavy columns their per-row, per-column and block counts are empty, and their joint
    histogram has one row, summed over binades; or one column, summed over sizes of change, where its cells were read.
    """
    heavy, by_binade = "density" in table.column_names, "joint_cells" in table.column_names
    numbers = [table[name].to_pylist() for name in TALLY_NUMBERS]
    lists = zip(*(_arrays(table[name]) for name in LIGHT_LISTS), strict=True)
    shaped = _shaped(table) if heavy else _binned(table) if by_binade else None
    found = {}
    for name, values, (changes, *small) in zip(
        table["name"].to_pylist(), zip(*numbers, strict=True), lists, strict=True
    ):
        joint, row_changes, column_changes, density = next(shaped) if shaped else (changes.reshape(1, -1), *_NOTHING)
        by_field = dict(zip(TALLY_NUMBERS, values, strict=True)) | dict(zip(LIGHT_LISTS[1:], small, strict=True))
        found[name] = Tally(
            **by_field, joint=joint, row_changes=row_changes, column_changes=column_changes, density=density
        )
    return found


_NOTHING = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 0), np.int64))


def _binned(table: pa.Table) -> Iterator[tuple[NDArray[np.int64], ...]]:
    """(joint summed over sizes of change, nothing, nothing, nothing) of each tally; never the whole joint histogram,
    which would be 116 kB a tensor."""
    for cells, counts in zip(*(_arrays(table[name]) for name in TALLY_JOINT), strict=True):
        joint = np.zeros(N_BINADES, np.int64)
        np.add.at(joint, cells // N_CHANGE_BINS, counts.astype(np.int64))
        yield joint.reshape(-1, 1), *_NOTHING


def _shaped(table: pa.Table) -> Iterator[tuple[NDArray[np.int64], ...]]:
    """(joint, row_changes, column_changes, density) of each tally, in their own shapes."""
    sides = zip(table["density_rows"].to_pylist(), table["density_columns"].to_pylist(), strict=True)
    heavy = zip(*(_arrays(table[name]) for name in HEAVY_LISTS), strict=True)
    for side, (cells, counts, row_changes, column_changes, density) in zip(sides, heavy, strict=True):
        joint = np.zeros(N_BINADES * N_CHANGE_BINS, np.int64)
        joint[cells] = counts
        yield (
            joint.reshape(N_BINADES, N_CHANGE_BINS),
            row_changes.astype(np.int64),
            column_changes.astype(np.int64),
            density.astype(np.int64).reshape(side),
        )


def spectrum_row(spectrum: Spectrum) -> dict[str, Any]:
    """The columns of one spectrum, without its key."""
    return {name: getattr(spectrum, name) for name in (*SPECTRUM_NUMBERS, "singular_values")}


def spectra(table: pa.Table) -> dict[str, Spectrum]:
    """Spectra by name; their singular values are empty where the column was not read."""
    numbers = zip(*(table[name].to_pylist() for name in SPECTRUM_NUMBERS), strict=True)
    has_values = "singular_values" in table.column_names
    values = _arrays(table["singular_values"]) if has_values else iter([np.zeros(0, np.float32)] * len(table))
    found = {}
    for name, row, singular in zip(table["name"].to_pylist(), numbers, values, strict=True):
        of, rows, columns, tolerance, rank, low, high, method, reason = row
        found[name] = Spectrum(of, rows, columns, singular, tolerance, rank, low, high, method, reason)
    return found


def regions(table: pa.Table, order: Sequence[int]) -> dict[str, Regions]:
    """Regions by name, their bits brought from the stored order into the asked one; see `permuted`."""
    counts = _arrays(table["counts"])
    rows = zip(table["name"].to_pylist(), table["rule"].to_pylist(), counts, strict=True)
    return {name: Regions(rule, permuted(stored, order)) for name, rule, stored in rows}


def steps(table: pa.Table) -> dict[str, StepCounts]:
    """Counts over a run by tensor name."""
    lists = zip(*(_arrays(table[name]) for name in STEP_LISTS), strict=True)
    rows = zip(*(table[name].to_pylist() for name in ("name", "rule", "entries")), lists, strict=True)
    return {name: StepCounts(rule, entries, *counts) for name, rule, entries, counts in rows}


def permuted(counts: NDArray[np.int64], order: Sequence[int]) -> NDArray[np.int64]:
    """(2 ** k,): the same regions with bit i meaning what bit order[i] meant."""
    subsets = np.arange(len(counts))
    was = sum((subsets >> new & 1) << old for new, old in enumerate(order))
    return counts[was]


def tensor_rows(alignment: Alignment) -> list[dict[str, Any]]:
    """One row a tensor pair, without the pair's key. Places are not stored: they are read off the name again."""
    return [
        {
            "position": position,
            "name": pair.name,
            "base_name": pair.base.name,
            "tuned_name": pair.tuned.name,
            "match": pair.match,
            "shape": pair.shape,
            **_side("base", pair.base),
            **_side("tuned", pair.tuned),
        }
        for position, pair in enumerate(alignment.pairs)
    ]


def _side(side: str, info: TensorInfo) -> dict[str, Any]:
    fields = {f"{side}_{name}": getattr(info, name) for name in ("dtype", "file", "begin", "end")}
    return fields | {f"{side}_stored": info.stored or ()}


def not_compared_rows(alignment: Alignment) -> list[dict[str, Any]]:
    """One row a tensor that is not compared, without the pair's key."""
    return [
        {
            "position": at,
            "name": one.name,
            "side": one.side,
            "reason": one.reason,
            "parameters": one.parameters,
        }
        for at, one in enumerate(alignment.not_compared)
    ]


def alignment(tensors: pa.Table, not_compared: pa.Table, base_parameters: int, tuned_parameters: int) -> Alignment:
    """The alignment that these rows, in the order of their positions, were made from."""
    shapes = [tuple(shape) for shape in tensors["shape"].to_pylist()]
    names = tensors["name"].to_pylist()
    base_names = [own or name for own, name in zip(tensors["base_name"].to_pylist(), names, strict=True)]
    base = _infos(tensors, "base", base_names, shapes)
    tuned = _infos(tensors, "tuned", tensors["tuned_name"].to_pylist(), shapes)
    named = ("" if name == own else name for name, own in zip(names, base_names, strict=True))
    pairs = map(TensorPair, base, tuned, map(place_of, names), tensors["match"].to_pylist(), named)
    missing = (NotCompared(**row) for row in not_compared.select(["name", "side", "reason", "parameters"]).to_pylist())
    return Alignment(tuple(pairs), tuple(missing), base_parameters, tuned_parameters)


def _infos(tensors: pa.Table, side: str, names: list[str], shapes: list[tuple[int, ...]]) -> Iterable[TensorInfo]:
    dtype, file, begin, end = (tensors[f"{side}_{name}"].to_pylist() for name in ("dtype", "file", "begin", "end"))
    stored = (tuple(shape) or None for shape in tensors[f"{side}_stored"].to_pylist())
    return map(TensorInfo, names, dtype, shapes, file, begin, end, stored)


def _arrays(column: pa.ChunkedArray) -> Iterator[NDArray[Any]]:
    """One numpy array a row, views on Arrow's memory."""
    for chunk in column.chunks:
        values = chunk.values.to_numpy(zero_copy_only=True)
        for begin, end in pairwise(chunk.offsets.to_numpy().tolist()):
            yield values[begin:end]
