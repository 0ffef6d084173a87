"""The one door to models, wherever they lie: find and pin, list tensors, bring the files here."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from analysis.errors import BadReference, WeightsError
from analysis.models import ModelRef, parse_model
from analysis.tensors import TensorInfo
from cache import folders, hub, weights
from cache.found import FileEntry, FoundModel
from cache.settings import Settings

__all__ = [
    "FileEntry", "FoundModel", "bytes_to_fetch", "fetch", "find", "list_tensors", "reference", "revisions",
    "subfolders", "suggest_base",
]  # fmt: skip


def reference(text: str, *, any_folder: bool = False) -> ModelRef:
    """What `text` names. In the terminal (`any_folder`) whatever is a folder there is one, however it is written."""
    plain = text.strip()
    if any_folder and plain and os.path.isdir(plain):  # noqa: PTH112 (false, not an error, for a name that is too long)
        path = plain if plain.startswith(("/", "./", "../")) else f"./{plain}"
        return ModelRef("folder", path.rstrip("/") or "/")
    return parse_model(text)


def find(ref: ModelRef, settings: Settings, *, any_folder: bool = False) -> FoundModel:
    """The model that `ref` names, pinned. With `any_folder` (the terminal) every folder of this machine may be named,
    and 'org/name' is a folder where one is there. Raises ModelError."""
    if ref.where == "folder":
        return folders.find(ref, settings, any_folder=any_folder)
    return hub.find(ref, settings)


def list_tensors(found: FoundModel, settings: Settings) -> list[TensorInfo]:
    """All tensors of the model, from checked headers; no weights are read or downloaded. Raises WeightsError."""
    read = partial(folders.read_model_range, found) if found.folder else partial(hub.read_range, found, settings)
    try:
        return weights.list_tensors(found.size_of_file(), read)
    except WeightsError as error:
        saw = f"'{found.pinned.title}': {error.saw[0].lower()}{error.saw[1:]}"
        raise type(error)(saw, expected=error.expected, do=error.do) from error


def bytes_to_fetch(found: FoundModel, files: Collection[str], settings: Settings) -> int:  # noqa: ARG001 (as the others)
    """Bytes of `files` (names as in TensorInfo.file) that would have to be downloaded."""
    return 0 if found.folder else hub.bytes_to_fetch(found, files)


def fetch(found: FoundModel, files: Collection[str], settings: Settings, on_bytes: Callable[[int], None]) -> Path:
    """The folder that holds `files`, each checked: against size and SHA-256 from the Hub, or, for a folder, against
    the fingerprint it was pinned by. `on_bytes` hears of every downloaded byte."""
    if found.folder:
        folders.confirm(found)
        return found.folder
    return hub.fetch(found, files, settings, on_bytes)


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
