"""Overlaps of several models as jobs: counted from masks that real comparisons left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.errors import BadReference
from analysis.models import PinnedModel
from analysis.plan import Plan
from cache.jobs import Jobs
from tests.hub.builders import llama, tuned_from

pytestmark = pytest.mark.usefixtures("children_at_hand")


@pytest.mark.processes
def test_an_overlap_counts_regions_as_numpy_does(jobs: Jobs, models: Path):
    pairs = [jobs.prepare("./models/base", f"./models/tuned{seed}").pair for seed in (1, 2)]
    assert pairs[0] is not None
    assert pairs[1] is not None

    progress = jobs.wait(jobs.submit_overlap(pairs[0].base, [pair.tuned for pair in pairs]), timeout=180)

    assert (progress.state, progress.error) == ("done", None)
    changed = [tuned_from(llama(layers=2, hidden=32), changed_share=0.25, seed=seed)[1] for seed in (1, 2)]
    found = jobs._store.overlaps.regions(pairs[0].base.key, tuple(pair.tuned.key for pair in pairs), "exact")
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
    assert {name: found.dense.sum() for name, found in store.overlaps.regions(base.key, keys, "bf16").items()} == exact
    assert {rule for _, rule in store.masks(pairs[0].key)} == {"exact", "mukherjee", "1e-4"}
    found = store.overlaps.regions(base.key, keys, "1e-4")
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
    found = jobs._store.overlaps.consensus(base.key, [model.key for model in tuned], name, "exact")
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


@pytest.mark.processes
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
