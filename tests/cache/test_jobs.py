"""The queue over real children, a real store and real weight files: it fills in, survives, resumes, cancels."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from analysis.errors import (
    BadReference,
    BadSelection,
    DiskFull,
    NothingToCompare,
    PathNotAllowed,
    StoreError,
    SubnetscopeError,
    TooLarge,
    error_from_dict,
)
from analysis.measurements import Gap
from analysis.metrics import effective_rank
from analysis.models import PinnedModel
from analysis.plan import Hole, Plan
from analysis.selection import select
from cache.backends.child import Child
from cache.backends.child import _environment as child_environment
from cache.backends.wire import from_line
from cache.bases import alerts_about_bases
from cache.jobs import Jobs
from cache.records import JobRecord
from cache.settings import Settings
from cache.store import Store
from tests.hub.builders import BFloat16, llama, tuned_from, write_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A root with a small base, two models tuned from it, and one of another architecture."""
    base = llama(layers=2, hidden=32)
    write_model(tmp_path / "models" / "base", base)
    for seed in (1, 2):
        write_model(tmp_path / "models" / f"tuned{seed}", tuned_from(base, changed_share=0.25, seed=seed)[0], shards=2)
    write_model(tmp_path / "models" / "stranger", {"w": BFloat16.of(np.ones((3, 3)))})
    return tmp_path / "models"


@pytest.fixture
def big(models: Path) -> Path:
    """A pair whose spectra take a while: eight matrices of 1600 x 1600."""
    random = np.random.default_rng(0)
    base = {f"model.layers.{i}.q_proj.weight": BFloat16.of(random.normal(0, 0.02, (1600, 1600))) for i in range(8)}
    write_model(models / "big-base", base)
    write_model(models / "big-tuned", tuned_from(base, changed_share=0.2)[0])
    return models


def settings_of(models: Path) -> Settings:
    environ = {"SUBNETSCOPE_LOCAL_ROOTS": str(models), "SUBNETSCOPE_DEMO": "0", "SUBNETSCOPE_DEVICE": "cpu"}
    return Settings.from_environment(environ | {"SUBNETSCOPE_THREADS": "1"}, data_dir=models.parent / "data")


