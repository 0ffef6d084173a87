"""How far a job is: a Meter that the job's thread moves, and the Progress that pages and the terminal read off it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from analysis.errors import SubnetscopeError
from cache.records import JobKind

State = Literal["queued", "running", "waiting", "done", "failed", "cancelled"]  # waiting: for the Hub, in no lane
Stage = Literal["", "starting", "fetching", "tallies", "spectra", "overlap", "dynamics"]
_IN_NO_LANE: tuple[State, ...] = ("queued", "waiting")
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")

_SOON = 120.0  # seconds; nearer moments are told to the second
_ENOUGH_TO_JUDGE = 0.5  # seconds of measuring before the job's own speed replaces the estimate


@dataclass(frozen=True)
class Progress:
    """A job at one moment. `done` of `planned` measurements; `bytes_done` of `bytes_planned` fetched."""

    job_id: str
    kind: JobKind
    title: str
    pair_keys: tuple[str, ...]
    state: State
    stage: Stage
    done: int
    planned: int
    bytes_done: int
    bytes_planned: int
    seconds_elapsed: float
    seconds_left: float | None
    device: str = ""
    tensor: str = ""  # what is being measured now
    error: SubnetscopeError | None = None
    note: str = ""  # what was decided on the way and should be known
    waiting_for: str = ""  # why nothing happens just now, as a sentence
    waiting_until: float = 0.0  # seconds since the epoch

    @property
    def waiting_words(self) -> str:
        """'waiting until 14:05 UTC tomorrow (the Hub asks us to slow down)', or nothing where it is not waited."""
        if not self.waiting_for:
            return ""
        reason = self.waiting_for[0].lower() + self.waiting_for[1:]
        return f"waiting until {clock(self.waiting_until)} ({reason})"

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def share(self) -> float:
        """What part of the plan is stored, for a bar; an empty plan is done."""
        return self.done / self.planned if self.planned else float(self.state == "done")


def clock(moment: float) -> str:
    """A moment to come, as one says it today: '14:05 UTC', '14:05 UTC tomorrow', '14:05 UTC on 25 Nov 2026'."""
    then, now = datetime.fromtimestamp(moment, UTC), datetime.now(UTC)
    days = (then.date() - now.date()).days
    day = {0: "", 1: " tomorrow"}.get(days, f" on {then.day} {then:%b %Y}")
    return f"{then:%H:%M:%S} UTC" if moment - time.time() < _SOON else f"{then:%H:%M} UTC{day}"


class Meter:
    """Counts one job's work as it lands. Moved by the job's thread, read by any."""

    def __init__(self, job_id: str, kind: JobKind, title: str, pair_keys: tuple[str, ...]) -> None:
        self._identity = (job_id, kind, title, pair_keys)
        self._lock = threading.Lock()
        self._state: State = "queued"
        self._stage: Stage = ""
        self._done = self._planned = self._bytes_done = self._bytes_planned = 0
        self._before = self._after = 0
        self._cost_done = self._cost_left = self._cost_after = 0.0
        self._started = self._measuring_since = self._ended = 0.0
        self._device = self._tensor = ""
        self._error: SubnetscopeError | None = None
        self._note = ""
        self._fetching_since = 0.0
        self._waiting_for, self._waiting_until = "", 0.0

    def start(self) -> bool:
        """Whether the job may run: it was queued, or waiting, until now."""
        with self._lock:
            if self._state not in _IN_NO_LANE:
                return False
            self._state, self._stage, self._started = "running", "starting", time.monotonic()
            self._waiting_for, self._measuring_since = "", 0.0
            self._bytes_planned = self._bytes_done  # what is still to come is counted anew
            return True

    def drop(self) -> bool:
        """Whether the job was still queued, or waiting: now it will not start."""
        with self._lock:
            if self._state not in _IN_NO_LANE:
                return False
            self._state, self._waiting_for = "cancelled", ""
            return True

    def waits(self, reason: str, until: float) -> None:
        """Nothing will happen until then (seconds since the epoch)."""
        with self._lock:
            self._waiting_for, self._waiting_until = reason, until

    def leave_lane(self, reason: str, until: float) -> None:
        """Others go on; the job may start again then."""
        with self._lock:
            self._state, self._stage, self._tensor = "waiting", "", ""
            self._waiting_for, self._waiting_until = reason, until

    def enter(self, stage: Stage) -> None:
        with self._lock:
            self._stage = stage
            if stage in ("tallies", "overlap", "dynamics") and not self._measuring_since:
                self._measuring_since = time.monotonic()

    def plan(self, *, done: int, planned: int, cost_left: float) -> None:
        """What is stored already, what is wanted in all, and the seconds that the rest should take."""
        with self._lock:
            self._done, self._planned = self._before + done, self._before + planned + self._after
            self._cost_left = cost_left + self._cost_after

    def frame(self, *, before: int, after: int, cost_after: float) -> None:
        """Of a job of several parts: the measurements of the parts before and after the one that `plan` will tell of,
        and the seconds that those after it should take."""
        with self._lock:
            self._before, self._after, self._cost_after = before, after, cost_after

    def fetching(self, n_bytes: int) -> None:
        """So many bytes are on their way, and nothing is measured yet."""
        with self._lock:
            self._stage = "fetching"
            self._bytes_planned = self._bytes_done + n_bytes
            self._fetching_since = self._fetching_since or time.monotonic()

    def fetched(self, n_bytes: int) -> None:
        with self._lock:
            self._bytes_done += n_bytes
            if n_bytes and self._bytes_done >= self._bytes_planned:  # the speed seen so far was the network's
                self._measuring_since, self._cost_done = time.monotonic(), 0.0

    def say(self, note: str) -> None:
        with self._lock:
            self._note = note

    def runs_on(self, device: str) -> None:
        with self._lock:
            self._device = device

    def begin(self, tensor: str, stage: Stage) -> None:
        with self._lock:
            self._tensor, self._stage = tensor, stage
            self._measuring_since = self._measuring_since or time.monotonic()

    def measured(self, cost: float) -> None:
        with self._lock:
            self._done += 1
            self._cost_done += cost
            self._cost_left = max(self._cost_left - cost, 0.0)

    def end(self, state: State, error: SubnetscopeError | None = None) -> None:
        with self._lock:
            self._state, self._error, self._stage, self._tensor, self._waiting_for = state, error, "", "", ""
            self._ended = time.monotonic()

    @property
    def state(self) -> State:
        return self._state

    def read(self) -> Progress:
        with self._lock:
            now = self._ended or time.monotonic()
            return Progress(
                *self._identity,
                state=self._state,
                stage=self._stage,
                done=self._done,
                planned=self._planned,
                bytes_done=self._bytes_done,
                bytes_planned=self._bytes_planned,
                seconds_elapsed=now - self._started if self._started else 0.0,
                seconds_left=self._seconds_left(now),
                device=self._device,
                tensor=self._tensor,
                error=self._error,
                note=self._note,
                waiting_for=self._waiting_for if self._state == "waiting" or time.time() < self._waiting_until else "",
                waiting_until=self._waiting_until,
            )

    def _seconds_left(self, now: float) -> float | None:
        """The rest of the plan at the speed seen so far; of the download, while that takes longer."""
        if self._state != "running":
            return None
        bytes_left = self._bytes_planned - self._bytes_done
        if self._fetching_since and bytes_left > 0:
            spent = now - self._fetching_since
            if self._bytes_done <= 0 or spent < _ENOUGH_TO_JUDGE:
                return None
            return max(bytes_left * spent / self._bytes_done, self._cost_left)
        if not self._measuring_since:
            return None
        spent = now - self._measuring_since
        if self._cost_done <= 0 or spent < _ENOUGH_TO_JUDGE:
            return self._cost_left
        return self._cost_left * spent / self._cost_done
