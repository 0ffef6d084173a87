"""Exact byte ranges of files on the Hub, without downloading the files."""

from __future__ import annotations

import time
from typing import Any

from huggingface_hub import get_hf_file_metadata, get_session, hf_hub_url
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from cache.found import FoundModel
from cache.hub.session import TIMEOUT, ask, connect, token
from cache.settings import Settings

_SLOWEST = 60.0  # seconds for one range; a server that sends a byte a second never times out otherwise


def read_range(found: FoundModel, settings: Settings, file: str, begin: int, end: int) -> bytes:
    """Bytes `begin` up to but without `end` of one file at the pinned commit; never more, never fewer."""
    if end <= begin:
        return b""
    connect(settings.endpoint)
    headers = build_hf_headers(token=token())
    headers |= {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}

    def question() -> bytes:
        with get_session().stream("GET", _address(found, settings, file), headers=headers, timeout=TIMEOUT) as response:
            hf_raise_for_status(response)
            return _body(response, begin, end)

    return ask(question, model=found.pinned.title, revision=found.pinned.commit)


def check_access(found: FoundModel, settings: Settings, file: str) -> None:
    """Nothing, or ModelError if this server may not read `file` of the model now."""
    connect(settings.endpoint)
    address = _address(found, settings, file)
    ask(
        lambda: get_hf_file_metadata(address, token=token(), timeout=TIMEOUT, endpoint=settings.endpoint),
        model=found.pinned.title,
        revision=found.pinned.commit,
    )


def _address(found: FoundModel, settings: Settings, file: str) -> str:
    pinned = found.pinned
    return hf_hub_url(pinned.name, file, subfolder=pinned.subfolder, revision=pinned.commit, endpoint=settings.endpoint)


def _body(response: Any, begin: int, end: int) -> bytes:
    """The range's bytes. A server that ignores the range and starts at 0 is read no further than needed."""
    if response.status_code == 206:
        starts_right = response.headers.get("Content-Range", "").startswith(f"bytes {begin}-")
    else:
        starts_right = begin == 0
    if not starts_right:
        raise ValueError("another range than the one asked for")
    body, deadline = bytearray(), time.monotonic() + _SLOWEST
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) >= end - begin:
            return bytes(body[: end - begin])
        if time.monotonic() > deadline:
            break
    raise HTTPError("the body ended early or came too slowly")
