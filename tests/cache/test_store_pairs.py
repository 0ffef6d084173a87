"""Pairs in the store: registered, found again with all that was said of them, and told apart."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from analysis.alignment import align
from analysis.errors import StoreError
from analysis.measurements import Gap
from analysis.models import Pair, PinnedModel
from analysis.plan import Plan
from analysis.tensors import NotCompared
from cache.store import Store
from tests.cache.samples import BASE, BASE_CARD, MASKS, PAIR, TUNED_CARD, bits, matrices, register, tally, tensor

KEY = PAIR.key
OTHER = Pair(BASE, PinnedModel("folder", "./demo/other", "files-" + "d" * 40, "sub"))


def test_a_registered_pair_is_found_with_all_that_was_said_of_it(store: Store):
    base = [tensor("layers.0.w", 6, 4), tensor("norm", 4), tensor("experts.3.w", 2, 3, 4), tensor("old", 5, dtype="I8")]
    tuned = [tensor("layers.0.w", 6, 4, dtype="F32", file="b.safetensors"), *base[1:3], tensor("new", 7)]
    alignment = align(base, tuned)
    store.register(PAIR, BASE_CARD, TUNED_CARD, alignment).result()

    [found] = store.pairs()
    assert (found.pair, found.base, found.tuned) == (PAIR, BASE_CARD, TUNED_CARD)
    assert (found.n_tensors, found.n_matrices, found.entries) == (3, 1, 24 + 4 + 24)
    assert (found.n_tallies, found.n_spectra, found.n_gaps) == (0, 0, 0)
    assert found.last_activity == found.registered_at
    assert abs(datetime.now(UTC).replace(tzinfo=None) - found.registered_at) < timedelta(minutes=1)
    assert store.find_pair(KEY) == found
    assert store.alignment(KEY) == alignment
    assert store.alignment(KEY).not_compared[0] == NotCompared("new", "tuned", "only the tuned model has it", 7)


def test_checkpoints_of_one_layout_share_their_alignment_and_others_do_not(store: Store):
    tensors = [tensor("layers.0.w", 6, 4), tensor("norm", 4)]
    other = [tensor("layers.0.w", 6, 4), tensor("norm", 4, dtype="F32")]
    pairs = [Pair(PAIR.base, PinnedModel("hub", "org/tuned", str(step) * 40)) for step in range(3)]
    for pair, tuned in zip(pairs, (tensors, tensors, other), strict=True):
        store.register(pair, BASE_CARD, TUNED_CARD, align(tensors, tuned)).result()
    first, second, third = (store.alignment(pair.key) for pair in pairs)
    assert first is second
    assert third == align(tensors, other) != first
    store.register(pairs[0], BASE_CARD, TUNED_CARD, align(tensors, other)).result()
    assert store.alignment(pairs[0].key) is third
    assert store.alignment(pairs[1].key) is first


def test_views_and_how_they_were_found_come_back(store: Store):
    base = [tensor("embed_tokens.weight", 6, 4), tensor("h.0.experts.up_proj", 2, 3, 4), tensor("h.0.a.qkv_proj", 6, 4)]
    tuned = [tensor("module.embed_tokens.weight", 5, 4), tensor("lm_head.weight", 6, 4),
             *(tensor(f"h.0.experts.{expert}.up_proj.weight", 3, 4) for expert in range(2)),
             *(tensor(f"h.0.a.{part}_proj", 2, 4) for part in "qkv")]  # fmt: skip
    alignment = align(base, tuned)
    register(store, alignment)
    assert store.alignment(KEY) == alignment
    assert {pair.match for pair in alignment.pairs} == {"rows", "tied", "experts", "fused"}


def test_all_of_it_is_there_again_after_closing(tmp_path: Path):
    with Store.open(tmp_path / "new folder" / "store.duckdb") as store:
        register(store, matrices(2))
        store.put(KEY, "layers.0.w", tally(1), masks=MASKS)
        store.put(KEY, "layers.1.w", Gap("tally", "the worker died"))  # closing waits for what was put
        before = store.find_pair(KEY)
    with Store.open(tmp_path / "new folder" / "store.duckdb") as store:
        after = store.find_pair(KEY)
        assert store.alignment(KEY) == matrices(2)
        assert bits(store.tally(KEY, "layers.0.w")) == bits(tally(1))
        assert store.gaps(KEY) == {("tally", "layers.1.w"): "the worker died"}
    assert before
    assert after
    assert (after.n_tallies, after.n_gaps, after.registered_at) == (1, 1, before.registered_at)


def test_an_alignment_with_nothing_to_compare_can_be_registered(store: Store):
    alignment = align([tensor("a", 3)], [tensor("b", 3)])
    register(store, alignment)
    assert store.alignment(KEY) == alignment
    assert store.holes(KEY, Plan()) == []


def test_registering_again_is_no_work(store: Store):
    register(store, matrices(3))
    generation = store.generation(KEY)
    assert store.register(PAIR, BASE_CARD, TUNED_CARD, matrices(3)).done()
    assert store.generation(KEY) == generation


def test_the_same_commits_under_new_names_keep_their_measurements(store: Store):
    register(store, matrices(3))
    store.put(KEY, "layers.0.w", tally(1)).result()
    first = store.find_pair(KEY)
    renamed = Pair(PAIR.base, replace(PAIR.tuned, name="org/renamed"))
    store.register(renamed, BASE_CARD, replace(TUNED_CARD, title="org/renamed"), matrices(2)).result()
    [now] = store.pairs()
    assert first
    assert (now.pair, now.tuned.title) == (renamed, "org/renamed")
    assert (now.registered_at, now.n_tensors, now.n_tallies) == (first.registered_at, 2, 1)
    assert store.alignment(KEY) == matrices(2)


def test_pairs_are_found_by_what_their_models_are_called(store: Store):
    register(store, matrices(1))
    register(store, matrices(1), OTHER)
    assert store.pairs_called("org/base", "org/tuned") == [KEY]
    assert store.pairs_called(str(BASE), "org/tuned/") == [KEY]
    assert store.pairs_called("org/base", "demo/other/sub") == store.pairs_called("org/base", OTHER.tuned.title)
    assert store.pairs_called("org/base", "demo/other/sub") == [OTHER.key]
    for tuned in ("org/base", "org/tuned@main", f"org/tuned@{'e' * 40}", "tuned"):
        assert store.pairs_called("org/base", tuned) == []


def test_the_last_active_pair_comes_first(store: Store):
    register(store, matrices(1))
    register(store, matrices(1), OTHER)
    assert [found.pair for found in store.pairs()] == [OTHER, PAIR]
    store.put(KEY, "layers.0.w", tally(1)).result()
    assert [found.pair for found in store.pairs()] == [PAIR, OTHER]


def test_an_unknown_pair_is_none_or_says_what_to_do(store: Store):
    assert store.find_pair("no such key") is None
    with pytest.raises(StoreError, match=r"has no pair 'no such key'\. Compare the two models first"):
        store.alignment("no such key")


def test_only_cards_that_say_so_make_a_pair_restricted(store: Store):
    register(store, matrices(1))
    boastful = replace(TUNED_CARD, config={"model_type": '"restricted": true', "restricted": True})
    store.register(PAIR, BASE_CARD, boastful, matrices(1)).result()
    assert store.restricted() == {}
    store.register(PAIR, BASE_CARD, replace(TUNED_CARD, restricted=True), matrices(1)).result()
    assert store.restricted() == {KEY: (PAIR.tuned,)}
    assert store.find_pair(KEY).tuned.restricted
