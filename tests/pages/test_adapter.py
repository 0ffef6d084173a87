"""An adapter's pages: its own update stands beside what is left of it after merging."""

from __future__ import annotations

import dataclasses

import pytest

from analysis.adapter_alignment import align_adapter
from analysis.adapter_config import read_recipe
from analysis.links import view_of
from analysis.models import Pair
from analysis.tensors import TensorInfo
from cache.instance import Instance
from tests.analysis.by_hand import measured, small_model
from tests.pages.conftest import BASE, SEEDS, put_pair
from tests.pages.test_pages import opened, texts

TOUCHED = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def adapter(current: Instance) -> Pair:
    """LoRA of rank 2 on one matrix, all measured; its own update is twice as wide spread as what is left of it."""
    start = f"base_model.model.{TOUCHED.removesuffix('.weight')}"
    shapes = {f"{start}.lora_A.weight": (2, 16), f"{start}.lora_B.weight": (16, 2)}
    factors = [TensorInfo(name, "F32", shape, "adapter_model.safetensors", 0, 4) for name, shape in shapes.items()]
    recipe = read_recipe({"peft_type": "LORA", "r": 2, "lora_alpha": 4})
    alignment = align_adapter([pair.base for pair in small_model().pairs], factors, recipe)
    pair = put_pair(current, Pair(BASE, SEEDS[0]), alignment)
    tallies, spectra = measured(alignment, seed=7, share=0.4)
    own = dataclasses.replace(spectra[TOUCHED], of="adapter", rank=2)
    current.store.put(pair.key, TOUCHED, tallies[TOUCHED], of="adapter").result()
    current.store.put(pair.key, TOUCHED, own).result()
    return pair


def test_the_overview_says_what_it_is_and_shows_both(adapter: Pair):
    app = opened(view_of("pair", adapter.base, adapter.tuned))
    assert not app.exception
    assert "**The tuned side is an adapter:** LoRA, r 2, α 4, on 1 matrix" in texts(app)
    both = app.dataframe[0].value.set_index("")
    assert list(both.columns) == ["own update", "merged, in float32"]
    assert both.loc["numerical rank", "own update"] == "2"
    assert both.loc["entries moved", "own update"] != both.loc["entries moved", "merged, in float32"]
    assert "By itself it moves" in texts(app)


def test_spectra_are_of_the_update_that_is_chosen(adapter: Pair):
    app = opened(view_of("spectra", adapter.base, adapter.tuned))
    assert not app.exception
    assert app.get("button_group")
    merged = set(app.multiselect[0].options)
    own = opened(view_of("spectra", adapter.base, adapter.tuned, update="own"))
    assert not own.exception
    assert TOUCHED in merged
    assert own.multiselect[0].options == [TOUCHED]
    assert len(merged) > 1


def test_a_whole_model_has_no_choice_of_updates(pair: Pair):
    app = opened(view_of("spectra", pair.base, pair.tuned, update="own"))
    assert not app.exception
    assert "Update" not in [group.proto.label for group in app.get("button_group")]


@pytest.mark.parametrize(("name", "shown"), [(TOUCHED, True), ("model.layers.0.mlp.down_proj.weight", False)])
def test_a_matrix_shows_its_own_update_where_there_is_one(adapter: Pair, name: str, shown: bool):
    app = opened(view_of("matrix", adapter.base, adapter.tuned, name=name))
    assert not app.exception
    assert ("Below: the adapter's own update" in texts(app)) == shown
    assert ("Not touched by the adapter" in texts(app)) != shown
