"""Ordinary repositories on which tools of this field report wrong numbers: each built for real, compared from the
terminal, and its number equal to the truth that was planted. docs/formats.md has a row for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import cli
from tests.hub.builders import LLAMA_CONFIG, BFloat16, llama, safetensors_bytes, tuned_from, write_model

Tensors = dict[str, BFloat16]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("terminal", "children_at_hand")


@dataclass
class Case:
    """Two models as they lie on the disk, and what is true of them: `unchanged` of `entries` compared entries, the
    parameters of each side by kind of match, and what is listed as not compared, by name and side."""

    base: Mapping[str, object]
    tuned: Mapping[str, object]
    unchanged: int
    entries: int
    by_match: dict[str, dict[str, int]]
    listed: dict[tuple[str, str], int] = field(default_factory=dict)
    alerts: set[str] = field(default_factory=set)
    withheld: bool = False
    shards: int = 1


def truth(changed: Mapping[str, np.ndarray], *but: str) -> tuple[int, int]:
    """(unchanged, entries) of the planted pair, without the tensors named."""
    kept = [mask for name, mask in changed.items() if name not in but]
    return int(sum((~mask).sum() for mask in kept)), sum(mask.size for mask in kept)


def mixtral(*, experts: int = 4, hidden: int = 32, inner: int = 48) -> Tensors:
    """A Llama whose feed-forward is a mixture: one tensor an expert, names as Mixtral's."""
    random = np.random.default_rng(3)
    tensors = {name: tensor for name, tensor in llama(hidden=hidden).items() if ".mlp." not in name}
    for layer in range(2):
        moe = f"model.layers.{layer}.block_sparse_moe"
        shape_of = {f"{moe}.gate.weight": (experts, hidden)}
        for expert in range(experts):
            shape_of |= {f"{moe}.experts.{expert}.w{part}.weight": (inner, hidden) for part in (1, 3)}
            shape_of[f"{moe}.experts.{expert}.w2.weight"] = (hidden, inner)
        tensors |= {name: BFloat16.of(random.normal(0, 0.02, shape)) for name, shape in shape_of.items()}
    return tensors


