"""The terminal, over the loopback Hub and folders: what `compare`, `overlap` and `report` find."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import cli
from analysis.measurements import RULES
from tests.comparing import write_pair
from tests.hub.builders import BFloat16, llama, model_files, tuned_from, write_model
from tests.hub.loopback import LoopbackHub

pytestmark = pytest.mark.usefixtures("terminal", "children_at_hand")


@pytest.mark.processes
def test_compare_two_models_of_the_hub(family: LoopbackHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "report.json"

    assert cli.main(["compare", "org/base", "org/tuned-a@main", "--json", str(out)]) == 0

    report = json.loads(out.read_text())
    assert report["schema"] == 1
    assert report["base"] == {"id": "org/base", "commit": family.repositories["org/base"].resolve("main")}
    totals = report["totals"]
    changed = sum(round(0.2 * entry["entries"]) for entry in report["tensors"])
    assert totals["entries"] - totals["unchanged"]["exact"] == changed
    assert set(totals["unchanged"]) == set(RULES)
    assert report["coverage"] == {
        "compared_parameters": totals["entries"],
        "base_parameters": totals["entries"],
        "tuned_parameters": totals["entries"],
        "by_match": {"base": {"exact": totals["entries"]}, "tuned": {"exact": totals["entries"]}},
        "not_compared": [],
        "reasons_withheld": [],
    }
    [up] = [entry for entry in report["tensors"] if entry["name"] == "model.layers.1.mlp.up_proj.weight"]
    assert (up["layer"], up["module"], up["shape"], up["max_rank"]) == (1, "mlp.up_proj", [64, 32], 32)
    assert len(up["singular_values"]) == 32
    said = capsys.readouterr()
    assert f"org/base@{report['base']['commit']}" in said.err
    assert "unchanged, exact" in said.out


def test_without_spectra_there_are_none(family: LoopbackHub, tmp_path: Path):
    out = tmp_path / "report.json"
    assert cli.main(["compare", "org/base", "org/tuned-a", "--no-spectra", "--json", str(out)]) == 0
    assert {entry["rank"] for entry in json.loads(out.read_text())["tensors"]} == {None}


def test_a_second_run_measures_nothing_again(family: LoopbackHub, tmp_path: Path):
    arguments = ["compare", "org/base", "org/tuned-a", "--store", str(tmp_path / "own.duckdb"), "--json"]
    assert cli.main([*arguments, str(tmp_path / "1.json")]) == 0
    fetched = len(family.asked(r"/resolve/.*safetensors$", "GET"))
    assert cli.main([*arguments, str(tmp_path / "2.json")]) == 0
    assert (tmp_path / "1.json").read_text() == (tmp_path / "2.json").read_text()
    again = [asked for asked in family.asked(r"/resolve/.*safetensors$", "GET")[fetched:] if not asked.range]
    assert again == [], "only headers were read, by range"


def test_what_is_measured_already_is_said_to_be_and_printed_again(tmp_path: Path, capsys):
    arguments = ["compare", *write_pair(tmp_path / "models"), "--no-spectra"]
    assert cli.main(arguments) == 0
    first = capsys.readouterr()
    assert "to measure" in first.err
    assert cli.main(arguments) == 0
    again = capsys.readouterr()
    assert re.search(r"already measured on \d{4}-\d\d-\d\d \d\d:\d\d UTC, .*; nothing to do", again.err)
    assert "to measure" not in again.err
    assert again.out == first.out
    assert cli.main([*arguments, "--dry-run"]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_a_model_against_itself_is_said_to_be_one(tmp_path: Path, capsys):
    base, _ = write_pair(tmp_path / "models")
    assert cli.main(["compare", base, base, "--no-spectra"]) == 0
    said = capsys.readouterr()
    assert "note: Base and tuned are the same model" in said.err
    assert "Nothing changed" in said.out


@pytest.mark.processes
def test_overlap_of_two_models(family: LoopbackHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "overlap.json"

    assert cli.main(["overlap", "org/base", "org/tuned-a", "org/tuned-b", "--json", str(out)]) == 0

    report = json.loads(out.read_text())
    total = report["rules"]["exact"]["total"]
    masks = [tuned_from(llama(), changed_share=0.2, seed=seed)[1] for seed in (1, 2)]
    both = sum(int((masks[0][name] & masks[1][name]).sum()) for name in masks[0])
    either = sum(int((masks[0][name] | masks[1][name]).sum()) for name in masks[0])
    assert total["regions"]["3"] == both
    assert sum(total["regions"].values()) == total["entries"]
    [pair] = total["pairs"]
    assert pair["o1"] == both / total["changed"][0]
    assert pair["jaccard"] == both / either
    assert pair["chance"]["o1"] == pytest.approx(0.2, abs=0.002), "each tensor changed by a fifth, at random"
    assert len(report["rules"]["mukherjee"]["tensors"]) == len(masks[0])
    assert "A and B" in capsys.readouterr().out


def test_overlap_of_five_models_under_a_rule_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    base = llama()
    tuned = [tuned_from(base, changed_share=0.1 * seed, seed=seed) for seed in range(1, 6)]
    folders = [str(write_model(tmp_path / f"run-{seed}", model)) for seed, (model, _) in enumerate(tuned)]
    out = tmp_path / "overlap.json"
    arguments = ["overlap", str(write_model(tmp_path / "base", base)), *folders, "--rule", "bf16", "--json", str(out)]

    assert cli.main(arguments) == 0

    report = json.loads(out.read_text())
    assert list(report["rules"]) == ["bf16"]
    total = report["rules"]["bf16"]["total"]
    codes = np.concatenate([sum(m[name].ravel().astype(int) << i for i, (_, m) in enumerate(tuned)) for name in base])
    expected = np.bincount(codes, minlength=32)
    assert total["regions"] == {str(subset): int(n) for subset, n in enumerate(expected) if n}
    by_runs = np.bincount(np.bitwise_count(codes), minlength=6)
    assert total["by_runs"] == by_runs.tolist()
    assert total["by_runs_expected"] == pytest.approx(by_runs.tolist(), rel=0.15), "steps were chosen at random"
    assert sum(total["regions_expected_matched"].values()) == pytest.approx(total["entries"])
    printed = capsys.readouterr().out
    assert "smaller regions" in printed
    assert "5 of 5" in printed


def test_overlap_says_which_model_does_not_come_from_the_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    base = llama()
    models = {"base": base, "tuned": tuned_from(base, seed=1)[0], "stranger": llama(seed=9)}
    folders = [str(write_model(tmp_path / name, model)) for name, model in models.items()]
    assert cli.main(["overlap", *folders]) == 0
    [note] = [line for line in capsys.readouterr().err.splitlines() if "come from one another" in line]
    assert note.startswith(f"note: {folders[2]} and the base do not come from one another")


def test_what_cannot_be_compared_is_listed_with_its_reason(tmp_path: Path):
    wider = BFloat16.of(np.ones((64, 40)))
    base, tuned = write_pair(tmp_path / "models", **{"lm_head.weight": wider, "extra": BFloat16.of(np.ones(3))})
    out = tmp_path / "report.json"
    assert cli.main(["compare", base, tuned, "--json", str(out)]) == 0
    coverage = json.loads(out.read_text())["coverage"]
    assert [(entry["name"], entry["side"], entry["parameters"]) for entry in coverage["not_compared"]] == [
        ("lm_head.weight", "both", 64 * 32),
        ("extra", "tuned", 3),
    ]
    assert coverage["base_parameters"] - coverage["compared_parameters"] == 64 * 32


def test_a_matrix_without_a_spectrum_is_a_gap_with_its_own_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    name = "model.layers.0.mlp.up_proj.weight"
    poisoned = tuned_from(llama())[0][name]
    poisoned.bits[0, 0] = np.uint16(0x7FC0)
    base, tuned = write_pair(tmp_path / "models", **{name: poisoned})
    out = tmp_path / "report.json"
    assert cli.main(["compare", base, tuned, "--json", str(out)]) == cli.DONE_WITH_GAPS
    report = json.loads(out.read_text())
    [entry] = [entry for entry in report["tensors"] if entry["name"] == name]
    assert entry["gaps"] == {"spectrum": "it has entries that are not finite, or too large for a float32 update"}
    assert (report["totals"]["nonfinite"], entry["nonfinite"]) == (1, 1)
    assert "not finite" in capsys.readouterr().err


def test_what_lies_beside_the_store_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Masks over their quota go, other people's folders stay, also where they are called 'masks'."""
    monkeypatch.setenv("SUBNETSCOPE_MASK_QUOTA", "1")
    ours = [tmp_path / "masks" / "segmentation" / "a.mask", tmp_path / "own.masks" / "0123456789abcdef" / "notes.txt"]
    for file in ours:
        file.parent.mkdir(parents=True)
        file.write_text("mine")
    for seed in ("one", "two"):
        base, tuned = write_pair(tmp_path / seed, extra=BFloat16.of(np.full(3, len(seed) + ord(seed[0]))))
        assert cli.main(["compare", base, tuned, "--store", str(tmp_path / "own.duckdb"), "--no-spectra"]) == 0
    assert [file.read_text() for file in ours] == ["mine", "mine"]


