"""Heads and neurons: read off real configs' sizes, believed only where the shape agrees, counted on a matrix one can
see."""

import numpy as np
import pytest

from analysis.heads import heads_of, names_of_lines
from analysis.lines import head_grid, head_rows, line_rows, modules_with_heads
from analysis.places import place_of
from analysis.rollup import Cell
from tests.analysis.by_hand import small_model

GROUPED = {"hidden_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2}
GPT2 = {"model_type": "gpt2", "n_embd": 8, "n_head": 4}
NEOX = {"model_type": "gpt_neox", "hidden_size": 8, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("module", "shape", "config", "along", "titles", "groups"),
    [
        ("self_attn.q_proj", (8, 8), GROUPED, "row", "query 0 1 2 3", [0, 0, 1, 1]),
        ("self_attn.k_proj", (4, 8), GROUPED, "row", "key 0 1", [0, 1]),
        ("self_attn.o_proj", (6, 8), GROUPED, "column", "output 0 1 2 3", [0, 0, 1, 1]),
        ("self_attn.q_proj.bias", (8,), GROUPED, "column", "query 0 1 2 3", [0, 0, 1, 1]),
        ("self_attn.qkv_proj", (16, 8), GROUPED, "row", "query 0 1 2 3 key 0 1 value 0 1", [0, 0, 1, 1, 0, 1, 0, 1]),
        ("self_attn.q_proj", (8, 8), {"hidden_size": 8, "num_attention_heads": 2}, "row", "query 0 1", [0, 1]),
        ("attn.c_attn", (8, 24), GPT2, "column", None, None),
        ("attn.c_proj", (8, 8), GPT2, "row", "output 0 1 2 3", [0, 1, 2, 3]),
        ("attention.query_key_value", (24, 8), NEOX, "row", "q, k, v of 0 1 2 3", [0, 1, 2, 3]),
        ("attention.self.key", (8, 8), {"hidden_size": 8, "num_attention_heads": 1}, "row", "key 0", [0]),
        ("attention.output.dense", (8, 4), GROUPED | {"head_dim": 1}, "column", "output 0 1 2 3", [0, 0, 1, 1]),
    ],
)
def test_heads_are_where_the_config_and_the_shape_put_them(module, shape, config, along, titles, groups):
    found = heads_of(module, shape, config)
    assert found is not None
    assert found.along == along
    assert found.heads[-1].last == shape[0 if along == "row" else -1]
    assert all(before.last == after.first for before, after in zip(found.heads, found.heads[1:], strict=False))
    if titles:
        kinds = dict.fromkeys(head.kind for head in found.heads)
        told = [f"{kind} {' '.join(str(h.number) for h in found.heads if h.kind == kind)}" for kind in kinds]
        assert (" ".join(told), [head.group for head in found.heads]) == (titles, groups)


@pytest.mark.parametrize(
    ("module", "shape", "config"),
    [
        ("self_attn.q_proj", (16, 8), GROUPED),  # a gate beside each query: twice the rows
        ("self_attn.q_proj", (8, 8), {}),
        ("self_attn.q_proj", (8, 8), {"num_attention_heads": 4}),
        ("self_attn.q_proj", (8, 8), GROUPED | {"num_key_value_heads": 3}),
        ("self_attn.q_proj", (8, 8), {"num_attention_heads": True, "hidden_size": 8}),
        ("self_attn.q_b_proj", (8, 8), GROUPED),
        ("vision_tower.layers.self_attn.q_proj", (8, 8), GROUPED),
        ("self_attn.o_proj.bias", (8,), GROUPED),
        ("mlp.q_proj", (8, 8), GROUPED),
        ("attn.c_attn", (8, 24), {"n_embd": 8, "n_head": 4}),
        ("attention.query_key_value", (24, 8), GROUPED | {"num_key_value_heads": 4, "model_type": "falcon"}),
        ("attn.qkv_proj", (24, 8), {"model_type": "codegen", "n_embd": 8, "n_head": 4}),
    ],
)
def test_heads_are_never_guessed(module, shape, config):
    assert heads_of(module, shape, config) is None


@pytest.mark.parametrize(
    ("name", "config", "names"),
    [
        ("model.layers.0.mlp.gate_proj.weight", {}, ("neuron", "column")),
        ("model.layers.0.mlp.down_proj.weight", {}, ("row", "neuron")),
        ("model.layers.0.mlp.experts.7.up_proj.weight", {}, ("neuron", "column")),
        ("h.0.mlp.c_fc.weight", GPT2, ("row", "neuron")),
        ("h.0.mlp.c_proj.weight", GPT2, ("neuron", "column")),
        ("h.0.attn.c_proj.weight", GPT2, ("row", "column")),
        ("model.embed_tokens.weight", {}, ("token", "column")),
        ("model.layers.0.self_attn.q_proj.weight", {}, ("row", "column")),
    ],
)
def test_lines_are_called_what_they_are(name, config, names):
    assert names_of_lines(place_of(name), config) == names


def test_the_most_changed_heads_stand_beside_the_matrix():
    heads = heads_of("self_attn.q_proj", (8, 4), GROUPED)
    rows = head_rows(heads, np.array([0, 0, 4, 2, 1, 1, 0, 0]), 4)
    assert [row["head"] for row in rows] == ["query head 1", "query head 2", "query head 0", "query head 3"]
    assert rows[0] == {
        "head": "query head 1",
        "key-value head": 0,
        "rows": "2 to 3",
        "changed": 6,
        "entries": 8,
        "changed share": 0.75,
        "relative to matrix": 3.0,
    }


def test_the_most_changed_lines_come_first_with_their_head():
    heads = heads_of("self_attn.k_proj", (4, 8), GROUPED)
    rows = line_rows(np.array([0, 2, 8, 2]), 8, "row", heads)
    assert [(row["row"], row["head"]) for row in rows] == [
        (2, "key head 1"),
        (1, "key head 0"),
        (3, "key head 1"),
        (0, "key head 0"),
    ]
    assert (rows[0]["changed share"], rows[0]["relative to matrix"]) == (1.0, pytest.approx(32 / 12))


def test_heads_over_layers_wait_for_what_is_not_measured():
    alignment, config = small_model(2), {"hidden_size": 16, "num_attention_heads": 2}
    module = "self_attn.q_proj"
    assert modules_with_heads(alignment, config) == {module: "row"}
    changes = {"model.layers.1.self_attn.q_proj.weight": np.array([16] * 8 + [4] * 8)}
    grid = head_grid(alignment, module, config, changes)
    assert grid.modules == ("query head 0", "query head 1")
    assert grid.layers == (0, 1)
    assert grid.values[:, 1].tolist() == [0.0, 0.75], "unchanged, as in the heatmap above it"
    assert grid.states.tolist() == [[Cell.WAITING, Cell.READY]] * 2
    assert grid.names[0][1] == ("model.layers.1.self_attn.q_proj.weight",)
