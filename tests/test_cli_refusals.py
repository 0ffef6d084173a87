"""What the terminal refuses: an exit code and a message for each thing that goes wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cli
from analysis.plan import Plan
from cache.gpus import surely_none
from cache.store import Store
from tests.comparing import write_pair
from tests.hub import faults
from tests.hub.builders import BFloat16, llama, model_files, write_model
from tests.hub.loopback import LoopbackHub

pytestmark = pytest.mark.usefixtures("terminal")
ROOT = Path(__file__).resolve().parents[1]


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


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    base, tuned = write_pair(tmp_path / "models")
    for option in ("--json", "--store"):
        assert cli.main(["compare", base, tuned, option, "/proc/nowhere/x"]) == 8
        assert "/proc/nowhere" in capsys.readouterr().err


def test_an_unknown_folder_is_answered_with_where_it_was_looked_for_and_what_is_near(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    base, _ = write_pair(tmp_path / "runs")
    (tmp_path / "runs" / "step_200").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", base, "./runs/step_20"]) == 3
    said = capsys.readouterr().err
    assert "There is no folder './runs/step_20'" in said
    assert f"A folder at {tmp_path}/runs/step_20." in said
    assert "Perhaps meant: 'step_200'" in said


@pytest.mark.skipif(not surely_none(), reason="there may be a GPU here")
def test_a_gpu_that_is_not_there_is_refused_before_anything_is_told_of_a_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    base, tuned = write_pair(tmp_path / "models")
    assert cli.main(["compare", base, tuned, "--device", "cuda", "--dry-run"]) == 8
    said = capsys.readouterr()
    assert said.err == (
        "compare: The device 'cuda' was asked for, and this machine has no NVIDIA GPU. "
        "Choose 'auto' or 'cpu' (--device, or SUBNETSCOPE_DEVICE).\n"
    )
    assert not said.out


def test_models_of_two_architectures_are_named_with_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    base = write_model(tmp_path / "base", llama(), config={"architectures": ["LlamaForCausalLM"]})
    other = {"conv.weight": BFloat16.of(np.ones((4, 4)))}
    tuned = write_model(tmp_path / "tuned", other, config={"model_type": "resnet"})
    assert cli.main(["compare", str(base), str(tuned), "--no-spectra"]) == 6
    said = capsys.readouterr().err
    assert f"'{tuned}' (resnet) and '{base}' (LlamaForCausalLM) have no tensor in common" in said


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
