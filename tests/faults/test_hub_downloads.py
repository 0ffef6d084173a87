"""Downloads over a Hub, a line and a disk that fail: resumed, never spliced, never used damaged."""

from __future__ import annotations

import json
import os
import shutil
import signal

import numpy as np
import pytest
from safetensors.numpy import save

from analysis.errors import DiskFull, HubBusy
from analysis.models import Pair, parse_model
from analysis.plan import Plan
from cache import catalog
from cache.hub.places import cache_dir
from tests.faults.conftest import (
    BASE,
    CONTENT,
    DISK,
    FILE,
    HALF,
    SIZE,
    TUNED,
    TUNED_FILES,
    WEIGHTS,
    Bench,
    blob,
    content_here,
    fetch_child,
    partial_files,
    partial_size,
)
from tests.hub.builders import model_files, tuned_from
from tests.hub.faults import Cut, FlippedBit, Headers, NoRanges, Stall, Trickle, Withheld


def test_a_lost_connection_is_resumed_at_the_byte_reached(bench: Bench):
    assert bench.run(Cut(path=WEIGHTS, method="GET", after=20_000, times=3)).state == "done"
    assert bench.ranges() == [0, 20_000, 40_000, 60_000]
    assert content_here() == CONTENT
    assert not partial_files()


def test_a_line_that_stays_dead_is_waited_for_three_times_and_then_the_job_fails(bench: Bench):
    job = bench.start(Cut(path=WEIGHTS, method="GET", after=0))
    waiting = bench.wait_until_waiting(job)
    assert waiting.waiting_words.startswith("waiting until ")
    assert waiting.waiting_words.endswith("(no answer from the Hub about 'org/tuned')")
    ended = bench.end(job)
    assert (ended.state, type(ended.error)) == ("failed", HubBusy)
    assert bench.ranges() == [0] * 5 * 4  # five tries at once, and again after each of three waits


def test_a_line_that_comes_back_during_the_wait_is_taken_up_again(bench: Bench):
    job = bench.start(Withheld(path=WEIGHTS, method="GET", last=SIZE - HALF))
    bench.wait_until_waiting(job)
    bench.hub.heal()
    ended = bench.end(job)
    assert (ended.state, ended.bytes_done) == ("done", ended.bytes_planned)
    assert set(bench.ranges()) == {0, HALF}
    assert content_here() == CONTENT


def test_a_killed_download_goes_on_at_the_half_it_had(bench: Bench):
    job = bench.start(Stall(path=WEIGHTS, method="GET", after=HALF))
    bench.wait_for(job, lambda _: partial_size() == HALF)
    bench.hub.heal()
    os.kill(bench.fetching_pid(job), signal.SIGKILL)
    assert bench.end(job).state == "done", "by itself"
    assert bench.ranges() == [0, HALF]
    assert content_here() == CONTENT
    assert not partial_files()


def test_two_processes_that_want_one_file_fetch_it_once(bench: Bench):
    bench.hub.fail(Stall(path=WEIGHTS, method="GET", after=HALF, seconds=0.7))
    children = [fetch_child(bench) for _ in range(2)]
    assert [list(child.messages())[-1]["event"] for child in children] == ["ready", "ready"]
    assert bench.ranges() == [0]
    assert content_here() == CONTENT


def test_a_server_that_ignores_the_range_starts_over(bench: Bench):
    faults = Cut(path=WEIGHTS, method="GET", after=HALF, times=1), NoRanges(path=WEIGHTS, method="GET")
    assert bench.run(*faults).state == "done"
    assert bench.ranges() == [0, HALF]
    assert content_here() == CONTENT


@pytest.mark.parametrize("name", ["ETag", "X-Linked-Etag"])
def test_a_content_that_changed_between_two_tries_starts_over(bench: Bench, name):
    ended = bench.run(
        Cut(path=WEIGHTS, method="GET", after=HALF, times=1),
        Headers(path=WEIGHTS, method="GET", times=1, values=((name, '"of the first try"'),)),
    )
    assert (ended.state, ended.bytes_done) == ("done", ended.bytes_planned)
    assert content_here() == CONTENT


