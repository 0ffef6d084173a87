"""A Hub that is busy, limits us or is broken: asked again when it says, waited for within sight, blamed by its name."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest

from analysis.errors import HubBusy
from tests.faults.conftest import HURRIED, TUNED_FILES, WEIGHTS, Bench, fetch_child
from tests.hub.faults import Status

API = "/api/models/org/tuned"


def fetched(bench: Bench) -> Iterator[dict]:
    return fetch_child(bench).messages()


def gaps_between_requests(bench: Bench) -> list[float]:
    """Seconds between the requests for the tuned model's weights."""
    times = [asked.at for asked in bench.hub.asked(WEIGHTS, "GET")]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def test_a_number_of_seconds_to_wait_is_obeyed_and_shown(bench: Bench):
    bench.hub.fail(Status(path=WEIGHTS, method="GET", status=429, retry_after="2", times=1))
    messages = list(fetched(bench))
    [gap] = gaps_between_requests(bench)
    assert 2 <= gap < 5
    [waiting] = [message for message in messages if message["event"] == "waiting"]
    assert waiting["reason"] == "The Hub asks us to slow down"
    assert messages[-1]["event"] == "ready"


@pytest.mark.parametrize("status", [429, 503])
def test_a_date_to_come_back_at_is_obeyed(bench: Bench, status):
    moment = int(time.time()) + 3
    date = formatdate(moment, usegmt=True)
    bench.hub.fail(Status(path=WEIGHTS, method="GET", status=status, retry_after=date, times=1))
    assert list(fetched(bench))[-1]["event"] == "ready"
    last = bench.hub.asked(WEIGHTS, "GET")[-1]
    assert moment <= time.time() - (time.monotonic() - last.at) < moment + 4


def test_without_a_time_the_pauses_grow(bench: Bench):
    bench.hub.fail(Status(path=WEIGHTS, method="GET", status=429, times=4))
    assert list(fetched(bench))[-1]["event"] == "ready"
    gaps = gaps_between_requests(bench)
    assert [gap >= pause for gap, pause in zip(gaps, HURRIED.busy_pauses, strict=True)] == [True] * 4


def test_a_day_to_wait_leaves_the_lane_to_others_and_can_be_cancelled(bench: Bench):
    job = bench.start(Status(path=WEIGHTS, method="GET", status=429, retry_after="86400"))
    waiting = bench.wait_until_waiting(job)
    assert waiting.waiting_words.startswith("waiting until ")
    assert waiting.waiting_words.endswith("UTC tomorrow (the Hub asks us to come back in 24 hours)")
    deadline = time.monotonic() + 5  # the ledger follows the page
    while [record.state for record in bench.store.ledger.jobs()] != ["waiting"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)

    bench.hub.add("org/other", TUNED_FILES)
    assert bench.run(tuned="org/other").state == "done"
    bench.jobs.cancel(job)
    assert bench.jobs.wait(job, timeout=2).state == "cancelled"
    assert len(bench.hub.asked(WEIGHTS, "GET")) == 0  # since the other began: not asked again before its time


def test_a_pause_in_the_lane_is_cancelled_at_once(bench: Bench):
    job = bench.start(Status(path=WEIGHTS, method="GET", status=429, retry_after="4"))
    paused = bench.wait_for(job, lambda progress: bool(progress.waiting_for))
    assert paused.state == "running"
    bench.jobs.cancel(job)
    assert bench.jobs.wait(job, timeout=2).state == "cancelled"


def test_a_job_that_waits_survives_a_restart(bench: Bench):
    job = bench.start(Status(path=WEIGHTS, method="GET", status=429, retry_after="86400"))
    bench.wait_until_waiting(job)
    bench.jobs.stop()
    bench.hub.heal()
    again = type(bench.jobs)(bench.store, bench.jobs._settings, patience=HURRIED)
    again.start()
    assert again.wait(job, timeout=180).state == "done"
    again.stop()


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize(("path", "method"), [(WEIGHTS, "GET"), (API, "GET"), ("/org/base/.*safetensors", "HEAD")])
def test_an_error_of_the_hub_is_tried_five_times_and_blamed_on_the_hub(bench: Bench, path, method, status):
    bench.hub.fail(Status(path=path, method=method, status=status, times=4))
    assert list(fetched(bench))[-1]["event"] == "ready"
    assert len(bench.hub.asked(path, method)) == 5

    bench.hub.requests.clear()
    bench.hub.fail(Status(path=path, method=method, status=status))
    for blob in Path(bench.jobs._settings.data_dir).parent.rglob("blobs/*"):
        blob.unlink()
    with pytest.raises(HubBusy) as caught:
        list(fetched(bench))
    assert caught.value.saw == f"The Hub answered with error {status}"
    assert len(bench.hub.asked(path, method)) == 5


def test_a_hub_that_stays_broken_fails_the_job_after_three_waits(bench: Bench):
    job = bench.start(Status(path=API, status=502))
    waiting = bench.wait_until_waiting(job)
    assert waiting.waiting_words.endswith("(the Hub answered with error 502)")
    ended = bench.end(job)
    assert (ended.state, str(ended.error)) == ("failed", "The Hub answered with error 502. Try again in a minute.")
    assert len(bench.hub.asked(API)) == 5 * 4


def test_waits_in_vain_are_counted_anew_when_something_arrived_between_them(bench: Bench):
    job = bench.jobs._job_of_id[bench.start(Status(path=API, status=500))]
    busy = HubBusy("The Hub answered with error 500")
    job.patience = replace(HURRIED, later=(60.0, 300.0))
    waits = []
    for n_bytes in (0, 0, 5, 0, 0):
        job.meter.fetched(n_bytes)
        waits.append(job.seconds_to_wait(busy))
    assert waits == [60.0, 300.0, 60.0, 300.0, None]
