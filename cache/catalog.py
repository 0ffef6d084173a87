"""The one door to models, wherever they lie: find and pin, list tensors, bring the files here."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path

from analysis.errors import BadReference, NoWeights, WeightsError
from analysis.models import ModelRef, parse_model
from analysis.quantised import HOW_TO_GO_ON, LEAST_READABLE_PERCENT, unreadable, without_quantised
from analysis.scales import with_scales
from analysis.tensors import TensorInfo
from cache import folders, hub, weights
from cache.found import FileEntry, FoundModel
from cache.settings import Settings
from cache.weights.instead import pickles_not_allowed
from cache.weights.repository import PICKLES

OnWait = Callable[[str, float], None]  # the reason, and the end in seconds since the epoch

__all__ = [
    "FileEntry",
    "FoundModel",
    "are_one_file",
    "bytes_to_fetch",
    "bytes_to_fetch_of_both",
    "confirm_access",
    "downloads_dir",
    "fetch",
    "find",
    "has_room",
    "kept",
    "list_tensors",
    "reference",
    "revisions",
    "stream_range",
    "subfolders",
    "suggest_base",
]


def reference(text: str, *, any_folder: bool = False) -> ModelRef:
    """What `text` names. In the terminal (`any_folder`) whatever is a folder there is one, however it is written."""
    plain = text.strip()
    if any_folder and plain and os.path.isdir(plain):  # noqa: PTH112 (false, not an error, for a name that is too long)
        path = plain if plain.startswith(("/", "./", "../")) else f"./{plain}"
        return ModelRef("folder", path.rstrip("/") or "/")
    return parse_model(text)


def find(ref: ModelRef, settings: Settings, *, any_folder: bool = False, on_wait: OnWait | None = None) -> FoundModel:
    """The model that `ref` names, pinned. With `any_folder` (the terminal) every folder of this machine may be named,
    and 'org/name' is a folder where one is there. `on_wait` hears why, and until when, the Hub is waited for. Raises
    ModelError."""
    if ref.where == "folder":
        return folders.find(ref, settings, any_folder=any_folder)
    return hub.find(ref, settings, on_wait=on_wait)


def confirm_access(ref: ModelRef, settings: Settings) -> None:
    """Nothing, or ModelError where this server may not read the Hub's model now."""
    hub.confirm_access(ref, settings)


def list_tensors(found: FoundModel, settings: Settings) -> list[TensorInfo]:
    """All tensors of the model, from checked headers; no weights are read or downloaded. Raises WeightsError."""
    read = partial(folders.read_model_range, found) if found.folder else partial(hub.read_range, found, settings)
    try:
        tensors = weights.list_tensors(found.size_of_file(), read, pickles=settings.pickles)
        return _understood(tensors, found.config)
    except WeightsError as error:
        raise about(found, error) from error


def about(found: FoundModel, error: WeightsError) -> WeightsError:
    """The error with the name of the model that it is about."""
    saw = f"'{found.pinned.title}': {error.saw[0].lower()}{error.saw[1:]}"
    return type(error)(saw, expected=error.expected, do=error.do)


def _understood(tensors: list[TensorInfo], config: Mapping[str, object]) -> list[TensorInfo]:
    """The tensors with what belongs together put together: scales with their codes, the parts of quantised weights."""
    understood = with_scales(without_quantised(tensors, config), config)
    if reason := unreadable(understood):
        raise NoWeights(
            f"Nearly all of its weights are {reason}",
            expected=f"Less than {LEAST_READABLE_PERCENT} % of its parameters, beside embeddings, could be compared",
            do=HOW_TO_GO_ON,
        )
    return understood


def bytes_to_fetch(found: FoundModel, files: Collection[str], settings: Settings) -> int:  # noqa: ARG001 (as the others)
    """Bytes of `files` (names as in TensorInfo.file) that would have to be downloaded."""
    return 0 if found.folder else hub.bytes_to_fetch(found, files)


def bytes_to_fetch_of_both(
    base: FoundModel, base_files: Collection[str], tuned: FoundModel, tuned_files: Collection[str], settings: Settings
) -> int:
    """The same for a pair: a file that both have is fetched once."""
    of_side = to_fetch_of_both(base, base_files, tuned, tuned_files, settings)
    return sum(sum(bytes_of_file.values()) for bytes_of_file in of_side.values())


