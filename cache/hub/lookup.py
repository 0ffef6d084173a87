"""Text in, pinned model out: one question to the Hub for commit, files and card, one for config.json."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from huggingface_hub import get_session
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from analysis.errors import AccessDenied, BadWeights, HubUnreachable, ModelNotFound
from analysis.labels import shorten
from analysis.models import ModelRef, PinnedModel
from cache import cards
from cache.found import FileEntry, FoundModel
from cache.hub.ranges import check_access, read_range
from cache.hub.session import ask, connect, token
from cache.hub.tries import OnWait
from cache.settings import Settings
from cache.weights.repository import INDEX_FILE
from cache.weights.safetensors_header import MAX_FILE_BYTES

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST_ANSWER = 50_000_000  # some 200,000 files


def find(ref: ModelRef, settings: Settings, *, on_wait: OnWait | None = None) -> FoundModel:
    """The model that `ref` names, pinned to a commit. Always asks the Hub, and proves with one small request that
    files of a gated model may be read. `on_wait` as in `stream_range`. Raises ModelError."""
    info, found = _admitted(ref, settings, on_wait)
    described = (cards.CONFIG_FILE, cards.ADAPTER_CONFIG_FILE)
    text_of_file = {name: _read_text(found, name, settings, on_wait) for name in described}
    config, adapter = (cards.read_config(text) for text in text_of_file.values())
    declared, notes = _declared(info, found, config, adapter), cards.unread(text_of_file)
    base = next(iter(declared), None)
    return replace(found, base_model=base, config=config, notes=notes, declared=declared, adapter_config=adapter)


def confirm_access(ref: ModelRef, settings: Settings) -> None:
    """Nothing, or ModelError where this server may not read the model now: one or two small questions."""
    _admitted(ref, settings, None)


def suggest_base(ref: ModelRef, settings: Settings) -> str | None:
    """The id of the model that `ref` says it was tuned from, if its card or its adapter names one."""
    return find(ref, settings).base_model


def _admitted(ref: ModelRef, settings: Settings, on_wait: OnWait | None) -> tuple[dict[str, Any], FoundModel]:
    """The Hub's answer, and the model in it that this server may read, without what its files say of it."""
    info = _ask_about(ref, settings, on_wait)
    files = _files(info, ref)
    pinned = PinnedModel("hub", ref.name, _commit(info, ref), ref.subfolder)
    restricted = bool(info.get("private") or info.get("gated"))
    found = FoundModel(pinned, files, None, {}, restricted=restricted)
    if info.get("gated"):
        weights = [entry.path for entry in files if entry.path.endswith(".safetensors")]
        check_access(found, settings, (weights or [files[0].path])[0], on_wait=on_wait)
    return info, found


def _ask_about(ref: ModelRef, settings: Settings, on_wait: OnWait | None) -> dict[str, Any]:
    """The Hub's answer as it is. The library's own reader of it stops at many a strange card, which nobody needs."""
    connect(settings.endpoint)
    address = f"{settings.endpoint}/api/models/{ref.name}"
    if ref.revision:
        address += f"/revision/{quote(ref.revision, safe='')}"
    headers, patience = build_hf_headers(token=token()), settings.patience

    def question() -> dict[str, Any]:
        asked = get_session().stream("GET", address, params={"blobs": True}, headers=headers, timeout=patience.silence)
        with asked as response:
            hf_raise_for_status(response)
            return _answer(response)

    info = ask(question, patience, model=ref.name, revision=ref.revision, on_wait=on_wait)
    if info.get("disabled"):
        raise AccessDenied(f"'{ref.name}' has been disabled on the Hub", do="Choose another model")
    return info


