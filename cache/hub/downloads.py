"""Whole files from the Hub into its cache on this machine, each checked byte by byte before it is used.

The library checks only sizes, so a flipped bit would be stored under the good file's name, and it leaves its partial
files behind when it is killed. Both are made good here.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Self

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

from analysis.errors import BadWeights, DiskFull, SubnetscopeError
from cache.found import FileEntry, FoundModel
from cache.hub.borrowed import borrow, lender
from cache.hub.proof import is_sound
from cache.hub.ranges import check_access
from cache.hub.session import ask, token
from cache.settings import Settings

_SPARE_DISK = 500_000_000
_OLDEST_PARTIAL = 24 * 3600  # seconds


def bytes_to_fetch(found: FoundModel, files: Collection[str]) -> int:
    """Bytes of `files` that are not yet in the Hub cache. Asks nobody; what is there is checked by `fetch`."""
    return sum(entry.size for entry in _entries(found, files) if not _is_cached(found, entry))


def fetch(found: FoundModel, files: Collection[str], settings: Settings, on_bytes: Callable[[int], None]) -> Path:
    """The folder that holds `files`, each of the listed size and, where the Hub tells one, the listed SHA-256.

    Asks the Hub first even if all is cached. `on_bytes` hears of bytes as they arrive; of a negative number when some
    have to be fetched again. An exception from it ends the download. Raises ModelError, BadWeights for a file that is
    damaged twice in a row, DiskFull before starting where the room is known not to suffice.
    """
    wanted = _entries(found, files)
    for entry in wanted[:1]:
        check_access(found, settings, entry.path)
    _sweep_partial_files()
    _check_room(bytes_to_fetch(found, files))
    for entry in wanted:
        borrow(cache_dir(), _repository(found), entry)
        _fetch_sound(found, entry, settings, on_bytes)
    return _repository(found) / "snapshots" / found.pinned.commit / found.pinned.subfolder


def kept(found: FoundModel, file: str, settings: Settings) -> Path | None:
    """The folder in which `file` lies already, sound; None where it would have to be downloaded."""
    for entry in _entries(found, [file]):
        at = try_to_load_from_cache(
            found.pinned.name, _name_in_repository(found, entry), cache_dir(), found.pinned.commit
        )
        if isinstance(at, str) and is_sound(Path(at), entry, settings):
            return _repository(found) / "snapshots" / found.pinned.commit / found.pinned.subfolder
    return None


def has_room(n_bytes: int) -> bool:
    """Whether the disk of the Hub cache holds so many bytes more."""
    try:
        _check_room(n_bytes)
    except DiskFull:
        return False
    return True


def cache_dir() -> Path:
    """The Hub cache: HF_HUB_CACHE as it is now, else what the library read when it was imported."""
    return Path(os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE).expanduser()


def _entries(found: FoundModel, files: Collection[str]) -> list[FileEntry]:
    wanted = set(files)
    return [entry for entry in found.files if entry.path in wanted]


def _name_in_repository(found: FoundModel, entry: FileEntry) -> str:
    return f"{found.pinned.subfolder}/{entry.path}" if found.pinned.subfolder else entry.path


def _is_cached(found: FoundModel, entry: FileEntry) -> bool:
    """Whether the file is there, or its content under another revision or repository, which the library then only
    links."""
    name, commit = _name_in_repository(found, entry), found.pinned.commit
    at_commit = isinstance(try_to_load_from_cache(found.pinned.name, name, cache_dir(), commit), str)
    return at_commit or lender(cache_dir(), entry) is not None


def _repository(found: FoundModel) -> Path:
    return cache_dir() / ("models--" + found.pinned.name.replace("/", "--"))


def _fetch_sound(found: FoundModel, entry: FileEntry, settings: Settings, on_bytes: Callable[[int], None]) -> None:
    for _ in range(2):
        arrived = _Arrivals(on_bytes)
        try:
            path = _download(found, entry, settings, arrived)
        except _WrongSize:
            on_bytes(-arrived.total)
            continue
        if is_sound(path, entry, settings):
            return
        _discard(path)
        on_bytes(-arrived.total)
    raise BadWeights(
        f"'{entry.path}' of '{found.pinned.title}' arrived damaged twice",
        expected="Its bytes must have the size and the SHA-256 that the Hub lists",
        do="Try again later, or choose another revision",
    )


class _WrongSize(Exception):
    """The library got more or fewer bytes than the Hub announced."""


class _Arrivals:
    """Counts what `on_bytes` was told about one file, and keeps what it raised apart from the library's errors."""

    def __init__(self, on_bytes: Callable[[int], None]) -> None:
        self.total, self._on_bytes = 0, on_bytes
        self.refusal: Exception | None = None

    def add(self, n_bytes: int) -> None:
        self.total += n_bytes
        try:
            self._on_bytes(n_bytes)
        except Exception as error:
            self.refusal = error
            raise


def _download(found: FoundModel, entry: FileEntry, settings: Settings, arrived: _Arrivals) -> Path:
    def question() -> str:
        try:
            return hf_hub_download(
                found.pinned.name,
                _name_in_repository(found, entry),
                revision=found.pinned.commit,
                endpoint=settings.endpoint,
                cache_dir=cache_dir(),
                token=token(),
                tqdm_class=_progress_bar(arrived),
            )
        except OSError as error:
            if (
                arrived.refusal is None
                and error.errno is None
                and not isinstance(error, HTTPError | LocalEntryNotFoundError | ConnectionError)
            ):
                raise _WrongSize from error
            raise

    try:
        return Path(ask(question, settings.patience, model=found.pinned.title, revision=found.pinned.commit))
    except SubnetscopeError:
        if arrived.refusal is not None:
            raise arrived.refusal from None
        raise


def _progress_bar(arrived: _Arrivals) -> Any:
    """A class that the library takes for a tqdm bar, and that only counts."""

    class Bar:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def update(self, n_bytes: float | None = 1) -> None:
            arrived.add(int(n_bytes or 0))

        def close(self) -> None:
            pass

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    return Bar


def _discard(path: Path) -> None:
    """Remove a damaged file: the snapshot's link, and what it leads to."""
    real = path.resolve()
    path.unlink(missing_ok=True)
    real.unlink(missing_ok=True)


def _sweep_partial_files() -> None:
    """Remove what killed downloads left behind; one that still grows is younger than a day."""
    for partial in cache_dir().glob("models--*/blobs/*.incomplete"):
        try:
            if time.time() - partial.stat().st_mtime > _OLDEST_PARTIAL:
                partial.unlink()
        except FileNotFoundError:
            continue  # another process swept it first


def _check_room(n_bytes: int) -> None:
    folder = cache_dir()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if n_bytes and n_bytes + _SPARE_DISK > free:
        raise DiskFull(
            f"The download needs {n_bytes / 1e9:.1f} GB, the disk of the Hub cache has {free / 1e9:.1f} GB free",
            do="Make room, or set HF_HOME to a larger disk",
        )
