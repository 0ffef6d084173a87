"""Whole files from the Hub into its cache on this machine: resumed where a killed process left them, and each checked
byte by byte before it is used.

The library's own download starts anew each time, leaves its partial files behind and checks nothing but sizes, so a
flipped bit would be stored under the good file's name.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from huggingface_hub.utils import WeakFileLock

from analysis.errors import Damaged, DiskFull, FileChanged
from cache.found import FileEntry, FoundModel
from cache.hub.borrowed import borrow, lender
from cache.hub.partial import Partial
from cache.hub.places import PARTIAL, Place, cache_dir, snapshot
from cache.hub.proof import is_sound, remember
from cache.hub.ranges import check_access
from cache.hub.transfer import rest_of_file
from cache.hub.translation import of_disk
from cache.hub.tries import OnWait
from cache.settings import Settings

OnBytes = Callable[[int], None]

_SPARE_DISK = 500_000_000
_KEPT_PARTIAL, _KEPT_FOREIGN = 7 * 24 * 3600, 24 * 3600  # seconds without a new byte; only ours can be resumed
_TRIES = 2  # of a file whose content is wrong


def bytes_to_fetch(found: FoundModel, files: Collection[str]) -> int:
    """Bytes of `files` that are not yet in the Hub cache. Asks nobody; what is there is checked by `fetch`."""
    return sum(
        entry.size - Place.of(found, entry).bytes_there(entry.size)
        for entry in _entries(found, files)
        if lender(entry) is None
    )


def fetch(
    found: FoundModel, files: Collection[str], settings: Settings, on_bytes: OnBytes, on_wait: OnWait | None = None
) -> Path:
    """The folder that holds `files`, each of the listed size and with the SHA-256 (or git's id) that the Hub lists.

    Asks the Hub first even if all is cached. `on_bytes` hears of bytes as they arrive; of a negative number when some
    have to be fetched again; in all, of as many as `bytes_to_fetch` said. An exception from it ends the download.
    `on_wait` as in `stream_range`. Raises ModelError; Damaged for a file that arrived damaged twice; DiskFull
    before anything is fetched, or midway, where the disk filled up meanwhile. What has arrived is kept.
    """
    wanted = _entries(found, files)
    for entry in wanted[:1]:
        check_access(found, settings, entry.path, on_wait=on_wait)
    with _disk_errors():
        _sweep_partial_files()
        _check_room(bytes_to_fetch(found, files))
    for entry in wanted:
        with _alone(Place.of(found, entry)) as place:
            borrow(place.blob, entry)
            if not _is_cached(place, entry, settings, on_bytes):
                _download(place, found, entry, settings, on_bytes, on_wait)
    return snapshot(found)


def kept(found: FoundModel, file: str, settings: Settings) -> Path | None:
    """The folder in which `file` lies already, sound; None where it would have to be downloaded."""
    for entry in _entries(found, [file]):
        link = Place.of(found, entry).link
        if link.exists() and is_sound(link, entry, settings):
            return snapshot(found)
    return None


def has_room(n_bytes: int) -> bool:
    """Whether the disk of the Hub cache holds so many bytes more."""
    try:
        _check_room(n_bytes)
    except DiskFull:
        return False
    return True


def _entries(found: FoundModel, files: Collection[str]) -> list[FileEntry]:
    wanted = set(files)
    return [entry for entry in found.files if entry.path in wanted]


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise of_disk(error) from error


@contextmanager
def _alone(place: Place) -> Iterator[Place]:
    """No other process, the library's included, fetches this content meanwhile."""
    with ExitStack() as stack:
        with _disk_errors():
            place.make_folders()
            stack.enter_context(WeakFileLock(place.lock))
        yield place


def _is_cached(place: Place, entry: FileEntry, settings: Settings, on_bytes: OnBytes) -> bool:
    """Whether the file is there and sound. Content that another commit brought is linked, damaged content removed."""
    with _disk_errors():
        if place.link.exists():
            if is_sound(place.link, entry, settings):
                return True
        elif not place.blob.exists():
            return False
        elif is_sound(place.blob, entry, settings):
            place.put_link()
            return True
        place.discard()
    on_bytes(place.bytes_there(entry.size) - entry.size)
    return False


def _download(
    place: Place,
    found: FoundModel,
    entry: FileEntry,
    settings: Settings,
    on_bytes: OnBytes,
    on_wait: OnWait | None,
) -> None:
    with ExitStack() as stack:
        with _disk_errors():
            partial = stack.enter_context(Partial(place.partial, entry))
        for _ in range(_TRIES):
            with suppress(FileChanged):  # then it is not sound either
                _receive(partial, found, entry, settings, on_bytes, on_wait)
            with _disk_errors():
                if partial.is_sound:
                    partial.become(place.blob)
                    place.put_link()
                    remember(place.blob, entry, settings)
                    return
                arrived = partial.position
                partial.start_over()
            on_bytes(-arrived)
    place.partial.unlink(missing_ok=True)
    raise Damaged(
        f"'{entry.path}' of '{found.pinned.title}' arrived damaged twice",
        expected="Its bytes must have the size and the SHA-256 that the Hub lists",
        do="Try again later, or choose another revision",
    )


def _receive(
    partial: Partial,
    found: FoundModel,
    entry: FileEntry,
    settings: Settings,
    on_bytes: OnBytes,
    on_wait: OnWait | None,
) -> None:
    with closing(rest_of_file(found, settings, entry.path, partial.position, on_wait=on_wait)) as pieces:
        for piece in pieces:
            try:
                partial.add(piece)
            except OSError as error:
                raise of_disk(error, missing=entry.size - partial.position) from error
            on_bytes(len(piece))


def _sweep_partial_files() -> None:
    """Remove what killed downloads left behind and nobody took up again."""
    for partial in cache_dir().glob("models--*/blobs/*.incomplete"):
        kept = _KEPT_PARTIAL if partial.name.endswith(PARTIAL) else _KEPT_FOREIGN
        try:
            if time.time() - partial.lstat().st_mtime > kept:
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
