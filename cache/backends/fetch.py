"""The child that brings weight files onto this machine, verified. Run as `python -m cache.backends.fetch`.

Has the network and the token. Both models are found again at their pinned commits first: the Hub decides anew whether
they may be read, whatever the cache holds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.errors import Damaged
from analysis.models import parse_model
from analysis.tensors import SIDES, TensorPair
from cache import catalog
from cache.backends.child import Send, serve
from cache.found import FoundModel
from cache.settings import Settings

_SECONDS_BETWEEN_MESSAGES = 0.2


def fetch(request: dict[str, Any], send: Send) -> None:
    """Sends 'planned' with the bytes to come and whether the disk holds them (if not, that is all); 'bytes' as they
    arrive; 'waiting' with the reason and the end of each pause; and for each file, in the order in which the pairs
    need them, 'ready' with side, file and folder, or 'damaged' with side and file."""
    settings = job_settings(request)
    report = Report(send)
    found = find_both(request, settings, report)
    files = files_in_order(request["pairs"])
    of_side = {side: [file for of, file in files if of == side] for side in found}
    n_bytes = catalog.bytes_to_fetch_of_both(found["base"], of_side["base"], found["tuned"], of_side["tuned"], settings)
    fits = catalog.has_room(n_bytes)
    send({"event": "planned", "bytes": n_bytes, "fits": fits})
    if not fits:
        return
    for side in ("base", "tuned"):
        if found[side].folder:
            folder = catalog.fetch(found[side], of_side[side], settings, report.add, report.wait)
            for file in of_side[side]:
                send({"event": "ready", "side": side, "file": file, "folder": folder})
    for side, file in files:
        if not found[side].folder and (place := bring(found, side, file, settings, report, send)):
            report.flush()
            send({"event": "ready", "side": side, "file": file, "folder": place})


def bring(
    found: dict[str, FoundModel], side: str, file: str, settings: Settings, report: Report, send: Send
) -> Path | None:
    """The folder in which the file now lies; None, and 'damaged' is sent, where it arrives damaged again and again."""
    try:
        return catalog.fetch(found[side], [file], settings, report.add, report.wait)
    except Damaged:
        send({"event": "damaged", "side": side, "file": file})
        return None


def job_settings(request: dict[str, Any]) -> Settings:
    """The settings, with the job's patience."""
    return replace(Settings.from_environment(), patience=request["patience"])


def find_both(request: dict[str, Any], settings: Settings, report: Report) -> dict[str, FoundModel]:
    """Both models at their commits, as they may be read now. Raises ModelError."""
    return {
        side: catalog.find(parse_model(request[side]), settings, any_folder=request["any_folder"], on_wait=report.wait)
        for side in ("base", "tuned")
    }


def files_in_order(pairs: Sequence[TensorPair]) -> list[tuple[str, str]]:
    """(side, file), each once, so that the first pairs can be read first."""
    needed = ((side, file) for pair in pairs for side in SIDES for file in pair.files(side))
    return list(dict.fromkeys(needed))


class Report:
    """Passes byte counts on, a few messages a second at most. Safe to call from any thread."""

    def __init__(self, send: Send) -> None:
        self._send, self._pending, self._sent_at = send, 0, 0.0
        self._lock = threading.Lock()

    def add(self, n_bytes: int) -> None:
        with self._lock:
            self._pending += n_bytes
            due = time.monotonic() - self._sent_at > _SECONDS_BETWEEN_MESSAGES
        if due:
            self.flush()

    def wait(self, reason: str, until: float) -> None:
        self.flush()
        self._send({"event": "waiting", "reason": reason, "until": until})

    def flush(self) -> None:
        with self._lock:
            pending, self._pending, self._sent_at = self._pending, 0, time.monotonic()
        self._send({"event": "bytes", "bytes": pending})


if __name__ == "__main__":
    serve(fetch)
