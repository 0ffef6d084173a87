"""Whether a file is what the Hub lists, byte by byte, and a memory of having looked."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from analysis.errors import ResourceError
from cache.found import FileEntry, FoundModel
from cache.settings import Settings

_TRUSTED_FOR = 7 * 24 * 3600  # seconds; then the file is hashed again, for bits that a disk lost without a trace


def blob_name(found: FoundModel, entry: FileEntry) -> str:
    """The content's name in the Hub cache: its hash, as the library names it, where the Hub lists one."""
    where = f"{found.pinned.name}@{found.pinned.commit}/{found.pinned.subfolder}/{entry.path}"
    return entry.sha256 or entry.git_id or hashlib.sha256(where.encode()).hexdigest()


def hasher(entry: FileEntry) -> Any:
    """What the file's bytes are fed to: SHA-256 for large files, git's way with SHA-1 for small ones."""
    if entry.sha256 or not entry.git_id:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % entry.size, usedforsecurity=False)


def fits(digest: Any, entry: FileEntry) -> bool:
    """Whether `hasher` has seen what the Hub lists; always, where it lists nothing but the size."""
    return (entry.sha256 or entry.git_id) in (None, digest.hexdigest())


def is_sound(path: Path, entry: FileEntry, settings: Settings) -> bool:
    """Whether the file has its size and its hash. A yes is remembered below the data folder for a week, or until the
    file's size or time changes."""
    if path.stat().st_size != entry.size:
        return False
    if _read_note(_note(path, settings)) == _proof(path, entry):
        return True
    with path.open("rb") as file:
        if not fits(hashlib.file_digest(file, lambda: hasher(entry)), entry):
            return False
    remember(path, entry, settings)
    return True


def remember(path: Path, entry: FileEntry, settings: Settings) -> None:
    """The file, as it is now, was found to be sound."""
    note = _note(path, settings)
    temporary = note.with_suffix(f".{os.getpid()}.tmp")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(_proof(path, entry)))
        temporary.replace(note)
    except OSError as error:
        raise ResourceError(
            f"The data folder cannot be written: {error.strerror}", do="Check the rights of SUBNETSCOPE_DATA"
        ) from error


def _note(path: Path, settings: Settings) -> Path:
    return settings.data_dir / "verified" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"


def _proof(path: Path, entry: FileEntry) -> dict[str, object]:
    seen = path.stat()
    listed = entry.sha256 or entry.git_id
    return {"path": str(path.resolve()), "size": seen.st_size, "mtime_ns": seen.st_mtime_ns, "listed": listed}


def _read_note(note: Path) -> object:
    try:
        return json.loads(note.read_text()) if time.time() - note.stat().st_mtime < _TRUSTED_FOR else None
    except (OSError, ValueError):
        return None
