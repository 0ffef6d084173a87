"""Whether a downloaded file is what the Hub lists, byte by byte, and a memory of having looked."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from analysis.errors import ResourceError
from cache.found import FileEntry
from cache.settings import Settings


def is_sound(path: Path, entry: FileEntry, settings: Settings) -> bool:
    """Whether the file has its size and, where the Hub tells one, its SHA-256. A yes is remembered below the data
    folder until the file's size or time changes."""
    seen = path.stat()
    if seen.st_size != entry.size:
        return False
    if entry.sha256 is None:
        return True
    real = path.resolve()
    note = settings.data_dir / "verified" / f"{hashlib.sha256(str(real).encode()).hexdigest()[:32]}.json"
    proof = {"path": str(real), "size": seen.st_size, "mtime_ns": seen.st_mtime_ns, "sha256": entry.sha256}
    if _read_note(note) == proof:
        return True
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
            return False
    _write_note(note, proof)
    return True


def _read_note(note: Path) -> object:
    try:
        return json.loads(note.read_text())
    except (OSError, ValueError):
        return None


def _write_note(note: Path, proof: dict[str, object]) -> None:
    temporary = note.with_suffix(f".{os.getpid()}.tmp")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(proof))
        temporary.replace(note)
    except OSError as error:
        raise ResourceError(
            f"The data folder cannot be written: {error.strerror}", do="Check the rights of SUBNETSCOPE_DATA"
        ) from error
