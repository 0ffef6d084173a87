"""Weights from the loopback Hub through real children: streamed without a file, fetched ahead, fetched once."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from analysis.errors import ModelError
from analysis.plan import Plan
from cache.jobs import Jobs, Preparation
from cache.settings import Settings
from cache.store import Store
from tests.cache.digests import digest
from tests.hub.builders import LLAMA_CONFIG, BFloat16, llama, model_files, tuned_from
from tests.hub.faults import FlippedBit, Latency, Status
from tests.hub.loopback import Asked, LoopbackHub
from tests.hub.repositories import Blob
from tests.running import child_of, wait_until

STREAMED = Plan(keep_files=False)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def jobs_of(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[Jobs, Store, Settings]]]:
    """Makes queues with stores of their own, over one Hub; `memory` is SUBNETSCOPE_MEMORY."""
    opened: list[tuple[Jobs, Store]] = []

    def make(name: str, *, memory: str = "") -> tuple[Jobs, Store, Settings]:
        for variable, value in {
            "SUBNETSCOPE_DATA": str(tmp_path / "data"),
            "SUBNETSCOPE_DEMO": "0",
            "SUBNETSCOPE_MEMORY": memory,
            "SUBNETSCOPE_THREADS": "1",
            "SUBNETSCOPE_DEVICE": "cpu",
        }.items():
            monkeypatch.setenv(variable, value)
        settings = dataclasses.replace(Settings.from_environment(), store_file=tmp_path / f"{name}.duckdb")
        settings.data_dir.mkdir(exist_ok=True)
        store = Store.open(settings.store_path)
        jobs = Jobs(store, settings)
        jobs.start()
        opened.append((jobs, store))
        return jobs, store, settings

    yield make
    for jobs, store in opened:
        jobs.stop()
        store.close()


def add_pair(hub: LoopbackHub, base: dict[str, BFloat16], *, tuned_shards: int = 2) -> None:
    hub.add("org/base", model_files(base, shards=2))
    hub.add("org/tuned", model_files(tuned_from(base, changed_share=0.2)[0], shards=tuned_shards))


def gets(hub: LoopbackHub, name: str = "") -> list[Asked]:
    """What was asked of the weights themselves: ranges of headers, which begin at 0 and are short, are not."""
    return [asked for asked in hub.asked(rf"/{name}.*safetensors$", "GET") if span(asked) != 100_000]


def span(asked: Asked) -> int | None:
    match = re.fullmatch(r"bytes=(\d+)-(\d+)", asked.range)
    return int(match[2]) + 1 - int(match[1]) if match else None


def weight_bytes(folder: Path) -> int:
    """Bytes on the disk below the Hub cache."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def ended(jobs: Jobs, preparation: Preparation, plan: Plan | None = None) -> str:
    progress = jobs.wait(jobs.submit(preparation, plan), timeout=240)
    assert progress.error is None, progress.error
    return progress.state


@pytest.mark.parametrize(
    ("memory", "tuned_shards"),
    [pytest.param("1GB", 2, id="each pair in memory"), pytest.param("16MB", 3, id="embeddings as they pass")],
)
def test_streaming_gives_the_same_bits_as_files_in_few_requests_and_leaves_nothing_on_the_disk(
    hub: LoopbackHub, jobs_of, tmp_path: Path, memory: str, tuned_shards: int
):
    add_pair(hub, llama(layers=3, hidden=512, vocabulary=8192), tuned_shards=tuned_shards)
    jobs, store, settings = jobs_of("streamed", memory=memory)
    preparation = jobs.prepare("org/base", "org/tuned")
    hub.requests.clear()
    assert ended(jobs, preparation, STREAMED) == "done"
    spans = [span(asked) or 0 for asked in gets(hub)]
    assert sum(spans) / len(spans) >= (8 << 20 if memory == "1GB" else 4 << 20)
    assert weight_bytes(tmp_path / "hf") < 100_000, "the Hub cache holds no weights"
    assert preparation.pair is not None
    streamed = digest(store, preparation.pair.key, settings)

    jobs, store, settings = jobs_of("files", memory=memory)
    assert ended(jobs, jobs.prepare("org/base", "org/tuned")) == "done"
    assert weight_bytes(tmp_path / "hf") > 60_000_000
    assert digest(store, preparation.pair.key, settings) == streamed
    assert len(store.spectra(preparation.pair.key)) == 23


