"""Where files lie in the Hub cache of this machine: the library's own layout, so that both share what is there.

    models--org--name/blobs/<SHA-256, or git's id of a small file>
    models--org--name/snapshots/<commit>/<path>  ->  ../../blobs/...

What is on its way lies beside the blobs, under a name that stays.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from cache.found import FileEntry, FoundModel
from cache.hub.proof import blob_name

PARTIAL = ".subnetscope.incomplete"


def cache_dir() -> Path:
    """The Hub cache: HF_HUB_CACHE as it is now, else what the library read when it was imported."""
    return Path(os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE).expanduser()


def snapshot(found: FoundModel) -> Path:
    """The folder of the pinned commit; for a subfolder of a repository, that in it."""
    return _repository(found) / "snapshots" / found.pinned.commit / found.pinned.subfolder


@dataclass(frozen=True)
class Place:
    """One file's places: `link` is where its name leads, `blob` its content, `partial` what of it has arrived."""

    link: Path
    blob: Path
    partial: Path
    lock: Path

    @classmethod
    def of(cls, found: FoundModel, entry: FileEntry) -> Place:
        repository, name = _repository(found), blob_name(found, entry)
        return cls(
            link=snapshot(found) / entry.path,
            blob=repository / "blobs" / name,
            partial=repository / "blobs" / f"{name}{PARTIAL}",
            lock=cache_dir() / ".locks" / repository.name / f"{name}.lock",
        )

    def bytes_there(self, size: int) -> int:
        """How much of the file, which has `size` bytes, need not be fetched. Not a byte of it is checked."""
        if self.link.exists() or self.blob.exists():
            return size
        try:
            begun = self.partial.stat().st_size
        except FileNotFoundError:
            return 0
        return begun if begun <= size else 0

    def make_folders(self) -> None:
        for path in (self.link, self.blob, self.lock):
            path.parent.mkdir(parents=True, exist_ok=True)

    def put_link(self) -> None:
        """The file's name leads to its content, by a relative path, so that the cache can be moved."""
        target = os.path.relpath(self.blob, self.link.parent)
        new = self.blob.with_name(f"{self.blob.name}.{os.getpid()}.link.incomplete")
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        new.replace(self.link)

    def discard(self) -> None:
        """Remove the content, and what the file's name leads to."""
        real = self.link.resolve()
        for path in (self.link, real, self.blob):
            path.unlink(missing_ok=True)


def _repository(found: FoundModel) -> Path:
    return cache_dir() / ("models--" + found.pinned.name.replace("/", "--"))
