"""`cli.py dynamics`: the numbers of a planted run, from folders and from a repository's branches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cli
from tests.hub.builders import model_files, write_model
from tests.hub.loopback import LoopbackHub
from tests.series.planted import planted_run

pytestmark = pytest.mark.usefixtures("terminal", "children_at_hand")


@pytest.mark.processes
def test_folders_by_pattern_give_every_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    planted = planted_run(2, layers=1)
    base = write_model(tmp_path / "base", planted.base)
    for step, tensors in zip((90, 100), planted.checkpoints, strict=True):
        write_model(tmp_path / "run" / f"checkpoint-{step}", tensors)
    out = tmp_path / "out.json"
    arguments = ["dynamics", str(base), str(tmp_path / "run"), "--folders", "checkpoint-*", "--json", str(out)]
    assert cli.main(arguments) == 0

    report = json.loads(out.read_text())
    assert [one["step"] for one in report["checkpoints"]] == [90, 100]
    assert all(one["commit"].startswith("files-") for one in report["checkpoints"])
    entries = sum(tensor.bits.size for tensor in planted.base.values())
    for rule in ("exact", "mukherjee"):
        truth, told = planted.truth(rule), report["rules"][rule]
        assert {one.pop("name"): one for one in told["tensors"]} == {
            name: {"entries": planted.base[name].bits.size} | counts for name, counts in truth.items()
        }
        for field in ("changed", "moved", "changed_outside", "moved_outside", "union"):
            assert told[field] == [sum(counts[field][step] for counts in truth.values()) for step in range(2)]
        assert told["returned"][-1] == told["fates"]["came_back"]
        assert sum(told["fates"].values()) == told["entries_followed"] == entries
        assert [one["entries"] - one["unchanged"] for one in told["unchanged_since_previous"]] == told["moved"]
    [first, second] = report["patches"]["previous"]
    moved = report["rules"]["exact"]["moved"]
    assert (first["changed"], second["changed"]) == tuple(moved)
    assert second["indices_bytes"] == moved[1] * (4 + 2)
    assert second["full_bytes"] == 2 * entries
    assert report["not_followed"] == []
    said = capsys.readouterr()
    for name in ("never changed", "changed and came back", "in the final subnetwork", "changed, outside final"):
        assert name in said.out, "as the page has it"
    assert f"{moved[1]:,}" in said.out


def test_revisions_by_pattern_and_a_slip(hub: LoopbackHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    planted = planted_run(1, layers=1)
    hub.add("org/base", model_files(planted.base))
    hub.add("org/run", {"README.md": b"See the branches."})
    commit = hub.add("org/run", model_files(planted.checkpoints[0]), branch="step_7")
    out = tmp_path / "out.json"
    assert cli.main(["dynamics", "org/base", "org/run", "--revisions", "step_*", "--json", str(out)]) == 0
    [checkpoint] = json.loads(out.read_text())["checkpoints"]
    assert checkpoint == {"id": "org/run", "commit": commit, "name": "step_7", "step": 7}
    assert cli.main(["dynamics", "org/base", "org/run", "--revisions", "epoch*"]) == 3
    assert "step 7" in capsys.readouterr().err
    assert cli.main(["dynamics", "org/base", "org/run", "org/more", "--revisions", "step_*"]) == 2
