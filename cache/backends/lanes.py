"""Several pieces of work side by side in one process, within a memory budget; what they leave is put away together.

Knows nothing about weights: a piece of work is a function and the bytes that it takes.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")

_MOST_WAITING = 128  # results; a tally takes 0.15 MB
_MOST_AT_ONCE = 64


class Lanes:
    """At most `n` pieces of work at once, that take at most `budget` bytes together; one may take more, by itself. One
    lane is the calling thread."""

    def __init__(self, n: int, budget: int) -> None:
        self._n, self._budget = n, budget
        self._pool = ThreadPoolExecutor(n, thread_name_prefix="lane") if n > 1 else None
        self._under_way: list[int] = []  # bytes of each
        self._error: BaseException | None = None
        self._change = threading.Condition()

    def run(self, work: Callable[[], None], n_bytes: int) -> None:
        """Begins `work` as soon as there is a lane and memory. Raises what an earlier one has raised."""
        if self._pool is None:
            work()
            return
        with self._change:
            self._change.wait_for(lambda: self._error or self._fits(n_bytes))
            self._raise()
            self._under_way.append(n_bytes)
        self._pool.submit(self._do, work, n_bytes)

    def wait(self) -> None:
        """Until nothing is under way. Raises what one of them has raised."""
        with self._change:
            self._change.wait_for(lambda: self._error or not self._under_way)
            self._raise()

    def _fits(self, n_bytes: int) -> bool:
        is_free = len(self._under_way) < self._n
        return is_free and (not self._under_way or sum(self._under_way) + n_bytes <= self._budget)

    def _do(self, work: Callable[[], None], n_bytes: int) -> None:
        error = None
        try:
            work()
        except BaseException as raised:  # raised again by who begins or waits next
            error = raised
        with self._change:
            self._under_way.remove(n_bytes)
            self._error = self._error or error
            self._change.notify_all()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


class Keeper(Generic[T]):
    """Puts things away in a thread of its own, all that wait in one go, in the order they came. Ends with the block,
    also after an error elsewhere: what was handed over is put away."""

    def __init__(self, put_away: Callable[[Sequence[T]], None]) -> None:
        self._put_away = put_away
        self._waiting: queue.Queue[T | None] = queue.Queue(_MOST_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="keeper", daemon=True)
        self._thread.start()

    def keep(self, thing: T) -> None:
        """Returns at once, unless too much waits. Raises what an earlier one met."""
        self._raise()
        self._waiting.put(thing)

    def flush(self) -> None:
        """Until all is put away. Raises what one of them met."""
        self._waiting.join()
        self._raise()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def _work(self) -> None:
        more = True
        while more:
            things: list[T | None] = [self._waiting.get()]
            while len(things) < _MOST_AT_ONCE and not self._waiting.empty():
                things.append(self._waiting.get())
            more = None not in things
            try:
                if self._error is None:
                    self._put_away([thing for thing in things if thing is not None])
            except BaseException as met:  # raised again by who hands over next
                self._error = met
            for _ in things:
                self._waiting.task_done()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
