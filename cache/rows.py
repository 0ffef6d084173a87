"""Measurements as rows and back, bit for bit: dataclasses <-> Arrow tables. Knows the columns, not the database.

Arrays travel as Arrow lists. The joint histogram, mostly zeros, is stored as its filled cells; its sum over binades is
stored beside it, so that a pair of 50,000 tensors can be drawn without reading any of the large arrays.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from analysis.measurements import (
    N_BINADES,
    N_CHANGE_BINS,
    SPECTRUM_VERSION,
    Consensus,
    Magnitudes,
    MaskRule,
    Preview,
    Regions,
    Spectrum,
    StepCounts,
    Tally,
)
from analysis.metrics import effective_rank
from analysis.places import place_of
from analysis.tensors import Alignment, Merge, NotCompared, Scales, TensorInfo, TensorPair
from cache.tables import (
    HEAVY_LISTS,
    LISTS,
    PREVIEW_COLUMNS,
    SMALL_LISTS,
    SPECTRUM_NUMBERS,
    STEP_LISTS,
    TALLY_NUMBERS,
    Table,
)

Row = Mapping[str, Any]


def arrow_table(table: Table, rows: Sequence[Row]) -> pa.Table:
    """The rows as one Arrow table of the table's own types; a number that does not fit is refused."""
    return pa.table({name: _column(kind, [row[name] for row in rows]) for name, kind in table.columns.items()})


def without_pandas() -> None:
    """For a process without any: pyarrow would import it, if only to know its values when it sees them, at the first
    array that it makes, which takes longer than opening a store. It looks once; here it finds none."""
    sys.meta_path.insert(0, _NoPandas)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(_NoPandas)


class _NoPandas:
    """Finds no pandas."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("this process has no use for pandas", name=name)


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
        **{name: getattr(tally, name) for name in LISTS},
        "joint_cells": cells,
        "joint_counts": joint[cells],
        "row_changes": tally.row_changes,
        "column_changes": tally.column_changes,
        "density": tally.density.reshape(-1),
        "density_rows": rows,
        "density_columns": columns,
    }


def tallies(table: pa.Table) -> dict[str, Tally]:
    """Tallies by name. Without the heavy columns their joint histogram has one row, summed over binades, and every
    other array is empty.
    """
    whole = "density" in table.column_names
    numbers = zip(*(table[name].to_pylist() for name in TALLY_NUMBERS), strict=True)
    arrays = _whole_arrays(table) if whole else _light_arrays(table)
    named = zip(table["name"].to_pylist(), numbers, arrays, strict=True)
    return {name: Tally(*values, *of_tally) for name, values, of_tally in named}


_ARRAYS = ("joint", *SMALL_LISTS, "row_changes", "column_changes", "density")
assert tuple(field.name for field in fields(Tally)) == (*TALLY_NUMBERS, *_ARRAYS)  # they are given by position
_NOTHING, _NO_MAP = np.zeros(0, np.int64), np.zeros((0, 0), np.int64)


def _light_arrays(table: pa.Table) -> Iterator[tuple[NDArray[np.int64], ...]]:
    nothing = (*[_NOTHING] * (len(_ARRAYS) - 2), _NO_MAP)
    return ((changes.reshape(1, -1), *nothing) for changes in _arrays(table["changes"]))


def _whole_arrays(table: pa.Table) -> Iterator[tuple[NDArray[np.int64], ...]]:
    small = zip(*(_arrays(table[name]) for name in SMALL_LISTS), strict=True)
    for (joint, *others), of_tally in zip(_shaped(table), small, strict=True):
        yield joint, *of_tally, *others


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


def effective_rank_row(key: str, name: str, spectrum: Spectrum) -> dict[str, Any]:
    """The row that keeps a spectrum's effective rank beside it."""
    value = effective_rank(spectrum.singular_values)
    return {"pair_key": key, "name": name, "of": spectrum.of, "version": SPECTRUM_VERSION, "effective_rank": value}


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


def magnitudes(table: pa.Table, changed: pa.ChunkedArray | Sequence[NDArray[np.int64]]) -> dict[str, Magnitudes]:
    """Entries and changed ones by base magnitude, by name; `changed` in the table's order."""
    of_rule = _arrays(changed) if isinstance(changed, pa.ChunkedArray) else changed
    named = zip(table["name"].to_pylist(), _arrays(table["base_binades"]), of_rule, strict=True)
    return {name: Magnitudes(*both) for name, *both in named}


def spread_over_binades(table: pa.Table, names: pa.ChunkedArray) -> NDArray[np.int64]:
    """(names, N_BINADES): the counts of each name's row at its `binades`; 0 elsewhere, and where it has no row. A
    row of another name, stored since the names were read, is left out."""
    position = {name: i for i, name in enumerate(names.to_pylist())}
    table = table.filter(pc.is_in(table["name"], value_set=names.combine_chunks()))
    (binades, lengths), (counts, _) = _flat(table["binades"]), _flat(table["changed"])
    rows = np.repeat(np.array([position[name] for name in table["name"].to_pylist()], np.int64), lengths)
    changed = np.zeros((len(position), N_BINADES), np.int64)
    changed[rows, binades] = counts
    return changed


def _flat(column: pa.ChunkedArray) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """(the values of all rows, one behind the other; how many each row has)."""
    rows = list(_arrays(column))
    lengths = np.array([len(row) for row in rows], np.int64)
    return np.concatenate(rows) if rows else np.zeros(0, np.int64), lengths


def regions_row(regions: Regions, order: Sequence[int]) -> dict[str, Any]:
    """The columns of one tensor's regions, without its key; bit i of a stored subset is their bit order[i]."""
    return {"subsets": moved(regions.subsets, order), "counts": regions.counts}


def regions(table: pa.Table, order: Sequence[int]) -> dict[str, Regions]:
    """Regions by name, their bits brought from the stored order into the asked one; see `moved`."""
    stored, lengths = _flat(table["subsets"])
    counts, _ = _flat(table["counts"])
    subsets = moved(stored, order)
    ascending = np.lexsort((subsets, np.repeat(np.arange(len(lengths)), lengths)))  # within each tensor
    ends = np.cumsum(lengths)[:-1]
    parts = np.split(subsets[ascending], ends), np.split(counts[ascending], ends)
    named = zip(table["name"].to_pylist(), table["rule"].to_pylist(), *parts, strict=True) if len(table) else ()
    return {name: Regions(rule, len(order), *of_tensor) for name, rule, *of_tensor in named}


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


def fingerprint(*parts: pa.Table | int) -> bytes:
    """What tells these amounts and rows from others, whichever pair they are of."""
    found = hashlib.blake2b()
    for part in parts:
        columns = [] if isinstance(part, int) else part.drop_columns(["pair_key"]).combine_chunks().columns
        found.update(f"{part if isinstance(part, int) else part.shape};".encode())
        for column in columns:
            for chunk in column.chunks:
                for buffer in chunk.buffers():
                    found.update(buffer or b"")
    return found.digest()


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
