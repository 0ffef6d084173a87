"""Two children at work on one pair, side by side: one with the network that brings weights, one that measures them,
which loads its libraries while the other finds out what there is.

Weights come as files, each told of when it is there, or as bytes through pipes from child to child: the process in the
middle sees none of them. Whichever ends early, the other finishes what it has; the holes left over say the rest.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from analysis.errors import WorkerDied
from cache.backends.child import Child

if TYPE_CHECKING:
    from cache.work import Job

_PIPE_BYTES = 1 << 20  # as much as a user may have


class NoRoom(Exception):
    """The disk does not hold the files."""


class Feed(Protocol):
    """What the two are asked for, and what becomes of their messages."""

    starved: bool  # the measuring child's weights stopped coming
    supply_died: bool

    def wanted(self) -> dict[str, Any]: ...
    def request(self) -> dict[str, Any]: ...
    def on_supplied(self, message: dict[str, Any]) -> None: ...
    def on_message(self, message: dict[str, Any]) -> None: ...


def bring_and_measure(job: Job, feed: Feed, streamed: Iterable[str]) -> None:
    """Returns when all that `feed` wants was reported. The sides in `streamed` are not kept on the disk; none: files.
    Raises NoRoom, Cancelled, and the children's errors, that of the bringing one after what came was measured."""
    pipes = _Pipes(streamed)
    module = "cache.backends.stream" if pipes.readers else "cache.backends.fetch"
    try:
        with (
            _Supply(job, module, feed, pipes.writers) as supply,
            job.worker(tuple(pipes.readers.values())) as worker,
        ):
            pipes.close(pipes.writers)
            planned = supply.planned()
            if not planned["fits"]:
                raise NoRoom
            request = feed.request() | {"steps": planned.get("steps", ()), "files": planned.get("files", ())}
            worker.tell(request | {"pipes": pipes.readers})
            _measure(job, feed, supply, worker)
            supply.finish()
    finally:
        pipes.close(pipes.writers)
        pipes.close(pipes.readers)


def _measure(job: Job, feed: Feed, supply: _Supply, worker: Child) -> None:
    supply.pass_on_to(worker)
    try:
        job.hear(worker, feed.on_message)
    except WorkerDied:
        if feed.starved:
            supply.finish()  # what it met is the cause
        raise


class _Supply:
    """The child that brings weights, heard in a thread of its own; ended with the block."""

    def __init__(self, job: Job, module: str, feed: Feed, writers: Mapping[str, int]) -> None:
        self._job, self._feed = job, feed
        self._planned: Future[dict[str, Any]] = Future()
        self._error: BaseException | None = None
        self._told: list[dict[str, Any]] = []
        self._tell: Callable[[dict[str, Any]], None] | None = None
        self._lock = threading.Lock()
        request = feed.wanted() | {"pipes": dict(writers)}
        self._child = job.start(module, request, network=True, pass_fds=tuple(writers.values()))
        self._thread = threading.Thread(target=self._listen, name=f"{module} of {job.id}", daemon=True)
        self._thread.start()

    def planned(self) -> dict[str, Any]:
        """Its first word: what there is to bring. Raises its error where it has nothing but that."""
        try:
            return self._planned.result()
        except WorkerDied:
            self._job.raise_if_cancelled()
            self._feed.supply_died = True
            raise

    def pass_on_to(self, child: Child) -> None:
        """From now on `child` hears what is ready, and what was before."""
        with self._lock:
            self._tell = child.tell
            for message in self._told:
                child.tell(message)

    def finish(self) -> None:
        """Waits until it has ended. Raises its error."""
        self._thread.join()
        self._job.raise_if_cancelled()
        self._feed.supply_died = isinstance(self._error, WorkerDied)
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.kill()
        self._thread.join()
        self._job.forget(self._child)

    def _listen(self) -> None:
        try:
            with closing(self._child.messages()) as messages:
                for message in messages:
                    self._feed.on_supplied(message)
                    if message["event"] == "planned":
                        self._planned.set_result(message)
                    elif message["event"] == "ready":
                        self._pass_on(message)
        except BaseException as error:  # raised again in the job's thread, by `finish`
            self._error = error
        self._pass_on({"event": "all"})
        if not self._planned.done():
            self._planned.set_exception(self._error or WorkerDied("Nothing was said about the weights"))

    def _pass_on(self, message: dict[str, Any]) -> None:
        with self._lock:
            self._told.append(message)
            if self._tell is not None:
                self._tell(message)


class _Pipes:
    """One pipe a side; each end is closed here once the child that uses it has its own."""

    def __init__(self, sides: Iterable[str]) -> None:
        self.readers: dict[str, int] = {}
        self.writers: dict[str, int] = {}
        for side in sides:
            self.readers[side], self.writers[side] = os.pipe()
            if hasattr(fcntl, "F_SETPIPE_SZ"):
                _widen(self.writers[side])

    def close(self, ends: dict[str, int]) -> None:
        while ends:
            os.close(ends.popitem()[1])


def _widen(pipe: int) -> None:
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        return  # a limit of the system's: it then takes more turns
