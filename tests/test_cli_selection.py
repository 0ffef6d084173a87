"""`cli.py compare` of a part, or of none: selections, dry runs, and what does not fit into this machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import cli
from analysis.labels import size
from cache.hub.places import cache_dir
from tests.comparing import write_pair
from tests.hub.builders import BFloat16, write_model
from tests.hub.loopback import LoopbackHub

pytestmark = pytest.mark.usefixtures("terminal", "children_at_hand")


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


@pytest.mark.processes
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


@pytest.mark.processes
def test_spectra_that_the_memory_setting_does_not_allow_are_listed(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("SUBNETSCOPE_MEMORY", "16MB")
    for name, seed in (("base", 0), ("tuned", 1)):
        wide = np.random.default_rng(seed).normal(0, 0.02, (1000, 6000))
        write_model(tmp_path / name, {"model.layers.0.mlp.down_proj.weight": BFloat16.of(wide)})
    assert cli.main(["compare", str(tmp_path / "base"), str(tmp_path / "tuned"), "--dry-run"]) == 0
    assert "it needs 24 MB, the memory budget is 16 MB" in capsys.readouterr().out
