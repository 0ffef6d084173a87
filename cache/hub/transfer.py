"""Bytes of one file on the Hub, in order, resumed where a connection was lost. Never two versions of a file in one.

Every request names the pinned commit and asks the Hub anew where the bytes are: a signed address of its storage expires
while a large file is on its way.
"""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from typing import Any

from huggingface_hub import get_session, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from analysis.errors import FileChanged
from cache.found import FoundModel
from cache.hub.session import connect, token
from cache.hub.tries import FOREIGN, OnWait, Tries
from cache.patience import Patience
from cache.settings import Settings

PIECE = 1 << 20

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


def stream_range(
    found: FoundModel, settings: Settings, file: str, begin: int, end: int, *, on_wait: OnWait | None = None
) -> Generator[memoryview]:
    """Bytes `begin` up to but without `end` of one file at the pinned commit, in pieces of at most 1 MiB.

    A lost or crawling connection is taken up at the byte reached, as often as `settings.patience` allows; `on_wait`
    hears of each pause: its reason, and when it ends (seconds since the epoch). Raises ModelError (HubBusy where
    waiting longer may help) and FileChanged if the Hub's file is not of the listed size, or changes meanwhile.
    """
    return _stream(found, settings, file, begin, end, on_wait, from_zero=begin == 0)


def rest_of_file(
    found: FoundModel, settings: Settings, file: str, begin: int, *, on_wait: OnWait | None = None
) -> Generator[memoryview]:
    """From byte `begin` to the end of the file, as `stream_range`; also from a server that only sends whole files."""
    return _stream(found, settings, file, begin, found.size_of_file()[file], on_wait, from_zero=True)


def address(found: FoundModel, settings: Settings, file: str) -> str:
    pinned = found.pinned
    return hf_hub_url(pinned.name, file, subfolder=pinned.subfolder, revision=pinned.commit, endpoint=settings.endpoint)


def _stream(
    found: FoundModel, settings: Settings, file: str, begin: int, end: int, on_wait: OnWait | None, *, from_zero: bool
) -> Generator[memoryview]:
    """`from_zero`: a server that ignores the range may send the file from its first byte, and the part that is not
    wanted, or was delivered before, is dropped."""
    tries = Tries(settings.patience, on_wait, model=found.pinned.title, revision=found.pinned.commit)
    size = found.size_of_file().get(file)
    version: str | None = None
    position = counted_from = begin
    while position < end:
        try:
            with _answer(found, settings, file, position, end) as response:
                first, total = _first_and_total(response, position, from_zero=from_zero)
                if total not in (None, size) or version not in (None, version := _version(response)):
                    raise _changed(found, file)
                for piece in _pieces(response, position - first, end - position, settings.patience):
                    position += len(piece)
                    if position - counted_from >= settings.patience.progress:
                        tries.progressed()
                        counted_from = position
                    yield piece
            if position < end:
                raise HTTPError("the body ended early")
        except FOREIGN as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code == 416:
                raise _changed(found, file) from error
            tries.pause_after(error)


def _answer(
    found: FoundModel, settings: Settings, file: str, begin: int, end: int
) -> AbstractContextManager[Any, bool | None]:
    connect(settings.endpoint)
    headers = build_hf_headers(token=token())
    headers |= {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
    where, timeout = address(found, settings, file), settings.patience.silence
    return get_session().stream("GET", where, headers=headers, timeout=timeout)


def _first_and_total(response: Any, position: int, *, from_zero: bool) -> tuple[int, int | None]:
    """(the body's first byte, the file's size if the answer tells it). Raises ValueError for another part of the file
    than the one asked for."""
    hf_raise_for_status(response)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise ValueError("a packed answer, which was not asked for")
    if response.status_code == 206:
        told = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not told or int(told[1]) != position:
            raise ValueError("another range than the one asked for")
        return position, int(told[3])
    if response.status_code != 200 or (position and not from_zero):
        raise ValueError("no part of a file")
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _version(response: Any) -> str:
    """What the Hub, not the storage it sends us to, calls this content."""
    for answer in (*response.history, response):
        if linked := answer.headers.get("X-Linked-Etag"):
            return str(linked)
    return str(response.headers.get("ETag", ""))


def _pieces(response: Any, skipped: int, wanted: int, patience: Patience) -> Iterator[memoryview]:
    """`wanted` bytes of the body after the first `skipped`, or fewer if it ends before."""
    for chunk in _steady(response.iter_bytes(), patience):
        view = memoryview(chunk)[skipped:]
        skipped = max(0, skipped - len(chunk))
        view = view[:wanted]
        wanted -= len(view)
        for begin in range(0, len(view), PIECE):
            yield view[begin : begin + PIECE]
        if not wanted:
            return


def _steady(chunks: Iterator[bytes], patience: Patience) -> Iterator[bytes]:
    """The chunks, while they come fast enough. Only waiting for them counts, not what is done with them."""
    waited, arrived = 0.0, 0
    while True:
        since = time.monotonic()
        chunk = next(chunks, None)
        if chunk is None:
            return
        waited, arrived = waited + time.monotonic() - since, arrived + len(chunk)
        if waited >= patience.slow_for:
            if arrived < waited * patience.slow_bytes:
                raise HTTPError("the body came too slowly")
            waited, arrived = 0.0, 0
        yield chunk


def _changed(found: FoundModel, file: str) -> FileChanged:
    return FileChanged(
        f"'{file}' of '{found.pinned.title}' is not the file that the Hub listed, or changed while it was read",
        expected="At a commit, a file has one size and one content",
        do="Try again later, or choose another revision",
    )
