"""The terminal, over the loopback Hub and folders: numbers, exit codes, a message for each thing that goes wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cli
from analysis.labels import size
from analysis.measurements import RULES
from analysis.plan import Plan
from cache.hub.places import cache_dir
from cache.store import Store
from tests.hub import faults
from tests.hub.builders import BFloat16, llama, model_files, tuned_from, write_model
from tests.hub.loopback import LoopbackHub

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUBNETSCOPE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SUBNETSCOPE_THREADS", "1")
    monkeypatch.setenv("SUBNETSCOPE_DEVICE", "cpu")
    return tmp_path / "data"


@pytest.fixture
def family(hub: LoopbackHub) -> LoopbackHub:
    """org/base, and org/tuned-a and org/tuned-b with exactly 20 % changed entries, sharded, with a card."""
    base = llama()
    hub.add("org/base", model_files(base))
    for name, seed in (("org/tuned-a", 1), ("org/tuned-b", 2)):
        files = model_files(tuned_from(base, changed_share=0.2, seed=seed)[0], shards=3)
        hub.add(name, files, card="base_model: org/base")
    return hub


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


def write_pair(folder: Path, **changes: object) -> tuple[str, str]:
    base = llama()
    tuned = {**tuned_from(base)[0], **changes}
    return str(write_model(folder / "base", base)), str(write_model(folder / "tuned", tuned))


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


FROZEN = "unchanged(exact, 'self_attn.*') == 1"


def check(base: str, tuned: str, *assertions: str) -> int:
    return cli.main(["check", base, tuned, *(part for text in assertions for part in ("--assert", text))])


def test_check_says_what_holds_and_what_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    frozen = {name: tensor for name, tensor in llama().items() if "self_attn" in name}
    base, tuned = write_pair(tmp_path / "models", **frozen)
    out = tmp_path / "report.json"

    assert check(base, tuned, FROZEN, "changed(exact) > 1 %", "nonfinite() == 0", "rank('self_attn.*') == 0") == 0
    said = capsys.readouterr().out
    assert said.count("  holds  ") == 4
    assert "4 of 4 assertions hold; " in said

    arguments = ["check", base, tuned, "--assert", "touched('self_attn.*') > 0", "--assert", FROZEN, "--json"]
    assert cli.main([*arguments, str(out)]) == 9
    report = json.loads(out.read_text())
    assert report["holds"] is False
    assert [entry["holds"] for entry in report["assertions"]] == [False, True]
    assert report["assertions"][0] | {"assertion": ""} == {
        "assertion": "",
        "holds": False,
        "value": 0,
        "part": None,
        "whole": None,
        "entries": sum(tensor.bits.size for tensor in frozen.values()),
        "tensors": len(frozen),
        "why_not": None,
    }
    assert "  FAILS  touched('self_attn.*') > 0" in capsys.readouterr().out
    assert cli.main([*arguments, "-"]) == 9
    assert json.loads(capsys.readouterr().out) == report


def test_check_fails_where_a_frozen_part_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    other = BFloat16.of(np.ones((64, 40)))
    base, tuned = write_pair(tmp_path / "models", **{"lm_head.weight": other})
    assert check(base, tuned, "unchanged(exact, 'lm_head*') == 1") == 9
    assert "shapes differ" in capsys.readouterr().out


def test_check_measures_spectra_only_for_a_rank(tmp_path: Path):
    base, tuned = write_pair(tmp_path / "models")
    file = tmp_path / "own.duckdb"
    for text, n_spectra in (("touched() > 0", 0), ("rank() > 0", 16)):
        assert cli.main(["check", base, tuned, "--assert", text, "--store", str(file)]) == 0
        with Store.open(file) as store:
            assert [pair.n_spectra for pair in store.pairs()] == [n_spectra]


@pytest.mark.parametrize("text", ["unchanged(exact) = 1", "unchanged(exact, 'self_atn.*') == 1"])
def test_check_refuses_an_assertion_that_checks_nothing(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert check(*write_pair(tmp_path / "models"), FROZEN, text) == 2
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith("check: ")
    assert text in said.err
    assert not said.out


def wrong_id(_: LoopbackHub) -> tuple[str, str]:
    return "org/base", "org/tunde"


def missing_revision(_: LoopbackHub) -> tuple[str, str]:
    return "org/base", "org/tuned-a@v9"


def gated(hub: LoopbackHub) -> tuple[str, str]:
    hub.add("org/gated", model_files(llama()), gated=True)
    return "org/base", "org/gated"


def private(hub: LoopbackHub) -> tuple[str, str]:
    hub.add("org/private", model_files(llama()), private=True)
    return "org/base", "org/private"


def other_architecture(hub: LoopbackHub) -> tuple[str, str]:
    hub.add("org/other", model_files({"conv.weight": BFloat16.of(np.ones((4, 4)))}))
    return "org/base", "org/other"


def truncated(hub: LoopbackHub) -> tuple[str, str]:
    files = model_files(llama())
    hub.add("org/cut", {**files, "model.safetensors": files["model.safetensors"][:-100]})
    return "org/base", "org/cut"


def damaged_on_the_way(hub: LoopbackHub) -> tuple[str, str]:
    hub.fail(faults.FlippedBit(path=r"org/tuned-a/resolve/.*safetensors$", method="GET"))
    return "org/base", "org/tuned-a"


def unreachable(hub: LoopbackHub) -> tuple[str, str]:
    hub.fail(faults.Cut(after=0))
    return "org/base", "org/tuned-a"


def overloaded(hub: LoopbackHub) -> tuple[str, str]:
    hub.fail(faults.Status(status=429, retry_after="86400"))
    return "org/base", "org/tuned-a"


def pickled(hub: LoopbackHub) -> tuple[str, str]:
    hub.add("org/pickled", {"config.json": b"{}", "pytorch_model.bin": b"PK\x03\x04"})
    return "org/base", "org/pickled"


def no_model(_: LoopbackHub) -> tuple[str, str]:
    return "org/base", "llama3"


FAILURES = {
    no_model: (2, "'llama3'"),
    wrong_id: (3, "'org/tunde'"),
    missing_revision: (3, "'v9'"),
    gated: (3, "gated"),
    private: (3, "'org/private'"),
    unreachable: (4, "Hub"),
    overloaded: (4, "Hub"),
    pickled: (5, "'org/pickled'"),
    truncated: (5, "'org/cut'"),
    other_architecture: (6, "org/other"),
}


@pytest.fixture(scope="module")
def used_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one comparison in it."""
    folder = tmp_path_factory.mktemp("used")
    arguments = ["compare", *write_pair(folder / "models"), "--store", str(folder / "used.duckdb"), "--no-spectra"]
    subprocess.run([sys.executable, str(ROOT / "cli.py"), *arguments], check=True, capture_output=True)
    return folder / "used.duckdb"