def small_pair(hub: LoopbackHub, *, changed: str = "") -> None:
    """Two shards a side of some 6 MB in all; the tensors whose name holds `changed` differ (all of them, if empty)."""
    base = llama(layers=2, hidden=256, vocabulary=1024)
    tuned = {n: t if changed not in n else tuned_from({n: t}, changed_share=0.2)[0][n] for n, t in base.items()}
    hub.add("org/base", model_files(base, shards=2))
    hub.add("org/tuned", model_files(tuned, shards=2))


def key_of(preparation: Preparation) -> str:
    assert preparation.pair is not None
    return preparation.pair.key


_undisturbed: list[str] = []  # what a stream of the small pair leaves, once a test has seen it


def digest_undisturbed(jobs_of) -> str:
    """Of the small pair, whose weights are the same in each test."""
    if not _undisturbed:
        jobs, store, settings = jobs_of("undisturbed")
        preparation = jobs.prepare("org/base", "org/tuned")
        assert ended(jobs, preparation, STREAMED) == "done"
        _undisturbed.append(digest(store, key_of(preparation), settings))
    return _undisturbed[0]


@pytest.mark.parametrize("victim", ["stream", "measure"])
def test_a_killed_child_of_a_stream_costs_time_and_nothing_else(hub: LoopbackHub, jobs_of, victim: str):
    """The tuned side's second shard is late, so that the job is in the middle when the child is killed."""
    small_pair(hub)
    undisturbed = digest_undisturbed(jobs_of)

    late = hub.fail(Latency(path="tuned.*-00002-of", seconds=60.0))
    jobs, store, settings = jobs_of("disturbed")
    late.times = 0
    preparation = jobs.prepare("org/base", "org/tuned")
    late.times = None
    job_id = jobs.submit(preparation, STREAMED)
    wait_until(lambda: store.tallies(key_of(preparation)))
    late.times = 0
    os.kill(child_of(jobs, job_id, victim) or -1, signal.SIGKILL)
    progress = jobs.wait(job_id, timeout=120)
    assert (progress.state, progress.error) == ("done", None)
    assert digest(store, key_of(preparation), settings) == undisturbed


def test_cancelling_a_stream_ends_both_children_within_two_seconds(hub: LoopbackHub, jobs_of):
    small_pair(hub)
    jobs, store, _ = jobs_of("cancelled")
    preparation = jobs.prepare("org/base", "org/tuned")
    hub.fail(Latency(path="tuned.*-00002-of", seconds=60.0))
    job_id = jobs.submit(preparation, STREAMED)
    wait_until(lambda: store.tallies(key_of(preparation)))
    pids = [child_of(jobs, job_id, module) for module in ("stream", "measure")]
    assert all(pids)
    began = time.monotonic()
    jobs.cancel(job_id)
    assert jobs.wait(job_id, timeout=10).state == "cancelled"
    assert time.monotonic() - began < 2
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert store.tallies(key_of(preparation)), "what was measured stays"


def test_a_streamed_file_that_is_not_what_the_hub_lists_is_measured_again(hub: LoopbackHub, jobs_of):
    small_pair(hub)
    sound = digest_undisturbed(jobs_of)

    jobs, store, settings = jobs_of("damaged once")
    preparation = jobs.prepare("org/base", "org/tuned")
    fault = hub.fail(FlippedBit(path="tuned.*-00001-of", at=-1000, times=1))
    assert ended(jobs, preparation, STREAMED) == "done"
    assert fault.times == 0, "it did strike"
    assert digest(store, key_of(preparation), settings) == sound

    jobs, store, settings = jobs_of("damaged always")
    preparation = jobs.prepare("org/base", "org/tuned")
    fault.times = None
    assert ended(jobs, preparation, STREAMED) == "done"
    pairs = store.alignment(key_of(preparation)).pairs
    of_damaged = {pair.name for pair in pairs if pair.tuned.file == "model-00001-of-00002.safetensors"}
    assert of_damaged
    assert not of_damaged & set(store.tallies(key_of(preparation))), "nothing of the damaged file is kept"
    assert of_damaged == {name for kind, name in store.gaps(key_of(preparation)) if kind == "tally"}


def test_a_tensor_pair_is_measured_while_the_next_files_are_still_to_come(hub: LoopbackHub, jobs_of):
    """The second shard of the tuned model does not come before something of the first one is measured."""
    small_pair(hub)
    jobs, store, _ = jobs_of("ahead")
    preparation = jobs.prepare("org/base", "org/tuned")
    hub.requests.clear()
    hub.fail(Latency(path="tuned.*-00002-of", seconds=600.0))
    job_id = jobs.submit(preparation)
    key = key_of(preparation)
    wait_until(lambda: store.tallies(key) and store.spectra(key), 120)
    [late] = [blob for name, blob in files_of(hub, "org/tuned").items() if "-00002-of" in name]
    progress = jobs.progress(job_id)
    assert progress is not None
    assert progress.bytes_done <= progress.bytes_planned - len(late.content), "not one byte of it has come"
    jobs.cancel(job_id)
    assert jobs.wait(job_id, timeout=10).state == "cancelled"


