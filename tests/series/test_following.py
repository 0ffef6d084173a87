"""A run of checkpoints through the real queue, store and masks, and in the tests so marked real children: it counts
what was planted."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from analysis.dynamics import course, fate
from analysis.errors import BadReference, MasksMissing, ModelNotFound, PathNotAllowed
from analysis.measurements import MASK_RULES
from analysis.plan import Plan
from analysis.series import Series
from cache.following import followed
from cache.jobs import Jobs
from cache.settings import Settings
from cache.store import Store
from tests.hub.builders import model_files, write_model
from tests.hub.loopback import LoopbackHub
from tests.running import wait_until
from tests.series.planted import Run, planted_run

pytestmark = pytest.mark.usefixtures("children_at_hand")
COUNTED = ("changed", "moved", "changed_outside", "moved_outside", "union")
STEPS = (5, 50, 100)


@pytest.fixture
def run(roots: Path) -> Run:
    """Three checkpoints below './models/run', whose steps do not sort as text."""
    planted = planted_run(len(STEPS), layers=1)
    write_model(roots / "base", planted.base)
    for step, tensors in zip(STEPS, planted.checkpoints, strict=True):
        write_model(roots / "run" / f"checkpoint-{step}", tensors)
    return planted


@pytest.fixture
def jobs(hub_settings: Settings, roots: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    hub_settings.data_dir.mkdir()
    monkeypatch.setenv("SUBNETSCOPE_LOCAL_ROOTS", str(roots))
    monkeypatch.setenv("SUBNETSCOPE_DEMO", "0")
    monkeypatch.setenv("SUBNETSCOPE_DATA", str(hub_settings.data_dir))
    with Store.open(hub_settings.store_path) as store:
        jobs = Jobs(store, hub_settings)
        jobs.start()
        yield jobs
        jobs.stop()


def counts(store: Store, series: Series, rule: str) -> dict[str, dict[str, list[int]]]:
    found = store.series.steps(series.key, rule)  # type: ignore[arg-type]
    return {name: {field: getattr(one, field).tolist() for field in COUNTED} for name, one in found.items()}


@pytest.mark.processes
def test_a_run_counts_what_was_planted_and_a_longer_one_measures_only_what_is_new(
    jobs: Jobs, run: Run, monkeypatch: pytest.MonkeyPatch
):
    store = jobs._store
    put, measured = store.put, []
    monkeypatch.setattr(store, "put", lambda key, *a, **k: (measured.append(key), put(key, *a, **k))[1])
    first = jobs.prepare_series("./models/base", "./models/run/checkpoint-5\n./models/run/checkpoint-50")
    assert jobs.wait(jobs.submit_series(first.series), timeout=120).state == "done"
    measured.clear()

    found = jobs.prepare_series("./models/base", "./models/run/checkpoint-*")
    job_id = jobs.submit_series(found.series)
    assert jobs.submit_series(found.series) == job_id, "two people share it"
    seen = []
    while not (progress := jobs.wait(job_id, timeout=0.02)).ended:
        if progress.stage != "dynamics" and progress.planned:
            seen.append((progress.done, progress.planned))

    assert (progress.state, progress.error, progress.kind) == ("done", None, "dynamics")
    assert found.labels == ("checkpoint-5", "checkpoint-50", "checkpoint-100")
    assert set(measured) == {found.series.from_base[2].key, found.series.from_previous[2].key}
    assert {planned for _, planned in seen} == {5 * len(run.base)}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    for rule in MASK_RULES:
        assert counts(store, found.series, rule) == run.truth(rule)
        steps = store.series.steps(found.series.key, rule)
        for pairs, field in ((found.series.from_base, "changed"), (found.series.from_previous, "moved")):
            for at, pair in enumerate(pairs):
                tallied = {name: one.entries - one.under(rule) for name, one in store.unchanged(pair.key).items()}
                assert tallied == {name: int(getattr(one, field)[at]) for name, one in steps.items()}
    check_fates(run, store, found.series)
    assert store.spectra(found.series.pairs[0].key) == {}
    assert {one.labels for one in store.series.known()} == {first.labels, found.labels}


def check_fates(run: Run, store: Store, series: Series) -> None:
    """The three fates by plain numpy."""
    told = fate(course("exact", store.series.steps(series.key, "exact"), len(STEPS)))
    changed = run.changed("exact")
    ever = {name: np.logical_or.reduce([one[name] for one in changed]) for name in run.base}
    assert told.never.part == sum(int((~one).sum()) for one in ever.values())
    assert told.final.part == sum(int(one.sum()) for one in changed[-1].values())
    assert told.returned.part == sum(int((ever[name] & ~changed[-1][name]).sum()) for name in ever)
    assert told.never.part + told.returned.part + told.final.part == told.never.whole
    assert min(told.never.part, told.returned.part, told.final.part) > 0


@pytest.mark.processes
def test_a_cancelled_run_is_taken_up_again_and_a_killed_worker_costs_nothing(jobs: Jobs, run: Run):
    found = jobs.prepare_series("./models/base", "./models/run/checkpoint-*")
    job_id = jobs.submit_series(found.series)
    wait_until(lambda: jobs._store.unchanged(found.series.pairs[0].key))
    jobs.cancel(job_id)
    assert jobs.wait(job_id, timeout=10).state == "cancelled"
    assert jobs._store.ledger.unfinished() == []
    job_id = jobs.submit_series(found.series)
    wait_until(lambda: jobs._store.unchanged(found.series.pairs[1].key))
    for child in list(jobs._job_of_id[job_id].children):
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(child.pid, signal.SIGKILL)
    assert jobs.wait(job_id, timeout=120).state == "done"
    assert counts(jobs._store, found.series, "exact") == run.truth("exact")


def test_a_damaged_mask_fails_with_words_and_is_taken_again(jobs: Jobs, run: Run, hub_settings: Settings):
    lines = "./models/run/checkpoint-5\n./models/run/checkpoint-50"
    pair = jobs.prepare("./models/base", "./models/run/checkpoint-5")
    jobs.wait(jobs.submit(pair, Plan(spectra=False)), timeout=120)
    mask = jobs._store.masks(pair.pair.key if pair.pair else "")["lm_head.weight", "exact"]
    (hub_settings.masks_dir / mask.path).write_bytes(b"not a mask")
    found = jobs.prepare_series("./models/base", lines)
    failed = jobs.wait(jobs.submit_series(found.series), timeout=120)
    assert isinstance(failed.error, MasksMissing)
    assert jobs.wait(jobs.submit_series(found.series), timeout=120).state == "done"
    assert len(jobs._store.series.steps(found.series.key, "exact")) == len(run.base)


@pytest.mark.processes
def test_revisions_of_one_repository_by_pattern(jobs: Jobs, hub: LoopbackHub):
    planted = planted_run(3, layers=1)
    hub.add("org/base", model_files(planted.base))
    commits = {}
    for step, position in ((200, 1), (1000, 2), (30, 0)):
        files = model_files(planted.checkpoints[position])
        commits[f"step_{step}"] = hub.add("org/run", files, branch=f"step_{step}")
    hub.add("org/run", model_files(planted.checkpoints[2]))
    hub.tag("org/run", "step_2000", commits["step_1000"])
    found = jobs.prepare_series("org/base", "org/run@step_*0")
    assert found.labels == ("step_30", "step_200", "step_1000")
    assert [model.commit for model in found.series.checkpoints] == [commits[label] for label in found.labels]
    assert found.notes == ("'step_2000' leads to the same weights as an earlier one and is left out.",)
    assert found.bytes_to_fetch > 0
    assert jobs.wait(jobs.submit_series(found.series), timeout=120).state == "done"
    assert counts(jobs._store, found.series, "exact") == planted.truth("exact")


def test_subfolders_of_a_repository_by_pattern(jobs: Jobs, hub: LoopbackHub):
    planted = planted_run(2, layers=1)
    hub.add("org/base", model_files(planted.base))
    files = {
        f"global_step{step}/{name}": content
        for step, tensors in zip((40, 400), planted.checkpoints, strict=True)
        for name, content in model_files(tensors).items()
    }
    commit = hub.add("org/run", {**files, "logs/events.txt": b"x"})
    found = jobs.prepare_series("org/base", "org/run/global_step*")
    assert [str(model) for model in found.series.checkpoints] == [
        f"org/run/global_step{step}@{commit}" for step in (40, 400)
    ]


@pytest.mark.parametrize(
    ("base", "lines", "error", "words"),
    [
        ("", "./models/run/*", BadReference, "No base"),
        ("./models/base", " \n ", BadReference, "No checkpoint"),
        ("./models/base", "./models/run/step*", ModelNotFound, "checkpoint-50"),
        ("./models/base", "./models/nowhere/*", PathNotAllowed, "nowhere"),
        ("./models/base", "./models/../*", PathNotAllowed, "not a folder"),
        ("./models/base", "org/nothing@step*", ModelNotFound, "org/nothing"),
        ("./models/base", "./models/base", BadReference, "or is its base"),
        ("./models/base", "./models/run/checkpoint-5\n./models/run/checkpoint-5", BadReference, "twice"),
    ],
)
def test_what_cannot_be_found_is_said_in_words(jobs: Jobs, run: Run, base: str, lines: str, error, words: str):
    with pytest.raises(error, match=words):
        jobs.prepare_series(base, lines)
    assert jobs._store.series.known() == []


def test_wrapped_names_are_followed_and_a_tensor_that_one_checkpoint_has_not_is_left_out(
    jobs: Jobs, run: Run, roots: Path
):
    gone = "model.norm.weight"
    for step, tensors in enumerate(run.checkpoints[:2]):
        wrapped = {f"_orig_mod.{name}": tensor for name, tensor in tensors.items() if step == 0 or name != gone}
        write_model(roots / "wrapped" / f"step{step}", wrapped)
    found = jobs.prepare_series("./models/base", "./models/wrapped/step*")
    assert jobs.wait(jobs.submit_series(found.series), timeout=120).state == "done"
    shorter = Run(run.base, run.checkpoints[:2]).truth("exact")
    del shorter[gone]
    assert counts(jobs._store, found.series, "exact") == shorter
    assert set(followed(found.series, jobs._store)) == set(shorter)