def test_a_shard_that_ends_before_its_promised_length_is_never_done(bench: Bench):
    ended = bench.run(Withheld(path=WEIGHTS, method="GET", last=1))
    assert (ended.state, type(ended.error)) == ("failed", HubBusy)
    assert ended.done == 0
    assert not blob().exists()
    assert set(bench.ranges()) == {0, SIZE - 1}


def test_a_shard_damaged_on_its_way_is_fetched_once_more(bench: Bench):
    assert bench.run(FlippedBit(path=WEIGHTS, method="GET", times=1)).state == "done"
    assert bench.ranges() == [0, 0]
    assert content_here() == CONTENT


SHARDS = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]


@pytest.fixture
def sharded(bench: Bench) -> Pair:
    """Two models of two shards each."""
    bench.hub.add("org/base", model_files(BASE, shards=2))
    bench.hub.add("org/tuned", model_files(TUNED, shards=2))
    pair = bench.jobs.prepare("org/base", "org/tuned").pair
    assert pair is not None
    return pair


@pytest.mark.parametrize("plan", [Plan(), Plan(keep_files=False)], ids=["files", "stream"])
def test_a_shard_damaged_twice_costs_its_own_tensors_alone(bench: Bench, sharded: Pair, plan: Plan):
    names = {f: {p.name for p in bench.store.alignment(sharded.key).pairs if p.tuned.file == f} for f in SHARDS}
    assert all(names.values())
    bench.hub.requests.clear()
    bench.hub.fail(FlippedBit(path=f"org/tuned/resolve/.*{SHARDS[0]}", method="GET", at=-1000))
    assert bench.end(bench.jobs.submit(sharded, plan)).state == "done"
    assert set(bench.store.tallies(sharded.key)) == names[SHARDS[1]]
    gaps = bench.store.gaps(sharded.key)
    assert {name for kind, name in gaps if kind == "tally"} == names[SHARDS[0]]
    assert {name for kind, name in gaps if kind == "spectrum"} | set(bench.store.spectra(sharded.key)) == {
        pair.name for pair in bench.store.alignment(sharded.key).pairs if pair.is_matrix
    }
    assert set(gaps.values()) == {
        f"'{SHARDS[0]}' of 'org/tuned' arrived damaged twice: its bytes are not those that the Hub lists"
    }
    assert len(bench.hub.asked(f"org/tuned/resolve/.*{SHARDS[0]}", "GET")) == 2
    assert not partial_files()

    bench.hub.heal()
    assert bench.end(bench.jobs.submit(sharded, plan)).state == "done", "asked anew, it is tried again"
    assert not bench.store.gaps(sharded.key)
    assert set(bench.store.tallies(sharded.key)) == names[SHARDS[0]] | names[SHARDS[1]]


def test_a_shard_damaged_for_its_masks_alone_takes_no_measurement_along(bench: Bench, sharded: Pair):
    bench.hub.add("org/other", model_files(tuned_from(BASE, changed_share=0.5, seed=7)[0], shards=2))
    other = bench.jobs.prepare("org/base", "org/other").pair
    assert other is not None
    for pair in (sharded, other):
        assert bench.end(bench.jobs.submit(pair, Plan(spectra=False))).state == "done"
    measured = set(bench.store.tallies(sharded.key))
    bench.store.forget_masks([sharded.key]).result()
    shutil.rmtree(cache_dir() / "models--org--tuned")
    bench.hub.fail(FlippedBit(path=f"org/tuned/resolve/.*{SHARDS[0]}", method="GET"))
    ended = bench.end(bench.jobs.submit_overlap(sharded.base, [sharded.tuned, other.tuned]))
    assert ended.state == "done"
    assert set(bench.store.tallies(sharded.key)) == measured
    counted = set(bench.store.overlaps.regions(sharded.base.key, [sharded.tuned.key, other.tuned.key], "exact"))
    without_masks = {name for kind, name in bench.store.gaps(sharded.key) if kind == "overlap"}
    assert counted
    assert without_masks == measured - counted