def test_a_failing_fetch_ends_the_job_with_its_error_after_what_came_was_measured(hub: LoopbackHub, jobs_of):
    small_pair(hub)
    jobs, store, _ = jobs_of("half")
    preparation = jobs.prepare("org/base", "org/tuned")
    hub.fail(Status(path="tuned.*-00002-of", status=403))
    progress = jobs.wait(jobs.submit(preparation), timeout=120)
    assert progress.state == "failed"
    assert isinstance(progress.error, ModelError)
    pairs = store.alignment(key_of(preparation)).pairs
    assert set(store.tallies(key_of(preparation))) == {p.name for p in pairs if "-00001-of" in p.base.file}


@pytest.mark.parametrize("plan", [Plan(spectra=False), Plan(spectra=False, keep_files=False)], ids=["files", "stream"])
def test_a_file_that_both_models_have_is_fetched_once(hub: LoopbackHub, jobs_of, plan: Plan):
    small_pair(hub, changed="lm_head")
    jobs, store, _ = jobs_of("equal")
    preparation = jobs.prepare("org/base", "org/tuned")
    equal, other = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    sizes = {name: len(blob.content) for name, blob in files_of(hub, "org/tuned").items()}
    assert jobs.forecast(preparation, plan).bytes_to_fetch == sizes[equal] + 2 * sizes[other]
    hub.requests.clear()
    assert ended(jobs, preparation, plan) == "done"
    got = {asked.path.rpartition("/")[2] for asked in hub.asked("org/tuned.*safetensors", "GET")}
    assert got == {other}
    assert {asked.path.rpartition("/")[2] for asked in hub.asked("org/base.*safetensors", "GET")} == {equal, other}
    tallies = store.tallies(key_of(preparation))
    changed = [name for name, tally in tallies.items() if tally.unchanged("exact") < tally.entries]
    assert changed == ["lm_head.weight"]


def files_of(hub: LoopbackHub, name: str) -> dict[str, Blob]:
    [files] = hub.repositories[name].files_of_commit.values()
    return files


def test_a_download_that_the_disk_does_not_hold_is_streamed_and_says_so(
    hub: LoopbackHub, jobs_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plant = tmp_path / "plant"
    plant.mkdir()
    (plant / "sitecustomize.py").write_text(
        "import shutil\nshutil.disk_usage = lambda _: shutil._ntuple_diskusage(9, 9, 0)\n"
    )
    small_pair(hub)
    jobs, store, _ = jobs_of("full")
    preparation = jobs.prepare("org/base", "org/tuned")
    monkeypatch.setattr("cache.backends.child.ROOT", f"{ROOT}{os.pathsep}{plant}")
    progress = jobs.wait(jobs.submit(preparation, Plan(spectra=False)), timeout=120)
    assert (progress.state, progress.error) == ("done", None)
    assert "streamed" in progress.note
    assert weight_bytes(tmp_path / "hf") < 100_000
    assert len(store.tallies(key_of(preparation))) == progress.planned


def test_codes_pass_after_their_scales(hub: LoopbackHub, jobs_of):
    codes = torch.arange(256 * 384, dtype=torch.float32).remainder(31).view(256, 384).to(torch.float8_e4m3fn)
    config = {**LLAMA_CONFIG, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    for side, factor in (("base", 1.0), ("tuned", 1.5)):
        tensors: dict[str, torch.Tensor] = {}
        for layer in range(2):
            name = f"model.layers.{layer}.mlp.up_proj.weight"
            tensors |= {name: codes, f"{name}_scale_inv": torch.full((2, 3), factor * (layer + 1))}
        hub.add(f"org/{side}", model_files(tensors, config=config))
    digests = []
    for plan in (Plan(), STREAMED):
        jobs, store, settings = jobs_of(str(plan.keep_files))
        preparation = jobs.prepare("org/base", "org/tuned")
        assert ended(jobs, preparation, plan) == "done"
        assert len(store.spectra(key_of(preparation))) == 2
        assert all(
            0 < tally.unchanged("exact") < tally.entries for tally in store.tallies(key_of(preparation)).values()
        )
        digests.append(digest(store, key_of(preparation), settings))
        hub.requests.clear()
        shutil.rmtree(os.environ["HF_HUB_CACHE"], ignore_errors=True)
    assert digests[0] == digests[1]