def to_fetch_of_both(
    base: FoundModel, base_files: Collection[str], tuned: FoundModel, tuned_files: Collection[str], settings: Settings
) -> dict[str, dict[str, int]]:
    """The same by side and file."""
    of_base = {entry.sha256 for entry in base.files if entry.path in base_files and not base.folder} - {None}
    own = [entry.path for entry in tuned.files if entry.path in tuned_files and entry.sha256 not in of_base]
    return {
        side: {file: bytes_to_fetch(found, (file,), settings) for file in files}
        for side, found, files in (("base", base, base_files), ("tuned", tuned, own))
    }


def are_one_file(base: FoundModel, base_file: str, tuned: FoundModel, tuned_file: str) -> bool:
    """Whether the Hub lists both files with the same SHA-256; False where it tells none."""
    sha256 = {
        entry.sha256
        for found, file in ((base, base_file), (tuned, tuned_file))
        for entry in found.files
        if entry.path == file
    }
    return len(sha256) == 1 and None not in sha256


def has_room(n_bytes: int) -> bool:
    """Whether the disk holds a download of so many bytes."""
    return hub.has_room(n_bytes)


def kept(found: FoundModel, file: str, settings: Settings) -> Path | None:
    """The folder in which the file lies on this machine, sound; None where it would have to be downloaded."""
    return found.folder or hub.kept(found, file, settings)


def stream_range(
    found: FoundModel, settings: Settings, file: str, begin: int, end: int, on_wait: OnWait | None = None
) -> Iterator[memoryview]:
    """Exactly these bytes of a file of a model on the Hub, piece by piece; nothing is kept. Raises ModelError."""
    return hub.stream_range(found, settings, file, begin, end, on_wait=on_wait)


def downloads_dir() -> Path:
    """Where downloads go; it may not be there yet."""
    return hub.cache_dir()


def fetch(
    found: FoundModel,
    files: Collection[str],
    settings: Settings,
    on_bytes: Callable[[int], None],
    on_wait: OnWait | None = None,
) -> Path:
    """The folder that holds `files`, each checked: against size and SHA-256 from the Hub, or, for a folder, against
    the fingerprint it was pinned by. `on_bytes` hears of every downloaded byte, `on_wait` as in `find`. Raises
    NoWeights for pickles that are not allowed (any more)."""
    if not settings.pickles and any(file.endswith(PICKLES.ending) for file in files):
        raise pickles_not_allowed()
    if found.folder:
        folders.confirm(found)
        return found.folder
    return hub.fetch(found, files, settings, on_bytes, on_wait)


def suggest_base(ref: ModelRef, settings: Settings, *, any_folder: bool = False) -> str | None:
    """What the model says it was tuned from, as text for the other field; None if it says nothing usable."""
    if ref.where == "folder":
        return folders.suggest_base(ref, settings, any_folder=any_folder)
    return hub.suggest_base(ref, settings)


def revisions(ref: ModelRef, settings: Settings, *, any_folder: bool = False) -> dict[str, str]:  # noqa: ARG001
    """Branches and tags of a repository, by name: the text that names each at its commit. Raises ModelError."""
    if ref.where == "folder":
        raise BadReference(f"'{ref.name[:120]}' is a folder and has no revisions", do="Ask for its folders instead")
    return {name: f"{ref}@{commit}" for name, commit in hub.revisions(ref, settings).items()}


def subfolders(ref: ModelRef, settings: Settings, *, any_folder: bool = False) -> dict[str, str]:
    """Folders directly below the one that `ref` names, by name: the text that names each as a model. Of a repository
    only those that hold weights, all at one commit. Raises ModelError."""
    if ref.where == "folder":
        return folders.subfolders(ref, settings, any_folder=any_folder)
    commit, names = hub.subfolders(ref, settings)
    title = f"{ref.name}/{ref.subfolder}" if ref.subfolder else ref.name
    return {name: f"{title}/{name}@{commit}" for name in names}