def test_a_file_damaged_on_the_way_costs_its_own_tensors_and_is_named(family: LoopbackHub, tmp_path: Path, capsys):
    base, tuned = damaged_on_the_way(family)
    assert cli.main(["compare", base, tuned, "--store", str(tmp_path / "own.duckdb"), "--no-spectra"]) == 10
    assert "model-0000" in capsys.readouterr().err


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
def test_each_failure_says_what_was_seen_and_what_to_do(
    failure, family: LoopbackHub, used_store: Path, capsys: pytest.CaptureFixture[str]
):
    base, tuned = failure(family)
    code, seen = FAILURES[failure]

    assert cli.main(["compare", base, tuned, "--store", str(used_store), "--no-spectra"]) == code

    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("compare: ")
    assert seen in said
    assert said.count(". ") >= 1, "what was seen, and what to do"
    assert "http" not in said.replace(family.url, ""), "no foreign addresses"
    assert "<img" not in said
    with Store.open(used_store) as store:
        [kept] = [pair for pair in store.pairs() if pair.pair.base.where == "folder"]
        assert store.holes(kept.pair.key, Plan(spectra=False)) == [], "nothing stored was lost"


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


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    base, tuned = write_pair(tmp_path / "models")
    for option in ("--json", "--store"):
        assert cli.main(["compare", base, tuned, option, "/proc/nowhere/x"]) == 8
        assert "/proc/nowhere" in capsys.readouterr().err


def test_a_folder_is_a_folder_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_pair(tmp_path)
    (tmp_path / "tuned").rename(tmp_path / "_run step 1")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", "base", "_run step 1", "--no-spectra"]) == 0


def test_a_store_in_use_names_the_process_that_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    base, tuned = write_pair(tmp_path / "models")
    file = tmp_path / "own.duckdb"
    with Store.open(file):
        command = [sys.executable, str(ROOT / "cli.py"), "compare", base, tuned, "--store", str(file)]
        ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 7
    assert "process" in ended.stderr


def test_help_and_a_wrong_command_line(capsys: pytest.CaptureFixture[str]):
    for arguments, code in ((["--help"], 0), (["compare", "--help"], 0), (["compare"], 2), (["contrast"], 2)):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert ended.value.code == code
    assert "subfolder@revision" in capsys.readouterr().out


