"""Adapters as the tuned side, from the terminal: counts equal those of comparing the base with what peft merges."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoHaConfig, LoKrConfig, LoraConfig, PeftConfig
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

import cli
from tests.adapted import Adapted, adapted, merged_by_peft, tiny_gpt2, tiny_llama
from tests.hub.builders import write_model
from tests.hub.loopback import LoopbackHub

pytestmark = pytest.mark.usefixtures("children_at_hand")
ROOT = Path(__file__).resolve().parents[1]
OTHERS = Path(os.environ.get("SUBNETSCOPE_REAL_WEIGHTS", ROOT.parent / "shared" / "data"))
TARGETS = ["q_proj", "v_proj", "down_proj"]
Q = "model.layers.0.self_attn.q_proj.weight"

KINDS: dict[str, tuple[PeftConfig, Callable, str]] = {
    "lora": (LoraConfig(r=4, lora_alpha=16, target_modules=TARGETS), tiny_llama, "LoRA, r 4, α 16, on 6 matrices"),
    "rslora": (
        LoraConfig(r=4, lora_alpha=16, use_rslora=True, target_modules=TARGETS), tiny_llama,
        "rsLoRA, r 4, α 16, on 6 matrices",
    ),
    "dora": (LoraConfig(r=4, use_dora=True, target_modules=TARGETS), tiny_llama, "DoRA, r 4, α 8, on 6 matrices"),
    "adalora": (
        AdaLoraConfig(init_r=6, target_r=3, lora_alpha=16, total_step=10, target_modules=TARGETS), tiny_llama,
        "AdaLoRA, r 6, α 16, on 6 matrices",
    ),
    "lokr": (LoKrConfig(r=2, alpha=8, target_modules=TARGETS), tiny_llama, "LoKr, r 2, α 8, on 6 matrices"),
    "loha": (LoHaConfig(r=2, alpha=8, target_modules=TARGETS), tiny_llama, "LoHa, r 2, α 8, on 6 matrices"),
    "ia3": (IA3Config(target_modules=TARGETS, feedforward_modules=["down_proj"]), tiny_llama, "IA3, on 6 matrices"),
    "gpt2": (
        LoraConfig(r=4, target_modules=["c_attn", "attn.c_proj"], fan_in_fan_out=True), tiny_gpt2,
        "LoRA, r 4, α 8, on 4 matrices",
    ),
    "whole_modules": (
        LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"], bias="none"), tiny_llama,
        "LoRA, r 4, α 8, on 2 matrices; 1 whole tensor",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SUBNETSCOPE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SUBNETSCOPE_THREADS", "1")
    monkeypatch.setenv("SUBNETSCOPE_DEVICE", "cpu")


def compared(folder: Path, *models: Path, command: str = "compare", code: int = 0, options: tuple[str, ...] = ()):
    out = folder / "report.json"
    assert cli.main([command, *map(str, models), "--json", str(out), *options]) == code
    return json.loads(out.read_text())


def saved_merged(case: Adapted, model, folder: Path) -> Path:
    """A folder with what peft merges, as a whole model."""
    folder.mkdir()
    names = load_file(case.base / "model.safetensors")
    save_file({name: case.after[name].contiguous() for name in names}, folder / "model.safetensors")
    shutil.copy(case.base / "config.json", folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "dtype"), [*((kind, torch.bfloat16) for kind in KINDS), ("lora", torch.float32)], ids=str
)
def test_counts_are_those_of_the_merged_model(kind: str, dtype: torch.dtype, tmp_path: Path):
    config, build, words = KINDS[kind]
    model = build(dtype)
    case = adapted(tmp_path, model, config, size=0.003)
    own = load_file(case.adapter / "adapter_model.safetensors")

    report = compared(tmp_path, case.base, case.adapter)
    truth = compared(tmp_path, case.base, saved_merged(case, model, tmp_path / "merged"))

    assert report["totals"]["unchanged"] == truth["totals"]["unchanged"]
    assert report["totals"]["entries"] == truth["totals"]["entries"]
    of_name = {entry["name"]: entry for entry in truth["tensors"]}
    for entry in report["tensors"]:
        known = of_name[entry["name"]]
        same = ("unchanged", "sign_flips", "max_abs_update", "frobenius_update", "rank", "singular_values")
        assert {name: entry[name] for name in same} == {name: known[name] for name in same}, entry["name"]
    coverage = report["coverage"]
    assert coverage["by_match"]["tuned"] == {"adapter": sum(one.numel() for one in own.values())}
    assert sum(coverage["by_match"]["base"].values()) == coverage["base_parameters"]
    assert coverage["not_compared"] == []
    assert not report["withheld"]
    assert report["adapter"]["words"] == words
    assert report["adapter"]["tensors_measured"] == report["adapter"]["tensors"]
    assert truth["adapter"] is None


def test_its_own_update_stands_beside_what_is_left_of_it_in_bfloat16(tmp_path: Path):
    """Rank 4 before, full rank after: rounding makes noise of it, and small changes are lost."""
    case = adapted(tmp_path, tiny_llama(), LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj"]), size=5e-4)
    own = load_file(case.adapter / "adapter_model.safetensors")

    report = compared(tmp_path, case.base, case.adapter)

    entry = next(entry for entry in report["tensors"] if entry["name"] == Q)
    left, right = (own[f"base_model.model.{Q.removesuffix('.weight')}.lora_{x}.weight"].double() for x in "BA")
    update = 16 / 4 * left @ right
    assert entry["adapter"]["numerical_rank"] == 4
    assert entry["adapter"]["spectrum_method"] == "factors float64"
    assert entry["adapter"]["singular_values"][:4] == pytest.approx(torch.linalg.svdvals(update)[:4].tolist(), rel=1e-6)
    assert not any(entry["adapter"]["singular_values"][4:])
    assert entry["adapter"]["frobenius_update"] == pytest.approx(float(update.norm()), rel=1e-6)
    assert entry["adapter"]["max_abs_update"] == pytest.approx(float(update.abs().max()), rel=1e-6)
    changed = int((case.after[Q] != case.before[Q]).sum())
    assert entry["entries"] - entry["unchanged"]["exact"] == changed < entry["adapter"]["moved"] == 32 * 32
    assert entry["rank"] > 4
    total = report["adapter"]
    assert total["own"]["ranks"] == [4, 4]
    assert total["lost_in_rounding"] == total["own"]["moved"] - total["merged"]["moved"] > 0
    untouched = next(entry for entry in report["tensors"] if entry["name"] == "lm_head.weight")
    assert (untouched["match"], untouched["rank"], untouched["adapter"]) == ("untouched", 0, None)


def test_a_sharded_base_of_other_names(tmp_path: Path):
    """As GPT-2 is published: without the prefix that its adapters' names have, and in several files."""
    model = tiny_gpt2()
    case = adapted(tmp_path, model, LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))
    weights = load_file(case.base / "model.safetensors")
    config = json.loads((case.base / "config.json").read_text())
    published = {name.removeprefix("transformer."): one for name, one in weights.items()}
    base = write_model(tmp_path / "published", published, shards=3, config=config)
    report = compared(tmp_path, base, case.adapter, options=("--no-spectra",))
    changed = sum(int((case.after[name] != one).sum()) for name, one in weights.items())
    assert report["totals"]["entries"] - report["totals"]["unchanged"]["exact"] == changed > 0
    assert not report["coverage"]["not_compared"]


