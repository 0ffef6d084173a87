"""Rows and their provenance -> the bytes of a CSV, Parquet or JSON file, in pieces, so that no table has to fit twice.

In all three a number that does not exist is missing (empty, null), and counts are integers. Types of columns are taken
from a list of rows as a whole, of other rows from the first piece of them.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from analysis.labels import visible
from analysis.provenance import flat
from analysis.tables import Row, harmless

Rows = Iterable[Row]
Encoder = Callable[[Rows, Mapping[str, Any]], Iterator[bytes]]

_PIECE = 20_000  # rows
_NEEDS_QUOTES = re.compile(r'[",#;\t\r\n]|^\s|\s$')
_FORMULA_IN_A_COMMENT = re.compile(r"([,;]\s*)(?=[=+\-@])")


def csv(rows: Rows, provenance: Mapping[str, Any]) -> Iterator[bytes]:
    """CSV in UTF-8: the provenance in lines that begin with '# ', one line of column names, the rows. Text that holds
    a '#' is quoted, so that readers which skip comments (pandas: comment='#') do not cut it."""
    yield "".join(f"# {name}: {_comment(text)}\n" for name, text in flat(provenance).items()).encode()
    pieces = _pieces(rows)
    first = next(pieces, [])
    if first:
        yield _line(first[0])
    for piece in chain([first], pieces):
        yield b"".join(_line(_plain(value) for value in row.values()) for row in piece)


def parquet(rows: Rows, provenance: Mapping[str, Any]) -> Iterator[bytes]:
    """Parquet, compressed with zstd; the provenance is JSON in the schema's metadata, under 'subnetscope'."""
    pieces = _pieces(rows)
    first = next(pieces, [])
    schema = _schema(first).with_metadata({b"subnetscope": json.dumps(provenance, allow_nan=False).encode()})
    sink = _Sink()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for piece in chain([first], pieces):
            writer.write_table(_table(piece, schema))
            yield sink.taken()
    yield sink.taken()


def json_text(rows: Rows, provenance: Mapping[str, Any]) -> Iterator[bytes]:
    """One JSON object: 'provenance' and 'rows'."""
    yield b'{"provenance": ' + json.dumps(provenance, allow_nan=False).encode() + b', "rows": '
    yield from json_array(rows)
    yield b"}\n"


def json_tables(rows_of_table: Mapping[str, Callable[[], Rows]], provenance: Mapping[str, Any]) -> Iterator[bytes]:
    """One JSON object with every table of a view: 'provenance' and 'tables'. Each is looked up when its turn comes."""
    yield b'{"provenance": ' + json.dumps(provenance, allow_nan=False).encode() + b', "tables": {'
    for position, (name, rows) in enumerate(rows_of_table.items()):
        yield (", " if position else "").encode() + json.dumps(name).encode() + b": "
        yield from json_array(rows())
    yield b"}}\n"


def json_array(rows: Rows) -> Iterator[bytes]:
    """The rows as a JSON array of objects, one a line."""
    separator = "[\n"
    for piece in _pieces(rows):
        lines = [json.dumps({name: _finite(value) for name, value in row.items()}, allow_nan=False) for row in piece]
        yield (separator + ",\n".join(lines)).encode()
        separator = ",\n"
    yield b"[]" if separator == "[\n" else b"\n]"


def json_of(provenance: Mapping[str, Any]) -> str:
    """The provenance alone, in one line, for files that carry text beside a picture."""
    return json.dumps(provenance, allow_nan=False)


ENCODERS: dict[str, tuple[str, Encoder]] = {
    "csv": ("text/csv; charset=utf-8", csv),
    "parquet": ("application/vnd.apache.parquet", parquet),
    "json": ("application/json", json_text),
}


class _Sink(io.RawIOBase):
    """A file that is only written to, and emptied after each piece."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        found = b"".join(self._pieces)
        self._pieces.clear()
        return found


def _pieces(rows: Rows) -> Iterator[list[Row]]:
    """The rows in pieces; a list whose columns have to agree on types first is looked at by `_schema` in one piece."""
    if isinstance(rows, list):
        if rows:
            yield rows
        return
    left = iter(rows)
    while piece := list(islice(left, _PIECE)):
        yield piece


def _schema(rows: Sequence[Row]) -> pa.Schema:
    return pa.schema([(name, _type([row[name] for row in rows])) for name in (rows[0] if rows else ())])


def _type(values: Sequence[object]) -> pa.DataType:
    kinds = {type(plain) for value in values if (plain := _plain(value)) is not None}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds and kinds <= {int, float} else pa.string()


def _table(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    def column(field: pa.Field) -> pa.Array:
        values = [_plain(row[field.name]) for row in rows]
        if field.type == pa.string():
            values = [None if value is None else visible(str(value)) for value in values]
        return pa.array(values, field.type)

    return pa.table([column(field) for field in schema], schema=schema)


def _plain(value: object) -> object:
    """A value of Python's own, None for a number that does not exist."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _finite(value: object) -> object:
    plain = _plain(value)
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def _line(values: Iterable[object]) -> bytes:
    return (",".join(map(_field, values)) + "\n").encode()


def _field(value: object) -> str:
    if value is None:
        return ""
    text = harmless(value) if isinstance(value, str) else str(value)
    return '"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) else text


def _comment(text: str) -> str:
    """`text` in one line, without a cell that a spreadsheet would run as a formula."""
    return _FORMULA_IN_A_COMMENT.sub(r"\1'", visible(text))
