"""A Hub that refuses, forgets or moves on: said at once, nothing cached is used instead, the first commit stays."""

from __future__ import annotations

from collections import Counter

import pytest

from analysis.errors import AccessDenied, ModelNotFound, RevisionNotFound
from analysis.plan import Plan
from tests.faults.conftest import BASE, CONTENT, HALF, WEIGHTS, Bench, blob, content_here, partial_size
from tests.hub.builders import model_files, tuned_from
from tests.hub.faults import Stall

TUNED = r"^/(api/models/)?org/tuned"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        pytest.param({"private": True}, ModelNotFound, "or it is private", id="private"),
        pytest.param({"gated": True}, AccessDenied, "Ask its owners for access on its page", id="gated"),
        pytest.param({"disabled": True}, AccessDenied, "has been disabled", id="disabled"),
        pytest.param(None, ModelNotFound, "There is no model 'org/tuned' on the Hub", id="deleted"),
    ],
)
def test_a_refusal_is_said_at_once_and_the_cache_is_no_way_round_it(bench: Bench, change, error, words):
    pair = bench.jobs.prepare("org/base", "org/tuned").pair
    assert bench.end(bench.jobs.submit(pair, Plan(spectra=False))).state == "done"
    assert blob().exists()
    if change is None:
        del bench.hub.repositories["org/tuned"]
    else:
        vars(bench.hub.repositories["org/tuned"]).update(change)

    bench.hub.requests.clear()
    with pytest.raises(error, match=words):
        bench.jobs.prepare("org/base", "org/tuned")
    ended = bench.end(bench.jobs.submit(pair, Plan()))  # singular values, for which the weights are needed again
    assert (ended.state, type(ended.error)) == ("failed", error)
    assert words in str(ended.error)
    assert bench.store.spectra(pair.key) == {}
    times_asked = Counter((asked.method, asked.path) for asked in bench.hub.asked(TUNED))
    assert max(times_asked.values()) <= 2  # when it was looked up, and by the job: nothing was tried again


def test_a_branch_that_moves_during_a_job_changes_nothing(bench: Bench):
    job = bench.start(Stall(path=WEIGHTS, method="GET", after=HALF, seconds=0.7, times=1))
    bench.wait_for(job, lambda _: partial_size() == HALF)
    moved = bench.hub.add("org/tuned", model_files(tuned_from(BASE, changed_share=0.9, seed=5)[0]))
    assert bench.end(job).state == "done"
    assert content_here() == CONTENT
    paths = [asked.path for asked in bench.hub.asked(TUNED)]
    assert paths
    assert all(bench.commit in path and moved not in path for path in paths)
    [stored] = bench.store.pairs()
    assert stored.tuned.commit == bench.commit


def test_a_commit_that_the_hub_forgot_is_named_and_the_rest_stays_usable(bench: Bench):
    pair = bench.jobs.prepare("org/base", "org/tuned").pair
    assert bench.end(bench.jobs.submit(pair, Plan(spectra=False))).state == "done"
    repository = bench.hub.repositories["org/tuned"]
    newer = bench.hub.add("org/tuned", model_files(tuned_from(BASE, changed_share=0.9, seed=5)[0]))
    del repository.files_of_commit[bench.commit]

    ended = bench.end(bench.jobs.submit(pair, Plan()))
    assert isinstance(ended.error, RevisionNotFound)
    assert ended.error.saw == f"'org/tuned' has no revision '{bench.commit}'"
    assert bench.store.holes(pair.key, Plan(spectra=False)) == []
    assert content_here() == CONTENT

    bench.hub.requests.clear()
    again = bench.jobs.prepare("org/base", "org/tuned").pair
    assert again.tuned.commit == newer
    assert bench.end(bench.jobs.submit(again, Plan(spectra=False))).state == "done"
    assert not bench.hub.asked("/org/base/.*safetensors", "GET")[1:]  # its header; the weights were here
