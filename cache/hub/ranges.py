"""Exact byte ranges of files on the Hub, without downloading the files; and whether they may be read at all."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from huggingface_hub import get_session
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from cache.found import FoundModel
from cache.hub.session import ask, connect, token
from cache.hub.transfer import address, stream_range
from cache.hub.tries import OnWait
from cache.settings import Settings

_MOVES = 5  # of a renamed repository


def read_range(
    found: FoundModel, settings: Settings, file: str, begin: int, end: int, *, on_wait: OnWait | None = None
) -> bytes:
    """Bytes `begin` up to but without `end` of one file at the pinned commit; never more, never fewer."""
    return b"".join(stream_range(found, settings, file, begin, end, on_wait=on_wait))


def check_access(found: FoundModel, settings: Settings, file: str, *, on_wait: OnWait | None = None) -> None:
    """Nothing, or ModelError if this server may not read `file` of the model now."""
    connect(settings.endpoint)
    ask(
        lambda: _head(address(found, settings, file), settings),
        settings.patience,
        model=found.pinned.title,
        revision=found.pinned.commit,
        on_wait=on_wait,
    )


def _head(where: str, settings: Settings) -> None:
    """Asks the Hub alone: that it would send us on to its storage is answer enough."""
    headers = build_hf_headers(token=token())
    for _ in range(_MOVES):
        response = get_session().head(where, headers=headers, timeout=settings.patience.silence, follow_redirects=False)
        hf_raise_for_status(response)
        moved = urljoin(where, response.headers.get("Location", where))
        if not response.is_redirect or urlsplit(moved).netloc != urlsplit(where).netloc:
            return
        where = moved
    raise ValueError("redirected for ever")