def test_names_that_steer_a_terminal_are_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    name = "\x1b]0;owned\x07w"
    broken = BFloat16(np.full((4, 4), 0x7FC0, np.uint16))
    base = write_model(tmp_path / "base", {name: broken})
    tuned = write_model(tmp_path / "tuned", {name: BFloat16.of(np.ones((4, 4)))})
    assert cli.main(["compare", str(base), str(tuned)]) == cli.DONE_WITH_GAPS
    said = capsys.readouterr()
    assert "\x1b" not in said.err + said.out
    assert r"\x1b]0;owned\x07w" in said.err


def test_a_folder_is_a_folder_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_pair(tmp_path)
    (tmp_path / "tuned").rename(tmp_path / "_run step 1")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", "base", "_run step 1", "--no-spectra"]) == 0


def test_the_report_names_the_base_that_the_tuned_models_card_names(family: LoopbackHub, tmp_path: Path, capsys):
    family.add("org/other-base", model_files(llama(seed=9)))
    out = tmp_path / "report.json"
    assert cli.main(["compare", "org/other-base", "org/tuned-a", "--no-spectra", "--json", str(out)]) == 0
    [alert] = [alert for alert in json.loads(out.read_text())["alerts"] if alert["kind"] == "declared_base"]
    assert alert["models"] == ["org/base"]
    said = capsys.readouterr()
    assert "made from 'org/base', not from 'org/other-base'" in said.err
    assert "(org/base)" in said.out


def test_a_report_is_one_file_with_every_tensor(tmp_path: Path):
    base, changed = llama(), tuned_from(llama(), changed_share=0.2, seed=1)[0]
    write_model(tmp_path / "base", base)
    write_model(tmp_path / "tuned", changed)
    out = tmp_path / "new" / "report.html"
    assert cli.main(["report", str(tmp_path / "base"), str(tmp_path / "tuned"), "--html", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert all(name in text for name in base)
    assert "How to cite" in text
    assert str(tmp_path) not in text.replace(str(tmp_path / "base"), "").replace(str(tmp_path / "tuned"), "")
    assert not re.search(r"""(?:src|href)=["']?https?://""", text[: text.index("plotly.js")])
