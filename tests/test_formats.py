"""Weight formats beyond plain safetensors: each model made as its makers make it, compared from the terminal, and its
number equal to the truth that was planted. docs/formats.md names the test of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import cli
from tests.hub.builders import LLAMA_CONFIG, BFloat16, llama, tuned_from, write_model

ROOT = Path(__file__).resolve().parents[1]
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
DEEPSEEK = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
IN_BLOCKS = LLAMA_CONFIG | {"quantization_config": DEEPSEEK}

Tensors = dict[str, Tensor]


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SUBNETSCOPE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SUBNETSCOPE_THREADS", "1")
    monkeypatch.setenv("SUBNETSCOPE_DEVICE", "cpu")
    monkeypatch.delenv("SUBNETSCOPE_PICKLES", raising=False)


def compared(folder: Path, base: Path, tuned: Path, *options: str) -> dict:
    out = folder / "report.json"
    assert cli.main(["compare", str(base), str(tuned), "--no-spectra", "--json", str(out), *options]) == 0
    return json.loads(out.read_text())


def exact(report: dict) -> tuple[int, int]:
    return report["totals"]["unchanged"]["exact"], report["totals"]["entries"]


def truth(changed: Mapping[str, np.ndarray]) -> tuple[int, int]:
    return sum(int((~mask).sum()) for mask in changed.values()), sum(mask.size for mask in changed.values())


def in_torch(tensors: Mapping[str, BFloat16]) -> Tensors:
    return {name: torch.from_numpy(tensor.bits.view(np.int16)).view(torch.bfloat16) for name, tensor in tensors.items()}


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


def moved(values: Tensors) -> tuple[Tensors, dict[str, np.ndarray]]:
    """The same in bfloat16, 20 % of each tensor's entries moved by one step, and which."""
    plain = {name: BFloat16(tensor.view(torch.int16).numpy().view(np.uint16)) for name, tensor in values.items()}
    tuned, changed = tuned_from(plain, changed_share=0.2)
    return in_torch(tuned), changed


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


def test_every_test_here_has_its_row_in_the_docs():
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    tests = {name for name in globals() if name.startswith("test_")} - {"test_every_test_here_has_its_row_in_the_docs"}
    assert {name for name in tests if f"`{name}`" not in text} == set()
