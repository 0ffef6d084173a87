"""Several pieces of work side by side in one process, within a memory budget; what they leave is put away together.

Knows nothing about weights: a piece of work is a function and the bytes that it takes.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")

_MOST_WAITING = 128  # results; a tally takes 0.15 MB
_MOST_AT_ONCE = 64


class Lanes(Generic[T]):
    """Pieces of work side by side. Each place (a processor, a GPU) has lanes of its own: at most `lanes_of[place]`
    pieces at once there, that take at most `budget` bytes together; one may take more, by itself. One more waits there,
    within the same budget, so that a lane does not wait for the caller. A single lane is the calling thread.
    `on_change` is called, from any thread, when one has failed or the last one that was under way has ended: for a
    caller that waits for something else meanwhile."""

    def __init__(self, lanes_of: Mapping[T, int], budget: int, on_change: Callable[[], None] = lambda: None) -> None:
        self._lanes_of, self._budget, self._on_change = dict(lanes_of), budget, on_change
        self._is_caller = sum(lanes_of.values()) <= 1
        self._pool_of = {place: ThreadPoolExecutor(n, thread_name_prefix="lane") for place, n in lanes_of.items()}
        self._under_way: dict[T, list[int]] = {place: [] for place in lanes_of}  # bytes of each
        self._error: BaseException | None = None
        self._change = threading.Condition()

    def run(self, work: Callable[[T], None], n_bytes: int) -> None:
        """Begins `work` at a place that has a lane and memory for it, or is about to have one. Raises what an earlier
        one has raised; what has not begun by then never does."""
        if self._is_caller:
            work(next(iter(self._lanes_of)))
            return
        with self._change:
            self._change.wait_for(lambda: self._error or self._free(n_bytes))
            self.check()
            place = least_busy(self._free(n_bytes), self._under_way)
            self._under_way[place].append(n_bytes)
        self._pool_of[place].submit(self._do, work, place, n_bytes)

    def wait(self) -> None:
        """Until nothing is under way. Raises what one of them has raised."""
        with self._change:
            self._change.wait_for(lambda: self._error or self.is_idle)
            self.check()

    def finish(self) -> None:
        """Until nothing is under way, whatever comes of it."""
        with self._change:
            self._change.wait_for(lambda: self.is_idle)

    def check(self) -> None:
        """Raises what a piece of work has raised."""
        if self._error is not None:
            raise self._error

    @property
    def is_idle(self) -> bool:
        return not any(self._under_way.values())

    def _free(self, n_bytes: int) -> list[T]:
        """The places that have a lane for so many bytes more; where there is none, those where it may wait for one."""
        room = {place: self._budget - sum(taken) for place, taken in self._under_way.items()}
        fitting = [place for place, taken in self._under_way.items() if not taken or n_bytes <= room[place]]
        for waiting in (0, 1):
            free = [place for place in fitting if len(self._under_way[place]) < self._lanes_of[place] + waiting]
            if free:
                return free
        return []

    def _do(self, work: Callable[[T], None], place: T, n_bytes: int) -> None:
        error = None
        try:
            if self._error is None:
                work(place)
        except BaseException as raised:  # raised again by who begins or waits next
            error = raised
        with self._change:
            self._under_way[place].remove(n_bytes)
            self._error = self._error or error
            self._change.notify_all()
            matters = error is not None or self.is_idle
        if matters:
            self._on_change()


def least_busy(places: Sequence[T], under_way: Mapping[T, Sequence[int]]) -> T:
    """The place with the fewest bytes under way, of these the one with the fewest pieces, of these the first."""
    return min(places, key=lambda place: (sum(under_way[place]), len(under_way[place])))


class Keeper(Generic[T]):
    """Puts things away in a thread of its own, all that wait in one go, in the order they came. Ends with the block,
    also after an error elsewhere: what was handed over is put away. `on_error` is called, from that thread, when
    something could not be."""

    def __init__(self, put_away: Callable[[Sequence[T]], None], on_error: Callable[[], None] = lambda: None) -> None:
        self._put_away, self._on_error = put_away, on_error
        self._waiting: queue.Queue[T | None] = queue.Queue(_MOST_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="keeper", daemon=True)
        self._thread.start()

    def keep(self, thing: T) -> None:
        """Returns at once, unless too much waits. Raises what an earlier one met."""
        self.check()
        self._waiting.put(thing)

    def flush(self) -> None:
        """Until all is put away. Raises what one of them met."""
        self._waiting.join()
        self.check()

    def check(self) -> None:
        """Raises what one of them met."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join()
        if kind is None:
            self.check()

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
            except BaseException as met:  # raised again by who hands over or checks next
                self._error = met
                self._on_error()
            for _ in things:
                self._waiting.task_done()
