"""Measurements as rows and back, bit for bit: dataclasses <-> Arrow tables. Knows the columns, not the database.

Arrays travel as Arrow lists. The joint histogram, mostly zeros, is stored as its filled cells; its sum over binades is
stored beside it, so that a pair of 50,000 tensors can be drawn without reading any of the large arrays.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from analysis.measurements import (
    N_BINADES,
    N_CHANGE_BINS,
    Consensus,
    Magnitudes,
    MaskRule,
    Preview,
    Regions,
    Spectrum,
    StepCounts,
    Tally,
    first_changed_bin,
)
from analysis.places import place_of
from analysis.tensors import Alignment, Merge, NotCompared, Scales, TensorInfo, TensorPair
from cache.tables import (
    HEAVY_LISTS,
    LIGHT_LISTS,
    PREVIEW_COLUMNS,
    SPECTRUM_NUMBERS,
    STEP_LISTS,
    TALLY_JOINT,
    TALLY_NUMBERS,
    Table,
)

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
    histogram has one row, summed over binades.
    """
    heavy = "density" in table.column_names
    numbers = [table[name].to_pylist() for name in TALLY_NUMBERS]
    lists = zip(*(_arrays(table[name]) for name in LIGHT_LISTS), strict=True)
    shaped = _shaped(table) if heavy else None
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


def line_changes(table: pa.Table) -> dict[str, NDArray[np.int64]]:
    """Changed entries by line, by tensor name."""
    found = zip(table["name"].to_pylist(), _arrays(table["changes"]), strict=True)
    return {name: changes.astype(np.int64) for name, changes in found}


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


def preview_row(preview: Preview) -> dict[str, Any]:
    """The columns of one preview, without its key."""
    return {name: getattr(preview, name) for name in PREVIEW_COLUMNS}


def previews(table: pa.Table) -> dict[str, Preview]:
    """Previews by name."""
    curves = (_arrays(table["positions"]), _arrays(table["values"]))
    numbers = (table[name].to_pylist() for name in ("name", "of", "rows", "columns", "stable_rank", "effective_rank"))
    return {
        name: Preview(of, rows, columns, positions, values, stable, effective)
        for name, of, rows, columns, stable, effective, positions, values in zip(*numbers, *curves, strict=True)
    }


def magnitudes(table: pa.Table, rule: MaskRule) -> dict[str, Magnitudes]:
    """Entries and changed ones by base magnitude, by name; never the joint histogram, which is 116 kB a tensor."""
    entries = _arrays(table["base_binades"])
    changed = _arrays(table[f"{rule}_binades"]) if rule in ("mukherjee", "bf16") else _changed_of_joint(table, rule)
    return {name: Magnitudes(*both) for name, *both in zip(table["name"].to_pylist(), entries, changed, strict=True)}


