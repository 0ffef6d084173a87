"""Files that the Hub cache holds under another repository: the same SHA-256 is the same file, and not fetched again."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from cache.found import FileEntry


def lender(cache: Path, entry: FileEntry) -> Path | None:
    """The file with this entry's content, in whatever repository of the cache; None where there is none of its size."""
    if entry.sha256 is None:
        return None
    for blob in cache.glob(f"models--*/blobs/{entry.sha256}"):
        if blob.is_file() and blob.stat().st_size == entry.size:
            return blob
    return None


def borrow(cache: Path, repository: Path, entry: FileEntry) -> None:
    """Gives `repository` the file by a further name of it, if the cache has it; the library then only links it. Nothing
    where it has it already, or where the disk knows no second names: it is then fetched."""
    blob = lender(cache, entry)
    if blob is None or (repository / "blobs" / blob.name).exists():
        return
    with contextlib.suppress(OSError):
        (repository / "blobs").mkdir(parents=True, exist_ok=True)
        os.link(blob, repository / "blobs" / blob.name)