@pytest.fixture
def jobs(models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    settings = settings_of(models)
    settings.data_dir.mkdir()
    monkeypatch.setenv("SUBNETSCOPE_LOCAL_ROOTS", str(models))
    monkeypatch.setenv("SUBNETSCOPE_DEMO", "0")
    with Store.open(settings.store_path) as store:
        jobs = Jobs(store, settings)
        jobs.start()
        yield jobs
        jobs.stop()


def test_a_comparison_fills_in_and_counts_what_was_planted(jobs: Jobs, models: Path):
    preparation = jobs.prepare("./models/base", "./models/tuned1")
    assert preparation.pair is not None
    key = preparation.pair.key

    progress = jobs.wait(jobs.submit(preparation), timeout=180)

    assert (progress.state, progress.error) == ("done", None)
    assert progress.done == progress.planned > 20
    store = jobs._store
    tallies = store.tallies(key)
    assert {name: t.entries - t.unchanged("exact") for name, t in tallies.items()} == {
        name: round(0.25 * t.entries) for name, t in tallies.items()
    }
    assert store.holes(key, Plan()) == []
    assert {mask.changed for (_, rule), mask in store.masks(key).items() if rule == "exact"} == {
        round(0.25 * t.entries) for t in tallies.values()
    }
    assert [job.state for job in store.jobs()] == ["done"]


def test_a_preview_is_measured_before_the_spectrum_and_near_it(jobs: Jobs, big: Path):
    """1600 x 1600 is large enough for one. The spectrum hides it; without the spectrum it is seen again."""
    preparation = jobs.prepare("./models/big-base", "./models/big-tuned")
    assert preparation.pair is not None
    key, name = preparation.pair.key, "model.layers.0.q_proj.weight"
    progress = jobs.wait(jobs.submit(preparation, Plan(selection=select("0", ""))), timeout=60)
    assert (progress.state, progress.done, progress.planned) == ("done", 3, 3)
    exact = jobs._store.spectrum(key, name)
    assert exact is not None
    assert jobs._store.preview(key, name) is None
    jobs._store.forget_measurements(key, [Hole("spectrum", name)]).result()
    preview = jobs._store.preview(key, name)
    assert preview is not None
    assert preview.values[0] == pytest.approx(exact.singular_values[0], rel=0.01)
    assert preview.effective_rank == pytest.approx(effective_rank(exact.singular_values), rel=0.02)


def test_asking_again_costs_nothing_and_asking_twice_shares_a_job(jobs: Jobs):
    preparation = jobs.prepare("./models/base", "./models/tuned1")
    first, second = jobs.submit(preparation), jobs.submit(preparation)
    assert first == second
    jobs.wait(first, timeout=180)
    again = jobs.submit(preparation)
    assert again != first
    assert jobs.wait(again, timeout=5).state == "done"


def test_an_overlap_counts_regions_as_numpy_does(jobs: Jobs, models: Path):
    pairs = [jobs.prepare("./models/base", f"./models/tuned{seed}").pair for seed in (1, 2)]
    assert pairs[0] is not None
    assert pairs[1] is not None

    progress = jobs.wait(jobs.submit_overlap(pairs[0].base, [pair.tuned for pair in pairs]), timeout=180)

    assert (progress.state, progress.error) == ("done", None)
    changed = [tuned_from(llama(layers=2, hidden=32), changed_share=0.25, seed=seed)[1] for seed in (1, 2)]
    found = jobs._store.regions(pairs[0].base.key, tuple(pair.tuned.key for pair in pairs), "exact")
    assert {name: regions.dense.tolist() for name, regions in found.items()} == {
        name: np.bincount((one + 2 * changed[1][name]).ravel(), minlength=4).tolist()
        for name, one in changed[0].items()
    }


def test_an_overlap_under_another_rule_takes_its_masks_from_the_weights(jobs: Jobs, models: Path):
    """In bfloat16 the bf16 rule calls the same entries changed as the exact one, so its masks are there already; a
    tolerance of 1e-4 passes over the smaller steps, and its masks are taken anew."""
    pairs = [jobs.prepare("./models/base", f"./models/tuned{seed}").pair for seed in (1, 2)]
    for pair in pairs:
        jobs.wait(jobs.submit(pair, Plan(spectra=False)), timeout=180)
    base, tuned = pairs[0].base, [pair.tuned for pair in pairs]
    store, keys = jobs._store, tuple(model.key for model in tuned)
    for rule in ("bf16", "1e-4"):
        assert jobs.wait(jobs.submit_overlap(base, tuned, (rule,)), timeout=180).state == "done"

    exact = {name: found.sum() for name, found in moved_beyond(0.0).items()}
    assert {name: found.dense.sum() for name, found in store.regions(base.key, keys, "bf16").items()} == exact
    assert {rule for _, rule in store.masks(pairs[0].key)} == {"exact", "mukherjee", "1e-4"}
    found = store.regions(base.key, keys, "1e-4")
    assert {name: regions.dense.tolist() for name, regions in found.items()} == {
        name: counts.tolist() for name, counts in moved_beyond(1e-4).items()
    }
    n_beyond = sum(int(regions.dense[1:].sum()) for regions in found.values())
    assert 0 < n_beyond < sum(int(counts[1:].sum()) for counts in moved_beyond(0.0).values())


def moved_beyond(tolerance: float) -> dict[str, np.ndarray]:
    """Region counts of the two tuned models, worked out from the weights that the fixture wrote."""
    base = llama(layers=2, hidden=32)
    tuned = [tuned_from(base, changed_share=0.25, seed=seed)[0] for seed in (1, 2)]
    sizes = [{name: np.abs(side[name].values - base[name].values) for name in base} for side in tuned]
    beyond = [{name: size > np.float32(tolerance) for name, size in one.items()} for one in sizes]
    return {n: np.bincount((beyond[0][n] + 2 * beyond[1][n]).ravel(), minlength=4) for n in base}


def test_a_consensus_map_counts_the_runs_that_changed_each_block(jobs: Jobs, models: Path):
    pairs = [jobs.prepare("./models/base", f"./models/tuned{seed}").pair for seed in (1, 2)]
    base, tuned = pairs[0].base, [pair.tuned for pair in pairs]
    name = "model.layers.0.mlp.down_proj.weight"

    progress = jobs.wait(jobs.submit_overlap(base, tuned, ("exact",), maps=(name,)), timeout=180)

    assert (progress.state, progress.error) == ("done", None)
    found = jobs._store.consensus(base.key, [model.key for model in tuned], name, "exact")
    masks = [tuned_from(llama(layers=2, hidden=32), changed_share=0.25, seed=seed)[1][name] for seed in (1, 2)]
    rows, columns = masks[0].shape
    assert (found.rows, found.columns) == (rows, columns)
    assert found.counts.sum() == rows * columns
    if max(rows, columns) <= 128:  # a block is an entry
        assert found.counts.argmax(axis=2).tolist() == (masks[0].astype(int) + masks[1]).tolist()
    assert set(jobs._store.tallies(pairs[0].key)) == {name}, "the other tensors are not read for it"


@pytest.mark.parametrize(("n", "words"), [(1, "two different"), (13, "13 tuned models")])
def test_an_overlap_is_of_two_to_twelve_models(jobs: Jobs, n: int, words: str):
    base = PinnedModel("hub", "org/base", "b" * 40)
    with pytest.raises(BadReference, match=words):
        jobs.submit_overlap(base, [PinnedModel("hub", f"org/run-{i}", f"{i:040}") for i in range(n)])


@pytest.mark.parametrize(
    ("base", "tuned", "error"),
    [
        ("./models/base", "", BadReference),
        ("llama3", "./models/base", BadReference),
        ("./models/base", "./models/nowhere", PathNotAllowed),
        ("./models/base", "/etc", PathNotAllowed),
    ],
)
def test_preparing_what_cannot_be_says_why(jobs: Jobs, base: str, tuned: str, error: type[Exception]):
    with pytest.raises(error) as caught:
        jobs.prepare(base, tuned)
    assert str(caught.value)
    assert jobs._store.pairs() == []


def test_unrelated_architectures_fail_with_words_and_the_next_job_runs(jobs: Jobs):
    failed = jobs.wait(jobs.submit(jobs.prepare("./models/base", "./models/stranger")), timeout=180)
    assert failed.state == "failed"
    assert isinstance(failed.error, NothingToCompare)
    assert jobs.wait(jobs.submit(jobs.prepare("./models/base", "./models/tuned1")), timeout=180).state == "done"


def wait_until(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def child_of(jobs: Jobs, job_id: str, module: str = "cache.backends.measure") -> int | None:
    return next((child.pid for child in jobs._job_of_id[job_id].children if child.module == module), None)


def test_a_worker_started_during_the_look_up_is_the_one_that_measures(jobs: Jobs):
    jobs._measures_next = True
    preparation = jobs.prepare("./models/base", "./models/tuned1")
    waiting = jobs._ahead._child
    assert waiting is not None
    assert is_alive(waiting.pid)
    assert jobs.wait(jobs.submit(preparation), timeout=180).state == "done"
    assert jobs._ahead.take() is None
    assert waiting._process.returncode == 0, "it was heard to its end"
    jobs.prepare("./models/base", "./models/tuned2")
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
    assert jobs._store.unfinished_jobs() == []


SERVER = """
import sys, time
from cache import instance
current = instance.current()
if len(sys.argv) > 1:
    print(current.jobs.submit(current.jobs.prepare(*sys.argv[1:3])), flush=True)
    time.sleep(600)
while current.store.unfinished_jobs():
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
    mask_folder = tmp_path / "data" / "store.masks"
    wait_until(lambda: len(list(mask_folder.rglob("*.mask"))) >= 10)
    children = [int(pid) for pid in children_of(first.pid)]
    assert children
    first.kill()
    first.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in children), seconds=5)

    with Store.open(tmp_path / "data" / "store.duckdb") as store:
        kept = len(store.tallies(store.pairs()[0].pair.key))
        assert [job.id for job in store.unfinished_jobs()] == [job_id]
    assert kept >= 1
    second = server()
    assert second.stdout.readline().strip() == "finished", "by itself"
    second.kill()
    second.wait()
    with Store.open(tmp_path / "data" / "store.duckdb") as store:
        [pair] = store.pairs()
        assert store.holes(pair.pair.key, Plan()) == []
        assert [job.state for job in store.jobs()] == ["done"]


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split() or [
        child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


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


def test_a_gap_is_tried_again_when_the_pair_is_asked_for_again(jobs: Jobs):
    preparation = jobs.prepare("./models/base", "./models/tuned1")
    assert preparation.pair is not None
    key, name = preparation.pair.key, "model.norm.weight"
    jobs._store.put(key, name, Gap("tally", "the worker ran out of memory")).result()
    assert jobs.wait(jobs.submit(preparation), timeout=180).state == "done"
    assert jobs._store.gaps(key) == {}
    assert name in jobs._store.tallies(key)


def test_a_comparison_and_an_overlap_of_the_same_pairs_measure_each_tensor_once(jobs: Jobs, monkeypatch):
    pairs = [jobs.prepare("./models/base", f"./models/tuned{seed}").pair for seed in (1, 2)]
    assert pairs[0] is not None
    assert pairs[1] is not None
    put, written = jobs._store.put, []
    monkeypatch.setattr(
        jobs._store, "put", lambda key, name, m, **k: (written.append((key, name, type(m))), put(key, name, m, **k))[1]
    )
    submitted = [jobs.submit(pair) for pair in pairs] + [jobs.submit_overlap(pairs[0].base, [p.tuned for p in pairs])]
    assert {jobs.wait(job, timeout=120).state for job in submitted} == {"done"}
    assert len(written) == len(set(written))


def test_a_store_that_takes_nothing_ends_the_job_early_and_lets_it_be_asked_for_again(jobs: Jobs, monkeypatch):
    preparation = jobs.prepare("./models/base", "./models/tuned1")
    full = StoreError("The disk is full", do="Make room")
    refused: Future[None] = Future()
    refused.set_exception(full)
    with monkeypatch.context() as broken:
        broken.setattr(jobs._store, "put", lambda *_, **__: refused)
        failed = jobs.wait(jobs.submit(preparation), timeout=180)
        assert (failed.state, str(failed.error), failed.done) == ("failed", str(full), 0)
        broken.setattr(jobs._store, "put_job", lambda *_: refused)
        with pytest.raises(StoreError):
            jobs.submit(preparation)
    assert jobs.wait(jobs.submit(preparation), timeout=180).state == "done"


def test_a_job_that_fails_takes_its_worker_along(jobs: Jobs, big: Path, monkeypatch: pytest.MonkeyPatch):
    """The worker has seconds of singular values before it when the store refuses its first row."""
    preparation = jobs.prepare("./models/big-base", "./models/big-tuned")
    others = set(children_of(os.getpid()))  # servers and browsers that other tests keep open
    refused: Future[None] = Future()
    refused.set_exception(StoreError("The disk is full"))
    monkeypatch.setattr(jobs._store, "put", lambda *_, **__: refused)
    assert jobs.wait(jobs.submit(preparation), timeout=180).state == "failed"
    assert not [pid for pid in set(children_of(os.getpid())) - others if is_alive(int(pid))]


def test_an_odd_entry_of_the_ledger_does_not_keep_the_server_from_starting(jobs: Jobs):
    for request in ("{", '{"pairs": [["./a\\tb", "x"]], "plan": {}}', '{"pairs": [], "plan": {"novel": 1}}'):
        record = JobRecord(str(hash(request)), "compare", request, "running", datetime(2026, 1, 1))
        jobs._store.put_job(record).result()
    again = Jobs(jobs._store, jobs._settings)
    again.start()
    again.stop()
    assert jobs._store.unfinished_jobs() == []


def test_an_array_is_never_more_than_it_claims():
    text = base64.b64encode(zlib.compress(bytes(50_000_000))).decode()
    bomb = {"array": "|u1", "shape": [4], "base64": text, "zlib": True}
    with pytest.raises(ValueError):
        from_line(json.dumps({"x": bomb}).encode())


def test_an_error_crosses_a_pipe_with_all_its_words():
    error = PathNotAllowed("saw", expected="expected", do="do")
    back = error_from_dict(error.as_dict())
    assert (type(back), str(back)) == (PathNotAllowed, str(error))


FIRST_LAYER = Plan(selection=select("0", "mlp.*"), spectra=False)


def test_a_selection_is_measured_alone_and_the_rest_later_fills_holes_only(jobs: Jobs, monkeypatch):
    preparation = jobs.prepare("./models/base", "./models/tuned1")
    assert preparation.pair is not None
    key, store = preparation.pair.key, jobs._store
    put, written = store.put, []
    monkeypatch.setattr(
        store, "put", lambda key, name, m, **k: (written.append((name, type(m))), put(key, name, m, **k))[1]
    )
    assert jobs.forecast(preparation, FIRST_LAYER).measurements == 3
    progress = jobs.wait(jobs.submit(preparation, FIRST_LAYER), timeout=180)
    assert (progress.state, progress.done, progress.planned) == ("done", 3, 3)
    parts = ("gate_proj", "up_proj", "down_proj")
    assert set(store.tallies(key)) == {f"model.layers.0.mlp.{part}.weight" for part in parts}
    assert store.spectra(key) == {}
    assert store.asked(key) == (FIRST_LAYER,)
    assert jobs.forecast(preparation, FIRST_LAYER).measurements == 0
    assert jobs.wait(jobs.submit(preparation, Plan()), timeout=180).state == "done"
    assert store.holes(key, Plan()) == []
    assert len(written) == len(set(written)), "nothing was measured twice"
    assert set(store.asked(key)) == {FIRST_LAYER, Plan()}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"memory_limit": 300_000_000}, TooLarge, "a worker may take 300 MB here"),
        ({"spare_disk": 10**17}, DiskFull, "are to stay free"),
    ],
    ids=["memory", "disk"],
)
def test_what_does_not_fit_is_refused_before_it_starts(jobs: Jobs, changes, error: type[Exception], words: str):
    jobs._settings = replace(jobs._settings, **changes)
    preparation = jobs.prepare("./models/base", "./models/tuned1")
    with pytest.raises(error, match=words):
        jobs.submit(preparation)
    assert jobs._store.jobs() == []
    assert [type(refusal) for refusal in jobs.forecast(preparation, Plan()).refusals()] == [error]


def test_a_selection_of_nothing_is_refused(jobs: Jobs):
    preparation = jobs.prepare("./models/base", "./models/tuned1")
    with pytest.raises(BadSelection, match="layers 7"):
        jobs.submit(preparation, Plan(selection=select("7")))


def test_an_older_ledgers_job_is_taken_up(jobs: Jobs):
    """As a version wrote it that knew no selections."""
    pair = jobs.prepare("./models/base", "./models/tuned1").pair
    assert pair is not None
    request = json.dumps({"pairs": [[str(pair.base), str(pair.tuned)]], "plan": {"spectra": False, "masks": True}})
    jobs._store.put_job(JobRecord("0" * 16, "compare", request, "running", datetime(2026, 1, 1))).result()
    again = Jobs(jobs._store, jobs._settings)
    again.start()
    assert again.wait("0" * 16, timeout=180).state == "done"
    again.stop()
    assert jobs._store.holes(pair.key, Plan(spectra=False)) == []


def test_a_base_a_model_tuned_from_it_and_one_tuned_from_that(jobs: Jobs, models: Path):
    """A chain: base, instruct, and what reinforcement made of the instruct model, whose card says so."""
    base = llama(layers=2, hidden=32)
    instruct = tuned_from(base, changed_share=0.45, seed=3)[0]
    write_model(models / "instruct", instruct)
    write_model(models / "rl", tuned_from(instruct, changed_share=0.03, seed=4)[0])
    (models / "rl" / "README.md").write_text("---\nbase_model:\n- org/instruct\n- org/other\n---\n")
    pairs = []
    for name in ("base", "instruct"):
        found = jobs.prepare(f"./models/{name}", "./models/rl")
        assert found.pair is not None
        assert found.tuned is not None
        assert found.tuned.declared == ("./models/instruct", "org/other"), "a folder beside it, and what else is named"
        assert bool(found.notes) == (name == "base")
        assert jobs.wait(jobs.submit(found.pair, Plan(spectra=False)), timeout=180).state == "done"
        pairs.append(found.pair)
    store, (against_base, against_instruct) = jobs._store, pairs
    assert store.pairs_of_same_tuned(against_base.key) == [against_instruct.key]
    told = {}
    for pair in pairs:
        known = store.find_pair(pair.key)
        assert known is not None
        told[pair.key] = {a.kind: a for a in alerts_about_bases(store, known, store.tallies(pair.key, arrays=False))}
    assert told[against_instruct.key] == {}
    assert told[against_base.key]["declared_base"].models == ("./models/instruct", "org/other")
    nearer = told[against_base.key]["nearer_base"]
    assert nearer.models == (str(against_instruct.base),)
    assert "2.98 % against 45.15 % of the values changed" in nearer.sentence
