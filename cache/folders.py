"""Models in local folders: find, pin by a fingerprint of the weight files, read ranges.

A visitor may name folders below the roots that the operator allowed; they are called './root/path', so that no link
carries a path of this machine. In the terminal any folder may be named. A name that is not there and one that is not
allowed are answered with the same words.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from analysis.errors import BadReference, BadWeights, FileChanged, PathNotAllowed, RevisionNotFound
from analysis.models import ModelRef, PinnedModel
from cache import cards
from cache.found import FileEntry, FoundModel
from cache.regular_file import not_allowed, open_regular, read_range, real_below
from cache.settings import Settings
from cache.weights.repository import INDEX_FILE, PICKLES, is_adapter, kind_of
from cache.weights.safetensors_header import LENGTH_BYTES, MAX_HEADER_BYTES

_WHOLE_FILE = 64 * 1024 * 1024  # up to here a file's content is its fingerprint, beyond it header, size and time
_SAMPLES, _SAMPLE = 512, 64 * 1024  # of a larger file: how many stretches of its data are hashed, of how many bytes
_CHUNK = 4 * 1024 * 1024
_AT_ONCE = 8  # files
_DEEPEST, _MOST_BELOW = 4, 5_000  # how far below a folder without weights is looked for some
MAX_NAMES = 20_000  # of one folder


@dataclass(frozen=True)
class Place:
    """A folder that may be read: where it really is, what it is called, and the real folder it must stay below."""

    path: Path
    name: str
    below: Path


def find(ref: ModelRef, settings: Settings, *, any_folder: bool = False) -> FoundModel:
    """The folder that `ref` names, pinned to its files as they are now. Raises PathNotAllowed, or RevisionNotFound
    where `ref` pins files that have changed since."""
    place = locate(ref, settings, any_folder=any_folder)
    files = _files(place)
    pinned = PinnedModel("folder", place.name, _fingerprint(place, files))
    if ref.revision and ref.revision != pinned.commit:
        raise RevisionNotFound(
            f"The weights in '{place.name}' have changed since '{ref.revision[:13]}…'",
            do=f"Compare them as they are now: {place.name}",
        )
    described = (cards.CONFIG_FILE, cards.CARD_FILE, cards.ADAPTER_CONFIG_FILE)
    text_of_file = {name: _read_if_there(place, name) for name in described}
    config, adapter = (cards.read_config(text_of_file[name]) for name in (cards.CONFIG_FILE, cards.ADAPTER_CONFIG_FILE))
    declared, notes = _declared(place, settings), cards.unread(text_of_file)
    base = next(iter(declared), None)
    return FoundModel(
        pinned,
        files,
        base,
        config,
        place.path,
        place.below,
        notes=notes,
        declared=declared,
        adapter_config=adapter,
    )


def subfolders(ref: ModelRef, settings: Settings, *, any_folder: bool = False) -> dict[str, str]:
    """Folders directly below the one that `ref` names, by name: the text that names each. Raises PathNotAllowed."""
    place = locate(ref, settings, any_folder=any_folder)
    names = sorted(entry.name for entry in os.scandir(place.path) if entry.is_dir() and not entry.name.startswith("."))
    return {name: f"{place.name.rstrip('/')}/{name}" for name in names}


def confirm(found: FoundModel) -> None:
    """Nothing, or FileChanged if the folder's weight files are no longer those that were pinned."""
    place = _place_of(found)
    if _fingerprint(place, _files(place)) != found.pinned.commit:
        raise FileChanged(
            f"The weights in '{place.name}' were changed after the comparison began", do="Start the comparison again"
        )


def read_model_range(found: FoundModel, file: str, begin: int, end: int) -> bytes:
    """Exactly these bytes of a file of a found folder. Raises FileChanged where it has become shorter."""
    place = _place_of(found)
    read = read_range(place.path / file, place.below, begin, end)
    if len(read) < end - begin:
        raise FileChanged(f"'{file}' was cut while it was read", do="Start again once nothing writes to it any more")
    return read


def _place_of(found: FoundModel) -> Place:
    if found.folder is None or found.below is None:
        raise ValueError(f"{found.pinned} is not a folder")
    return Place(found.folder, found.pinned.name, found.below)


def suggest_base(ref: ModelRef, settings: Settings, *, any_folder: bool = False) -> str | None:
    """What the folder's card or adapter says it was tuned from, as text to compare: a folder beside it if one has
    that name, else the id on the Hub."""
    return next(iter(_declared(locate(ref, settings, any_folder=any_folder), settings)), None)


