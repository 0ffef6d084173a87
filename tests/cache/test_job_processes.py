"""The processes of a job: they are killed, cancelled and left alone, and nothing that was finished is lost."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
import zstandard

from analysis.errors import PathNotAllowed, StoreError, SubnetscopeError, error_from_dict
from analysis.plan import Plan
from cache.backends.child import Child
from cache.backends.child import _environment as child_environment
from cache.backends.wire import from_line
from cache.jobs import Jobs
from cache.store import Store
from tests.running import child_of, children_of, is_alive, wait_until

ROOT = Path(__file__).resolve().parents[2]


def test_a_worker_started_during_the_look_up_is_the_one_that_measures(jobs: Jobs):
    preparation = jobs.prepare("./models/base", "./models/tuned1", then=Plan())
    waiting = jobs._ahead._child
    assert waiting is not None
    assert is_alive(waiting.pid)
    assert jobs.wait(jobs.submit(preparation), timeout=180).state == "done"
    assert jobs._ahead.take() is None
    assert waiting._process.returncode == 0, "it was heard to its end"
    jobs.prepare("./models/base", "./models/tuned1", then=Plan())
    assert jobs._ahead.take() is None, "all of it is stored"
    jobs.prepare("./models/base", "./models/tuned2", then=Plan(keep_files=False))
    assert jobs._ahead.take() is None, "it would have no pipes"
    jobs.prepare("./models/base", "./models/tuned2", then=Plan())
    unused = jobs._ahead._child
    assert unused is not None
    jobs.stop()
    assert not is_alive(unused.pid), "nothing was asked of it"


def test_a_killed_worker_loses_no_finished_matrix_and_the_job_goes_on(jobs: Jobs, big: Path):
    preparation = jobs.prepare("./models/big-base", "./models/big-tuned")
    assert preparation.pair is not None
    key, job_id = preparation.pair.key, jobs.submit(preparation)
    wait_until(lambda: len(jobs._store.spectra(key)) >= 1)
    finished = set(jobs._store.spectra(key))
    os.kill(child_of(jobs, job_id) or 0, signal.SIGKILL)
    progress = jobs.wait(job_id, timeout=120)
    assert progress.state == "done"
    assert jobs._store.gaps(key) == {}
    assert finished < set(jobs._store.spectra(key)), "the rest was measured by a second worker"
    assert len(jobs._store.spectra(key)) == 8


def test_cancelling_takes_less_than_two_seconds_and_keeps_what_was_measured(jobs: Jobs, big: Path):
    preparation = jobs.prepare("./models/big-base", "./models/big-tuned")
    assert preparation.pair is not None
    job_id = jobs.submit(preparation)
    wait_until(lambda: len(jobs._store.tallies(preparation.pair.key)) >= 1)
    pid = child_of(jobs, job_id)
    started = time.monotonic()
    jobs.cancel(job_id)
    progress = jobs.wait(job_id, timeout=5)
    assert progress.state == "cancelled"
    assert time.monotonic() - started < 2
    assert pid is not None
    assert not Path(f"/proc/{pid}").exists()
    assert jobs._store.tallies(preparation.pair.key)
    assert jobs._store.ledger.unfinished() == []


SERVER = """
import sys, time
from cache import instance
current = instance.current()
if len(sys.argv) > 1:
    preparation = current.jobs.prepare(*sys.argv[1:3])
    print(current.jobs.submit(preparation), flush=True)
    while not current.store.tallies(preparation.pair.key):
        time.sleep(0.02)
    print("measured some", flush=True)
    time.sleep(600)
while current.store.ledger.unfinished():
    time.sleep(0.05)
