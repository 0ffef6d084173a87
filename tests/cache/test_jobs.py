"""The queue over real children, a real store and real weight files: it fills in, resumes, refuses."""

from __future__ import annotations

import json
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from analysis.errors import (
    BadReference,
    BadSelection,
    DiskFull,
    NothingToCompare,
    PathNotAllowed,
    StoreError,
    TooLarge,
)
from analysis.measurements import Gap
from analysis.metrics import effective_rank
from analysis.plan import Hole, Plan
from analysis.selection import select
from cache.bases import alerts_about_bases
from cache.jobs import Jobs
from cache.records import JobRecord
from tests.hub.builders import llama, tuned_from, write_model

pytestmark = pytest.mark.usefixtures("children_at_hand")


@pytest.mark.processes
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
    assert [job.state for job in store.ledger.jobs()] == ["done"]


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


@pytest.mark.processes
def test_unrelated_architectures_fail_with_words_and_the_next_job_runs(jobs: Jobs):
    failed = jobs.wait(jobs.submit(jobs.prepare("./models/base", "./models/stranger")), timeout=180)
    assert failed.state == "failed"
    assert isinstance(failed.error, NothingToCompare)
    assert jobs.wait(jobs.submit(jobs.prepare("./models/base", "./models/tuned1")), timeout=180).state == "done"


def test_a_gap_is_tried_again_when_the_pair_is_asked_for_again(jobs: Jobs):
    preparation = jobs.prepare("./models/base", "./models/tuned1")
    assert preparation.pair is not None
    key, name = preparation.pair.key, "model.norm.weight"
    jobs._store.put(key, name, Gap("tally", "the worker ran out of memory")).result()
    assert jobs.wait(jobs.submit(preparation), timeout=180).state == "done"
    assert jobs._store.gaps(key) == {}
    assert name in jobs._store.tallies(key)


@pytest.mark.processes
def test_a_store_that_takes_nothing_ends_the_job_early_and_lets_it_be_asked_for_again(jobs: Jobs, monkeypatch):
    preparation = jobs.prepare("./models/base", "./models/tuned1")
    full = StoreError("The disk is full", do="Make room")
    refused: Future[None] = Future()
    refused.set_exception(full)
    with monkeypatch.context() as broken:
        broken.setattr(jobs._store, "put", lambda *_, **__: refused)
        failed = jobs.wait(jobs.submit(preparation), timeout=180)
        assert (failed.state, str(failed.error), failed.done) == ("failed", str(full), 0)
        broken.setattr(jobs._store.ledger, "put", lambda *_: refused)
        with pytest.raises(StoreError):
            jobs.submit(preparation)
    assert jobs.wait(jobs.submit(preparation), timeout=180).state == "done"


def test_an_odd_entry_of_the_ledger_does_not_keep_the_server_from_starting(jobs: Jobs):
    for request in ("{", '{"pairs": [["./a\\tb", "x"]], "plan": {}}', '{"pairs": [], "plan": {"novel": 1}}'):
        record = JobRecord(str(hash(request)), "compare", request, "running", datetime(2026, 1, 1))
        jobs._store.ledger.put(record).result()
    again = Jobs(jobs._store, jobs._settings)
    again.start()
    again.stop()
    assert jobs._store.ledger.unfinished() == []


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
    assert jobs._store.ledger.jobs() == []
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
    jobs._store.ledger.put(JobRecord("0" * 16, "compare", request, "running", datetime(2026, 1, 1))).result()
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
