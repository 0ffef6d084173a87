"""Against an independent computation, on weights that this project did not make up: the demo family, and pairs that
nobody here trained (skipped where they are not on the machine).

The oracle is numpy and torch on whole tensors, read by safetensors itself: nothing of ours but the names.
"""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import cli
from analysis.measurements import TOLERANCES
from tests.at_hand import at_hand

ROOT = Path(__file__).resolve().parents[1]
OTHERS = Path(os.environ.get("SUBNETSCOPE_REAL_WEIGHTS", ROOT.parent / "shared" / "data"))
DEMO = ROOT / "demo"

PAIRS = [
    *((DEMO / "abacus-base", folder) for folder in sorted(DEMO.glob("abacus-*")) if folder.name != "abacus-base"),
    (OTHERS / "trees-grpo" / "run2-pretrained", OTHERS / "trees-grpo" / "run2-grpo200"),
    (OTHERS / "trees-grpo" / "run1-pretrained", OTHERS / "trees-grpo" / "run1-grpo200"),
    (OTHERS / "trees-grpo" / "early-a-step200", OTHERS / "trees-grpo" / "early-b-step200"),
    (OTHERS / "alignn" / "wt10", OTHERS / "alignn" / "revised"),
]

# What others measured of these pairs: percent of entries that are identical, and within 1e-5.
KNOWN_PERCENT = {"run2-grpo200": (3.55, 3.90), "run1-grpo200": (3.37, 3.64), "early-b-step200": (21.27, 100.0),
                 "revised": (70.12, None)}  # fmt: skip


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: pair[1].name)
def compared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """(report, base tensors, tuned tensors, name of the tuned model)."""
    base, tuned = request.param
    assert len(PAIRS) >= 8 + 4, "the demo family is part of the project"
    if not base.is_dir():
        pytest.skip(f"{base.name} is not on this machine")
    folder = tmp_path_factory.mktemp("compare")
    out = folder / "report.json"
    with at_hand() if base == DEMO / "abacus-base" and tuned != PAIRS[0][1] else nullcontext():
        code = cli.main(["compare", str(base), str(tuned), "--store", str(folder / "store.duckdb"), "--json", str(out)])
    assert code == 0
    tensors = [load_file(model / "model.safetensors") for model in (base, tuned)]
    return json.loads(out.read_text()), *tensors, tuned.name


def test_counts_are_identical_to_numpys(compared):
    report, base, tuned, _ = compared
    named = {entry["name"] for entry in report["tensors"] if entry["match"] == "exact"}
    assert named == {n for n in base if n in tuned and base[n].numel()}
    for entry in report["tensors"]:
        before, after = (side.float().numpy() for side in _sides(entry, base, tuned))
        size = np.abs(after - before)
        expected = {"exact": int((before == after).sum())}
        expected |= {t: int((size <= np.float32(t)).sum()) for t in TOLERANCES}
        wide = np.abs(after.astype(np.float64) - before)
        larger = np.maximum(np.abs(before), np.abs(after)).astype(np.float64)
        expected["bf16"] = int((wide <= 1e-3 * larger).sum())
        got = {rule: entry["unchanged"][rule] for rule in expected}
        assert got == expected, entry["name"]
        assert entry["frobenius_update"] == pytest.approx(float(np.sqrt((wide**2).sum())), rel=1e-12)


def test_mukherjees_share_is_the_published_scripts(compared):
    """Both checkpoints loaded in bfloat16, subtracted, torch.isclose(rl - sft, 0, atol=1e-5)."""
    report, base, tuned, _ = compared
    for entry in report["tensors"]:
        sft, rl = (side.to(torch.bfloat16) for side in _sides(entry, base, tuned))
        delta = rl - sft
        unchanged = int(torch.isclose(delta, torch.zeros_like(delta), atol=1e-5).sum())
        assert entry["unchanged"]["mukherjee"] == unchanged, entry["name"]


def test_ranks_are_the_published_scripts(compared):
    """torch.linalg.matrix_rank of the float32 difference."""
    report, base, tuned, _ = compared
    matrices = [entry for entry in report["tensors"] if entry["max_rank"]]
    assert matrices
    for entry in matrices:
        before, after = _sides(entry, base, tuned)
        update = after.float() - before.float()
        assert entry["rank"] == int(torch.linalg.matrix_rank(update)), entry["name"]
        exact = torch.linalg.svdvals(update.double()).numpy()
        assert np.abs(np.array(entry["singular_values"]) - exact).max() <= 1e-5 * max(exact[0], 1e-30)


def test_totals_pool_and_the_shares_are_those_others_measured(compared):
    report, _, _, name = compared
    totals = report["totals"]
    for rule, count in totals["unchanged"].items():
        assert count == sum(entry["unchanged"][rule] for entry in report["tensors"])
    assert totals["entries"] == report["coverage"]["compared_parameters"]
    for rule, percent in zip(("exact", "1e-5"), KNOWN_PERCENT.get(name, ()), strict=False):
        if percent is not None:
            known = [entry for entry in report["tensors"] if entry["match"] == "exact"]  # they left out the tied head
            unchanged, entries = (
                sum(x) for x in zip(*((t["unchanged"][rule], t["entries"]) for t in known), strict=True)
            )
            assert round(100 * unchanged / entries, 2) == percent


def _sides(entry, base, tuned):
    return base[entry["base_name"]], tuned[entry["tuned_name"]]


def test_two_pretrained_runs_do_not_come_from_one_another(tmp_path: Path):
    """Others measured a correlation of 0.004 over all entries of the two."""
    models = [OTHERS / "trees-grpo" / f"{run}-pretrained" for run in ("run1", "run2")]
    if not all(model.is_dir() for model in models):
        pytest.skip("trees-grpo is not on this machine")
    out = tmp_path / "report.json"
    store = str(tmp_path / "store.duckdb")
    assert cli.main(["compare", *map(str, models), "--no-spectra", "--store", store, "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    base, tuned = (load_file(model / "model.safetensors") for model in models)
    common = {name: min(len(base[name]), len(tuned[name])) for name in base if base[name].ndim == 2}
    expected = [
        np.corrcoef([side[name][:rows].double().numpy().ravel() for side in (base, tuned)])[0, 1]
        for name, rows in common.items()
    ]
    assert report["totals"]["median_correlation"] == pytest.approx(float(np.median(expected)), abs=1e-9)
    assert abs(report["totals"]["median_correlation"]) < 0.05
    assert report["alerts"][0]["kind"] == "not_related"
    assert not report["withheld"]


@pytest.mark.parametrize("run", ["run1", "run2"])
def test_a_tuned_model_is_related_to_its_base(tmp_path: Path, run: str):
    models = [OTHERS / "trees-grpo" / f"{run}-{what}" for what in ("pretrained", "grpo200")]
    if not all(model.is_dir() for model in models):
        pytest.skip("trees-grpo is not on this machine")
    out = tmp_path / "report.json"
    store = str(tmp_path / "store.duckdb")
    assert cli.main(["compare", *map(str, models), "--no-spectra", "--store", store, "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["totals"]["median_correlation"] > 0.9
    assert "not_related" not in {alert["kind"] for alert in report["alerts"]}
    assert report["coverage"]["by_match"]["base"].keys() == {"exact", "tied"}
