"""The overlap page over a real store: which models it takes, what it counts, says and leaves out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from analysis.links import view_of
from analysis.measurements import Regions
from analysis.models import Pair, PinnedModel
from pages.parts import lookups
from tests.analysis.by_hand import small_model, tally_of
from tests.pages.conftest import BASE, SEEDS, put_pair, register
from tests.pages.test_pages import opened, query, texts


def test_overlap_says_which_model_does_not_come_from_the_base(current, two_runs):
    stranger, alignment = PinnedModel("hub", "org/stranger", "3" * 40), small_model()
    pair = Pair(BASE, stranger)
    register(current, pair, alignment)
    random = np.random.default_rng(0)
    for entry in alignment.pairs:
        before, after = random.normal(0, 0.02, (2, *entry.shape)).astype(np.float32)
        current.store.put(pair.key, entry.name, tally_of(before, after)).result()
    assert not opened(view_of("overlap", BASE, *SEEDS)).error
    [warning] = opened(view_of("overlap", BASE, SEEDS[0], stranger)).error
    assert warning.value.startswith("**stranger** and the base do not come from one another: over 7 matrices")
    assert f"is {lookups.headline(pair.key).median_correlation:.3f}" in warning.value


def test_overlap_shows_both_chances_and_takes_the_rule_from_the_address(two_runs: tuple[Pair, Pair]):
    app = opened(view_of("overlap", BASE, *SEEDS, rule="mukherjee"))
    assert not app.exception
    assert app.selectbox(key="overlap.rule").value == "mukherjee"
    table = app.dataframe[0].value
    assert list(table["one_sided_overlap"]) == pytest.approx([0.5, 0.5], abs=0.01)
    assert not table["chance_matched"].isna().any()
    assert all(shown.proto.placeholder == "–" for shown in app.dataframe), "not 'None' where there is nothing to divide"
    assert "step of bfloat16" in texts(app), "Mukherjee's rule rounds"
    assert "step of bfloat16" not in texts(opened(view_of("overlap", BASE, *SEEDS, rule="exact"))), (
        "weights are float32"
    )


@pytest.mark.parametrize("rule", ["bf16", "1e-5"])
def test_an_overlap_under_a_rule_that_is_not_counted_offers_to_count_it(two_runs: tuple[Pair, Pair], rule: str):
    app = opened(view_of("overlap", BASE, *SEEDS, rule=rule))
    assert "not counted yet" in texts(app)
    assert app.selectbox(key="overlap.rule").value == rule


def test_overlap_of_twelve_models_is_drawn_with_every_choice_of_the_address(current):
    many = [PinnedModel("hub", f"org/run-{i}", f"{i:040}") for i in range(12)]
    alignment = small_model(1)
    pairs = [put_pair(current, Pair(BASE, model), alignment, seed=i) for i, model in enumerate(many)]
    counts = np.random.default_rng(0).integers(0, 3, 4096)
    for entry in alignment.pairs:
        keys = [pair.tuned.key for pair in pairs]
        current.store.overlaps.put_regions(BASE.key, keys, entry.name, Regions.of("exact", counts)).result()
    choices = {"pairs": "matched", "agree": "matched", "runs": "3", "least": "2", "of": "11", "in": "4"}
    app = opened(view_of("overlap", BASE, *many, **choices))
    assert not app.exception
    assert app.selectbox(key="overlap.runs").value == "3"
    assert app.selectbox(key="overlap.of-in").value == "11 4"
    assert {name: query(app)[name] for name in choices} == {name: [value] for name, value in choices.items()}
    agreeing = app.dataframe[1].value
    assert list(agreeing["runs"]) == list(range(13))
    assert agreeing["entries"].sum() == len(alignment.pairs) * counts.sum()
    assert "Draw the map" in [button.label for button in app.button]


def test_an_overlap_lists_what_the_models_do_not_share_and_does_not_wait_for_it(current, two_runs):
    third = PinnedModel("hub", "org/fewer-words", "3" * 40)
    whole = small_model()
    embedding, *others = whole.pairs
    shorter = dataclasses.replace(embedding, base=embedding.base.rows(0, 39), tuned=embedding.tuned.rows(0, 39))
    put_pair(current, Pair(BASE, third), dataclasses.replace(whole, pairs=(shorter, *others)))
    keys = [SEEDS[0].key, third.key]
    for entry in others:
        counts = np.array([entry.entries - 3, 1, 1, 1])
        current.store.overlaps.put_regions(BASE.key, keys, entry.name, Regions.of("exact", counts)).result()
    app = opened(view_of("overlap", BASE, SEEDS[0], third))
    assert not app.exception
    [listed] = [box for box in app.expander if "left out: shapes differ between the models" in box.label]
    assert listed.label.startswith("1 tensor of 10 was")
    assert listed.dataframe[0].value.to_dict("records") == [
        {"tensor": embedding.name, "tuned-1": "[40, 16]", "fewer-words": "[39, 16]"}
    ]
    assert "Count it" not in [button.label for button in app.button]
    assert not [box for box in opened(view_of("overlap", BASE, *SEEDS)).expander if "left out" in box.label]


def test_overlap_without_models_starts_with_a_stored_family(two_runs: tuple[Pair, Pair]):
    app = opened(page="overlap")
    assert query(app)["base"] == [str(BASE)]
    assert sorted(query(app)["tuned"]) == sorted(str(model) for model in SEEDS)


def test_overlap_starts_with_the_models_whose_overlap_is_counted(current, two_runs: tuple[Pair, Pair]):
    third = PinnedModel("hub", "org/tuned-3", "3" * 40)
    put_pair(current, Pair(BASE, third), small_model(), seed=9)
    assert set(query(opened(page="overlap"))["tuned"]) == {str(model) for model in SEEDS}


def test_overlap_of_one_model_asks_for_another(two_runs: tuple[Pair, Pair]):
    assert "Choose at least two" in texts(opened(view_of("overlap", BASE, SEEDS[0])))


def test_overlap_that_is_not_counted_can_be_started(current, pair: Pair):
    put_pair(current, Pair(BASE, SEEDS[1]), small_model(), seed=5)
    app = opened(view_of("overlap", BASE, *SEEDS))
    assert "not counted yet" in texts(app)
    assert "Count it" in [button.label for button in app.button]
