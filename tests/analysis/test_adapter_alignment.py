"""Whose factors are whose, what multiplies them, and what is refused: configs and headers come from strangers."""

from __future__ import annotations

import json

import pytest

from analysis.adapter_alignment import align_adapter
from analysis.adapter_config import read_recipe
from analysis.errors import BadWeights, NoWeights, WeightsError
from analysis.tensors import TensorInfo
from cache import cards
from cache.backends.wire import from_line, to_line
from cache.store import Store
from tests.cache.samples import BASE_CARD, PAIR, TUNED_CARD

LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "fan_in_fan_out": False}
Q = "model.layers.0.self_attn.q_proj"


def tensor(name: str, *shape: int, dtype: str = "F32", file: str = "model.safetensors") -> TensorInfo:
    return TensorInfo(name, dtype, shape, file, 0, 4)


def factors(module: str = Q, *, rank: int = 2, inner: int = 6, outer: int = 4) -> list[TensorInfo]:
    start = f"base_model.model.{module}"
    return [tensor(f"{start}.lora_A.weight", rank, inner), tensor(f"{start}.lora_B.weight", outer, rank)]


BASE = [tensor(f"{Q}.weight", 4, 6), tensor("model.norm.weight", 6), tensor("model.embed_tokens.weight", 9, 6)]


def test_every_tensor_of_the_base_is_there_and_says_what_the_adapter_does_to_it():
    alignment = align_adapter(BASE, factors(), read_recipe(LORA))
    assert {pair.name: pair.match for pair in alignment.pairs} == {
        "model.embed_tokens.weight": "untouched", f"{Q}.weight": "adapter", "model.norm.weight": "untouched",
    }  # fmt: skip
    [merge] = [pair.merge for pair in alignment.pairs if pair.merge]
    assert (merge.kind, merge.rank, merge.alpha, merge.scaling, merge.transposed) == ("lora", 2, 4, 2.0, False)
    assert alignment.covered("base") == {"adapter": 24, "untouched": 60}
    assert alignment.covered("tuned") == {"adapter": 12 + 8}
    assert (alignment.base_parameters, alignment.tuned_parameters) == (84, 20)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param({}, 2.0, id="alpha over r"),
        pytest.param({"use_rslora": True}, 4 / 2**0.5, id="over its root"),
        pytest.param({"alpha_pattern": {"q_proj": 10}}, 5.0, id="by the module's name"),
        pytest.param({"alpha_pattern": {"proj": 10}}, 2.0, id="only at a dot"),
        pytest.param({"alpha_pattern": {r"layers\.\d+\.self_attn\.q_proj": 8, "q_proj": 10}}, 4.0, id="the first"),
        pytest.param({"alpha_pattern": {"^model.layers.0.*": 6}}, 3.0, id="from the beginning"),
        pytest.param({"new_switch": None, "another": False, "third": [], "fourth": {}}, 2.0, id="switched off"),
    ],
)
def test_what_multiplies(config: dict, expected: float):
    [merge] = [pair.merge for pair in align_adapter(BASE, factors(), read_recipe(LORA | config)).pairs if pair.merge]
    assert merge.scaling == pytest.approx(expected)


@pytest.mark.parametrize(
    ("of_base", "module"),
    [
        pytest.param(f"{Q}.weight", f"model.language_model.{Q.removeprefix('model.')}", id="a wrapper's prefix"),
        pytest.param("h.0.attn.c_attn.weight", "transformer.h.0.attn.c_attn", id="published without it"),
        pytest.param(f"{Q}.base_layer.weight", Q, id="saved while it was wrapped"),
    ],
)
def test_a_target_is_found_but_for_its_wrappers(of_base: str, module: str):
    [pair] = align_adapter([tensor(of_base, 4, 6)], factors(module), read_recipe(LORA)).pairs
    assert (pair.name, pair.match) == (of_base, "adapter")


def test_a_square_matrix_lies_as_the_others_do():
    base = [tensor("h.0.c_attn.weight", 6, 4), tensor("h.0.c_proj.weight", 4, 4)]
    own = factors("h.0.c_attn", inner=6, outer=4) + factors("h.0.c_proj", inner=4, outer=4)
    for said in (False, True):  # shapes are stronger than what the config says
        alignment = align_adapter(base, own, read_recipe(LORA | {"fan_in_fan_out": said}))
        assert [pair.merge.transposed for pair in alignment.pairs if pair.merge] == [True, True]
    [alone] = align_adapter(base[1:], own[2:], read_recipe(LORA | {"fan_in_fan_out": True})).pairs
    assert alone.merge
    assert alone.merge.transposed


