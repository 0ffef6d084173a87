"""What an adapter adds, against peft: every entry of every tensor, as `merge_and_unload` leaves it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoHaConfig, LoKrConfig, LoraConfig, PeftConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from analysis.adapter_alignment import align_adapter
from analysis.adapter_config import read_recipe
from analysis.adapters import Merging, thin_singular_values, widened
from analysis.elementwise import geometry
from analysis.tensors import Alignment, Merge, TensorInfo, TensorPair
from tests.adapted import Adapted, adapted, merged_by_peft, tiny_gpt2, tiny_llama

LINEAR = ["q_proj", "k_proj", "down_proj"]
NAME_OF_DTYPE = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
CASES: dict[str, tuple[PeftConfig, str]] = {
    "lora": (LoraConfig(r=4, lora_alpha=16, target_modules=LINEAR), "llama"),
    "rslora": (LoraConfig(r=4, lora_alpha=16, use_rslora=True, target_modules=LINEAR), "llama"),
    "ranks and alphas by pattern": (
        LoraConfig(
            r=4, target_modules=LINEAR, rank_pattern={"^model.layers.0.*.q_proj": 2, "k_proj": 3},
            alpha_pattern={r"layers\.1\.mlp\.down_proj": 5},
        ),
        "llama",
    ),
    "embeddings": (LoraConfig(r=4, target_modules=["embed_tokens", "lm_head"]), "llama"),
    "whole modules": (LoraConfig(r=4, target_modules=LINEAR, modules_to_save=["lm_head", "norm"]), "llama"),
    "biases": (LoraConfig(r=4, target_modules=["q_proj"], bias="all"), "llama with biases"),
    "biases of its own": (LoraConfig(r=4, target_modules=["q_proj"], lora_bias=True), "llama with biases"),
    "some layers": (LoraConfig(r=4, target_modules=LINEAR, layers_to_transform=[1]), "llama"),
    "dora": (LoraConfig(r=4, target_modules=LINEAR, use_dora=True), "llama"),
    "dora of embeddings": (LoraConfig(r=4, target_modules=["embed_tokens"], use_dora=True), "llama"),
    "tied": (LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"]), "tied llama"),
    "gpt2": (LoraConfig(r=4, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True), "gpt2"),
    "gpt2, square alone": (LoraConfig(r=4, target_modules=["attn.c_proj"], fan_in_fan_out=True), "gpt2"),
    "gpt2, dora": (LoraConfig(r=4, target_modules=["c_attn"], use_dora=True, fan_in_fan_out=True), "gpt2"),
    "adalora": (AdaLoraConfig(init_r=6, target_r=3, lora_alpha=16, total_step=10, target_modules=LINEAR), "llama"),
    "lokr": (LoKrConfig(r=2, alpha=8, target_modules=LINEAR), "llama"),
    "lokr, both": (LoKrConfig(r=1, alpha=3, decompose_both=True, target_modules=LINEAR), "llama"),
    "lokr, whole": (LoKrConfig(r=64, target_modules=LINEAR), "llama"),
    "loha": (LoHaConfig(r=2, alpha=8, target_modules=LINEAR), "llama"),
    "ia3": (IA3Config(target_modules=LINEAR, feedforward_modules=["down_proj"]), "llama with biases"),
    "gpt2, ia3": (IA3Config(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"]), "gpt2"),
}  # fmt: skip
MODELS = {
    "llama": tiny_llama,
    "tied llama": lambda dtype: tiny_llama(dtype, tied=True),
    "llama with biases": lambda dtype: tiny_llama(dtype, bias=True),
    "gpt2": tiny_gpt2,
}


def infos(tensors: dict[str, Tensor], file: str) -> list[TensorInfo]:
    return [
        TensorInfo(name, NAME_OF_DTYPE[one.dtype], tuple(one.shape), file, at, at + 1)
        for at, (name, one) in enumerate(tensors.items())
    ]


def aligned(case: Adapted) -> tuple[Alignment, dict[str, Tensor], dict[str, Tensor]]:
    base, own = load_file(case.base / "model.safetensors"), load_file(case.adapter / "adapter_model.safetensors")
    config = json.loads((case.adapter / "adapter_config.json").read_text())
    recipe = read_recipe(config)
    tied = json.loads((case.base / "config.json").read_text())["tie_word_embeddings"]
    return align_adapter(infos(base, "b"), infos(own, "a"), recipe, base_tied=tied), base, own


def merging(pair: TensorPair, base: dict[str, Tensor], own: dict[str, Tensor], budget: int = 1 << 30) -> Merging:
    assert pair.merge is not None
    shape = geometry(pair.shape)
    before = base[pair.base.name].reshape(shape.rows, shape.columns)
    whole = {role: _as_rows(own[info.name]) for role, info in pair.merge.factors}
    weight = whole.pop("weight", None)
    return Merging(
        pair.merge,
        shape,
        lambda first, last: before[first:last],
        {role: widened(one, pair.merge, before.dtype) for role, one in whole.items()},
        None if weight is None else lambda first, last: weight[first:last],
        budget,
    )


def _as_rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1]) if tensor.ndim > 1 else tensor.reshape(1, -1)


@pytest.mark.parametrize("dtype", NAME_OF_DTYPE, ids=NAME_OF_DTYPE.values())
@pytest.mark.parametrize("name", CASES)
def test_what_is_merged_is_what_peft_merges_bit_for_bit(name: str, dtype: torch.dtype, tmp_path: Path):
    config, model = CASES[name]
    case = adapted(tmp_path, MODELS[model](dtype), config)
    alignment, base, own = aligned(case)
    assert not alignment.not_compared
    assert alignment.compared_of("tuned") == alignment.tuned_parameters == sum(one.numel() for one in own.values())
    assert {pair.base.name for pair in alignment.pairs} == set(base)
    for pair in alignment.pairs:
        after = case.after[pair.name]
        rows = geometry(pair.shape).rows
        merged = base[pair.base.name] if pair.merge is None else merging(pair, base, own).merged(0, rows)
        assert torch.equal(merged.reshape(after.shape), after), pair.name
        assert (pair.merge is None) == torch.equal(case.before[pair.base.name], after), pair.name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["F32", "BF16"])
def test_adalora_keeps_the_divisor_of_its_first_rank_where_ranks_were_taken_away(dtype: torch.dtype, tmp_path: Path):
    """What training with it leaves: fewer rows in the file, and a pattern of which ones."""
    model = tiny_llama(dtype)
    config = AdaLoraConfig(init_r=6, target_r=3, lora_alpha=16, total_step=10, target_modules=["q_proj"])
    adapted(tmp_path, model, config)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    keep = [True, False, True, True, False, False]
    kept = {
        name: (one[:, keep] if "lora_B" in name else one[keep]).contiguous() for name, one in load_file(file).items()
    }
    save_file(kept, file)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    settings["rank_pattern"] = {f"model.layers.{n}.self_attn.q_proj.lora_E": keep for n in range(2)}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    case = Adapted(tmp_path / "base", tmp_path / "adapter", {}, merged_by_peft(model, tmp_path / "adapter"))
    alignment, base, own = aligned(case)
    changed = [pair for pair in alignment.pairs if pair.merge]
    assert [pair.merge.rank for pair in changed if pair.merge] == [3, 3]
    for pair in changed:
        assert torch.equal(merging(pair, base, own).merged(0, pair.shape[0]), case.after[pair.name])


@pytest.mark.parametrize("name", ["lora", "gpt2", "gpt2, dora", "dora", "adalora", "lokr", "loha", "embeddings"])
def test_in_blocks_of_rows_it_is_the_same_but_for_the_last_bits(name: str, tmp_path: Path):
    """What a matrix too large for the budget takes."""
    config, model = CASES[name]
    alignment, base, own = aligned(adapted(tmp_path, MODELS[model](torch.float32), config))
    for pair in alignment.pairs:
        if pair.merge is not None:
            whole, blocks = merging(pair, base, own), merging(pair, base, own, budget=1)
            rows = geometry(pair.shape).rows
            for of in ("own", "merged"):
                expected = getattr(whole, of)(0, rows)
                found = torch.cat([getattr(blocks, of)(at, min(at + 7, rows)) for at in range(0, rows, 7)])
                assert torch.allclose(found, expected, rtol=1e-5, atol=1e-8), (pair.name, of)


@pytest.mark.parametrize("name", ["lora", "rslora", "gpt2", "adalora", "lokr", "lokr, both", "loha", "embeddings"])
def test_thin_singular_values_are_those_of_the_whole_update(name: str, tmp_path: Path):
    config, model = CASES[name]
    alignment, base, own = aligned(adapted(tmp_path, MODELS[model](torch.float32), config))
    for pair in alignment.pairs:
        if pair.merge is not None:
            work = merging(pair, base, own)
            work.weight = None  # peft saves an embedding that it adapts as a whole too
            factors = tuple((role, info) for role, info in pair.merge.factors if role != "weight")
            values = thin_singular_values(dataclasses.replace(pair.merge, factors=factors), work.factors)
            exact = torch.linalg.svdvals(work.own(0, pair.shape[0]).double())
            assert values is not None
            assert len(values) <= len(exact)
            assert torch.allclose(values, exact[: len(values)], rtol=1e-4, atol=1e-6 * float(exact[0]))
            assert float(exact[len(values) :].sum()) < 1e-5 * float(exact[0])


def test_an_update_of_full_rank_by_construction_has_no_thin_factors(tmp_path: Path):
    alignment, base, own = aligned(adapted(tmp_path, tiny_llama(), CASES["dora"][0]))
    merges = [(pair, pair.merge) for pair in alignment.pairs if pair.merge]
    assert len(merges) == 6
    assert all(thin_singular_values(merge, merging(pair, base, own).factors) is None for pair, merge in merges)


def test_by_hand():
    """B A = [[1], [2]] [[3, 4]] = [[3, 4], [6, 8]]; alpha 1 over r 2 halves it. In bfloat16, 256 + 3 is 260 or 258."""
    factors = {"A": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "B": torch.tensor([[1.0, 0.0], [2.0, 0.0]])}
    base = torch.tensor([[256.0, 0.0], [256.0, 1.0]], dtype=torch.bfloat16)
    merge = Merge("lora", (), scaling=0.5, rank=2, alpha=1)
    work = Merging(merge, geometry((2, 2)), lambda first, last: base[first:last], factors)
    assert work.own(0, 2).tolist() == [[1.5, 2.0], [3.0, 4.0]]
    assert work.merged(0, 2).float().tolist() == [[258.0, 2.0], [260.0, 5.0]]  # of 257.5 and 259
    values = thin_singular_values(merge, factors)
    assert values is not None
    assert values.tolist() == pytest.approx([(1.5**2 + 2**2 + 3**2 + 4**2) ** 0.5, 0.0], abs=1e-12)
