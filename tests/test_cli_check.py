"""`cli.py check`: what holds, what does not, and what checks nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import cli
from cache.store import Store
from tests.comparing import write_pair
from tests.hub.builders import BFloat16, llama

pytestmark = pytest.mark.usefixtures("terminal", "children_at_hand")
FROZEN = "unchanged(exact, 'self_attn.*') == 1"


def check(base: str, tuned: str, *assertions: str) -> int:
    return cli.main(["check", base, tuned, *(part for text in assertions for part in ("--assert", text))])


@pytest.mark.processes
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
