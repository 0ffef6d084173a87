"""The store's tables as Arrow sees them: columns, types, and the key by which a new row replaces an old one.

`cache.migrations` holds the same columns as SQL; an insert goes by name and fails where the two disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import pyarrow as pa

from analysis.measurements import Tally

_TEXT, _INT, _LONG, _REAL, _TIME = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.timestamp("us")
_LONGS, _COUNTS = pa.list_(pa.int64()), pa.list_(pa.uint32())

TALLY_NUMBERS = {
    field.name: {"int": _LONG, "float": _REAL}[field.type] for field in fields(Tally) if field.type in ("int", "float")
}
SMALL_LISTS = ("base_binades", "mukherjee_binades", "bf16_binades", "relative", "ulps")
LISTS = ("changes", *SMALL_LISTS)
HEAVY_LISTS = ("joint_cells", "joint_counts", "row_changes", "column_changes", "density")
TALLY_SHAPED = (*SMALL_LISTS, *HEAVY_LISTS, "density_rows", "density_columns")  # what a light read leaves out
STEP_LISTS = ("changed", "moved", "changed_outside", "moved_outside", "union")
SPECTRUM_NUMBERS = ("of", "rows", "columns", "tolerance", "rank", "rank_low", "rank_high", "method", "reason")


PREVIEW_COLUMNS = ("of", "rows", "columns", "positions", "values", "stable_rank", "effective_rank")


@dataclass(frozen=True)
class Table:
    """One table of the schema: its columns, and those that say which row a new one replaces."""

    name: str
    key: tuple[str, ...]
    columns: Mapping[str, pa.DataType]


def _table(table: str, /, *key: str, **columns: pa.DataType) -> Table:
    return Table(table, key, columns)


_TALLY_COLUMNS: Mapping[str, pa.DataType] = {
    "pair_key": _TEXT, "name": _TEXT, "version": _INT, "stored_at": _TIME,
    **TALLY_NUMBERS, **dict.fromkeys(LISTS, _LONGS), "joint_cells": pa.list_(_INT), "joint_counts": _LONGS,
    "row_changes": _COUNTS, "column_changes": _COUNTS, "density": _COUNTS,
    "density_rows": _INT, "density_columns": _INT,
}  # fmt: skip
# An adapter's own update has a tally too, beside that of what is left of it in the base's type.
TALLIES_OF: Mapping[str, str] = {"update": "tallies", "adapter": "adapter_tallies"}

TABLES = {
    table.name: table
    for table in (
        _table(
            "pairs", "pair_key", pair_key=_TEXT,
            base_where=_TEXT, base_name=_TEXT, base_commit=_TEXT, base_subfolder=_TEXT,
            tuned_where=_TEXT, tuned_name=_TEXT, tuned_commit=_TEXT, tuned_subfolder=_TEXT,
            base_card=_TEXT, tuned_card=_TEXT, base_parameters=_LONG, tuned_parameters=_LONG,
            n_tensors=_LONG, n_matrices=_LONG, entries=_LONG, registered_at=_TIME,
        ),
        _table(
            "tensors", "pair_key", "position",
            pair_key=_TEXT, position=_INT, name=_TEXT, base_name=_TEXT, tuned_name=_TEXT, match=_TEXT, shape=_LONGS,
            base_stored=_LONGS, tuned_stored=_LONGS, base_scales=_TEXT, tuned_scales=_TEXT, merge=_TEXT,
            base_dtype=_TEXT, base_file=_TEXT, base_begin=_LONG, base_end=_LONG,
            tuned_dtype=_TEXT, tuned_file=_TEXT, tuned_begin=_LONG, tuned_end=_LONG,
        ),
        _table(
            "not_compared", "pair_key", "position",
            pair_key=_TEXT, position=_INT, name=_TEXT, side=_TEXT, reason=_TEXT, parameters=_LONG,
        ),
        *(Table(name, ("pair_key", "name", "version"), _TALLY_COLUMNS) for name in TALLIES_OF.values()),
        _table(
            "spectra", "pair_key", "name", "of", "version",
            pair_key=_TEXT, name=_TEXT, of=_TEXT, version=_INT, stored_at=_TIME, rows=_LONG, columns=_LONG,
            tolerance=_REAL, rank=_LONG, rank_low=_LONG, rank_high=_LONG, method=_TEXT, reason=_TEXT,
            singular_values=pa.list_(pa.float32()),
        ),
        _table(
            "effective_ranks", "pair_key", "name", "of", "version",
            pair_key=_TEXT, name=_TEXT, of=_TEXT, version=_INT, effective_rank=_REAL,
        ),
        _table(
            "previews", "pair_key", "name", "of", "version",
            pair_key=_TEXT, name=_TEXT, of=_TEXT, version=_INT, stored_at=_TIME, rows=_LONG, columns=_LONG,
            stable_rank=_REAL, effective_rank=_REAL, positions=pa.list_(pa.float32()), values=pa.list_(pa.float32()),
        ),
        _table(
            "gaps", "pair_key", "kind", "name", "of", "version",
            pair_key=_TEXT, kind=_TEXT, name=_TEXT, of=_TEXT, version=_INT, stored_at=_TIME, reason=_TEXT,
        ),
        _table(
            "regions", "base_key", "tuned_keys", "name", "rule", "version",
            base_key=_TEXT, tuned_keys=_TEXT, name=_TEXT, rule=_TEXT, version=_INT, stored_at=_TIME,
            subsets=pa.list_(_INT), counts=_LONGS,
        ),
        _table(
            "consensus", "base_key", "tuned_keys", "name", "rule", "version",
            base_key=_TEXT, tuned_keys=_TEXT, name=_TEXT, rule=_TEXT, version=_INT, stored_at=_TIME,
            rows=_LONG, columns=_LONG, map_rows=_INT, map_columns=_INT, counts=_COUNTS,
        ),
        _table(
            "series", "series_key", series_key=_TEXT, base=_TEXT, checkpoints=_TEXT, labels=_TEXT, registered_at=_TIME,
        ),
        _table(
            "steps", "series_key", "name", "rule", "version", series_key=_TEXT, name=_TEXT, rule=_TEXT, version=_INT,
            stored_at=_TIME, entries=_LONG, **dict.fromkeys(STEP_LISTS, _LONGS),
        ),
        _table(
            "masks", "pair_key", "name", "rule", "version", pair_key=_TEXT, name=_TEXT, rule=_TEXT, version=_INT,
            stored_at=_TIME, path=_TEXT, entries=_LONG, changed=_LONG, bytes=_LONG, sha256=_TEXT,
        ),
        _table("asked", "pair_key", "plan", pair_key=_TEXT, plan=_TEXT, asked_at=_TIME),
        _table(
            "notes", "pair_key", pair_key=_TEXT, algorithm=_TEXT, data=_TEXT, tags=pa.list_(_TEXT), note=_TEXT,
            stored_at=_TIME,
        ),
        _table(
            "jobs", "id", id=_TEXT, kind=_TEXT, request=_TEXT, state=_TEXT, message=_TEXT,
            created_at=_TIME, started_at=_TIME, ended_at=_TIME, measured=_LONG, planned=_LONG,
        ),
    )
}  # fmt: skip
