"""What waits to be written, and how a batch of it becomes rows: inside a transaction that the caller began.

Rows are gathered by table and key first, the last one winning, so that a batch costs one statement a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

from analysis.errors import StoreError
from cache.rows import Row, arrow_table
from cache.tables import TABLES

# A gap stands only where no measurement does; one of an overlap until masks come after it.
_DROP_FILLED_GAPS = (
    """DELETE FROM gaps g USING tallies t
    WHERE g.kind = 'tally' AND g."of" = 'update'
    AND (t.pair_key, t.name, t.version) = (g.pair_key, g.name, g.version)""",
    """DELETE FROM gaps g USING adapter_tallies t WHERE g.kind = 'tally' AND g."of" = 'adapter'
    AND (t.pair_key, t.name, t.version) = (g.pair_key, g.name, g.version)""",
    """DELETE FROM gaps g USING spectra s
    WHERE g.kind IN ('spectrum', 'preview')
    AND (s.pair_key, s.name, s."of", s.version) = (g.pair_key, g.name, g."of", g.version)""",
    """DELETE FROM gaps g USING masks m
    WHERE g.kind = 'overlap' AND (m.pair_key, m.name) = (g.pair_key, g.name) AND m.stored_at > g.stored_at""",
)


@dataclass(frozen=True)
class Delete:
    """Rows of one table whose columns hold these values."""

    table: str
    where: Mapping[str, str]


@dataclass(frozen=True)
class Write:
    """One request of a caller: delete, then put these rows; `done` is settled when both are on the disk."""

    deletes: Sequence[Delete]
    rows: Mapping[str, Sequence[Row]]
    touches: Sequence[str]
    done: Future[None] = field(default_factory=Future)


def apply(cursor: duckdb.DuckDBPyConnection, batch: Sequence[Write]) -> None:
    """Writes the batch as if its writes came one after the other. Raises duckdb.Error, or StoreError for a value that
    fits no column; either way the transaction is to be rolled back."""
    gathered: dict[str, dict[tuple[Any, ...], Row]] = {}
    for write in batch:
        if write.deletes:
            _replace(cursor, gathered)
            gathered = {}
            _delete(cursor, write.deletes)
        for table, rows in write.rows.items():
            key = TABLES[table].key
            gathered.setdefault(table, {}).update({tuple(row[part] for part in key): row for row in rows})
    _replace(cursor, gathered)
    if cursor.execute("SELECT 1 FROM gaps LIMIT 1").fetchall():
        for statement in _DROP_FILLED_GAPS:
            cursor.execute(statement)


def _replace(cursor: duckdb.DuckDBPyConnection, gathered: Mapping[str, Mapping[Any, Row]]) -> None:
    """Deletes what has the same key, then inserts. INSERT OR REPLACE would do, but takes every row through a sort key,
    which turns the -0.0 in a list into 0.0."""
    for table, rows in gathered.items():
        if rows:
            cursor.register("incoming", _incoming(table, list(rows.values())))
            same_key = " AND ".join(f'{table}."{part}" = incoming."{part}"' for part in TABLES[table].key)
            cursor.execute(f"DELETE FROM {table} USING incoming WHERE {same_key}")
            cursor.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
            cursor.unregister("incoming")


def _incoming(table: str, rows: Sequence[Row]) -> pa.Table:
    try:
        return arrow_table(TABLES[table], rows)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise StoreError(f"A result can't be stored: a value does not fit its column in '{table}'") from error


def _delete(cursor: duckdb.DuckDBPyConnection, deletes: Sequence[Delete]) -> None:
    for delete in deletes:
        condition = " AND ".join(f'"{column}" = ?' for column in delete.where)
        cursor.execute(f"DELETE FROM {delete.table} WHERE {condition}", list(delete.where.values()))
