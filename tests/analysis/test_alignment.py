"""Which tensor is compared with which: one case a rule, and the cases where a rule must keep its hands off."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.alignment import align
from analysis.errors import BadWeights
from analysis.tensors import Alignment, TensorInfo


def info(name: str, *shape: int, dtype: str = "BF16") -> TensorInfo:
    entries = 1
    for side in shape:
        entries *= side
    return TensorInfo(name, dtype, shape, "model.safetensors", 100, 100 + 2 * entries)


def pairs(found: Alignment) -> dict[str, tuple[str, str]]:
    """By the pair's name: both tensors as 'name' or 'name[first byte:last byte]', counted from the tensor's start."""
    return {pair.name: (_shown(pair.base), _shown(pair.tuned)) for pair in found.pairs}


def matches(found: Alignment) -> set[str]:
    return {pair.match for pair in found.pairs}


def listed(found: Alignment) -> dict[tuple[str, str], str]:
    return {(entry.name, entry.side): entry.reason for entry in found.not_compared}


def _shown(tensor: TensorInfo) -> str:
    return tensor.name if tensor.stored is None else f"{tensor.name}[{tensor.begin - 100}:{tensor.end - 100}]"


# Wrappers around names


@pytest.mark.parametrize(
    ("base", "tuned"),
    [
        ("model.layers.0.mlp.up_proj.weight", "module.model.layers.0.mlp.up_proj.weight"),
        ("model.layers.0.mlp.up_proj.weight", "_orig_mod.model.layers.0.mlp.up_proj.weight"),
        ("model.layers.0.mlp.up_proj.weight", "model.layers.0._orig_mod.mlp.up_proj.weight"),
        ("model.layers.0.mlp.up_proj.weight", "_fsdp_wrapped_module.model.layers.0.mlp.up_proj.weight"),
        ("model.layers.0.mlp.up_proj.weight", "model.language_model.layers.0.mlp.up_proj.weight"),
        ("model.layers.0.mlp.up_proj.weight", "language_model.model.layers.0.mlp.up_proj.weight"),
        ("model.layers.0.mlp.up_proj.weight", "base_model.model.model.layers.0.mlp.up_proj.base_layer.weight"),
        ("model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.weight"),
        ("lm_head.weight", "language_model.lm_head.weight"),
        ("transformer.h.0.mlp.c_fc.weight", "h.0.mlp.c_fc.weight"),
        ("bert.encoder.layer.0.output.dense.weight", "encoder.layer.0.output.dense.weight"),
        ("visual.blocks.0.attn.qkv.weight", "model.visual.blocks.0.attn.qkv.weight"),
    ],
)
def test_names_that_differ_by_a_wrapper_belong_together(base: str, tuned: str):
    for before, after in ((base, tuned), (tuned, base)):
        found = align([info(before, 4, 2)], [info(after, 4, 2)])
        assert pairs(found) == {before: (before, after)}
        assert matches(found) == {"renamed"}
        assert not found.not_compared


def test_the_same_name_goes_before_a_name_without_its_wrapper():
    found = align([info("layers.0.w", 2, 2)], [info("module.layers.0.w", 2, 2), info("layers.0.w", 2, 2)])
    assert pairs(found) == {"layers.0.w": ("layers.0.w", "layers.0.w")}
    assert listed(found) == {("module.layers.0.w", "tuned"): "only the tuned model has it"}


def test_two_that_could_be_meant_are_both_left_out():
    found = align([info("layers.0.w", 2, 2)], [info("module.layers.0.w", 2, 2), info("model.layers.0.w", 2, 2)])
    reason = "only the tuned model has it; without wrappers' prefixes its name is not the only one of its kind"
    reason = "only the tuned model has it; without wrappers' prefixes its name is not the only one of its kind"
    assert not found.pairs
    assert listed(found) == {
        ("layers.0.w", "base"): "only the base has it",
        ("model.layers.0.w", "tuned"): reason,
        ("module.layers.0.w", "tuned"): reason,
    }


def test_another_shape_is_not_matched_by_rule():
    found = align([info("layers.0.w", 2, 2)], [info("module.layers.0.w", 2, 3)])
    assert not found.pairs
    assert listed(found) == {
        ("layers.0.w", "both"): "shapes differ: base [2, 2], tuned [2, 3]; the tuned model calls it 'module.layers.0.w'"
    }


# Vocabularies and tied heads


def test_common_rows_of_a_grown_vocabulary_are_compared_and_the_new_ones_listed():
    base = [info("model.embed_tokens.weight", 8, 2), info("lm_head.weight", 8, 2)]
    tuned = [info("model.embed_tokens.weight", 11, 2), info("lm_head.weight", 11, 2)]

    found = align(base, tuned)

    assert pairs(found)["lm_head.weight"] == ("lm_head.weight", "lm_head.weight[0:32]")
    assert matches(found) == {"rows"}
    assert {pair.shape for pair in found.pairs} == {(8, 2)}
    assert listed(found) == {
        ("model.embed_tokens.weight[8:11]", "tuned"): "new rows: the base has 8",
        ("lm_head.weight[8:11]", "tuned"): "new rows: the base has 8",
    }
    assert [entry.parameters for entry in found.not_compared] == [6, 6]
    assert (found.covered("base"), found.base_parameters) == ({"rows": 32}, 32)
    assert (found.covered("tuned"), found.tuned_parameters) == ({"rows": 32}, 44)


def test_a_vocabulary_that_shrank_and_a_wrapper_at_once():
    found = align([info("transformer.wte.weight", 8, 2)], [info("wte.weight", 6, 2)])
    assert pairs(found) == {"transformer.wte.weight": ("transformer.wte.weight[0:24]", "wte.weight")}
    assert matches(found) == {"rows"}
    assert listed(found) == {("transformer.wte.weight[6:8]", "base"): "rows that only the base has, beyond 6"}


@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.weight", "score.weight", "visual.patch_embed.proj.bias"])
def test_rows_of_other_tensors_have_no_order_to_go_by(name: str):
    found = align([info(name, 8, 2)], [info(name, 9, 2)])
    assert listed(found) == {(name, "both"): "shapes differ: base [8, 2], tuned [9, 2]"}


def test_a_written_out_head_is_compared_with_the_embedding_it_was_tied_to():
    embedding, head = info("model.embed_tokens.weight", 8, 2), info("lm_head.weight", 8, 2)

    found = align([embedding], [embedding, head])

    assert pairs(found)["lm_head.weight"] == ("model.embed_tokens.weight", "lm_head.weight")
    assert [pair.match for pair in found.pairs] == ["exact", "tied"]
    assert found.covered("base") == {"exact": 16}  # the embedding counts once
    assert found.covered("tuned") == {"exact": 16, "tied": 16}
    other_way = align([embedding, head], [embedding])
    assert pairs(other_way)["lm_head.weight"] == ("lm_head.weight", "model.embed_tokens.weight")


def test_a_file_that_kept_only_the_tied_head():
    found = align([info("model.embed_tokens.weight", 8, 2)], [info("lm_head.weight", 9, 2)])
    assert pairs(found) == {"lm_head.weight": ("model.embed_tokens.weight", "lm_head.weight[0:32]")}
    assert matches(found) == {"tied"}
    assert listed(found) == {("lm_head.weight[8:9]", "tuned"): "new rows: the base has 8"}


def test_a_head_that_the_config_says_is_missing_is_listed():
    embedding, head = info("wte.weight", 8, 2), info("lm_head.weight", 8, 2)
    found = align([embedding, head], [embedding], tuned_tied=False)
    reason = "only the base has it, and the other's config says that its head is not its embedding"
    assert [pair.name for pair in found.pairs] == ["wte.weight"]
    assert listed(found) == {("lm_head.weight", "base"): reason}


# Experts


def experts(n: int, name: str, *shape: int) -> list[TensorInfo]:
    return [info(name.replace("*", str(expert)), *shape) for expert in range(n)]


def test_each_expert_of_a_stack_is_a_matrix():
    stack = info("model.layers.1.mlp.experts.down_proj", 3, 4, 2)
    found = align([stack], [stack])
    assert pairs(found)["model.layers.1.mlp.experts.down_proj[2]"] == (
        "model.layers.1.mlp.experts.down_proj[32:48]", "model.layers.1.mlp.experts.down_proj[32:48]"
    )  # fmt: skip
    assert [(pair.place.layer, pair.place.expert, pair.shape, pair.match) for pair in found.pairs] == [
        (1, expert, (4, 2), "exact") for expert in range(3)
    ]
    assert {(pair.place.module, pair.place.block) for pair in found.pairs} == {("mlp.experts.*.down_proj", "mlp")}
    assert found.covered("base") == {"exact": 24}


def test_a_stack_against_a_tensor_an_expert():
    stack = info("model.layers.0.mlp.experts.down_proj", 3, 4, 2)
    single = experts(3, "model.layers.0.mlp.experts.*.down_proj.weight", 4, 2)

    for base, tuned, name in (
        ([stack], single, "model.layers.0.mlp.experts.down_proj[1]"),
        (single, [stack], "model.layers.0.mlp.experts.1.down_proj.weight"),
    ):
        found = align(base, tuned)
        assert matches(found) == {"experts"}
        assert not found.not_compared
        [second] = [pair for pair in found.pairs if pair.place.expert == 1]
        assert second.name == name
        assert second.place.module == "mlp.experts.*.down_proj"


def test_fused_experts_against_mixtrals_tensors():
    base = [
        *experts(2, "model.layers.0.block_sparse_moe.experts.*.w1.weight", 3, 2),
        *experts(2, "model.layers.0.block_sparse_moe.experts.*.w2.weight", 2, 3),
        *experts(2, "model.layers.0.block_sparse_moe.experts.*.w3.weight", 3, 2),
        info("model.layers.0.block_sparse_moe.gate.weight", 2, 2),
    ]
    tuned = [info("model.layers.0.mlp.experts.gate_up_proj", 2, 6, 2), info("model.layers.0.mlp.gate.weight", 2, 2),
             info("model.layers.0.mlp.experts.down_proj", 2, 2, 3)]  # fmt: skip

    found = align(base, tuned)

    assert not found.not_compared
    assert len(found.pairs) == 7
    name = "model.layers.0.block_sparse_moe.experts.1.{}.weight"
    stack = "model.layers.0.mlp.experts.gate_up_proj"
    assert pairs(found)[name.format("w1")] == (name.format("w1"), f"{stack}[24:36]")
    assert pairs(found)[name.format("w3")] == (name.format("w3"), f"{stack}[36:48]")
    assert pairs(found)[name.format("w2")][1] == "model.layers.0.mlp.experts.down_proj[12:24]"


def test_a_square_stack_is_matched_only_where_its_neighbour_says_which_way_round():
    single = [
        *experts(2, "layers.0.mlp.experts.*.gate_proj.weight", 2, 4),
        *experts(2, "layers.0.mlp.experts.*.up_proj.weight", 2, 4),
        *experts(2, "layers.0.mlp.experts.*.down_proj.weight", 4, 2),
    ]
    square = info("layers.0.mlp.experts.gate_up_proj", 2, 4, 4)  # 2 x 2 rows, 4 columns: or transposed

    upright = align(single, [square, info("layers.0.mlp.experts.down_proj", 2, 4, 2)])
    assert len(upright.pairs) == 6
    assert not upright.not_compared

    lying = align(single, [square, info("layers.0.mlp.experts.down_proj", 2, 2, 4)])
    assert not lying.pairs
    assert set(listed(lying)) == {
        *((f"layers.0.mlp.experts.{e}.{part}_proj.weight", "base") for e in range(2) for part in ("gate", "up")),
        *((f"layers.0.mlp.experts.{e}.down_proj.weight", "both") for e in range(2)),
        ("layers.0.mlp.experts.gate_up_proj", "tuned"),
    }


def test_a_three_dimensional_tensor_that_is_no_stack_stays_whole():
    convolution = info("backbone.layers.0.mixer.conv1d.weight", 8, 1, 4)
    assert [pair.shape for pair in align([convolution], [convolution]).pairs] == [(8, 1, 4)]


# Fused projections


@pytest.mark.parametrize(
    ("fused", "parts"),
    [
        (("self_attn.qkv_proj.weight", 8, 4), {"q_proj": (4, 4), "k_proj": (2, 4), "v_proj": (2, 4)}),
        (("self_attn.qkv_proj.bias", 8), {"q_proj": (4,), "k_proj": (2,), "v_proj": (2,)}),
        (("self_attn.W_pack.weight", 12, 4), {"q_proj": (4, 4), "k_proj": (4, 4), "v_proj": (4, 4)}),
        (("mlp.gate_up_proj.weight", 6, 4), {"gate_proj": (3, 4), "up_proj": (3, 4)}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_fused_projection_against_its_parts(fused, parts):
    name, *shape = fused
    block, _, kind = name.split(".")
    whole = info(f"model.layers.0.{name}", *shape)
    split = [info(f"model.layers.0.{block}.{part}.{kind}", *of) for part, of in parts.items()]

    for base, tuned in (([whole], split), (split, [whole])):
        found = align(base, tuned)
        assert matches(found) == {"fused"}
        assert not found.not_compared
        assert {pair.name: pair.shape for pair in found.pairs} == {part.name: part.shape for part in split}
        assert found.covered("base") == found.covered("tuned") == {"fused": whole.parameters}
        views = [pair.base if base == [whole] else pair.tuned for pair in found.pairs]
        assert [view.begin for view in views] == [100, *(view.end for view in views[:-1])]
        assert views[-1].end == whole.end


def test_parts_that_do_not_add_up_to_the_fused_one_are_listed():
    whole = info("layers.0.self_attn.qkv_proj.weight", 12, 4)
    split = [info(f"layers.0.self_attn.{part}_proj.weight", 2, 4) for part in "qkv"]
    found = align([whole], split)
    assert not found.pairs
    one = "only the base has it in one tensor, and the other's do not have its shape one below the other"
    several = (
        f"only the tuned model has it as a tensor of its own: '{whole.name}' does not hold it in rows of this shape"
    )
    assert listed(found) == {(whole.name, "base"): one, **{(part.name, "tuned"): several for part in split}}


# Buffers


@pytest.mark.parametrize(
    "buffer",
    [
        info("model.layers.0.self_attn.rotary_emb.inv_freq", 8, dtype="F32"),
        info("bert.embeddings.position_ids", 1, 512, dtype="I64"),
        info("transformer.h.0.attn.bias", 1, 1, 16, 16, dtype="F32"),
        info("gpt_neox.layers.0.attention.bias", 1, 1, 16, 16, dtype="BOOL"),
        info("gpt_neox.layers.0.attention.masked_bias", dtype="F16"),
        info("norm.num_batches_tracked", dtype="I64"),
    ],
    ids=lambda tensor: tensor.name,
)
def test_buffers_are_listed_and_are_no_parameters(buffer: TensorInfo):
    weight = info("w", 2, 2)
    both, one = align([buffer, weight], [buffer, weight]), align([weight], [buffer, weight])
    assert listed(both) == {(buffer.name, "both"): "a buffer, not a parameter"}
    assert listed(one) == {(buffer.name, "tuned"): "a buffer, not a parameter"}
    assert (both.base_parameters, both.tuned_parameters, one.tuned_parameters) == (4, 4, 4)


def test_an_attention_bias_that_is_a_vector_is_a_parameter():
    bias = info("h.0.attn.bias", 8)
    assert [pair.name for pair in align([bias], [bias]).pairs] == ["h.0.attn.bias"]


# Whatever the names


def test_a_stack_of_more_experts_than_a_model_can_have_is_refused():
    stack = [info("model.layers.0.mlp.experts.down_proj", 300_001, 1, 1)]
    with pytest.raises(BadWeights, match="stacks of experts hold 300,001 matrices"):
        align(stack, stack)
    assert not align([info("experts.w", 300_001, 0, 1)], [info("experts.w", 300_001, 0, 1)]).pairs


def test_a_name_made_to_clash_with_an_expert_s_gets_another():
    tensors = [info("mlp.experts.down_proj", 2, 4, 2), info("mlp.experts.down_proj[1]", 3)]
    assert {pair.name: pair.shape for pair in align(tensors, tensors).pairs} == {
        "mlp.experts.down_proj[0]": (4, 2),
        "mlp.experts.down_proj[1]": (4, 2),
        "mlp.experts.down_proj[1]'": (3,),
    }


NAMES = [
    "embed_tokens.weight", "wte.weight", "lm_head.weight", "output.weight", "layers.0.self_attn.q_proj.weight",
    "layers.0.self_attn.k_proj.weight", "layers.0.self_attn.v_proj.weight", "layers.0.self_attn.qkv_proj.weight",
    "layers.0.mlp.gate_proj.weight", "layers.0.mlp.up_proj.weight", "layers.0.mlp.gate_up_proj.weight",
    "layers.0.mlp.experts.0.gate_proj.weight", "layers.0.mlp.experts.0.up_proj.weight",
    "layers.0.mlp.experts.1.gate_proj.weight", "layers.0.mlp.experts.1.up_proj.weight",
    "layers.0.mlp.experts.gate_proj", "layers.0.mlp.experts.gate_up_proj",
    "layers.0.mlp.experts.0.down_proj.weight", "layers.0.mlp.experts.down_proj",
    "layers.0.mlp.experts.down_proj[0]", "layers.0.block_sparse_moe.experts.0.w1.weight", "position_ids", "",
]  # fmt: skip
models = st.dictionaries(
    st.builds(str.__add__, st.sampled_from(["", "model.", "module.", "language_model.model."]), st.sampled_from(NAMES)),
    st.tuples(
        st.lists(st.integers(0, 4), max_size=3).map(tuple) | st.sampled_from([(2, 2), (4, 2), (2, 4, 2), (6, 2)]),
        st.sampled_from(["BF16", "BF16", "BF16", "F32", "I8", "I64"]),
    ),
    max_size=20,
).map(lambda shapes: [info(name, *shape, dtype=dtype) for name, (shape, dtype) in shapes.items()])


@settings(max_examples=400, deadline=None)
@given(models, models, st.sampled_from([None, True, False]))
def test_nothing_is_lost_or_counted_twice(base: list[TensorInfo], tuned: list[TensorInfo], tied: bool | None):
    found = align(base, tuned, base_tied=tied)

    names = [pair.name for pair in found.pairs]
    assert len(set(names)) == len(names), "a pair's name is its key in the store"
    assert all(pair.base.shape == pair.tuned.shape and pair.entries for pair in found.pairs)
    left_out = [one for one in found.not_compared if one.reason != "a buffer, not a parameter"]
    listed = sum(one.parameters for one in left_out if one.side in ("base", "both"))
    assert sum(found.covered("base").values()) + listed == found.base_parameters
    for side, tensors in (("base", base), ("tuned", tuned)):
        mentioned = [getattr(pair, side).name for pair in found.pairs] + [one.name for one in found.not_compared]
        mentioned += [one.reason for one in found.not_compared]
        for tensor in tensors:
            assert any(tensor.name in text for text in mentioned), tensor.name
