"""Work side by side: bounded in number and memory, in order where order counts, and no error is lost."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch

from analysis.measure import Engine
from cache.backends import measure
from cache.backends.lanes import Keeper, Lanes

SOON = 20.0  # seconds in which what must happen happens


@pytest.mark.parametrize(
    ("n_bytes", "together"), [pytest.param(30, 3, id="lanes are the limit"), pytest.param(60, 1, id="memory is")]
)
def test_as_much_runs_at_once_as_lanes_and_memory_allow(n_bytes: int, together: int):
    lanes, meeting = Lanes(3, 100), threading.Barrier(together)
    lock, now, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        meeting.wait(SOON)
        with lock:
            now -= 1

    for _ in range(3 * together):
        lanes.run(work, n_bytes)
    lanes.wait()
    assert most == together


def test_what_no_budget_holds_runs_by_itself():
    done: list[int] = []
    lanes = Lanes(2, 100)
    for n_bytes in (10, 1000, 10):
        lanes.run(lambda n=n_bytes: done.append(n), n_bytes)
    lanes.wait()
    assert sorted(done) == [10, 10, 1000]


@pytest.mark.parametrize("n", [1, 2])
def test_an_error_in_a_lane_is_raised_by_the_next_call(n: int):
    lanes = Lanes(n, 100)

    def fail() -> None:
        raise ValueError("of the work")

    def run_and_wait() -> None:
        lanes.run(fail, 1)
        lanes.wait()

    with pytest.raises(ValueError, match="of the work"):
        run_and_wait()


def test_what_waits_is_put_away_in_one_go_and_in_order():
    groups: list[Sequence[int]] = []
    first_is_here, go_on = threading.Event(), threading.Event()

    def put_away(things: Sequence[int]) -> None:
        groups.append(things)
        first_is_here.set()
        assert go_on.wait(SOON)

    with Keeper(put_away) as keeper:
        keeper.keep(0)
        assert first_is_here.wait(SOON)
        for thing in (1, 2, 3):
            keeper.keep(thing)
        go_on.set()
        keeper.flush()
        assert groups[:2] == [[0], [1, 2, 3]]


def test_what_was_handed_over_is_put_away_although_the_work_ended_with_an_error():
    kept: list[int] = []

    def fail_with_one_handed_over() -> None:
        with Keeper(kept.extend) as keeper:
            keeper.keep(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_with_one_handed_over()
    assert kept == [1]


def test_an_error_of_the_keeper_reaches_whoever_hands_over():
    def fail(_: Sequence[int]) -> None:
        raise OSError("the disk is full")

    def hand_over() -> None:
        with Keeper(fail) as keeper:
            keeper.keep(1)
            keeper.flush()

    with pytest.raises(OSError, match="full"):
        hand_over()


def test_what_torch_finds_no_memory_for_is_what_any_other_work_finds_none_for():
    with pytest.raises(MemoryError):
        measure._survive(lambda _: torch.empty(1 << 60), Engine())
    with pytest.raises(RuntimeError, match="another"):
        measure._survive(lambda _: (_ for _ in ()).throw(RuntimeError("another")), Engine())
