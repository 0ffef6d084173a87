"""Which tensors a text selects, what it says where it selects none, and plans that go through JSON and back."""

from __future__ import annotations

import dataclasses
import json

import pytest

from analysis.errors import BadSelection
from analysis.plan import Hole, Plan
from analysis.selection import Selection, Stretch, read_spectra, select
from cache.backends.wire import from_line, to_line
from tests.analysis.by_hand import small_model

MODEL = small_model(8)


def chosen(layers: str = "", modules: str = "") -> list[str]:
    plan = Plan(selection=select(layers, modules))
    return [pair.name for pair in MODEL.pairs if plan.chooses(pair)]


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("0-2,6", [0, 1, 2, 6]),
        (" 3 , 1 - 2 ", [1, 2, 3]),
        ("every:3", [0, 3, 6]),
        ("1-7:3", [1, 4, 7]),
        ("5-99", [5, 6, 7]),
        ("outside", [None]),
        ("7,outside", [None, 7]),
        ("all", [None, *range(8)]),
        ("", [None, *range(8)]),
    ],
)
def test_layers(text: str, layers: list[int | None]):
    plan = Plan(selection=select(text))
    found = dict.fromkeys(pair.place.layer for pair in MODEL.pairs if plan.chooses(pair))
    assert list(found) == layers
    assert select(select(text).layers_text) == select(text)


@pytest.mark.parametrize(
    ("modules", "n"),
    [
        ("q_proj", 8),
        ("self_attn.q_proj", 8),
        ("mlp.*", 8),
        ("*.mlp.*", 8),
        ("q_proj, mlp.*", 16),
        ("model.layers.3.*", 3),
        ("embed_tokens", 1),
        ("proj", 0),
    ],
)
def test_modules_by_their_names_their_ends_or_patterns(modules: str, n: int):
    assert len(chosen(modules=modules)) == n


def test_layers_and_modules_both_hold():
    assert chosen("2-3", "q_proj") == [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (2, 3)]


@pytest.mark.parametrize(
    ("layers", "modules", "sentences"),
    [
        ("0-1,30-31", "", ["The models have no layers 30-31: theirs are 0 to 7."]),
        ("5-99", "", ["The models have no layers 8-99: theirs are 0 to 7."]),
        ("1-20:5,8,every:3", "", ["The models have no layers 11-20:5, 8: theirs are 0 to 7."]),
        ("0-8", "", ["The models have no layer 8: theirs are 0 to 7."]),
        ("0-999999:2", "", ["The models have no layers 8-999999:2: theirs are 0 to 7."]),
        ("0-7,outside", "q_proj,mlp.*", []),
        ("", "q_porj", ["'q_porj' fits no tensor that both models have. Is 'q_proj' meant?"]),
        ("0", "q_proj,embed_tokens", ["'embed_tokens' fits no tensor that both models have in these layers."]),
    ],
)
def test_what_a_selection_names_and_the_models_do_not_have(layers: str, modules: str, sentences: list[str]):
    assert select(layers, modules).unmet(MODEL.pairs) == sentences


def test_a_model_without_numbered_layers_or_without_others():
    within = [pair for pair in MODEL.pairs if pair.place.layer is not None]
    without = [pair for pair in MODEL.pairs if pair.place.layer is None]
    assert select("3,outside").unmet(within) == ["No tensor lies outside the layers."]
    assert select("3,outside").unmet(without) == ["No tensor belongs to a numbered layer."]


@pytest.mark.parametrize("text", ["three", "3-1", "0-4:0", "every:0", "every", "1,,2", "-3", "0x1"])
def test_layers_that_cannot_be_read_are_quoted_with_how_to_write_them(text: str):
    with pytest.raises(BadSelection) as caught:
        select(text)
    assert "every:4" in caught.value.expected
    assert caught.value.exit_code == 2


def test_spectra():
    assert [read_spectra(text) for text in ("all", "none", "every:4")] == [(True, 1), (False, 1), (True, 4)]
    for text in ("", "some", "every:0", "4"):
        with pytest.raises(BadSelection, match="every:4"):
            read_spectra(text)


def test_spectra_of_every_third_layer_alone():
    plan = Plan(spectra_every=3, selection=select("0-6,outside", "q_proj,embed_tokens"))
    holes = list(plan.wanted(MODEL))
    assert len([hole for hole in holes if hole.kind == "tally"]) == 8
    assert [hole for hole in holes if hole.kind == "spectrum"] == [
        Hole("spectrum", f"model.layers.{layer}.self_attn.q_proj.weight") for layer in (0, 3, 6)
    ]
    assert plan.spectra_text == "every:3"


def test_the_parts_of_a_plan_add_up_to_the_whole():
    parts = [Plan(selection=select(layers)) for layers in ("every:2", "1-7:2", "outside")]
    assert sorted(map(repr, Plan().wanted(MODEL))) == sorted(repr(hole) for p in parts for hole in p.wanted(MODEL))


PLANS = [Plan(), Plan(spectra=False), Plan(spectra_every=4, selection=select("0-3,every:5,outside", "q_proj,*.mlp.*"))]


@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_goes_through_the_ledger_and_through_a_pipe(plan: Plan):
    assert Plan.from_dict(json.loads(json.dumps(dataclasses.asdict(plan)))) == plan
    assert from_line(to_line({"plan": plan})) == {"plan": plan}


def test_a_plan_of_an_older_ledger_still_loads():
    assert Plan.from_dict({"spectra": False, "masks": True}) == Plan(spectra=False)
    assert Plan.from_dict({}) == Plan()
    with pytest.raises(TypeError):
        Plan.from_dict({"novel": 1})


def test_a_stretch_is_what_it_says():
    assert [str(stretch) for stretch in (Stretch(3, 3), Stretch(0, 8), Stretch(0, 8, 2), Stretch(0, None, 4))] == [
        "3",
        "0-8",
        "0-8:2",
        "every:4",
    ]
    assert Selection().is_everything
