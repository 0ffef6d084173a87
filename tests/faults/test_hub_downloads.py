"""Downloads over a Hub, a line and a disk that fail: resumed, never spliced, never used damaged."""

from __future__ import annotations

import os
import signal

import pytest

from analysis.errors import BadWeights, DiskFull, HubBusy
from analysis.models import parse_model
from analysis.plan import Plan
from cache import catalog
from tests.faults.conftest import (
    BASE,
    CONTENT,
    DISK,
    FILE,
    HALF,
    SIZE,
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


def test_a_shard_damaged_twice_is_named_and_what_was_measured_stays(bench: Bench):
    pair = bench.jobs.prepare("org/base", "org/tuned").pair
    assert bench.end(bench.jobs.submit(pair, Plan(spectra=False))).state == "done"
    measured = len(bench.store.tallies(pair.key))
    blob().unlink()
    bench.hub.fail(FlippedBit(path=WEIGHTS, method="GET"))
    ended = bench.end(bench.jobs.submit(pair, Plan()))
    assert isinstance(ended.error, BadWeights)
    assert ended.error.saw == "'model.safetensors' of 'org/tuned' arrived damaged twice"
    assert bench.ranges()[-2:] == [0, 0]
    assert not blob().exists()
    assert not partial_files()
    assert len(bench.store.tallies(pair.key)) == measured > 0


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
