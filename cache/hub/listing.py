"""What a repository holds beside one model: its branches and tags, and the folders with weights at one commit."""

from __future__ import annotations

from typing import Any

from huggingface_hub import HfApi

from analysis.errors import ModelNotFound
from analysis.models import ModelRef
from cache.hub.lookup import find
from cache.hub.session import ask, connect, token
from cache.settings import Settings

_WEIGHT_ENDINGS = (".safetensors", ".bin", ".pt", ".pth")


def revisions(ref: ModelRef, settings: Settings) -> dict[str, str]:
    """Commits by the names of branches and tags. Raises ModelError."""
    connect(settings.endpoint)
    api = HfApi(endpoint=settings.endpoint, token=token())
    refs: Any = ask(lambda: api.list_repo_refs(ref.name), settings.patience, model=ref.name)
    return {named.name: named.target_commit for named in (*refs.branches, *refs.tags)}


def subfolders(ref: ModelRef, settings: Settings) -> tuple[str, list[str]]:
    """(commit, names of the folders directly below `ref` that hold weights). Raises ModelError."""
    found = find(ref, settings)
    inside = (entry.path for entry in found.files if entry.path.endswith(_WEIGHT_ENDINGS) and "/" in entry.path)
    names = sorted({path.partition("/")[0] for path in inside if path.count("/") == 1})
    if not names:
        raise ModelNotFound(f"'{ref}' has no folders with weights", do="Ask for its revisions, or name them one by one")
    return found.pinned.commit, names