def locate(ref: ModelRef, settings: Settings, *, any_folder: bool = False) -> Place:
    """The folder behind the text. Raises PathNotAllowed."""
    typed = Path(os.path.expanduser(ref.name))  # noqa: PTH111 (pathlib's raises for a '~name' that nobody has)
    if any_folder and os.path.isdir(typed):  # noqa: PTH112 (false, not an error, for a name that is too long)
        name = str(typed) if typed.is_absolute() or typed.parts[:1] == ("..",) else f"./{typed}"
        return _shown(Place(Path(os.path.realpath(typed)), name, Path("/")))
    path = _below_root_name(ref.name, settings) or Path.cwd() / typed
    if any_folder and not os.path.isdir(path):  # noqa: PTH112 (as above)
        raise _no_such_folder(ref.name, path)
    try:
        real = real_below(path, Path("/"))
        root = _root_of(real, settings)
        if root is None or not real.is_dir() or not os.access(real, os.R_OK | os.X_OK):
            raise not_allowed(ref.name)
    except PathNotAllowed as error:
        raise _refusal(ref.name, settings) from error
    return _shown(Place(real, _name_below(real, settings), root))


def _no_such_folder(typed: str, path: Path) -> PathNotAllowed:
    """Says where it was looked for, and which folders beside it have nearly that name. Only of the terminal's: to
    visitors of a page it would tell what is there."""
    meant = Path(os.path.abspath(path))  # noqa: PTH100 (a link is named as it was typed)
    try:
        beside = [entry.name for entry in itertools.islice(os.scandir(meant.parent), MAX_NAMES) if entry.is_dir()]
    except OSError:
        beside = []
    near = get_close_matches(meant.name, beside, n=3)
    do = f"Perhaps meant: {', '.join(map(repr, near))}" if near else "Check the spelling, and from where it is meant"
    return PathNotAllowed(f"There is no folder '{typed[:200]}'", expected=f"A folder at {str(meant)[:300]}", do=do)


def _shown(place: Place) -> Place:
    """The place, if its name is one that pages, links and the store can carry."""
    if not place.name.isprintable():
        raise BadReference(f"'{place.name[:200]}' has a name that cannot be shown", do="Rename the folder")
    return place


def _refusal(typed: str, settings: Settings) -> PathNotAllowed:
    roots = ", ".join(f"'./{root.name}/…'" for root in settings.local_roots)
    return PathNotAllowed(
        f"'{typed[:200]}' is not a folder that can be read here",
        expected=f"Folders are read below {roots}" if roots else "This server reads no local folders",
        do="Check the spelling, or ask its operator to allow that folder" if roots else "Name a model on the Hub",
    )


def _below_root_name(typed: str, settings: Settings) -> Path | None:
    """'./models/x' is x in the root called models."""
    first, *rest = typed.removeprefix("./").split("/")
    root = next((root for root in settings.local_roots if root.name == first and typed.startswith("./")), None)
    return root.joinpath(*rest) if root else None


def _root_of(real: Path, settings: Settings) -> Path | None:
    """The real path of the innermost allowed root that holds `real`."""
    roots = [Path(os.path.realpath(root)) for root in settings.local_roots]
    return max((root for root in roots if real.is_relative_to(root)), key=lambda root: len(root.parts), default=None)


def _name_below(real: Path, settings: Settings) -> str:
    real_root = _root_of(real, settings)
    root = next(root for root in settings.local_roots if Path(os.path.realpath(root)) == real_root)
    return "/".join((".", root.name, *real.relative_to(os.path.realpath(root)).parts))


def _files(place: Place) -> tuple[FileEntry, ...]:
    """The folder's files; where no weights are among them, also the names of what lies in the folders below."""
    files = [file for name in _names(place) if (file := _entry(place, name))]
    if not any(file.path.endswith(".safetensors") for file in files):
        files += [FileEntry(name, 0, None) for name in _names_below(place.path)]
    return tuple(files)


def _names_below(folder: Path) -> list[str]:
    """The first 5,000 files in the folders below, four deep at most; links to folders are not followed."""
    found: list[str] = []
    for at, folders, files in os.walk(folder):
        depth = len(Path(at).relative_to(folder).parts)
        folders[:] = sorted(folders) if depth < _DEEPEST else []
        if depth:
            found += (f"{Path(at).relative_to(folder)}/{name}" for name in files)
        if len(found) >= _MOST_BELOW:
            break
    return sorted(found[:_MOST_BELOW])


def _names(place: Place) -> list[str]:
    try:
        names = _listed(place.path)
    except OSError as error:
        raise not_allowed(place.name) from error
    if len(names) > MAX_NAMES:
        raise BadWeights(
            f"'{place.name}' holds more than {MAX_NAMES:,} files", do="Name the folder that holds one model's files"
        )
    return names