def test_where_others_disagree_a_square_matrix_is_not_guessed():
    base = [tensor("a.weight", 6, 4), tensor("b.weight", 4, 6), tensor("c.weight", 4, 4)]
    own = factors("a") + factors("b") + factors("c", inner=4, outer=4)
    alignment = align_adapter(base, own, read_recipe(LORA))
    assert {pair.name for pair in alignment.pairs} == {"a.weight", "b.weight"}
    assert {entry.name: entry.side for entry in alignment.not_compared}["c.weight"] == "base"
    assert all("which way round" in entry.reason for entry in alignment.not_compared)


@pytest.mark.parametrize(
    ("own", "reason", "gone"),
    [
        pytest.param(factors("model.layers.7.mlp.up_proj"), "the base has no tensor", False, id="no such module"),
        pytest.param(factors(inner=5), "shapes differ: base [4, 6], adapter's product [4, 5]", True, id="other shape"),
        pytest.param(
            [tensor(f"base_model.model.{Q}.weight", 4, 7)], "shapes differ: base [4, 6]", True, id="whole, other shape"
        ),
        pytest.param(
            [tensor(f"base_model.model.{Q}.lora_{x}.weight", *shape, dtype="I8") for x, shape in
             (("A", (2, 6)), ("B", (4, 2)))], "type I8", True, id="eight bits",
        ),
        pytest.param(
            [tensor(f"base_model.model.{Q}.lora_{x}.weight", *shape) for x, shape in
             (("A", (2, 6, 3, 3)), ("B", (4, 2, 1, 1)))], "convolutions", True, id="a convolution",
        ),
        pytest.param(
            [tensor("base_model.model.score.weight", 2, 6)], "the base has no tensor", False, id="a new head",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_merged_is_listed_and_its_target_is_not_called_untouched(own, reason: str, gone: bool):
    alignment = align_adapter(BASE, own, read_recipe(LORA))
    listed = {entry.name: entry.reason for entry in alignment.not_compared}
    assert all(reason in listed[one.name] for one in own)
    assert (f"{Q}.weight" in listed) == gone
    assert (f"{Q}.weight" in {pair.name for pair in alignment.pairs}) != gone
    assert alignment.compared_of("tuned") == 0


def test_a_head_tied_to_the_embedding():
    head = [tensor("base_model.model.lm_head.weight", 9, 6)]
    own = align_adapter(BASE, head, read_recipe(LORA))
    found = {pair.name: (pair.base.name, pair.match) for pair in own.pairs}
    assert found["lm_head.weight"] == ("model.embed_tokens.weight", "adapter")
    assert found["model.embed_tokens.weight"] == ("model.embed_tokens.weight", "untouched")
    assert own.compared_of("base") == own.base_parameters
    merged = align_adapter(BASE, factors("lm_head", outer=9), read_recipe(LORA))
    assert {pair.name: pair.match for pair in merged.pairs}["model.embed_tokens.weight"] == "adapter"
    untied = align_adapter(BASE, head, read_recipe(LORA), base_tied=False)
    assert [entry.name for entry in untied.not_compared] == ["base_model.model.lm_head.weight"]


@pytest.mark.parametrize(
    ("config", "kind", "words"),
    [
        pytest.param({"peft_type": "OFT"}, NoWeights, "of the kind 'OFT'", id="OFT"),
        pytest.param({"peft_type": "VERA"}, NoWeights, "of the kind 'VERA'", id="VeRA"),
        pytest.param({"peft_type": ["LORA"]}, NoWeights, "of the kind", id="kind is a list"),
        pytest.param({"peft_type": None}, NoWeights, "of the kind 'None'", id="no kind"),
        pytest.param({"target_parameters": ["experts.down_proj"]}, NoWeights, "'target_parameters'", id="parameters"),
        pytest.param({"trainable_token_indices": [1, 2]}, NoWeights, "'trainable_token_indices'", id="tokens"),
        pytest.param({"layer_replication": [[0, 4], [2, 5]]}, NoWeights, "'layer_replication'", id="replicated layers"),
        pytest.param({"some_new_trick": 3}, NoWeights, "'some_new_trick'", id="unknown and on"),
        pytest.param({"init_lora_weights": "pissa"}, NoWeights, "'pissa', which changes the base's", id="pissa"),
        pytest.param({"init_lora_weights": 1}, NoWeights, "began as '1'", id="init is a number"),
        pytest.param({"alpha_pattern": {"(a+)+b": 1}}, NoWeights, "alpha_pattern", id="a regex without end"),
        pytest.param({"rank_pattern": {".*.*.*.*a": 1}}, NoWeights, "rank_pattern", id="a slow regex"),
        pytest.param({"rank_pattern": {"q" * 301: 1}}, NoWeights, "rank_pattern", id="a long regex"),
        pytest.param({"alpha_pattern": {"(": 1}}, BadWeights, "alpha_pattern", id="no regex"),
        pytest.param({"alpha_pattern": {"q_proj": "8"}}, BadWeights, "alpha_pattern", id="alpha is text"),
        pytest.param({"rank_pattern": {"q_proj": 0}}, BadWeights, "rank_pattern", id="rank 0 by pattern"),
        pytest.param({"rank_pattern": ["q_proj"]}, BadWeights, "rank_pattern", id="pattern is a list"),
        pytest.param({"r": 0}, BadWeights, "'r' in adapter_config.json is '0'", id="rank 0"),
        pytest.param({"r": -1}, BadWeights, "'r'", id="rank below 0"),
        pytest.param({"r": True}, BadWeights, "'r'", id="rank is true"),
        pytest.param({"r": 2.0}, BadWeights, "'r'", id="rank is a fraction"),
        pytest.param({"r": 10**30}, BadWeights, "'r'", id="rank is huge"),
        pytest.param({"r": 3}, BadWeights, "has rank 2 in the adapter's file, and 3 by its config", id="another rank"),
        pytest.param({"lora_alpha": None}, BadWeights, "'lora_alpha'", id="alpha is null"),
        pytest.param({"lora_alpha": "16"}, BadWeights, "'lora_alpha'", id="alpha is text"),
        pytest.param({"lora_alpha": 1e300}, BadWeights, "'lora_alpha'", id="alpha is huge"),
        pytest.param({"use_rslora": "yes"}, BadWeights, "'use_rslora'", id="switch is text"),
        pytest.param({"fan_in_fan_out": 1}, BadWeights, "'fan_in_fan_out'", id="switch is a number"),
        pytest.param({"use_dora": True}, BadWeights, "no magnitude vector", id="DoRA without magnitudes"),
        pytest.param({"peft_type": "LOHA"}, BadWeights, "the adapter holds A, B", id="another kind's factors"),
    ],
)  # fmt: skip
def test_what_a_config_asks_for_that_is_not_done_is_refused_by_name(config: dict, kind: type[WeightsError], words: str):
    with pytest.raises(kind) as caught:
        align_adapter(BASE, factors(), read_recipe(LORA | config))
    assert words in str(caught.value)
    assert ("merge_and_unload" in str(caught.value)) == (kind is NoWeights)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'"LORA"', b"[" * 5000, b"\xff\xfe"], ids=repr)
def test_a_config_that_is_none(text: bytes):
    with pytest.raises(BadWeights, match=r"adapter_config\.json is missing, or is no JSON object"):
        read_recipe(cards.read_config(text))


def test_not_a_number_in_a_config():
    with pytest.raises(BadWeights, match="'lora_alpha'"):
        read_recipe(cards.read_config(json.dumps(LORA | {"lora_alpha": float("nan")}).encode()))


@pytest.mark.parametrize(
    "own",
    [
        pytest.param(factors()[:1], id="A alone"),
        pytest.param(factors()[:1] + factors(rank=3)[1:], id="ranks differ"),
        pytest.param([tensor(f"base_model.model.{Q}.lora_A.weight", 2), *factors()[1:]], id="A is a vector"),
        pytest.param([*factors(), tensor(f"base_model.model.{Q}.lora_A.default.weight", 2, 6)], id="A under two names"),
        pytest.param([*factors(), tensor(f"base_model.model.{Q}.lora_magnitude_vector", 4)], id="magnitudes for LoRA"),
        pytest.param([*factors(), tensor(f"base_model.model.{Q}.lokr_w1", 2, 2)], id="a factor of another kind"),
    ],
)
def test_factors_that_contradict_one_another(own: list[TensorInfo]):
    with pytest.raises(BadWeights) as caught:
        align_adapter(BASE, own, read_recipe(LORA))
    assert "self_attn.q_proj" in str(caught.value)


def test_one_tensor_changed_under_two_names_is_refused():
    both = factors("lm_head", outer=9) + factors("model.embed_tokens", outer=9)
    with pytest.raises(NoWeights, match=r"changes 'model\.embed_tokens\.weight' twice"):
        align_adapter(BASE, both, read_recipe(LORA))


def test_an_alignment_crosses_pipes_and_comes_back_from_the_store():
    alignment = align_adapter(BASE, factors(), read_recipe(LORA))
    assert from_line(to_line({"it": alignment}))["it"] == alignment
    with Store.open(":memory:") as store:
        store.register(PAIR, BASE_CARD, TUNED_CARD, alignment).result()
        store._alignments._alignment_of_print.clear()  # what is kept in memory would prove nothing
        assert store.alignment(PAIR.key) == alignment
