"""Which tensor is which: places read off names, and an alignment that loses nothing."""

from __future__ import annotations

import pytest

from analysis.alignment import align
from analysis.places import place_of
from analysis.tensors import Place, TensorInfo


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.embed_tokens.weight", Place(None, "embedding", "model.embed_tokens")),
        ("model.layers.17.self_attn.q_proj.weight", Place(17, "attention", "self_attn.q_proj")),
        ("model.layers.17.self_attn.q_proj.bias", Place(17, "attention", "self_attn.q_proj.bias")),
        ("model.layers.0.mlp.down_proj.weight", Place(0, "mlp", "mlp.down_proj")),
        ("model.layers.3.input_layernorm.weight", Place(3, "norm", "input_layernorm")),
        ("model.layers.3.self_attn.q_norm.weight", Place(3, "norm", "self_attn.q_norm")),
        ("model.layers.5.mlp.experts.63.up_proj.weight", Place(5, "mlp", "mlp.experts.*.up_proj", 63)),
        ("model.layers.5.mlp.gate.weight", Place(5, "router", "mlp.gate")),
        ("model.layers.1.block_sparse_moe.experts.7.w1.weight", Place(1, "mlp", "block_sparse_moe.experts.*.w1", 7)),
        ("transformer.h.11.attn.c_attn.weight", Place(11, "attention", "attn.c_attn")),
        ("transformer.h.11.mlp.c_fc.weight", Place(11, "mlp", "mlp.c_fc")),
        ("gpt_neox.layers.2.attention.query_key_value.weight", Place(2, "attention", "attention.query_key_value")),
        ("bert.encoder.layer.4.attention.self.key.weight", Place(4, "attention", "attention.self.key")),
        ("model.norm.weight", Place(None, "norm", "model.norm")),
        ("lm_head.weight", Place(None, "head", "lm_head")),
        ("alignn_layers.2.node_update.weight", Place(2, "other", "alignn_layers.node_update")),
        ("visual.blocks.3.attn.proj.weight", Place(3, "attention", "visual.blocks.attn.proj")),
        (
            "decoder.block.0.layer.1.DenseReluDense.wi.weight",
            Place(0, "other", "decoder.block.layer.1.DenseReluDense.wi"),
        ),
        ("something.else", Place(None, "other", "something.else")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_place_of_a_name(name: str, place: Place):
    assert place_of(name) == place


def info(name: str, *shape: int, dtype: str = "BF16") -> TensorInfo:
    return TensorInfo(name, dtype, shape, "model.safetensors", 0, 0)


def test_nothing_is_dropped():
    base = [info("same", 4, 4), info("grown", 8, 4), info("old", 3), info("codes", 2, dtype="I8"), info("none", 0, 4)]
    tuned = [info("same", 4, 4, dtype="F32"), info("grown", 9, 4), info("new", 5), info("codes", 2, dtype="I8"),
             info("none", 0, 4)]  # fmt: skip

    found = align(base, tuned)

    assert [pair.name for pair in found.pairs] == ["same"]
    assert {(entry.name, entry.side, entry.reason) for entry in found.not_compared} == {
        ("grown", "both", "shapes differ: base [8, 4], tuned [9, 4]"),
        ("old", "base", "only the base has it"),
        ("new", "tuned", "only the tuned model has it"),
        ("codes", "both", "values of type I8 are not compared"),
        ("none", "both", "no entries"),
    }
    assert (found.base_parameters, found.tuned_parameters, found.compared_parameters) == (53, 59, 16)


def test_pairs_come_in_reading_order():
    names = ["lm_head.weight", "model.layers.10.mlp.down_proj.weight", "model.layers.2.mlp.up_proj.weight",
             "model.layers.2.self_attn.o_proj.weight", "model.layers.2.self_attn.k_proj.weight", "model.norm.weight",
             "model.layers.2.self_attn.q_proj.weight", "model.embed_tokens.weight"]  # fmt: skip
    found = align([info(name, 2, 2) for name in names], [info(name, 2, 2) for name in reversed(names)])
    assert [pair.name for pair in found.pairs] == [
        "model.embed_tokens.weight",
        "model.layers.2.self_attn.q_proj.weight",
        "model.layers.2.self_attn.k_proj.weight",
        "model.layers.2.self_attn.o_proj.weight",
        "model.layers.2.mlp.up_proj.weight",
        "model.layers.10.mlp.down_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    ]
