"""DuckDB's errors in our words: which of our errors it is, and what its reader should do about it."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb

from analysis.errors import StoreBusy, StoreError, StoreNewer

# After these the database object is dead until every handle on it is closed.
INVALIDATED = (duckdb.FatalException, duckdb.InternalException)

# With these the file is out of reach or the whole commit failed: no row of it is to blame.
NO_ROWS_FAULT = (*INVALIDATED, duckdb.IOException, duckdb.TransactionException)

_DAMAGED = ("corrupt", "not a valid duckdb", "could not read enough bytes", "checksum", "wal does not match")


def translated(error: Exception, path: Path | None) -> StoreError:
    """Our error for what DuckDB, or the system below it, raised."""
    text = str(error)
    low = text.lower()
    where = str(path) if path else "in memory"
    if "could not set lock" in low:
        holder = re.search(r"PID (\d+)", text)
        return StoreBusy(
            f"The store {where} is open in another process" + (f", PID {holder[1]}" if holder else ""),
            expected="One process at a time opens it",
            do="Use that process, end it, or set SUBNETSCOPE_DATA to another folder",
        )
    if "no space left" in low or "out of disk" in low:
        return StoreError(
            "The disk that holds the store is full",
            expected="What was reported as stored is safe; the latest results are not stored",
            do="Free some space and start the job again; it goes on where it stopped",
        )
    if "newer version" in low or "newer duckdb" in low:
        return StoreNewer(f"The store {where} was written by a newer DuckDB", do="Update Subnetscope")
    if any(sign in low for sign in _DAMAGED):
        return StoreError(
            f"The store {where} is damaged, or is no store",
            do="Move it away and start again, or put a backup in its place; what is missing is measured again",
        )
    if isinstance(error, OSError) or "permission denied" in low or "cannot open file" in low:
        return StoreError(
            f"The store {where} can't be opened or written",
            do="Check that its folder exists and that this user may write there, or set SUBNETSCOPE_DATA",
        )
    return StoreError(f"The store refused a request: {text.splitlines()[0][:200] if text else type(error).__name__}")
