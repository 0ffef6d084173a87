"""Pages of a model whose layers hold hundreds of experts: rolled up to a row a kind of matrix, and small to send."""

from __future__ import annotations

import json

import numpy as np
import pytest

from analysis.links import view_of
from analysis.metrics import CATALOG
from analysis.models import Pair
from analysis.rollup import grid
from cache import instance
from pages.parts import lookups, views
from tests.analysis.by_hand import spectrum_of, tally_of
from tests.analysis.test_rollup import alignment_of
from tests.pages.conftest import BASE, SEEDS, register
from tests.pages.test_pages import opened, texts

LAYERS, EXPERTS = 4, 300
SHAPE = (6, 4)


def expert(layer: int, number: int, part: str = "up_proj") -> str:
    return f"model.layers.{layer}.mlp.experts.{number}.{part}.weight"


@pytest.fixture
def mixture(current: instance.Instance) -> Pair:
    """A pair of 2,404 matrices, all but 4 of them experts; of each expert another share of entries changed."""
    parts = ("up_proj", "down_proj")
    names = [expert(layer, n, part) for layer in range(LAYERS) for n in range(EXPERTS) for part in parts]
    names += [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(LAYERS)]
    alignment, pair = alignment_of(**dict.fromkeys(names, SHAPE)), Pair(BASE, SEEDS[0])
    register(current, pair, alignment)
    random = np.random.default_rng(0)
    before = random.normal(0, 0.02, SHAPE).astype(np.float32)
    landing = []
    for position, entry in enumerate(alignment.pairs):
        after = before.copy()
        after.reshape(-1)[: 1 + position % 20] += np.float32(0.001)
        landing.append(current.store.put(pair.key, entry.name, tally_of(before, after)))
        landing.append(current.store.put(pair.key, entry.name, spectrum_of(after - before)))
    for future in landing:
        future.result()
    return pair


def test_the_heatmap_has_a_row_for_all_experts_and_is_small_to_send(mixture: Pair):
    view = view_of("layers", mixture.base, mixture.tuned)
    assert views.grid(view).modules == ("self_attn.q_proj", "mlp.experts.*.up_proj", "mlp.experts.*.down_proj")
    assert len(json.dumps(views.layers(view).to_plotly_json(), default=str)) < 50_000
    app = opened(view)
    assert not app.exception
    assert not app.error


@pytest.mark.parametrize("metric", ["unchanged-mukherjee", "relative-update", "effective-rank", "energy-above-noise"])
def test_what_is_read_a_part_at_a_time_says_what_one_whole_reading_says(
    mixture: Pair, metric: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cache.store._AT_A_TIME", 1000)
    store = instance.current().store
    whole = grid(store.alignment(mixture.key), CATALOG[metric], store.tallies(mixture.key), store.spectra(mixture.key))
    found = lookups.grid(mixture.key, metric, "1e-05")
    np.testing.assert_array_equal(found.values, whole.values)
    np.testing.assert_array_equal(found.states, whole.states)
    rows = list(lookups.tensor_rows(mixture.key))
    assert [row["name"] for row in rows] == [pair.name for pair in store.alignment(mixture.key).pairs]
    assert all(row["effective_rank"] >= 1 for row in rows)


def test_lists_to_choose_from_name_one_expert_a_layer_and_any_other_is_a_choice_away(mixture: Pair):
    app = opened(view_of("spectra", mixture.base, mixture.tuned))
    assert not app.exception
    [matrices] = [box for box in app.multiselect if box.label == "Matrices"]
    assert len(matrices.options) == 3 * LAYERS
    app = opened(view_of("matrix", mixture.base, mixture.tuned, name=expert(2, 217)))
    assert not app.exception
    assert "experts\\.217\\." in texts(app)
    [experts] = [box for box in app.selectbox if box.label == "Expert"]
    assert (experts.value, len(experts.options)) == ("expert 217", EXPERTS)
