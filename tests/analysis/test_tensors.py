"""Which tensor is which: places read off names, and an alignment that loses nothing."""

from __future__ import annotations

import pytest

from analysis.alignment import align
from analysis.places import place_of
from analysis.tensors import Place, TensorInfo

FAMILIES = {
    "llama, mistral, qwen2": [
        ("model.embed_tokens.weight", Place(None, "embedding", "model.embed_tokens")),
        ("model.layers.17.self_attn.q_proj.weight", Place(17, "attention", "self_attn.q_proj")),
        ("model.layers.17.self_attn.q_proj.bias", Place(17, "attention", "self_attn.q_proj.bias")),
        ("model.layers.0.mlp.down_proj.weight", Place(0, "mlp", "mlp.down_proj")),
        ("model.layers.3.input_layernorm.weight", Place(3, "norm", "input_layernorm")),
        ("model.norm.weight", Place(None, "norm", "model.norm")),
        ("lm_head.weight", Place(None, "head", "lm_head")),
    ],
    "mixtral": [
        ("model.layers.1.block_sparse_moe.experts.7.w1.weight", Place(1, "mlp", "block_sparse_moe.experts.*.w1", 7)),
        ("model.layers.1.block_sparse_moe.gate.weight", Place(1, "router", "block_sparse_moe.gate")),
    ],
    "qwen2-moe, qwen3, qwen3-moe": [
        ("model.layers.3.self_attn.q_norm.weight", Place(3, "norm", "self_attn.q_norm")),
        ("model.layers.5.mlp.experts.63.up_proj.weight", Place(5, "mlp", "mlp.experts.*.up_proj", 63)),
        ("model.layers.5.mlp.experts.gate_up_proj[63]", Place(5, "mlp", "mlp.experts.*.gate_up_proj", 63)),
        ("model.layers.5.mlp.gate.weight", Place(5, "router", "mlp.gate")),
        ("model.layers.5.mlp.shared_expert.up_proj.weight", Place(5, "mlp", "mlp.shared_expert.up_proj")),
        ("model.layers.5.mlp.shared_expert_gate.weight", Place(5, "router", "mlp.shared_expert_gate")),
    ],
    "gemma 2 and 3": [
        ("model.layers.0.pre_feedforward_layernorm.weight", Place(0, "norm", "pre_feedforward_layernorm")),
        ("language_model.model.layers.4.self_attn.k_norm.weight", Place(4, "norm", "self_attn.k_norm")),
        ("language_model.model.embed_tokens.weight", Place(None, "embedding", "language_model.model.embed_tokens")),
        ("multi_modal_projector.mm_input_projection_weight",
         Place(None, "other", "multi_modal_projector.mm_input_projection_weight")),
    ],
    "phi": [
        ("model.layers.2.self_attn.dense.weight", Place(2, "attention", "self_attn.dense")),
        ("model.layers.2.mlp.fc1.bias", Place(2, "mlp", "mlp.fc1.bias")),
        ("model.layers.2.self_attn.qkv_proj.weight", Place(2, "attention", "self_attn.qkv_proj")),
        ("model.layers.2.mlp.gate_up_proj.weight", Place(2, "mlp", "mlp.gate_up_proj")),
        ("model.final_layernorm.weight", Place(None, "norm", "model.final_layernorm")),
    ],
    "deepseek-v2 and v3": [
        ("model.layers.60.self_attn.kv_a_proj_with_mqa.weight", Place(60, "attention", "self_attn.kv_a_proj_with_mqa")),
        ("model.layers.60.self_attn.q_a_layernorm.weight", Place(60, "norm", "self_attn.q_a_layernorm")),
        ("model.layers.60.mlp.experts.255.gate_proj.weight", Place(60, "mlp", "mlp.experts.*.gate_proj", 255)),
        ("model.layers.60.mlp.shared_experts.gate_proj.weight", Place(60, "mlp", "mlp.shared_experts.gate_proj")),
        ("model.layers.60.mlp.gate.e_score_correction_bias", Place(60, "router", "mlp.gate.e_score_correction_bias")),
        ("model.layers.61.shared_head.head.weight", Place(61, "head", "shared_head.head")),
        ("model.layers.61.eh_proj.weight", Place(61, "other", "eh_proj")),
        ("model.layers.61.enorm.weight", Place(61, "norm", "enorm")),
    ],
    "gpt-oss": [
        ("model.layers.2.mlp.experts.gate_up_proj[31]", Place(2, "mlp", "mlp.experts.*.gate_up_proj", 31)),
        ("model.layers.2.mlp.experts.gate_up_proj_bias", Place(2, "mlp", "mlp.experts.gate_up_proj_bias")),
        ("model.layers.2.mlp.router.weight", Place(2, "router", "mlp.router")),
        ("model.layers.2.self_attn.sinks", Place(2, "attention", "self_attn.sinks")),
    ],
    "gpt-neox": [
        ("gpt_neox.embed_in.weight", Place(None, "embedding", "gpt_neox.embed_in")),
        ("gpt_neox.layers.2.attention.query_key_value.weight", Place(2, "attention", "attention.query_key_value")),
        ("gpt_neox.layers.2.mlp.dense_4h_to_h.weight", Place(2, "mlp", "mlp.dense_4h_to_h")),
        ("gpt_neox.final_layer_norm.weight", Place(None, "norm", "gpt_neox.final_layer_norm")),
        ("embed_out.weight", Place(None, "head", "embed_out")),
    ],
    "gpt-2": [
        ("transformer.wpe.weight", Place(None, "embedding", "transformer.wpe")),
        ("transformer.h.11.attn.c_attn.weight", Place(11, "attention", "attn.c_attn")),
        ("transformer.h.11.mlp.c_fc.weight", Place(11, "mlp", "mlp.c_fc")),
        ("h.11.ln_1.weight", Place(11, "norm", "ln_1")),
        ("transformer.ln_f.weight", Place(None, "norm", "transformer.ln_f")),
    ],
    "bert-like": [
        ("bert.embeddings.word_embeddings.weight", Place(None, "embedding", "bert.embeddings.word_embeddings")),
        ("bert.encoder.layer.4.attention.self.key.weight", Place(4, "attention", "attention.self.key")),
        ("roberta.encoder.layer.4.attention.output.LayerNorm.weight", Place(4, "norm", "attention.output.LayerNorm")),
        ("encoder.layer.4.intermediate.dense.weight", Place(4, "mlp", "intermediate.dense")),
        ("bert.encoder.layer.4.output.dense.weight", Place(4, "mlp", "output.dense")),
        ("cls.predictions.decoder.weight", Place(None, "head", "cls.predictions.decoder")),
    ],
    "vision-language wrappers": [
        ("model.language_model.layers.9.mlp.up_proj.weight", Place(9, "mlp", "mlp.up_proj")),
        ("visual.blocks.3.attn.proj.weight", Place(3, "attention", "visual.blocks.attn.proj")),
        ("model.visual.blocks.3.attn.qkv.weight", Place(3, "attention", "model.visual.blocks.attn.qkv")),
        ("vision_tower.vision_model.encoder.layers.5.mlp.fc1.weight",
         Place(5, "mlp", "vision_tower.vision_model.encoder.layers.mlp.fc1")),
        ("model.vision_tower.patch_embed.proj.weight", Place(None, "embedding", "model.vision_tower.patch_embed.proj")),
    ],
    "llama 4": [
        ("language_model.model.layers.1.feed_forward.experts.down_proj[2]",
         Place(1, "mlp", "feed_forward.experts.*.down_proj", 2)),
        ("language_model.model.layers.1.feed_forward.router.weight", Place(1, "router", "feed_forward.router")),
    ],
    "training wrappers": [
        ("module.model.layers.7.mlp.up_proj.weight", Place(7, "mlp", "mlp.up_proj")),
        ("base_model.model.model.layers.7.mlp.up_proj.weight", Place(7, "mlp", "mlp.up_proj")),
    ],
    "families no rule knows": [
        ("alignn_layers.2.node_update.weight", Place(2, "other", "alignn_layers.node_update")),
        ("decoder.block.0.layer.1.DenseReluDense.wi.weight",
         Place(0, "other", "decoder.block.layer.1.DenseReluDense.wi")),
        ("backbone.layers.6.mixer.in_proj.weight", Place(6, "other", "backbone.layers.mixer.in_proj")),
        ("something.else", Place(None, "other", "something.else")),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "place"),
    [pytest.param(*row, id=f"{family}: {row[0]}") for family, rows in FAMILIES.items() for row in rows],
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