def _listed(folder: Path) -> list[str]:
    """The names in a folder, one more than are read at most."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in itertools.islice(entries, MAX_NAMES + 1))


def _entry(place: Place, name: str) -> FileEntry | None:
    """The file, or None for a folder and whatever else cannot hold weights. A weight file that may not be read, is
    none, or has a name that nothing could show, is refused aloud."""
    is_weights = name.endswith(".safetensors") or name == INDEX_FILE
    if not name.isprintable():
        if is_weights:
            raise BadWeights(f"'{name}' has a name that cannot be shown", do="Rename the file")
        return None
    try:
        seen = real_below(place.path / name, place.below).stat()
    except (PathNotAllowed, OSError) as error:
        if is_weights:
            raise not_allowed(name) from error
        return None
    if stat.S_ISREG(seen.st_mode):
        return FileEntry(name, seen.st_size, None)
    if is_weights:
        raise BadWeights(f"'{name}' is not a regular file", do="Replace it by the weight file itself")
    return None


def _fingerprint(place: Place, files: Sequence[FileEntry]) -> str:
    """'files-' and 40 hex digits that change when a weight file changes, or an adapter's config. Pickles count where
    there is nothing else."""
    kind = kind_of({file.path for file in files}, pickles=True)
    pickles = kind is PICKLES
    names = {INDEX_FILE}
    if is_adapter([file.path for file in files]):
        names.add(cards.ADAPTER_CONFIG_FILE)  # it says how the tensors are scaled
    counted = []
    for file in sorted(files, key=lambda file: file.path):
        is_weights = PICKLES.found.fullmatch(file.path) if pickles else file.path.endswith(".safetensors")
        if "/" not in file.path and (is_weights or file.path in (kind.index, *names)):
            counted.append(file)
    digest = hashlib.sha256()
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # over a network each of a file's samples is waited for
        for file, content in zip(counted, pool.map(partial(_content_print, place), counted), strict=True):
            digest.update(f"{file.path}\n{file.size}\n{content}\n".encode())
    return f"files-{digest.hexdigest()[:40]}"


def _content_print(place: Place, file: FileEntry) -> str:
    descriptor = open_regular(place.path / file.path, place.below)
    try:
        seen = os.fstat(descriptor)
        whole = seen.st_size <= _WHOLE_FILE
        end = seen.st_size if whole else _header_end(os.pread(descriptor, LENGTH_BYTES, 0))
        digest = hashlib.sha256()
        for chunk in _chunks(descriptor, end):
            digest.update(chunk)
        if whole:
            return digest.hexdigest()
        # A date alone would not do: mounts and archives exist that give every file the same one.
        for begin in range(end, seen.st_size, max(_SAMPLE, (seen.st_size - end) // _SAMPLES)):
            digest.update(os.pread(descriptor, _SAMPLE, begin))
        digest.update(os.pread(descriptor, _SAMPLE, max(0, seen.st_size - _SAMPLE)))
        return f"{digest.hexdigest()} {seen.st_size} {seen.st_mtime_ns}"
    except OSError as error:
        raise not_allowed(file.path) from error
    finally:
        os.close(descriptor)


def _header_end(length: bytes) -> int:
    return LENGTH_BYTES + min(int.from_bytes(length, "little"), MAX_HEADER_BYTES)


def _chunks(descriptor: int, end: int) -> Iterator[bytes]:
    for begin in range(0, end, _CHUNK):
        yield os.pread(descriptor, min(_CHUNK, end - begin), begin)


def _read_if_there(place: Place, name: str) -> bytes:
    try:
        return read_range(place.path / name, place.below, 0, cards.MAX_BYTES + 1)
    except (PathNotAllowed, BadWeights):
        return b""


def _declared(place: Place, settings: Settings) -> tuple[str, ...]:
    """What the card names, else the adapter's config, else config.json: folders beside this one, or ids on the Hub."""
    card, adapter, config = (
        _read_if_there(place, name) for name in (cards.CARD_FILE, cards.ADAPTER_CONFIG_FILE, cards.CONFIG_FILE)
    )
    named: tuple[str | None, ...] = cards.bases_in_card(cards.read_card(card))
    named = named or (cards.base_in_adapter(cards.read_config(adapter)),)
    ids = [_sibling(place, name, settings) or cards.as_hub_id(name) for name in named]
    if not any(ids):
        last = cards.base_in_config(cards.read_config(config), place.name)
        ids = [_sibling(place, last, settings) or cards.as_hub_id(last)]
    return tuple(dict.fromkeys(name for name in ids if name))


def _sibling(place: Place, named: str | None, settings: Settings) -> str | None:
    """The folder beside this one, or at the top of its root, that bears the last part of the name."""
    last = (named or "").rstrip("/").rpartition("/")[2]
    if last in ("", ".", "..") or not last.isprintable():
        return None
    for folder in dict.fromkeys((place.path.parent, _root_of(place.path, settings))):
        path = folder / last if folder and folder.is_relative_to(place.below) else None
        if path and os.path.isdir(path) and (real := Path(os.path.realpath(path))) != place.path:  # noqa: PTH112 (as above)
            return _sibling_name(place, real, settings)
    return None


def _sibling_name(place: Place, path: Path, settings: Settings) -> str | None:
    if _root_of(path, settings):
        return _name_below(path, settings)
    return str(Path(place.name).parent / path.name) if place.below == Path("/") else None
