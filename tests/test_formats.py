"""Weight formats beyond plain safetensors: each model made as its makers make it, compared from the terminal, and its
number equal to the truth that was planted. docs/formats.md names the test of each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import cli
from analysis.errors import NoWeights
from tests.comparing import Tensors, compared, exact, in_torch, listed, moved, truth
from tests.hub.builders import LLAMA_CONFIG, llama, write_model

pytestmark = pytest.mark.usefixtures("terminal", "children_at_hand")
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
DEEPSEEK = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
IN_BLOCKS = LLAMA_CONFIG | {"quantization_config": DEEPSEEK}


def is_quantised(name: str) -> bool:
    return name.endswith("_proj.weight")


def spread(scales: Tensor, shape: tuple[int, ...], block: tuple[int, int]) -> Tensor:
    """The scale of each entry."""
    each = scales.float().reshape(-(-shape[0] // block[0]), -1)
    return each.repeat_interleave(block[0], 0)[: shape[0]].repeat_interleave(block[1], 1)[:, : shape[1]]


def quantised(
    tensors: Tensors, *, block: tuple[int, int] | None = (128, 128), dtype: torch.dtype = E4M3, suffix="_scale_inv"
) -> tuple[Tensors, Tensors]:
    """(what the file holds, its values): every projection as codes and scales, which are powers of two, so that the
    values are bfloat16 numbers. `block` None is one scale a tensor; a side of 0 is the whole side."""
    file, values = {}, {}
    random = torch.Generator().manual_seed(5)
    for name, tensor in tensors.items():
        if not is_quantised(name):
            file[name] = values[name] = tensor
            continue
        rows, columns = tensor.shape
        height, width = (rows, columns) if block is None else (block[0] or rows, block[1] or columns)
        shape = (-(-rows // height), -(-columns // width))
        scales = 2.0 ** -torch.randint(7, 11, shape, generator=random).float()
        codes = (tensor.float() / spread(scales, tensor.shape, (height, width))).to(dtype)
        file[name], file[name + suffix] = codes, scales[0, 0] if block is None else scales
        values[name] = (codes.float() * spread(scales, tensor.shape, (height, width))).bfloat16()
    return file, values


def wide_llama() -> Tensors:
    """Sides of 80, 160 and 320: no whole number of blocks of 128."""
    return in_torch(llama(hidden=160))


SCALED = {
    "blocks": {"suffix": "_scale_inv"},
    "blocks_e5m2": {"dtype": E5M2},
    "one_per_tensor": {"block": None, "suffix": "_scale"},
    "one_per_row": {"block": (1, 0), "suffix": "_scale"},
    "fnuz": {"dtype": torch.float8_e4m3fnuz, "suffix": "_scale"},
}


@pytest.mark.parametrize("how", SCALED.values(), ids=SCALED.keys())
def test_float8_against_bfloat16(how: dict, tmp_path: Path):
    file, values = quantised(wide_llama(), **how)
    tuned, changed = moved(values)
    config = IN_BLOCKS if "block" not in how else LLAMA_CONFIG | {"quantization_config": {"quant_method": "fp8"}}
    base = write_model(tmp_path / "base", file, config=config)
    report = compared(tmp_path, base, write_model(tmp_path / "tuned", tuned))

    assert exact(report) == truth(changed)
    coverage = report["coverage"]
    assert coverage["by_match"] == {side: {"exact": truth(changed)[1]} for side in ("base", "tuned")}
    assert coverage["base_parameters"] == coverage["tuned_parameters"] == truth(changed)[1]
    aside = {(one["name"], one["side"], one["reason"]) for one in coverage["not_compared"]}
    reason = "scales, applied to their weights; not a parameter"
    assert aside == {(name, "base", reason) for name in file.keys() - values.keys()}
    assert {alert["kind"] for alert in report["alerts"]} == {"dtypes", "scales"}


@pytest.mark.processes
def test_float8_against_float8(tmp_path: Path):
    """Codes moved in a fifth of the entries; in one tensor the codes stayed and a scale moved instead."""
    file, values = quantised(wide_llama())
    tuned, changed = dict(file), {name: np.zeros(tensor.shape, bool) for name, tensor in values.items()}
    random = np.random.default_rng(2)
    for name in filter(is_quantised, values):
        mask = random.random(values[name].shape) < 0.2
        codes = file[name].view(torch.uint8) ^ torch.from_numpy(mask.astype(np.uint8))
        tuned[name] = codes.view(E4M3)
        changed[name] = (file[name].float() != tuned[name].float()).numpy()
    name = "model.layers.1.mlp.up_proj.weight"
    tuned[name], tuned[f"{name}_scale_inv"] = file[name], file[f"{name}_scale_inv"].clone()
    tuned[f"{name}_scale_inv"][2, 1] *= 2  # rows 256 to 319, columns 128 to 159: both blocks are cut off
    changed[name] = np.zeros(values[name].shape, bool)
    changed[name][256:, 128:] = (file[name].float() != 0)[256:, 128:].numpy()
    paths = [write_model(tmp_path / side, t, config=IN_BLOCKS) for side, t in (("base", file), ("tuned", tuned))]

    report = compared(tmp_path, *paths)

    assert exact(report) == truth(changed)
    assert {alert["kind"] for alert in report["alerts"]} == {"scales"}
    assert {one["side"] for one in report["coverage"]["not_compared"]} == {"both"}


def test_float8_is_what_transformers_makes_of_it(tmp_path: Path):
    """The base's own library loads it without its 8 bits: nothing is left that changed."""
    from transformers import AutoModelForCausalLM, FineGrainedFP8Config, LlamaConfig

    llama_config = LlamaConfig(
        hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64, tie_word_embeddings=False,
    )  # fmt: skip
    file, _ = quantised(in_torch(llama(hidden=256)))  # whole blocks: the library takes no others
    for name in [name for name in file if name.endswith("_scale_inv")]:
        file[name] = file[name] * 1.37  # no power of two any more
    config = json.loads(llama_config.to_json_string()) | IN_BLOCKS
    base = write_model(tmp_path / "base", file, config=config)
    dequantised = AutoModelForCausalLM.from_pretrained(
        base, quantization_config=FineGrainedFP8Config(dequantize=True), dtype=torch.float32
    )
    tuned = write_model(tmp_path / "tuned", dequantised.state_dict())  # save_pretrained would go back to 8 bits
    report = compared(tmp_path, base, tuned)
    assert exact(report) == (report["coverage"]["base_parameters"],) * 2
    assert report["coverage"]["by_match"]["tuned"] == {"exact": report["coverage"]["tuned_parameters"]}
    assert "nothing_changed" in {alert["kind"] for alert in report["alerts"]}


