"""Text in, pinned model out: one question to the Hub for commit, files and card, one for config.json."""

from __future__ import annotations

import re
from typing import Any

from huggingface_hub import HfApi

from analysis.errors import AccessDenied, BadWeights, HubUnreachable, ModelNotFound
from analysis.models import ModelRef, PinnedModel
from cache import cards
from cache.found import FileEntry, FoundModel
from cache.hub.ranges import check_access, read_range
from cache.hub.session import ask, connect, token
from cache.hub.tries import OnWait
from cache.settings import Settings

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def find(ref: ModelRef, settings: Settings, *, on_wait: OnWait | None = None) -> FoundModel:
    """The model that `ref` names, pinned to a commit. Always asks the Hub, and proves with one small request that
    files of a gated model may be read. `on_wait` as in `stream_range`. Raises ModelError."""
    info = _ask_about(ref, settings, on_wait)
    files = _files(info, ref)
    pinned = PinnedModel("hub", ref.name, _commit(info, ref), ref.subfolder)
    found = FoundModel(pinned, files, None, {}, str(ref))
    if info.gated:
        weights = [entry.path for entry in files if entry.path.endswith(".safetensors")]
        check_access(found, settings, (weights or [files[0].path])[0], on_wait=on_wait)
    config = _read_json(found, cards.CONFIG_FILE, settings, on_wait)
    base = _base(info) or cards.base_in_adapter(_read_json(found, cards.ADAPTER_CONFIG_FILE, settings, on_wait))
    return FoundModel(pinned, files, cards.as_hub_id(base), config, str(ref))


def suggest_base(ref: ModelRef, settings: Settings) -> str | None:
    """The id of the model that `ref` says it was tuned from, if its card or its adapter names one."""
    return find(ref, settings).base_model


def _ask_about(ref: ModelRef, settings: Settings, on_wait: OnWait | None) -> Any:
    connect(settings.endpoint)
    api = HfApi(endpoint=settings.endpoint, token=token())
    info = ask(
        lambda: api.model_info(
            ref.name, revision=ref.revision or None, files_metadata=True, timeout=settings.patience.silence
        ),
        settings.patience,
        model=ref.name,
        revision=ref.revision,
        on_wait=on_wait,
    )
    if info.disabled:
        raise AccessDenied(f"'{ref.name}' has been disabled on the Hub", do="Choose another model")
    return info


def _commit(info: Any, ref: ModelRef) -> str:
    if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
        raise HubUnreachable(f"The Hub did not say which commit '{ref}' is", do="Try again in a minute")
    return info.sha


def _files(info: Any, ref: ModelRef) -> tuple[FileEntry, ...]:
    """The files at or below the subfolder, named from there."""
    below = f"{ref.subfolder}/" if ref.subfolder else ""
    siblings = [file for file in info.siblings or () if file.rfilename.startswith(below)]
    if not siblings:
        where = f"no folder '{ref.subfolder}'" if ref.subfolder else "no files"
        raise ModelNotFound(f"'{ref.name}' has {where} at this revision", do="Look at its page for the right name")
    if not all(isinstance(file.size, int) for file in siblings):
        raise HubUnreachable(f"The Hub did not say how large the files of '{ref.name}' are", do="Try again in a minute")
    return tuple(_entry(file, below) for file in siblings)


def _entry(file: Any, below: str) -> FileEntry:
    """Names and hashes become names of files on this machine, so they must look like some."""
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in file.rfilename.split("/")):
        raise BadWeights("The model lists a file whose name is not accepted", do="Choose another model or revision")
    sha256 = file.lfs.sha256 if file.lfs else None
    if sha256 is not None and not _SHA256.fullmatch(str(sha256)):
        raise HubUnreachable("The Hub's answer names a file in a way that is not accepted", do="Try again in a minute")
    git_id = None if sha256 or not _COMMIT.fullmatch(str(file.blob_id)) else file.blob_id
    return FileEntry(file.rfilename.removeprefix(below), file.size, sha256, git_id)


def _base(info: Any) -> str | None:
    return cards.base_in_card({"base_model": getattr(info.card_data, "base_model", None)})


def _read_json(found: FoundModel, file: str, settings: Settings, on_wait: OnWait | None) -> dict[str, object]:
    size = found.size_of_file().get(file, 0)
    if not 0 < size <= cards.MAX_BYTES:
        return {}
    return cards.read_config(read_range(found, settings, file, 0, size, on_wait=on_wait))
