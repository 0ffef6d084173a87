"""Work side by side: bounded in number and memory, in order where order counts, and no error is lost."""

from __future__ import annotations

import contextlib
import queue
import threading
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from analysis.errors import ResourceError
from analysis.measure import Engine
from cache.backends import devices
from cache.backends.lanes import Keeper, Lanes, least_busy

SOON = 20.0  # seconds in which what must happen happens


@pytest.mark.parametrize(
    ("n_bytes", "together"), [pytest.param(30, 3, id="lanes are the limit"), pytest.param(60, 1, id="memory is")]
)
def test_as_much_runs_at_once_as_lanes_and_memory_allow(n_bytes: int, together: int):
    lanes, meeting = Lanes({"here": 3}, 100), threading.Barrier(together)
    lock, now, most = threading.Lock(), 0, 0

    def work(_: str) -> None:
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
    lanes = Lanes({"here": 2}, 100)
    for n_bytes in (10, 1000, 10):
        lanes.run(lambda _, n=n_bytes: done.append(n), n_bytes)
    lanes.wait()
    assert sorted(done) == [10, 10, 1000]


@pytest.mark.parametrize(
    ("n_bytes", "begun"), [pytest.param(20, 3, id="one waits"), pytest.param(50, 2, id="no memory for one that waits")]
)
def test_one_piece_waits_at_a_place_whose_lanes_are_taken(n_bytes: int, begun: int):
    """So that its lane need not wait for who begins pieces."""
    lanes, go_on = Lanes({"here": 2}, 100), threading.Event()
    handed_over, done = queue.SimpleQueue[int](), queue.SimpleQueue[int]()

    def hand_over() -> None:
        for k in range(5):
            lanes.run(lambda _, k=k: go_on.wait(SOON) and done.put(k), n_bytes)
            handed_over.put(k)

    caller = threading.Thread(target=hand_over)
    caller.start()
    assert [handed_over.get(timeout=SOON) for _ in range(begun)] == list(range(begun))
    with pytest.raises(queue.Empty):
        handed_over.get(timeout=0.2)
    go_on.set()
    caller.join(SOON)
    lanes.wait()
    assert sorted(done.get(timeout=SOON) for _ in range(5)) == list(range(5))


def test_what_waited_when_a_piece_failed_does_not_begin():
    lanes, go_on, done = Lanes({"here": 2}, 100), threading.Event(), []

    def fail(_: str) -> None:
        assert go_on.wait(SOON)
        raise ValueError("of the work")

    for work in (fail, fail, lambda _: done.append("what waited")):
        lanes.run(work, 1)
    go_on.set()
    lanes.finish()
    with pytest.raises(ValueError, match="of the work"):
        lanes.check()
    assert done == []


@pytest.mark.parametrize("n", [1, 2])
def test_an_error_in_a_lane_is_raised_by_the_next_call(n: int):
    lanes = Lanes({"here": n}, 100)

    def fail(_: str) -> None:
        raise ValueError("of the work")

    def run_and_wait() -> None:
        lanes.run(fail, 1)
        lanes.wait()

    with pytest.raises(ValueError, match="of the work"):
        run_and_wait()


def test_work_beside_what_failed_can_be_waited_for():
    lanes, go_on, done = Lanes({"here": 2}, 100), threading.Event(), []

    def go_on_later(_: str) -> None:
        assert go_on.wait(SOON)
        done.append("the other")

    def fail(_: str) -> None:
        raise ValueError("of the work")

    lanes.run(go_on_later, 1)
    lanes.run(fail, 1)
    with pytest.raises(ValueError, match="of the work"):
        lanes.wait()
    go_on.set()
    lanes.finish()
    assert done == ["the other"]


@pytest.mark.parametrize(
    ("under_way", "free", "chosen"),
    [
        pytest.param({0: [], 1: []}, [0, 1], 0, id="the first of those that do nothing"),
        pytest.param({0: [5], 1: []}, [0, 1], 1, id="the idle one"),
        pytest.param({0: [5, 5], 1: [20]}, [0, 1], 0, id="fewest bytes, not fewest pieces"),
        pytest.param({0: [5, 5], 1: [10]}, [0, 1], 1, id="of equal bytes, fewest pieces"),
        pytest.param({0: [], 1: [20], 2: [9]}, [1, 2], 2, id="only one that has room"),
    ],
)
def test_work_goes_to_the_device_that_has_least(under_way: dict[int, list[int]], free: list[int], chosen: int):
    assert least_busy(free, under_way) == chosen


