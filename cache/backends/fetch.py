"""The child that brings weight files onto this machine, verified. Run as `python -m cache.backends.fetch`.

Has the network and the token. Both models are found again at their pinned commits first: the Hub decides anew whether
they may be read, whatever the cache holds.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from analysis.models import parse_model
from cache import catalog
from cache.backends.child import Send, serve
from cache.settings import Settings

_SECONDS_BETWEEN_MESSAGES = 0.2


def fetch(request: dict[str, Any], send: Send) -> None:
    """Sends 'planned' with the bytes to come, 'bytes' as they arrive, 'waiting' with the reason and the end of each
    pause, and 'fetched' with both folders."""
    settings = replace(Settings.from_environment(), patience=request["patience"])
    report = _Report(send)
    found = {
        side: catalog.find(parse_model(request[side]), settings, any_folder=request["any_folder"], on_wait=report.wait)
        for side in ("base", "tuned")
    }
    send(
        {
            "event": "planned",
            "bytes": sum(catalog.bytes_to_fetch(found[s], request["files"][s], settings) for s in found),
        }
    )
    folders = {
        side: str(catalog.fetch(found[side], request["files"][side], settings, report.add, report.wait))
        for side in found
    }
    report.flush()
    send({"event": "fetched", **folders})


class _Report:
    """Passes byte counts on, a few messages a second at most."""

    def __init__(self, send: Send) -> None:
        self._send, self._pending, self._sent_at = send, 0, 0.0

    def add(self, n_bytes: int) -> None:
        self._pending += n_bytes
        if time.monotonic() - self._sent_at > _SECONDS_BETWEEN_MESSAGES:
            self.flush()

    def wait(self, reason: str, until: float) -> None:
        self.flush()
        self._send({"event": "waiting", "reason": reason, "until": until})

    def flush(self) -> None:
        self._send({"event": "bytes", "bytes": self._pending})
        self._pending, self._sent_at = 0, time.monotonic()


if __name__ == "__main__":
    serve(fetch)