def test_a_damaged_adapter_leaves_what_it_does_not_touch(bench: Bench):
    factors = {}
    for name in (f"model.layers.0.self_attn.{name}_proj" for name in "qk"):
        out, width = BASE[f"{name}.weight"].shape
        factors[f"base_model.model.{name}.lora_A.weight"] = np.ones((2, width), np.float32)
        factors[f"base_model.model.{name}.lora_B.weight"] = np.ones((out, 2), np.float32)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "k_proj"]}
    files = {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": save(factors)}
    bench.hub.add("org/adapter", files)
    pair = bench.jobs.prepare("org/base", "org/adapter").pair
    assert pair is not None
    touched = {p.name for p in bench.store.alignment(pair.key).pairs if p.merge}
    assert len(touched) == 2
    bench.hub.fail(FlippedBit(path="org/adapter/resolve/.*safetensors", method="GET"))
    for plan in (Plan(spectra=False), Plan(spectra=False, keep_files=False)):
        assert bench.end(bench.jobs.submit(pair, plan)).state == "done"
        assert {name for kind, name in bench.store.gaps(pair.key) if kind == "tally"} == touched
        assert touched.isdisjoint(bench.store.tallies(pair.key))
        assert len(bench.store.tallies(pair.key)) == len(bench.store.alignment(pair.key).pairs) - 2


def test_a_disk_that_fills_up_keeps_what_has_arrived(hub, hub_settings, monkeypatch, small_disk):
    monkeypatch.setenv("HF_HUB_CACHE", str(small_disk))
    monkeypatch.setattr("cache.hub.downloads._SPARE_DISK", -(10**9))  # as if others had filled it meanwhile
    filler = small_disk / "filler"
    filler.write_bytes(bytes(DISK - HALF))
    hub.add("org/tuned", TUNED_FILES)
    found = catalog.find(parse_model("org/tuned"), hub_settings)
    with pytest.raises(DiskFull, match=r"The disk filled up while downloading, with 0\.0 GB of the file still to come"):
        catalog.fetch(found, [FILE], hub_settings, lambda _: None)
    [partial] = partial_files()
    kept = partial.stat().st_size
    assert 0 < kept < SIZE
    assert CONTENT.startswith(partial.read_bytes())

    filler.unlink()
    hub.requests.clear()
    folder = catalog.fetch(found, [FILE], hub_settings, lambda _: None)
    assert (folder / FILE).read_bytes() == CONTENT
    assert [asked.range for asked in hub.asked(WEIGHTS, "GET")] == [f"bytes={kept}-{SIZE - 1}"]


def test_a_cached_file_damaged_later_is_found_before_it_is_used(bench: Bench):
    first = bench.run()
    damaged = bytearray(CONTENT)
    damaged[-1] ^= 1
    blob().write_bytes(damaged)
    bench.hub.add("org/other", model_files(tuned_from(BASE, changed_share=0.5, seed=7)[0]))
    ended = bench.run(base="org/tuned", tuned="org/other")
    assert (first.state, ended.state) == ("done", "done")
    assert bench.ranges() == [0]
    assert content_here() == CONTENT


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Stall(path=WEIGHTS, method="GET", after=HALF, times=1), id="nothing comes any more"),
        pytest.param(Trickle(path=WEIGHTS, method="GET", seconds=0.02, times=1), id="50 bytes a second"),
    ],
)
def test_a_body_that_stalls_or_crawls_is_cut_and_resumed(bench: Bench, fault):
    assert bench.run(fault).state == "done"
    first, second = bench.ranges()
    assert 0 == first < second <= HALF
    assert content_here() == CONTENT
