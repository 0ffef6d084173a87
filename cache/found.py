"""A model that was found and pinned, on the Hub or in a folder: the same picture of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from analysis.models import PinnedModel
from cache.weights.repository import is_adapter


@dataclass(frozen=True)
class FileEntry:
    """One file of a model. `path` is relative to the model's folder (inside a repository: to its subfolder)."""

    path: str
    size: int
    sha256: str | None  # known for the large files of a repository, None for small ones and for folders
    git_id: str | None = None  # git's name for the content of a repository's small file


@dataclass(frozen=True)
class FoundModel:
    """A pinned model, its files, and what it says about itself. Nothing of it was downloaded but config and card."""

    pinned: PinnedModel
    files: tuple[FileEntry, ...]
    base_model: str | None  # what it says it was tuned from, as text that can be compared; None if it says nothing
    config: Mapping[str, object]  # config.json, empty where there is none that can be read
    folder: Path | None = None  # where it lies, for a folder
    below: Path | None = None  # the allowed folder that its files, links followed, must stay below
    notes: tuple[str, ...] = ()  # which of its descriptions could not be read, and why
    declared: tuple[str, ...] = ()  # all that it says it was made from, `base_model` the first of them
    adapter_config: Mapping[str, object] = field(default_factory=dict)  # adapter_config.json, as `config`
    restricted: bool = False  # private or gated: not everybody may read it

    def size_of_file(self) -> dict[str, int]:
        return {entry.path: entry.size for entry in self.files}

    @property
    def is_adapter(self) -> bool:
        """Whether it holds an adapter and no whole model."""
        return is_adapter(self.size_of_file())