def stacked(tensors: Mapping[str, BFloat16], *, experts: int = 4) -> Tensors:
    """The same weights as newer files hold them: all experts in one tensor, gate and up one below the other."""
    new = {n.replace("block_sparse_moe", "mlp"): t for n, t in tensors.items() if ".experts." not in n}
    for layer in range(2):
        old = [f"model.layers.{layer}.block_sparse_moe.experts.{expert}" for expert in range(experts)]
        gate_up = [np.concatenate([tensors[f"{one}.w{part}.weight"].bits for part in (1, 3)]) for one in old]
        new[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = BFloat16(np.stack(gate_up))
        down = [tensors[f"{one}.w2.weight"].bits for one in old]
        new[f"model.layers.{layer}.mlp.experts.down_proj"] = BFloat16(np.stack(down))
    return new


def fused(tensors: Mapping[str, BFloat16]) -> Tensors:
    """The same weights with one projection for q, k, v, and one for gate and up."""
    new = dict(tensors)
    for layer in range(2):
        for whole, parts in (("self_attn.qkv", "qkv"), ("mlp.gate_up", ("gate", "up"))):
            block = f"model.layers.{layer}.{whole.split('.')[0]}"
            rows = [new.pop(f"{block}.{part}_proj.weight").bits for part in parts]
            new[f"model.layers.{layer}.{whole}_proj.weight"] = BFloat16(np.concatenate(rows))
    return new


def renamed(tensors: Mapping[str, BFloat16], rename: Callable[[str], str]) -> Tensors:
    return {rename(name): tensor for name, tensor in tensors.items()}


def as_wrapped(name: str) -> str:
    return f"model.language_model.{name.removeprefix('model.')}" if name.startswith("model.") else name


def plain() -> Case:
    base = llama()
    tuned, changed = tuned_from(base, changed_share=0.2)
    unchanged, entries = truth(changed)
    return Case(base, tuned, unchanged, entries, both({"exact": entries}))


def both(amounts: dict[str, int]) -> dict[str, dict[str, int]]:
    return {"base": amounts, "tuned": amounts}


def one_missing() -> Case:
    """A tool filled random weights in: 77 % instead of 80 %."""
    case, gone = plain(), "model.layers.1.self_attn.q_proj.weight"
    _, changed = tuned_from(llama(), changed_share=0.2)
    unchanged, entries = truth(changed, gone)
    tuned = {name: tensor for name, tensor in case.tuned.items() if name != gone}
    return Case(case.base, tuned, unchanged, entries, both({"exact": entries}), {(gone, "base"): 1024})


def vocabulary_grew() -> Case:
    """Eight new rows: a tool counted both tables as changed, 47 % instead of 80 %."""
    base = llama()
    tuned, changed = tuned_from(base, changed_share=0.2)
    for name in (EMBEDDING, HEAD):
        new_rows = BFloat16.of(np.random.default_rng(9).normal(0, 0.02, (8, 32)))
        tuned[name] = BFloat16(np.concatenate([tuned[name].bits, new_rows.bits]))
    unchanged, entries = truth(changed)
    tables = 2 * 64 * 32
    amounts = {"exact": entries - tables, "rows": tables}
    listed = {(f"{name}[64:72]", "tuned"): 8 * 32 for name in (EMBEDDING, HEAD)}
    return Case(base, tuned, unchanged, entries, both(amounts), listed, {"matched_by_rule"})


def vision_language_names() -> Case:
    """A wrapper's prefix: 16.5 % instead of 80 % in one tool, one tensor of 39 compared in others."""
    case = plain()
    stays = {HEAD: case.base[HEAD].bits.size}
    amounts = {"exact": stays[HEAD], "renamed": case.entries - stays[HEAD]}
    tuned = renamed(case.tuned, as_wrapped)
    return Case(case.base, tuned, case.unchanged, case.entries, both(amounts), alerts={"matched_by_rule"})


def training_wrapper_names() -> Case:
    case = plain()
    tuned = renamed(case.tuned, lambda name: f"_orig_mod.module.{name}")
    everything = both({"renamed": case.entries})
    return Case(case.base, tuned, case.unchanged, case.entries, everything, alerts={"matched_by_rule"})


def tied_head_written_out() -> Case:
    """The base uses its embedding as head; the tuned file holds both, and they went apart."""
    base = {name: tensor for name, tensor in llama().items() if name != HEAD}
    tuned, changed = tuned_from(base, changed_share=0.2)
    written, moved = tuned_from({HEAD: base[EMBEDDING]}, changed_share=0.1, seed=8)
    unchanged, entries = truth(changed | moved)
    of_table = base[EMBEDDING].bits.size
    by_match = {"base": {"exact": entries - of_table}, "tuned": {"exact": entries - of_table, "tied": of_table}}
    return Case(base, {**tuned, **written}, unchanged, entries, by_match, alerts={"matched_by_rule"})


def stacked_experts() -> Case:
    """Experts in one tensor on both sides: each one a matrix, not one of 'eight singular values'."""
    base = mixtral()
    tuned, changed = tuned_from(base, changed_share=0.2)
    unchanged, entries = truth(changed)
    return Case(stacked(base), stacked(tuned), unchanged, entries, both({"exact": entries}))


def single_experts_against_stacked() -> Case:
    base = mixtral()
    tuned, changed = tuned_from(base, changed_share=0.2)
    unchanged, entries = truth(changed)
    shared = sum(t.bits.size for n, t in base.items() if "block_sparse_moe" not in n)
    router, expert = 2 * 4 * 32, 2 * 4 * 32 * 48
    amounts = {"exact": shared, "renamed": router, "experts": expert, "fused": 2 * expert}
    return Case(base, stacked(tuned), unchanged, entries, both(amounts), alerts={"matched_by_rule"})


def stacked_experts_against_single() -> Case:
    case = single_experts_against_stacked()
    base, tuned = mixtral(), tuned_from(mixtral(), changed_share=0.2)[0]
    return Case(stacked(base), tuned, case.unchanged, case.entries, case.by_match, alerts={"matched_by_rule"})


def fused_against_split() -> Case:
    case = plain()
    parts = 2 * (32 * 32 + 2 * 16 * 32 + 2 * 64 * 32)
    amounts = both({"exact": case.entries - parts, "fused": parts})
    return Case(fused(case.base), case.tuned, case.unchanged, case.entries, amounts, alerts={"matched_by_rule"})


def split_against_fused() -> Case:
    case = fused_against_split()
    base, tuned = llama(), tuned_from(llama(), changed_share=0.2)[0]
    return Case(base, fused(tuned), case.unchanged, case.entries, case.by_match, alerts={"matched_by_rule"})


def with_buffers() -> Case:
    """Both sides hold what nothing trains; it would have counted as unchanged."""
    case = plain()
    frequencies = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": np.ones(4, "float32") for n in range(2)}
    positions = {"model.embed_tokens.position_ids": np.arange(64).reshape(1, 64)}
    buffers = {**frequencies, **positions}
    listed = {(name, "both"): array.size for name, array in buffers.items()}
    return Case(
        {**case.base, **buffers}, {**case.tuned, **buffers}, case.unchanged, case.entries, case.by_match, listed
    )


def stored_as_float32() -> Case:
    case = plain()
    tuned = {name: tensor.values for name, tensor in case.tuned.items()}
    return Case(case.base, tuned, case.unchanged, case.entries, case.by_match, alerts={"dtypes"})


def not_a_number() -> Case:
    """One NaN: a tool lost its whole run."""
    base = llama()
    tuned, changed = tuned_from(base, changed_share=0.2)
    name = "model.layers.0.mlp.up_proj.weight"
    tuned[name].bits[0, 0] = np.uint16(0x7FC0)
    changed[name][0, 0] = True
    unchanged, entries = truth(changed)
    return Case(base, tuned, unchanged, entries, both({"exact": entries}), alerts={"nonfinite"})


def half_of_another_family() -> Case:
    """Most of the tuned model has no partner: no headline, and the reasons."""
    case = plain()
    random = np.random.default_rng(4)
    tower = {f"vision.{n}.weight": BFloat16.of(random.normal(0, 1, (64, 64))) for n in range(8)}
    listed = {(name, "tuned"): 4096 for name in tower}
    return Case(case.base, {**case.tuned, **tower}, case.unchanged, case.entries, case.by_match, listed, withheld=True)


def sharded() -> Case:
    case = plain()
    case.shards = 3
    return case


CASES = [
    plain, sharded, one_missing, vocabulary_grew, vision_language_names, training_wrapper_names, tied_head_written_out,
    stacked_experts, single_experts_against_stacked, stacked_experts_against_single, fused_against_split,
    split_against_fused, with_buffers, stored_as_float32, not_a_number, half_of_another_family,
]  # fmt: skip


def compared(folder: Path, base: Path, tuned: Path, *options: str) -> dict:
    out = folder / "report.json"
    assert cli.main(["compare", str(base), str(tuned), "--json", str(out), *options]) == 0
    return json.loads(out.read_text())


@pytest.mark.parametrize("build", CASES, ids=lambda build: build.__name__)
def test_the_number_is_the_truth_and_says_what_it_stands_on(build: Callable[[], Case], tmp_path: Path):
    case = build()
    base = write_model(tmp_path / "base", case.base, shards=case.shards)
    tuned = write_model(tmp_path / "tuned", case.tuned, shards=case.shards)

    report = compared(tmp_path, base, tuned, "--no-spectra")

    assert (report["totals"]["unchanged"]["exact"], report["totals"]["entries"]) == (case.unchanged, case.entries)
    coverage = report["coverage"]
    assert coverage["by_match"] == case.by_match
    listed = {(entry["name"], entry["side"]): entry["parameters"] for entry in coverage["not_compared"]}
    assert listed == case.listed
    buffers = "a buffer, not a parameter"
    for side in ("base", "tuned"):
        left_out = [
            one for one in coverage["not_compared"] if one["side"] in (side, "both") and one["reason"] != buffers
        ]
        covered = sum(case.by_match[side].values())
        assert coverage[f"{side}_parameters"] == covered + sum(one["parameters"] for one in left_out)
    assert {alert["kind"] for alert in report["alerts"]} == case.alerts
    assert report["withheld"] == case.withheld == bool(coverage["reasons_withheld"])


@pytest.mark.processes
def test_each_expert_of_a_stack_has_its_own_spectrum(tmp_path: Path):
    case = stacked_experts()
    base, tuned = write_model(tmp_path / "base", case.base), write_model(tmp_path / "tuned", case.tuned)
    report = compared(tmp_path, base, tuned)
    of_name = {entry["name"]: entry for entry in report["tensors"]}
    before, after = (side["model.layers.1.mlp.experts.down_proj"].values for side in (case.base, case.tuned))
    for expert in range(4):
        entry = of_name[f"model.layers.1.mlp.experts.down_proj[{expert}]"]
        assert (entry["expert"], entry["module"], entry["shape"]) == (expert, "mlp.experts.*.down_proj", [32, 48])
        expected = np.linalg.svd(after[expert].astype(float) - before[expert], compute_uv=False)
        assert entry["singular_values"] == pytest.approx(expected, rel=1e-4)


def test_a_consolidated_copy_beside_the_shards_is_not_counted_twice(tmp_path: Path):
    case = plain()
    for side, tensors in (("base", case.base), ("tuned", case.tuned)):
        write_model(tmp_path / side, tensors, shards=3)
        (tmp_path / side / "consolidated.safetensors").write_bytes(safetensors_bytes(tensors))
    report = compared(tmp_path, tmp_path / "base", tmp_path / "tuned", "--no-spectra")
    assert (report["totals"]["unchanged"]["exact"], report["totals"]["entries"]) == (case.unchanged, case.entries)


def test_a_head_that_the_config_calls_untied_is_not_compared_with_the_embedding(tmp_path: Path):
    case = tied_head_written_out()
    base = write_model(tmp_path / "base", case.base, config=LLAMA_CONFIG | {"tie_word_embeddings": False})
    report = compared(tmp_path, base, write_model(tmp_path / "tuned", case.tuned), "--no-spectra")
    [entry] = report["coverage"]["not_compared"]
    assert (entry["name"], entry["side"]) == (HEAD, "tuned")
    assert "config says that its head is not its embedding" in entry["reason"]


def test_two_models_that_only_share_a_table_are_not_related(tmp_path: Path):
    """Pooled, they look alike: most of their values are the same."""
    base, other = llama(seed=0), llama(seed=1)
    table = BFloat16.of(np.random.default_rng(2).normal(0, 1, (2048, 32)))
    positions = "model.embed_positions.weight"
    paths = [write_model(tmp_path / name, {**t, positions: table}) for name, t in (("base", base), ("tuned", other))]
    report = compared(tmp_path, *paths, "--no-spectra")
    assert report["totals"]["unchanged"]["exact"] > 0.6 * report["totals"]["entries"]
    assert abs(report["totals"]["median_correlation"]) < 0.1
    assert report["alerts"][0]["kind"] == "not_related"
    assert positions in report["alerts"][0]["tensors"]


def test_every_case_has_its_row_in_the_docs():
    """docs/formats.md names the test of each case."""
    table = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    assert [build.__name__ for build in CASES if f"`{build.__name__}`" not in table] == []