def _answer(response: Any) -> dict[str, Any]:
    """The JSON object in the body, which is read no further than it may be long. Raises ValueError."""
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > _LONGEST_ANSWER:
            raise ValueError("too long an answer")
    try:
        found = json.loads(body)
    except RecursionError as error:
        raise ValueError("an answer nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("another answer than an object")
    return found


def _commit(info: Mapping[str, Any], ref: ModelRef) -> str:
    commit = info.get("sha")
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise HubUnreachable(f"The Hub did not say which commit '{ref}' is", do="Try again in a minute")
    return commit


def _files(info: Mapping[str, Any], ref: ModelRef) -> tuple[FileEntry, ...]:
    """The files at or below the subfolder, named from there. Names that lead elsewhere are left out."""
    below = f"{ref.subfolder}/" if ref.subfolder else ""
    siblings = info.get("siblings")
    if not isinstance(siblings, list) or not all(map(_is_file, siblings)):
        raise HubUnreachable(
            f"The Hub's list of the files of '{ref.name}' could not be understood", do="Try again in a minute"
        )
    siblings = [file for file in siblings if file["rfilename"].startswith(below)]
    if not siblings:
        where = f"no folder '{ref.subfolder}'" if ref.subfolder else "no files"
        raise ModelNotFound(f"'{ref.name}' has {where} at this revision", do="Look at its page for the right name")
    if not all(isinstance(file.get("size"), int) for file in siblings):
        raise HubUnreachable(f"The Hub did not say how large the files of '{ref.name}' are", do="Try again in a minute")
    for strange in (name for file in siblings if not _leads_down(name := file["rfilename"])):
        if strange.endswith((".safetensors", INDEX_FILE)):
            raise BadWeights(
                f"'{ref.name}' lists weights under the name '{shorten(strange, 200)}'",
                expected="Names of files in its own folders are read",
                do="Choose another revision",
            )
    return tuple(_entry(file, below) for file in siblings if _leads_down(file["rfilename"]))


def _entry(file: Mapping[str, Any], below: str) -> FileEntry:
    """Hashes become names of files on this machine, so they must look like some."""
    sha256, git_id = (file.get("lfs") or {}).get("sha256"), file.get("blobId")
    is_git = sha256 is None and isinstance(git_id, str) and bool(_COMMIT.fullmatch(git_id))
    return FileEntry(file["rfilename"].removeprefix(below), file["size"], sha256, git_id if is_git else None)


def _declared(
    info: Mapping[str, Any], found: FoundModel, config: Mapping[str, object], adapter: Mapping[str, object]
) -> tuple[str, ...]:
    """The ids that the card names, else the adapter's config, else config.json."""
    card = info.get("cardData")
    named: tuple[str | None, ...] = cards.bases_in_card(card) if isinstance(card, dict) else ()
    named = named or (cards.base_in_adapter(adapter),)
    ids = tuple(name for name in map(cards.as_hub_id, named) if name)
    last = cards.as_hub_id(cards.base_in_config(config, found.pinned.name))
    return ids or ((last,) if last else ())


def _is_file(entry: Any) -> bool:
    """Whether an entry of the list is what the Hub's own are: a name, a size if there is one, a hash if it is large."""
    if not isinstance(entry, dict) or not isinstance(entry.get("rfilename"), str):
        return False
    size, lfs = entry.get("size"), entry.get("lfs") or {}
    sound = size is None or (type(size) is int and 0 <= size <= MAX_FILE_BYTES)
    sha256 = lfs.get("sha256") if isinstance(lfs, dict) else 0
    return sound and (sha256 is None or (isinstance(sha256, str) and bool(_SHA256.fullmatch(sha256))))


def _leads_down(name: str) -> bool:
    """Whether the name of a file is one below its repository, on this system and on others."""
    parts = name.split("/")
    return name.isprintable() and "\\" not in name and not any(part in ("", ".", "..") for part in parts)


def _read_text(found: FoundModel, file: str, settings: Settings, on_wait: OnWait | None) -> bytes:
    """The file, no more of it than is read; nothing where there is none."""
    size = found.size_of_file().get(file, 0)
    return read_range(found, settings, file, 0, min(size, cards.MAX_BYTES + 1), on_wait=on_wait)
