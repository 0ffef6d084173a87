"""A file on its way from the Hub: what has arrived stays on the disk, and is hashed as it comes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from cache.found import FileEntry
from cache.hub.proof import fits, hasher

_BLOCK = 1 << 20


class Partial:
    """Opens what an earlier process left at `path`, if anything. Raises OSError; what was added before stays."""

    def __init__(self, path: Path, entry: FileEntry) -> None:
        self._path, self._entry = path, entry
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._hasher, self.position = hasher(entry), 0
        if os.fstat(self._descriptor).st_size > entry.size:
            self.start_over()
        while block := os.read(self._descriptor, _BLOCK):
            self._hasher.update(block)
            self.position += len(block)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def add(self, piece: memoryview) -> None:
        written = 0
        while written < len(piece):
            written += os.write(self._descriptor, piece[written:])
        self._hasher.update(piece)
        self.position += len(piece)

    def start_over(self) -> None:
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._hasher, self.position = hasher(self._entry), 0

    @property
    def is_sound(self) -> bool:
        return self.position == self._entry.size and fits(self._hasher, self._entry)

    def become(self, blob: Path) -> None:
        """The whole file under its own name, on the disk before it has that name."""
        os.fsync(self._descriptor)
        self._path.replace(blob)
        folder = os.open(blob.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