print("finished", flush=True)
"""


@pytest.fixture
def server(models: Path, tmp_path: Path):
    """Starts a process that owns a store and its jobs, as the web server does; ended at the end of the test."""
    running: list[subprocess.Popen[str]] = []
    environ = os.environ | {
        "SUBNETSCOPE_LOCAL_ROOTS": str(models), "SUBNETSCOPE_DEMO": "0", "SUBNETSCOPE_DATA": str(tmp_path / "data"),
        "SUBNETSCOPE_THREADS": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, *arguments], env=environ, stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_killed_server_takes_its_children_along_and_its_successor_finishes_the_job(server, big: Path, tmp_path: Path):
    first = server("./models/big-base", "./models/big-tuned")
    job_id = first.stdout.readline().strip()
    assert first.stdout.readline().strip() == "measured some"
    children = [int(pid) for pid in children_of(first.pid)]
    assert children
    first.kill()
    first.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in children), seconds=5)

    with Store.open(tmp_path / "data" / "store.duckdb") as store:
        kept = len(store.tallies(store.pairs()[0].pair.key))
        assert [job.id for job in store.ledger.unfinished()] == [job_id]
    assert kept >= 1
    second = server()
    assert second.stdout.readline().strip() == "finished", "by itself"
    second.kill()
    second.wait()
    with Store.open(tmp_path / "data" / "store.duckdb") as store:
        [pair] = store.pairs()
        assert store.holes(pair.pair.key, Plan()) == []
        assert [job.state for job in store.ledger.jobs()] == ["done"]


def test_a_tensor_that_keeps_killing_its_worker_becomes_a_gap(
    jobs: Jobs, models: Path, monkeypatch: pytest.MonkeyPatch
):
    """The worker dies on one tensor, each time: a real abort, planted through the environment of the child."""
    plant = models.parent / "plant"
    plant.mkdir()
    (plant / "sitecustomize.py").write_text(POISON)
    monkeypatch.setenv("POISONED", "model.layers.1.mlp.up_proj.weight")
    monkeypatch.setattr("cache.backends.child.ROOT", f"{ROOT}{os.pathsep}{plant}")
    preparation = jobs.prepare("./models/base", "./models/tuned1")
    assert preparation.pair is not None
    progress = jobs.wait(jobs.submit(preparation, Plan(spectra=False)), timeout=120)
    assert progress.state == "done"
    gaps = jobs._store.gaps(preparation.pair.key)
    assert list(gaps) == [("tally", "model.layers.1.mlp.up_proj.weight")]
    assert "SIGABRT" in next(iter(gaps.values()))
    assert len(jobs._store.tallies(preparation.pair.key)) == progress.planned - 1


POISON = """
import os, sys, threading
def watch(frame, event, argument):
    if event == "call" and frame.f_code.co_name == "measure_tally":
        if frame.f_locals["pair"].name == os.environ["POISONED"]:
            os.abort()
if "POISONED" in os.environ and "cache.backends.measure" in sys.orig_argv:
    sys.setprofile(watch)
    threading.setprofile(watch)
"""


def test_products_take_one_thread_in_a_child_unless_the_operator_says_more(monkeypatch: pytest.MonkeyPatch):
    code = "import os; print(os.environ['OPENBLAS_NUM_THREADS'])"
    for said, expected in ((None, "1"), ("4", "4")):
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
        if said:
            monkeypatch.setenv("OPENBLAS_NUM_THREADS", said)
        ran = subprocess.run([sys.executable, "-c", code], env=child_environment(False), capture_output=True, text=True)
        assert ran.stdout.strip() == expected


def test_children_end_cleanly_and_a_fault_of_ours_is_logged(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    ended = []
    close = Child.close
    monkeypatch.setattr(Child, "close", lambda self: (close(self), ended.append(self._process.returncode)))
    assert jobs.wait(jobs.submit(jobs.prepare("./models/base", "./models/tuned1")), timeout=180).state == "done"
    assert set(ended) == {0}
    with pytest.raises(SubnetscopeError, match="KeyError"):
        list(Child("cache.backends.overlap", {"masks_dir": "x"}, network=False).messages())
    assert "Traceback" in caplog.text


def test_a_job_that_fails_takes_its_worker_along(jobs: Jobs, big: Path, monkeypatch: pytest.MonkeyPatch):
    """The worker has seconds of singular values before it when the store refuses its first row."""
    preparation = jobs.prepare("./models/big-base", "./models/big-tuned")
    others = set(children_of(os.getpid()))  # servers and browsers that other tests keep open
    refused: Future[None] = Future()
    refused.set_exception(StoreError("The disk is full"))
    monkeypatch.setattr(jobs._store, "put", lambda *_, **__: refused)
    assert jobs.wait(jobs.submit(preparation), timeout=180).state == "failed"
    assert not [pid for pid in set(children_of(os.getpid())) - others if is_alive(int(pid))]


@pytest.mark.parametrize(
    "compressed",
    [
        zstandard.compress(bytes(50_000_000)),
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(50_000_000)),
        zstandard.compress(bytes(4))[:-1],
        b"none",
    ],
    ids=["a bomb", "a bomb of no size", "cut short", "not compressed"],
)
def test_an_array_is_what_it_claims(compressed: bytes):
    array = {"array": "|u1", "shape": [4], "base64": base64.b64encode(compressed).decode(), "zstd": True}
    with pytest.raises(ValueError, match="an array that"):
        from_line(json.dumps({"x": array}).encode())


def test_an_array_is_no_larger_than_a_result_can_be():
    """Repeated bytes take next to nothing in a line."""
    n_bytes = 300 << 20
    text = base64.b64encode(zstandard.compress(bytes(n_bytes))).decode()
    with pytest.raises(ValueError, match="too long"):
        from_line(json.dumps({"x": {"array": "|u1", "shape": [n_bytes], "base64": text, "zstd": True}}).encode())


def test_an_error_crosses_a_pipe_with_all_its_words():
    error = PathNotAllowed("saw", expected="expected", do="do")
    back = error_from_dict(error.as_dict())
    assert (type(back), str(back)) == (PathNotAllowed, str(error))