def test_float8_experts_in_stacks_and_fused(tmp_path: Path):
    """One scale block a slice of the stack; single experts on the other side, gate and up in tensors of their own."""
    experts, hidden, inner, block = 3, 96, 160, 128
    random = torch.Generator().manual_seed(1)
    stack = {"gate_up_proj": (experts, 2 * inner, hidden), "down_proj": (experts, hidden, inner)}
    place = "model.layers.0.mlp.experts"
    file, values = {}, {}
    for part, shape in stack.items():
        grid = (experts, -(-shape[1] // block), -(-shape[2] // block))
        scales = 2.0 ** -torch.randint(1, 5, grid, generator=random).float()
        codes = torch.randn(shape, generator=random).to(E4M3)
        file |= {f"{place}.{part}": codes, f"{place}.{part}_scale_inv": scales}
        values[part] = [
            (codes[e].float() * spread(scales[e], shape[1:], (block, block))).bfloat16() for e in range(experts)
        ]
    single = {}
    for e in range(experts):
        gate_up, down = values["gate_up_proj"][e], values["down_proj"][e]
        single |= {f"{place}.{e}.gate_proj.weight": gate_up[:inner], f"{place}.{e}.up_proj.weight": gate_up[inner:]}
        single[f"{place}.{e}.down_proj.weight"] = down
    tuned, changed = moved({name: tensor.contiguous() for name, tensor in single.items()})
    base = write_model(tmp_path / "base", file, config=IN_BLOCKS)
    report = compared(tmp_path, base, write_model(tmp_path / "tuned", tuned))
    assert exact(report) == truth(changed)
    assert set(report["coverage"]["by_match"]["base"]) == {"experts", "fused"}


def test_float8_without_the_scales_that_the_config_announces(tmp_path: Path):
    """Listed, not compared as if codes were values."""
    file, values = quantised(wide_llama())
    name = "model.layers.0.mlp.gate_proj.weight"
    del file[f"{name}_scale_inv"]
    tuned, changed = moved(values)
    base = write_model(tmp_path / "base", file, config=IN_BLOCKS)
    report = compared(tmp_path, base, write_model(tmp_path / "tuned", tuned))
    assert exact(report) == truth({other: mask for other, mask in changed.items() if other != name})
    entry = report["coverage"]["not_compared"][0]
    assert (entry["name"], entry["side"], entry["parameters"]) == (name, "both", 320 * 160)
    assert entry["reason"] == "8-bit codes without the scales that config.json announces"


def test_float8_without_scales_or_any_word_of_them_is_what_it_says(tmp_path: Path):
    values = {name: tensor.to(E5M2) for name, tensor in wide_llama().items()}
    tuned, changed = moved({name: tensor.bfloat16() for name, tensor in values.items()})
    base, other = write_model(tmp_path / "base", values), write_model(tmp_path / "tuned", tuned)
    report = compared(tmp_path, base, other)
    assert exact(report) == truth(changed)
    assert {alert["kind"] for alert in report["alerts"]} == {"dtypes"}


def test_float8_codes_that_are_no_number_are_counted(tmp_path: Path):
    file, values = quantised(wide_llama())
    name = "model.layers.0.self_attn.o_proj.weight"
    tuned, changed = moved(values)
    file[name].view(torch.uint8)[3, :5] = 0x7F
    changed[name][3, :5] = True
    base = write_model(tmp_path / "base", file, config=IN_BLOCKS)
    report = compared(tmp_path, base, write_model(tmp_path / "tuned", tuned))
    assert exact(report) == truth(changed)
    assert report["totals"]["nonfinite"] == 5


def integers(shape: tuple[int, ...], dtype: torch.dtype = torch.int32) -> Tensor:
    info = torch.iinfo(dtype)
    return torch.randint(info.min, info.max, shape, dtype=torch.int64).to(dtype)


def gptq(name: str, outputs: int, inputs: int) -> Tensors:
    return {
        f"{name}.qweight": integers((inputs // 8, outputs)),
        f"{name}.qzeros": integers((1, outputs // 8)),
        f"{name}.scales": torch.ones((1, outputs), dtype=torch.float16),
        f"{name}.g_idx": torch.zeros(inputs, dtype=torch.int32),
    }


def awq(name: str, outputs: int, inputs: int) -> Tensors:
    return gptq(name, outputs, inputs) | {f"{name}.qweight": integers((inputs, outputs // 8))}


def bitsandbytes_4bit(name: str, outputs: int, inputs: int) -> Tensors:
    return {
        f"{name}.weight": integers((outputs * inputs // 2, 1), torch.uint8),
        f"{name}.weight.absmax": integers((outputs * inputs // 64,), torch.uint8),
        f"{name}.weight.quant_map": torch.zeros(16),
        f"{name}.weight.nested_absmax": torch.zeros(1),
        f"{name}.weight.nested_quant_map": torch.zeros(256),
        f"{name}.weight.quant_state.bitsandbytes__nf4": integers((80,), torch.uint8),
    }


def bitsandbytes_8bit(name: str, outputs: int, inputs: int) -> Tensors:
    return {f"{name}.weight": integers((outputs, inputs), torch.int8), f"{name}.SCB": torch.ones(outputs)}


def packed_by_compressed_tensors(name: str, outputs: int, inputs: int) -> Tensors:
    return {
        f"{name}.weight_packed": integers((outputs, inputs // 8)),
        f"{name}.weight_scale": torch.ones((outputs, 1), dtype=torch.bfloat16),
        f"{name}.weight_shape": torch.tensor([outputs, inputs]),
    }


def nvfp4(name: str, outputs: int, inputs: int) -> Tensors:
    return {
        f"{name}.weight": integers((outputs, inputs // 2), torch.uint8),
        f"{name}.weight_scale": torch.ones((outputs, inputs // 16)).to(E4M3),
        f"{name}.weight_scale_2": torch.tensor(1.0),
        f"{name}.input_scale": torch.tensor(1.0),
    }


def int8(name: str, outputs: int, inputs: int) -> Tensors:
    return {f"{name}.weight": integers((outputs, inputs), torch.int8), f"{name}.weight_scale": torch.ones(outputs, 1)}


def hqq(name: str, outputs: int, inputs: int) -> Tensors:
    of_groups = {f"{name}.{part}": torch.ones(1, outputs) for part in ("scale", "zero")}
    return {f"{name}.W_q": integers((outputs, inputs // 2), torch.uint8), **of_groups}


def of_an_unknown_method(name: str, outputs: int, inputs: int) -> Tensors:
    return {f"{name}.weight": integers((outputs, inputs // 2), torch.uint8)}


FOUR_BITS = {"config_groups": {"group_0": {"weights": {"num_bits": 4}}}, "quant_method": "compressed-tensors"}
QUANTISED = [
    (gptq, {"quant_method": "gptq", "bits": 4}, "quantised as GPTQ", 1),
    (gptq, None, "quantised as GPTQ or AWQ", 1),
    (awq, {"quant_method": "awq", "bits": 4}, "quantised as AWQ", 1),
    (bitsandbytes_4bit, {"quant_method": "bitsandbytes"}, "quantised as bitsandbytes 4-bit", 1),
    (bitsandbytes_8bit, None, "quantised as bitsandbytes 8-bit", 1),
    (packed_by_compressed_tensors, FOUR_BITS, "quantised as compressed-tensors, packed", 1),
    (packed_by_compressed_tensors, None, "the parameters are those of the packed numbers as stored", 1 / 8),
    (nvfp4, {"quant_method": "modelopt"}, "quantised as NVFP4", 1),
    (int8, FOUR_BITS, "quantised as 8-bit integers with scales", 1),
    (
        hqq,
        {"quant_method": "hqq"},
        "quantised as HQQ, which is not read; the parameters are those of the packed",
        1 / 2,
    ),
    (of_an_unknown_method, {"quant_method": "newest"}, "quantised as 'newest' (so config.json says)", 1 / 2),
]
BY_FORMAT = pytest.mark.parametrize(
    ("pack", "said", "reason", "share"), QUANTISED, ids=[f"{q[0].__name__}-{bool(q[1])}" for q in QUANTISED]
)


def packed(tensors: Tensors, pack, chosen) -> Tensors:
    """The model with the chosen projections quantised."""
    file: Tensors = {}
    for name, tensor in tensors.items():
        file |= pack(name.removesuffix(".weight"), *tensor.shape) if chosen(name) else {name: tensor}
    return file


@BY_FORMAT
def test_quantised_tensors_are_listed_by_their_formats_name(pack, said, reason: str, share: float, tmp_path: Path):
    """Half of the model is quantised on the tuned side: the other half is compared."""
    values = wide_llama()
    tuned, changed = moved(values)
    gone = {name for name in tuned if is_quantised(name) and "layers.1." in name}
    config = LLAMA_CONFIG | ({"quantization_config": said} if said else {})
    file = packed(tuned, pack, gone.__contains__)
    base = write_model(tmp_path / "base", values)
    report = compared(tmp_path, base, write_model(tmp_path / "tuned", file, config=config))
    assert exact(report) == truth({name: mask for name, mask in changed.items() if name not in gone})
    coverage = report["coverage"]
    lost = {one["name"]: one for one in coverage["not_compared"] if not one["reason"].endswith("not a parameter")}
    assert {name: one["parameters"] for name, one in lost.items()} == {name: changed[name].size for name in gone}
    assert all(one["side"] == "both" and reason in one["reason"] for one in lost.values())
    of_codes = sum(changed[name].size for name in gone) * share
    assert coverage["tuned_parameters"] == sum(m.size for n, m in changed.items() if n not in gone) + of_codes
    aside = {one["name"] for one in coverage["not_compared"]} - lost.keys()
    assert len(aside) == len(file.keys() - values.keys()) - (len(gone) if not gone <= file.keys() else 0)
    assert report["withheld"]


@BY_FORMAT
def test_a_model_that_is_quantised_as_a_whole_is_refused(pack, said, reason: str, share, tmp_path: Path):
    values = wide_llama()
    config = LLAMA_CONFIG | ({"quantization_config": said} if said else {})
    tuned = write_model(tmp_path / "tuned", packed(values, pack, is_quantised), config=config)
    with pytest.raises(NoWeights) as refused:
        listed(tuned)
    assert reason.partition(";")[0] in str(refused.value)
    assert "Compare the unquantised weights" in str(refused.value)


def test_mxfp4_experts_are_listed_and_the_rest_is_compared(tmp_path: Path):
    """gpt-oss: 32 numbers in 16 bytes, and a byte of scale for them."""
    values = wide_llama() | {"model.layers.0.mlp.experts.gate_up_proj": torch.randn(2, 96, 320).bfloat16()}
    tuned, changed = moved(values)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    file = {other: tensor for other, tensor in tuned.items() if other != name}
    file[f"{name}_blocks"] = integers((2, 320, 3, 16), torch.uint8)
    file[f"{name}_scales"] = integers((2, 320, 3), torch.uint8)
    config = LLAMA_CONFIG | {"quantization_config": {"quant_method": "mxfp4"}}
    base, other = write_model(tmp_path / "base", values), write_model(tmp_path / "tuned", file, config=config)
    report = compared(tmp_path, base, other)
    assert exact(report) == truth({other: mask for other, mask in changed.items() if other != name})
    coverage = report["coverage"]
    assert coverage["base_parameters"] == coverage["tuned_parameters"] == sum(mask.size for mask in changed.values())
    left = {(one["name"], one["side"], one["parameters"]): one["reason"] for one in coverage["not_compared"]}
    assert left[name, "both", 2 * 96 * 320] == "quantised as MXFP4, which is not read"
    assert left[f"{name}_scales", "tuned", 2 * 320 * 3].endswith("not a parameter")
    assert len(left) == 2


def test_gguf_files_are_refused_by_name(tmp_path: Path, capsys):
    base = write_model(tmp_path / "base", wide_llama())
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "model-Q4_K_M.gguf").write_bytes(b"GGUF" + bytes(64))
    assert cli.main(["compare", str(base), str(tmp_path / "tuned")]) == 5
    assert "no safetensors weights here, only GGUF files" in capsys.readouterr().err