@pytest.mark.processes
def test_the_terminal_says_both(tmp_path: Path, capsys: pytest.CaptureFixture):
    case = adapted(tmp_path, tiny_llama(), LoraConfig(r=4, target_modules=["q_proj"]), size=0.003)
    assert cli.main(["compare", str(case.base), str(case.adapter)]) == 0
    said = capsys.readouterr().out
    assert "The tuned side is an adapter (LoRA, r 4, α 8, on 2 matrices)" in said
    assert "in bfloat16" in said
    assert "By itself it moves 100.0000 % of the 2,048 entries that it touches" in said
    assert "Its own updates have rank 4, those that are left have rank 3" in said
    assert "100.00 % of base, 100.00 % of tuned" in said


def test_an_adapter_overlaps_a_whole_model_in_what_is_left_of_it(tmp_path: Path):
    model = tiny_llama()
    case = adapted(tmp_path, model, LoraConfig(r=4, target_modules=["q_proj"]), size=0.003)
    merged = saved_merged(case, model, tmp_path / "merged")
    tensors = load_file(merged / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1  # so that it is another model
    save_file(tensors, merged / "model.safetensors")
    report = compared(tmp_path, case.base, case.adapter, merged, command="overlap")
    total = report["rules"]["exact"]["total"]
    changed = sum(int((case.after[name] != case.before[name]).sum()) for name in tensors)
    assert total["regions"] == {"0": total["entries"] - changed - 64 * 32, "1": 0, "2": 64 * 32, "3": changed}
    assert report["not_counted"] == []


def test_assertions_about_an_adapter(tmp_path: Path):
    case = adapted(tmp_path, tiny_llama(), LoraConfig(r=4, target_modules=["q_proj"]), size=0.003)
    holds = ("--assert", "unchanged(exact, '!*q_proj*') == 1", "--assert", "unchanged(exact, '*q_proj*') < 100 %")
    compared(tmp_path, case.base, case.adapter, command="check", options=holds)
    fails = ("--assert", "unchanged(exact) == 1")
    compared(tmp_path, case.base, case.adapter, command="check", options=fails, code=cli.DOES_NOT_HOLD)


def test_another_scale_in_the_config_is_another_adapter(tmp_path: Path):
    """The tensors are the same files: what was measured before must not be shown for it."""
    case = adapted(tmp_path, tiny_llama(), LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj"]), size=0.003)
    first = compared(tmp_path, case.base, case.adapter, options=("--no-spectra",))
    file = case.adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": 40}))
    second = compared(tmp_path, case.base, case.adapter, options=("--no-spectra",))
    assert first["tuned"]["commit"] != second["tuned"]["commit"]
    norms = [report["adapter"]["own"]["frobenius"] for report in (first, second)]
    assert norms[1] == pytest.approx(10 * norms[0], rel=1e-5)


def test_a_whole_model_is_pinned_by_its_weights_alone(tmp_path: Path):
    """An adapter's config that lies about in a model's folder is no part of it."""
    weights = {"a.weight": np.ones((4, 4), "float32")}
    folders = [write_model(tmp_path / name, weights) for name in ("one", "two")]
    (folders[1] / "adapter_config.json").write_text("{}")
    commits = {compared(tmp_path, folder, folder, options=("--no-spectra",))["tuned"]["commit"] for folder in folders}
    assert len(commits) == 1


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(
            lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json is missing", id="no config"
        ),
        pytest.param(
            lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "OFT"}'),
            "merge_and_unload().save_pretrained(out)", id="of a kind that is not compared",
        ),
        pytest.param(
            lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"),
            "PyTorch pickle (adapter_model.bin)", id="a pickle",
        ),
    ],
)  # fmt: skip
def test_what_is_refused_says_what_to_do(spoil, words: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    case = adapted(tmp_path, tiny_llama(), LoraConfig(r=4, target_modules=["q_proj"]))
    spoil(case.adapter)
    assert cli.main(["compare", str(case.base), str(case.adapter)]) == 5
    assert words in capsys.readouterr().err


def test_an_adapter_is_no_base(tmp_path: Path, capsys: pytest.CaptureFixture):
    case = adapted(tmp_path, tiny_llama(), LoraConfig(r=4, target_modules=["q_proj"]))
    assert cli.main(["compare", str(case.adapter), str(case.base)]) == 5
    assert "is an adapter. Expected: The base is a whole model" in capsys.readouterr().err


def test_factors_that_are_not_finite_are_counted_and_have_no_spectrum(tmp_path: Path):
    case = adapted(tmp_path, tiny_llama(), LoraConfig(r=4, target_modules=["q_proj"]))
    file = case.adapter / "adapter_model.safetensors"
    own: dict[str, Tensor] = load_file(file)
    own[f"base_model.model.{Q.removesuffix('.weight')}.lora_B.weight"][0, 0] = float("nan")
    save_file(own, file)
    report = compared(tmp_path, case.base, case.adapter, code=cli.DONE_WITH_GAPS)
    entry = next(entry for entry in report["tensors"] if entry["name"] == Q)
    assert entry["nonfinite"] == 32  # the row that this entry of B feeds
    assert "not finite" in entry["gaps"]["spectrum"]
    assert entry["adapter"]["numerical_rank"] is None


@pytest.mark.parametrize("step", ["step1000", "step2000"])
def test_a_published_adapter_on_a_base_of_its_shape(step: str, tmp_path: Path):
    """LoRA of GPT-2 that nobody here trained; its base is not at hand, so a random one of its shape takes its place."""
    adapter = OTHERS / "gpt2-lora" / step
    if not adapter.is_dir():
        pytest.skip("gpt2-lora is not on this machine")
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=100)).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "base")
    after = merged_by_peft(model, adapter)
    report = compared(tmp_path, tmp_path / "base", adapter)
    before = model.state_dict()
    changed = sum(int((after[name] != one).sum()) for name, one in before.items() if "lm_head" not in name)
    assert report["totals"]["entries"] - report["totals"]["unchanged"]["exact"] == changed > 0
    assert report["adapter"]["words"] == "LoRA, r 8, α 32, on 12 matrices"
    assert report["adapter"]["own"]["ranks"] == [8] * 12
    own = load_file(adapter / "adapter_model.safetensors")
    start = "base_model.model.transformer.h.3.attn.c_attn.lora_"
    exact = torch.linalg.svdvals((own[f"{start}B.weight"].double() @ own[f"{start}A.weight"].double()) * 4)[:8]
    entry = next(entry for entry in report["tensors"] if entry["name"] == "transformer.h.3.attn.c_attn.weight")
    assert entry["adapter"]["singular_values"][:8] == pytest.approx(exact.tolist(), rel=1e-5)


@pytest.mark.processes
def test_an_adapter_on_the_hub(hub: LoopbackHub, tmp_path: Path):
    """Its card names no base; its config does, and says how it is scaled."""
    case = adapted(tmp_path, tiny_llama(), LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj"]), size=0.003)
    for name, folder in (("org/base", case.base), ("org/adapter", case.adapter)):
        hub.add(name, {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".md"})
    report = compared(tmp_path, Path("org/base"), Path("org/adapter"))
    changed = sum(int((case.after[name] != one).sum()) for name, one in case.before.items())
    assert report["totals"]["entries"] - report["totals"]["unchanged"]["exact"] == changed > 0
    assert report["adapter"]["words"] == "LoRA, r 4, α 16, on 2 matrices"
    assert len(report["tuned"]["commit"]) == 40
