"""The child that reads weights from the Hub and keeps none: byte ranges in, bytes out through one pipe a side.

Run as `python -m cache.backends.stream`. Has the network and the token. It reads a few requests a side ahead of the
child that measures; from there the pipes hold it back. A file that passes whole and in order is hashed on the way.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

from analysis.errors import WorkerDied
from analysis.tensors import SIDES, TensorPair
from cache import catalog, streams
from cache.backends.child import Send, serve
from cache.backends.fetch import Report, bring, files_in_order, find_both, job_settings
from cache.found import FoundModel
from cache.settings import Settings
from cache.streams import Origin, Request
from cache.weights.shelf import are_same_stretches, files_in_step

_AHEAD = 2  # requests of a side that are under way or wait to be written


def stream(request: dict[str, Any], send: Send) -> None:
    """Sends 'planned' with the bytes to come, the steps, and the files that lie here already; 'bytes' as they arrive;
    'unsound' with side and file for a file whose hash is not the Hub's; before all that 'damaged' for a file of an
    adapter, which is fetched, and whose tensors are left out then. Ends when all is in the pipes."""
    settings = job_settings(request)
    report = Report(send)
    found = find_both(request, settings, report)
    pairs: tuple[TensorPair, ...] = request["pairs"]
    here = {
        (side, file): folder
        for side, file in files_in_order(pairs)
        if (folder := catalog.kept(found[side], file, settings)) is not None
    }
    for side in SIDES:
        if found[side].folder:
            catalog.fetch(found[side], (), settings, report.add)  # still the folder that was pinned
    if found["tuned"].is_adapter:  # small, and wanted whole for each of its tensors
        own = {f: bring(found, s, f, settings, report, send) for s, f in files_in_order(pairs) if s == "tuned"}
        here |= {("tuned", file): folder for file, folder in own.items() if folder}
        pairs = tuple(pair for pair in pairs if all(own[file] for file in pair.files("tuned")))

    def origin(side: Literal["base", "tuned"], pair: TensorPair) -> Origin:
        if side == "tuned" and pair.match == "untouched":
            return "base"
        if side == "tuned" and not pair.merge and are_same_stretches(pair) and _are_same_files(found, pair):
            return "base"
        return "file" if all((side, file) in here for file in pair.files(side)) else "stream"

    steps = streams.steps(pairs, request["holes"], request["memory_budget"], origin)
    pair_of_name = {pair.name: pair for pair in pairs}
    sides: list[_Side] = []
    for name, pipe in request["pipes"].items():
        wanted = streams.requests(streams.stretches(steps, name, pair_of_name), found[name].size_of_file())
        sides.append(_Side(name, pipe, found[name], tuple(wanted), settings, report, send))
    n_bytes = sum(part.end - part.begin for side in sides for part in side.requests)
    files = tuple((*place, str(folder)) for place, folder in here.items())
    send({"event": "planned", "bytes": n_bytes, "fits": True, "steps": steps, "files": files})
    ended: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    for each in sides:
        threading.Thread(target=each.run, args=(ended,), daemon=True).start()
    for _ in sides:
        if error := ended.get():
            raise error  # and the other side ends with the process
    report.flush()


def _are_same_files(found: dict[str, FoundModel], pair: TensorPair) -> bool:
    return all(
        catalog.are_one_file(found["base"], base, found["tuned"], tuned)
        for base, tuned in zip(*files_in_step(pair), strict=True)
    )


class _Side:
    """One side's requests, and the pipe that their bytes go into."""

    def __init__(
        self,
        side: str,
        pipe: int,
        found: FoundModel,
        requests: tuple[Request, ...],
        settings: Settings,
        report: Report,
        send: Send,
    ) -> None:
        self._side, self._pipe, self._found, self.requests = side, pipe, found, requests
        self._settings, self._report, self._send = settings, report, send
        self._sha256_of_file = {entry.path: entry.sha256 for entry in found.files}

    def run(self, ended: queue.SimpleQueue[Exception | None]) -> None:
        """Writes all of it, then closes the pipe and says that it has ended, or with what."""
        try:
            self._write_all()
            os.close(self._pipe)
        except BrokenPipeError:
            ended.put(WorkerDied("Nobody measures the weights any more"))
        except Exception as error:
            ended.put(error)
        else:
            ended.put(None)

    def _write_all(self) -> None:
        digest = hashlib.sha256()
        for request, content in self._in_order():
            for begin, end in request.wanted:
                _write(self._pipe, content[begin - request.begin : end - request.begin])
            if not request.hashed:
                continue
            if request.begin == 0:
                digest = hashlib.sha256()
            digest.update(content)
            listed = self._sha256_of_file[request.file]
            if request.last and listed is not None and digest.hexdigest() != listed:
                self._send({"event": "unsound", "side": self._side, "file": request.file})

    def _in_order(self) -> Iterator[tuple[Request, memoryview]]:
        """Each request with its bytes, which the next turn may overwrite; a few are under way at a time."""
        largest = max((request.end - request.begin for request in self.requests), default=0)
        free = deque(memoryview(bytearray(largest)) for _ in range(min(_AHEAD + 1, len(self.requests))))
        under_way: deque[tuple[Request, memoryview, Future[None]]] = deque()
        left = iter(self.requests)
        pool = ThreadPoolExecutor(_AHEAD)
        while True:
            while free and (following := next(left, None)):
                buffer = free.popleft()
                under_way.append((following, buffer, pool.submit(self._download, following, buffer)))
            if not under_way:
                return
            request, buffer, done = under_way.popleft()
            done.result()
            yield request, buffer[: request.end - request.begin]
            free.append(buffer)

    def _download(self, request: Request, into: memoryview) -> None:
        position = 0
        span = (request.file, request.begin, request.end)
        for piece in catalog.stream_range(self._found, self._settings, *span, self._report.wait):
            into[position : position + len(piece)] = piece
            position += len(piece)
            self._report.add(len(piece))


def _write(pipe: int, content: memoryview) -> None:
    while content:
        content = content[os.write(pipe, content) :]


if __name__ == "__main__":
    serve(stream)
