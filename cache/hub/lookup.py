"""Text in, pinned model out: one question to the Hub for commit, files and card, one for config.json."""

from __future__ import annotations

import re
from typing import Any

from huggingface_hub import HfApi

from analysis.errors import AccessDenied, HubUnreachable, ModelNotFound
from analysis.models import ModelRef, PinnedModel
from cache import cards
from cache.found import FileEntry, FoundModel
from cache.hub.ranges import check_access, read_range
from cache.hub.session import TIMEOUT, ask, connect, token
from cache.settings import Settings

_COMMIT = re.compile(r"[0-9a-f]{40}")


def find(ref: ModelRef, settings: Settings) -> FoundModel:
    """The model that `ref` names, pinned to a commit. Always asks the Hub, and proves with one small request that
    files of a gated model may be read. Raises ModelError."""
    info = _ask_about(ref, settings)
    files = _files(info, ref)
    pinned = PinnedModel("hub", ref.name, _commit(info, ref), ref.subfolder)
    found = FoundModel(pinned, files, None, {}, str(ref))
    if info.gated:
        weights = [entry.path for entry in files if entry.path.endswith(".safetensors")]
        check_access(found, settings, (weights or [files[0].path])[0])
    config = _read_json(found, cards.CONFIG_FILE, settings)
    adapter = _read_json(found, cards.ADAPTER_CONFIG_FILE, settings)
    base = _base(info) or cards.base_in_adapter(adapter)
    return FoundModel(pinned, files, cards.as_hub_id(base), config, str(ref), adapter_config=adapter)


def suggest_base(ref: ModelRef, settings: Settings) -> str | None:
    """The id of the model that `ref` says it was tuned from, if its card or its adapter names one."""
    return find(ref, settings).base_model


def _ask_about(ref: ModelRef, settings: Settings) -> Any:
    connect(settings.endpoint)
    api = HfApi(endpoint=settings.endpoint, token=token())
    info = ask(
        lambda: api.model_info(ref.name, revision=ref.revision or None, files_metadata=True, timeout=TIMEOUT),
        model=ref.name,
        revision=ref.revision,
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
    return tuple(
        FileEntry(file.rfilename.removeprefix(below), file.size, file.lfs.sha256 if file.lfs else None)
        for file in siblings
    )


def _base(info: Any) -> str | None:
    return cards.base_in_card({"base_model": getattr(info.card_data, "base_model", None)})


def _read_json(found: FoundModel, file: str, settings: Settings) -> dict[str, object]:
    size = found.size_of_file().get(file, 0)
    if not 0 < size <= cards.MAX_BYTES:
        return {}
    return cards.read_config(read_range(found, settings, file, 0, size))