def test_each_device_has_lanes_and_memory_of_its_own():
    """Two pieces that fill a device's memory run at once on two devices, and no third one beside."""
    lanes, meeting, places = Lanes({"one": 2, "two": 2}, 100), threading.Barrier(2), []

    def work(place: str) -> None:
        meeting.wait(SOON)
        places.append(place)

    for _ in range(4):
        lanes.run(work, 100)
    lanes.wait()
    assert sorted(places) == ["one", "one", "two", "two"]


def test_who_waits_elsewhere_is_told_of_an_error_and_of_the_end_of_all_work():
    told: queue.SimpleQueue[bool] = queue.SimpleQueue()
    go_on = threading.Event()
    lanes = Lanes({"here": 2}, 100, on_change=lambda: told.put(lanes.is_idle))

    def fail_later(_: str) -> None:
        assert go_on.wait(SOON)
        raise ValueError("of the work")

    lanes.run(fail_later, 1)
    lanes.run(lambda _: None, 1)
    go_on.set()
    assert told.get(timeout=SOON) in (True, False)
    while not lanes.is_idle:
        told.get(timeout=SOON)
    with pytest.raises(ValueError, match="of the work"):
        lanes.check()


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


def a_failing(error: Exception) -> Callable[[Engine], str]:
    """Work that meets this error on a GPU, and none on the CPU."""

    def work(engine: Engine) -> str:
        if engine.kind != "cpu":
            raise error
        return "done by the CPU"

    return work


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine that says it is a GPU, where there is none: what is asked of CUDA itself does nothing."""
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    return Engine("cuda:1")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["torch", "triton", "cublas"],
)
def test_a_gpu_without_memory_is_waited_for_and_then_done_without(error: RuntimeError, gpu: Engine):
    with pytest.raises(MemoryError):
        devices.survive(a_failing(error), gpu, in_company=True)
    assert devices.survive(a_failing(error), gpu) == "done by the CPU"


@pytest.mark.parametrize("words", ["CUDA out of memory", "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR"])
def test_what_a_gpu_held_is_let_go_before_the_cpu_begins(words: str, gpu: Engine):
    held: list[weakref.ref[torch.Tensor]] = []

    def work(engine: Engine) -> bool:
        if engine.kind == "cpu":
            return held[0]() is None
        block = torch.empty(1)
        held.append(weakref.ref(block))
        raise RuntimeError(words)

    assert devices.survive(work, gpu) is True


def test_what_a_gpus_solver_refuses_the_cpu_takes(gpu: Engine):
    error = RuntimeError("cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED, when calling `cusolverDnXsyevd(...)`")
    assert devices.survive(a_failing(error), gpu) == "done by the CPU"


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("Triton Error [CUDA]: unspecified launch failure"),
    ],
    ids=["torch", "triton"],
)
def test_a_gpu_that_fails_is_named(error: RuntimeError, gpu: Engine):
    with pytest.raises(devices.DeviceLost) as lost:
        devices.survive(a_failing(error), gpu)
    assert lost.value.device == "cuda:1"


@pytest.mark.parametrize(
    ("wanted", "lost", "left"),
    [
        ("cuda", (), ["cuda:0", "cuda:1"]),
        ("auto", ("cuda:0",), ["cuda:1"]),
        ("auto", ("cuda:0", "cuda:1"), ["cpu"]),
    ],
)
def test_a_worker_goes_on_without_the_gpus_that_failed(
    wanted: str, lost: tuple[str, ...], left: list[str], gpu: Engine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    request = {"device": wanted, "lost": lost, "threads": 4, "memory_budget": 100}
    assert [engine.device for engine in devices.engines(request)] == left


def test_gpus_that_were_asked_for_and_failed_are_not_replaced_by_the_cpu(gpu: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ResourceError, match="cuda:1 failed"):
        devices.engines({"device": "cuda:1", "lost": ("cuda:1",), "threads": 4, "memory_budget": 100})


def test_what_torch_finds_no_memory_for_is_what_any_other_work_finds_none_for():
    with pytest.raises(MemoryError):
        devices.survive(lambda _: torch.empty(1 << 60), Engine())
    with pytest.raises(RuntimeError, match="another"):
        devices.survive(lambda _: (_ for _ in ()).throw(RuntimeError("another")), Engine())


@pytest.mark.parametrize("kind", [torch.linalg.LinAlgError, np.linalg.LinAlgError], ids=["torch's", "numpy's"])
def test_values_that_do_not_converge_are_a_gap(kind: type[Exception]):
    def fail(_: Engine) -> None:
        raise kind("did not converge")

    assert devices.survive(fail, Engine()) == "the singular value decomposition did not converge"