def _changed_of_joint(table: pa.Table, rule: MaskRule) -> Iterator[NDArray[np.int64]]:
    first = first_changed_bin(rule)
    for cells, counts in zip(*(_arrays(table[name]) for name in TALLY_JOINT), strict=True):
        changed = np.zeros(N_BINADES, np.int64)
        beyond = cells % N_CHANGE_BINS >= first
        np.add.at(changed, cells[beyond] // N_CHANGE_BINS, counts[beyond])
        yield changed


def regions_row(regions: Regions, order: Sequence[int]) -> dict[str, Any]:
    """The columns of one tensor's regions, without its key; bit i of a stored subset is their bit order[i]."""
    return {"subsets": moved(regions.subsets, order), "counts": regions.counts}


def regions(table: pa.Table, order: Sequence[int]) -> dict[str, Regions]:
    """Regions by name, their bits brought from the stored order into the asked one; see `moved`."""
    columns = _arrays(table["subsets"]), _arrays(table["counts"])
    found = {}
    for name, rule, stored, counts in zip(table["name"].to_pylist(), table["rule"].to_pylist(), *columns, strict=True):
        subsets = moved(stored, order)
        ascending = np.argsort(subsets)
        found[name] = Regions(rule, len(order), subsets[ascending], counts[ascending])
    return found


def steps(table: pa.Table) -> dict[str, StepCounts]:
    """Counts over a run by tensor name."""
    lists = zip(*(_arrays(table[name]) for name in STEP_LISTS), strict=True)
    rows = zip(*(table[name].to_pylist() for name in ("name", "rule", "entries")), lists, strict=True)
    return {name: StepCounts(rule, entries, *counts) for name, rule, entries, counts in rows}


def moved(subsets: NDArray[Any], order: Sequence[int]) -> NDArray[np.int64]:
    """The same subsets of models with bit i meaning what bit order[i] meant."""
    wide = subsets.astype(np.int64)
    return sum(((wide >> old & 1) << new for new, old in enumerate(order)), np.zeros_like(wide))


def consensus_row(consensus: Consensus) -> dict[str, Any]:
    """The columns of one matrix's map, without its key."""
    map_rows, map_columns, _ = consensus.counts.shape
    return {
        "rows": consensus.rows,
        "columns": consensus.columns,
        "map_rows": map_rows,
        "map_columns": map_columns,
        "counts": consensus.counts.reshape(-1),
    }


def consensus(table: pa.Table, rule: MaskRule) -> Consensus | None:
    """The map that the only row holds, or None."""
    for row in table.to_pylist():
        counts = np.array(row["counts"], np.int64).reshape(row["map_rows"], row["map_columns"], -1)
        return Consensus(rule, row["rows"], row["columns"], counts)
    return None


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
            "merge": "" if pair.merge is None else json.dumps(asdict(pair.merge)),
        }
        for position, pair in enumerate(alignment.pairs)
    ]


def _side(side: str, info: TensorInfo) -> dict[str, Any]:
    fields = {f"{side}_{name}": getattr(info, name) for name in ("dtype", "file", "begin", "end")}
    return fields | {f"{side}_stored": info.stored or (), f"{side}_scales": _scales_text(info.scales)}


def _scales_text(scales: Scales | None) -> str:
    """The scales as JSON; '' where there are none."""
    return json.dumps(asdict(scales), separators=(",", ":")) if scales else ""


def _scales_of_text(text: str | None) -> Scales | None:
    if not text:
        return None
    fields = json.loads(text)
    info = fields["info"] | {"shape": tuple(fields["info"]["shape"])}
    info["stored"] = tuple(info["stored"]) if info["stored"] is not None else None
    return Scales(TensorInfo(**info), tuple(fields["block"]), fields["first_row"])


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
    merges = map(_merge, tensors["merge"].to_pylist())
    pairs = map(TensorPair, base, tuned, map(place_of, names), tensors["match"].to_pylist(), named, merges)
    missing = (NotCompared(**row) for row in not_compared.select(["name", "side", "reason", "parameters"]).to_pylist())
    return Alignment(tuple(pairs), tuple(missing), base_parameters, tuned_parameters)


def _merge(text: str | None) -> Merge | None:
    if not text:
        return None
    fields = json.loads(text)
    factors = tuple((role, _info(info)) for role, info in fields.pop("factors"))
    return Merge(**fields, factors=factors)


def _info(fields: dict[str, Any]) -> TensorInfo:
    stored = fields.pop("stored")
    return TensorInfo(**fields | {"shape": tuple(fields["shape"])}, stored=tuple(stored) if stored else None)


def _infos(tensors: pa.Table, side: str, names: list[str], shapes: list[tuple[int, ...]]) -> Iterable[TensorInfo]:
    dtype, file, begin, end = (tensors[f"{side}_{name}"].to_pylist() for name in ("dtype", "file", "begin", "end"))
    stored = (tuple(shape) or None for shape in tensors[f"{side}_stored"].to_pylist())
    scales = map(_scales_of_text, tensors[f"{side}_scales"].to_pylist())
    return map(TensorInfo, names, dtype, shapes, file, begin, end, stored, scales)


def _arrays(column: pa.ChunkedArray) -> Iterator[NDArray[Any]]:
    """One numpy array a row, views on Arrow's memory."""
    for chunk in column.chunks:
        values = chunk.values.to_numpy(zero_copy_only=True)
        for begin, end in pairwise(chunk.offsets.to_numpy().tolist()):
            yield values[begin:end]