def test_a_dry_run_says_what_it_would_take_and_stops(family: LoopbackHub, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["compare", "org/base", "org/tuned-a", "--dry-run"]) == 0
    said = capsys.readouterr().out
    commits = [[*family.repositories[name].files_of_commit.values()][-1] for name in ("org/base", "org/tuned-a")]
    n_bytes = sum(len(one[path].content) for one in commits for path in one if path.endswith(".safetensors"))
    assert f"to download  {size(n_bytes)} (" in said
    for words in ("memory", "to store", "time", "21 of 21 tensors", "pairs        21 by same name"):
        assert words in said
    assert family.asked(r"/resolve/.*safetensors$", "GET") == [
        asked for asked in family.asked(r"/resolve/.*safetensors$", "GET") if asked.range
    ], "headers alone were read"
    assert cli.main(["compare", "org/base", "org/tuned-a", "--dry-run", "--layers", "1", "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["selection"]["selected_layers"] == [1]
    assert 0 < document["bytes_to_fetch"] < n_bytes
    assert document["refusals"] == []


def test_a_selection_fetches_and_measures_what_it_names(family: LoopbackHub, tmp_path: Path, capsys):
    out = tmp_path / "part.json"
    arguments = ["compare", "org/base", "org/tuned-a", "--json", str(out), "--store", str(tmp_path / "own.duckdb")]
    assert cli.main([*arguments, "--layers", "1", "--modules", "q_proj,mlp.*", "--spectra", "every:2"]) == 0
    kept = list(cache_dir().glob("models--org--tuned-a/snapshots/*/*.safetensors"))
    assert 0 < len(kept) < 3, "not the shard without selected tensors"
    report = json.loads(out.read_text())
    assert report["selection"] == {
        "is_everything": False,
        "layers": "1",
        "modules": ["q_proj", "mlp.*"],
        "spectra": "every:2",
        "selected_layers": [1],
        "selected_tensors": 4,
        "selected_matrices_with_spectra": 0,
        "selected_parameters": 4 * 32 * 32 - 32 * 32 + 2 * 2 * 32 * 32,
        "comparable_tensors": 21,
        "comparable_parameters": sum(entry["entries"] for entry in report["tensors"]),
    }
    selected = [entry for entry in report["tensors"] if entry["selected"]]
    assert report["totals"]["entries"] == sum(entry["entries"] for entry in selected)
    assert all((entry["unchanged"] is None) != entry["selected"] for entry in report["tensors"])
    assert (report["withheld"], report["coverage"]["base_parameters"]) == (False, report["totals"]["entries"])
    assert "1 of 2 layers, " in capsys.readouterr().out
    assert cli.main(arguments) == 0
    whole = json.loads(out.read_text())
    assert whole["selection"]["is_everything"]
    assert all(entry["unchanged"] for entry in whole["tensors"])


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


def test_a_selection_of_which_only_a_part_is_there_says_so(tmp_path: Path, capsys):
    pair = write_pair(tmp_path / "models")
    assert cli.main(["compare", *pair, "--layers", "0-1,30-31", "--modules", "q_proj,k_porj", "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "note: The models have no layers 30-31: theirs are 0 to 1." in said
    assert "note: 'k_porj' fits no tensor that both models have in these layers." in said


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--layers", "3-1", "ends before it begins"),
        ("--layers", "17", "names no tensor"),
        ("--layers", "30-31", "The models have no layers 30-31: theirs are 0 to 1"),
        ("--modules", "q_porj", "names no tensor"),
        ("--spectra", "some", "every:4"),
    ],
)
def test_a_selection_that_cannot_be_is_answered_in_words(option, value, words, tmp_path: Path, capsys):
    assert cli.main(["compare", *write_pair(tmp_path / "models"), option, value]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("compare: ")
    assert words in said


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("SUBNETSCOPE_MEMORY_LIMIT", "300MB", "a worker may take 300 MB here"),
        ("SUBNETSCOPE_SPARE_DISK", "9000TB", "are to stay free"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_figures(variable, value, words, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv(variable, value)
    for more in ([], ["--dry-run"]):
        assert cli.main(["compare", *write_pair(tmp_path / "models"), *more]) == 8
        assert words in capsys.readouterr().err.splitlines()[-1]


def test_spectra_that_the_memory_setting_does_not_allow_are_listed(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("SUBNETSCOPE_MEMORY", "16MB")
    for name, seed in (("base", 0), ("tuned", 1)):
        wide = np.random.default_rng(seed).normal(0, 0.02, (1000, 6000))
        write_model(tmp_path / name, {"model.layers.0.mlp.down_proj.weight": BFloat16.of(wide)})
    assert cli.main(["compare", str(tmp_path / "base"), str(tmp_path / "tuned"), "--dry-run"]) == 0
    assert "it needs 24 MB, the memory budget is 16 MB" in capsys.readouterr().out


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
