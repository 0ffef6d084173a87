"""Files that the Hub cache holds under another repository: the same SHA-256 is the same file, and not fetched again."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from cache.found import FileEntry
from cache.hub.places import cache_dir


def lender(entry: FileEntry) -> Path | None:
    """The file with this entry's content, in whatever repository of the cache; None where there is none of its size."""
    if entry.sha256 is None:
        return None
    for blob in cache_dir().glob(f"models--*/blobs/{entry.sha256}"):
        if blob.is_file() and blob.stat().st_size == entry.size:
            return blob
    return None


def borrow(blob: Path, entry: FileEntry) -> None:
    """Gives the content the further name `blob`, if the cache has it anywhere. Nothing where it has this name already,
    or where the disk knows no second names: it is then fetched."""
    found = None if blob.exists() else lender(entry)
    if found is not None:
        with contextlib.suppress(OSError):
            os.link(found, blob)
