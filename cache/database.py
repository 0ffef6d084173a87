"""The one connection to the DuckDB file: hardened, with one writer thread; readers get a cursor a call.

DuckDB lets one process in, and within it one writer at a time without conflicts. So writes queue up here, and all that
wait when the writer comes by share one transaction; a write's future is done once it is on the disk. Knows nothing
about what the rows mean.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from analysis.errors import StoreBusy, StoreError
from cache.batch import Delete, Write, apply
from cache.database_errors import INVALIDATED, NO_ROWS_FAULT, translated
from cache.migrations import migrate
from cache.rows import Row

_MAX_BATCH = 256
_MAX_WAITING = 512  # whoever is faster than the disk waits in `write`

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "python_enable_replacements": "false",  # SQL can't see Python's variables
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    "threads": "2",
    "memory_limit": "256MB",
    "max_temp_directory_size": "4GB",
}
_LOCK_DOWN = ("SET enable_external_access = false", "SET lock_configuration = true")

_paths_open_here: set[Path] = set()
_opening = threading.Lock()
_generations = count(1)  # of the process, so that a store opened anew never repeats a number that a page has cached by


class Database:
    """Rows in and out of one DuckDB file, or of memory where `path` is None. Safe to call from any thread."""

    def __init__(self, path: Path | None) -> None:
        self._path = path.resolve() if path else None
        self._config = _CONFIG | {"temp_directory": f"{self._path}.tmp" if self._path else ""}
        self._claim_path()
        try:
            self._connection = self._connect()
        except BaseException:
            self._release_path()
            raise
        self._entrance = threading.Lock()  # to the queue: nothing may get in behind the end
        self._state = threading.Condition()  # of the connection, and of the cursors that were handed out
        self._cursors_out = 0
        self._invalidated = self._closing = self._closed = False
        self._generation_of: dict[str, int] = {}
        self._born = next(_generations)
        self._waiting: queue.Queue[Write | None] = queue.Queue(_MAX_WAITING)
        self._writer = threading.Thread(target=self._write_until_closed, name="store-writer", daemon=True)
        self._writer.start()

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """What a query found, as tuples."""
        with self._cursor() as cursor:
            return cursor.execute(sql, list(values)).fetchall()

    def arrow(self, sql: str, values: Sequence[object] = ()) -> pa.Table:
        """What a query found, as an Arrow table."""
        with self._cursor() as cursor:
            return cursor.sql(sql, params=list(values)).to_arrow_table()

    def write(
        self,
        rows: Mapping[str, Sequence[Row]],
        *,
        deletes: Sequence[Delete] = (),
        touches: Sequence[str] = (),
    ) -> Future[None]:
        """A future that is done when `deletes`, then `rows` by table are on the disk; a row replaces the one with its
        key. Then every name in `touches` has a new generation. The future raises StoreError; it can't be cancelled."""
        write = Write(deletes, rows, touches)
        write.done.set_running_or_notify_cancel()
        with self._entrance:
            if self._closing:
                raise _closed()
            self._waiting.put(write)
        return write.done

    def generation(self, touched: str) -> int:
        """A number that is another one after each committed write that touches this name."""
        return self._generation_of.get(touched, self._born)

    def close(self) -> None:
        """Commits what waits, then lets go of the file. Closing twice is fine."""
        with self._entrance:
            if self._closing:
                return
            self._closing = True
            self._waiting.put(None)
        self._writer.join()
        with self._state:
            self._closed = True
            self._state.wait_for(lambda: self._cursors_out == 0)
            self._connection.close()
        self._release_path()

    def _claim_path(self) -> None:
        """Two stores on one file in one process would be two writers; DuckDB itself would let them."""
        if self._path is None:
            return
        with _opening:
            taken = self._path in _paths_open_here
            _paths_open_here.add(self._path)
        if taken:
            raise StoreBusy(
                f"The store is already open in this process ({os.getpid()})", do="Use the store that is open"
            )

    def _release_path(self) -> None:
        if self._path is not None:
            _paths_open_here.discard(self._path)

    def _connect(self) -> duckdb.DuckDBPyConnection:
        """A connection to an up-to-date store that has given up all rights it doesn't need."""
        try:
            if self._path:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = duckdb.connect(str(self._path or ":memory:"), config=self._config)
            try:
                migrate(connection, self._path)
                for statement in _LOCK_DOWN:
                    connection.execute(statement)
            except BaseException:
                connection.close()
                raise
        except (duckdb.Error, OSError) as error:
            raise translated(error, self._path) from error
        return connection

    @contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor of one's own. After a fatal error (a full disk at a checkpoint) the whole database object refuses
        everything until every handle on it is closed: then the next caller in closes them and opens the file again."""
        with self._state:
            if self._closed:
                raise _closed()
            if self._invalidated:
                self._state.wait_for(lambda: self._cursors_out == 0)
                self._reopen()
            cursor = self._connection.cursor()
            self._cursors_out += 1
        try:
            yield cursor
        except duckdb.Error as error:
            self._invalidated |= isinstance(error, INVALIDATED)
            raise translated(error, self._path) from error
        finally:
            cursor.close()  # rolls back what was not committed
            with self._state:
                self._cursors_out -= 1
                self._state.notify_all()

    def _reopen(self) -> None:
        if self._invalidated:
            self._connection.close()
            self._connection = self._connect()
            self._invalidated = False

    def _write_until_closed(self) -> None:
        closing = False
        while not closing:
            batch = [self._waiting.get()]
            while len(batch) < _MAX_BATCH and not self._waiting.empty():
                batch.append(self._waiting.get())
            closing = None in batch
            self._commit([write for write in batch if write])

    def _commit(self, batch: list[Write]) -> None:
        """Settles every future of the batch. If a row is at fault, each write is tried alone, so that only its own
        future fails."""
        if not batch:
            return
        try:
            self._transact(batch)
        except Exception as error:  # whatever it is belongs to who waits on the future; the writer has to live on
            if len(batch) > 1 and not isinstance(error.__cause__, NO_ROWS_FAULT):
                for write in batch:
                    self._commit([write])
            else:
                for write in batch:
                    write.done.set_exception(error)
        else:
            for name in {name for write in batch for name in write.touches}:
                self._generation_of[name] = next(_generations)
            for write in batch:
                write.done.set_result(None)

    def _transact(self, batch: list[Write]) -> None:
        with self._cursor() as cursor:
            cursor.execute("BEGIN")
            apply(cursor, batch)
            cursor.execute("COMMIT")


def _closed() -> StoreError:
    return StoreError("The store is closed", do="Open it again")
