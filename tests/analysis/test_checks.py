"""Assertions: what they say about a pair one can see, and that none holds which checks nothing."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from analysis import report
from analysis.alignment import align
from analysis.checks import judge, read_assertion, refuse_aimless
from analysis.errors import BadAssertion
from analysis.models import Pair, PinnedModel
from analysis.tensors import NotCompared, TensorInfo
from tests.analysis.by_hand import spectrum_of, tally_of

VISION, UP, NORM = "vision_tower.patch.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"
SHAPES = {VISION: (10, 10), UP: (5, 20), NORM: (8,)}
INFOS = [TensorInfo(name, "F32", shape, "model.safetensors", 0, 4) for name, shape in SHAPES.items()]
ALIGNMENT = align(INFOS, INFOS)
LOST = dataclasses.replace(
    ALIGNMENT,
    not_compared=(NotCompared("vision_tower.new.weight", "tuned", "only the tuned model has it", 92),),
    tuned_parameters=300,
)


def measured():
    """The vision tower is frozen; of up_proj one row of 20 entries moved by 1, of the norm 2 of 8 by a millionth."""
    before = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    after = {name: values.copy() for name, values in before.items()}
    after[UP][0] = 1
    after[NORM][:2] = 1e-6
    tallies = {name: tally_of(before[name], after[name]) for name in SHAPES}
    spectra = {UP: spectrum_of(after[UP]), VISION: dataclasses.replace(spectrum_of(np.eye(10)), rank=0)}
    return tallies, spectra


def verdict(text, *, alignment=ALIGNMENT, without=(), gaps=None):
    assertion = read_assertion(text)
    refuse_aimless(assertion, alignment)
    tallies, spectra = ({name: m for name, m in kind.items() if name not in without} for kind in measured())
    return judge(assertion, alignment, tallies, spectra, gaps or {})


HOLDING = {
    "unchanged(exact, 'vision_tower.*') == 1": "100.0000 %, 100 of 100",
    "changed(1e-5) > 9.6 %": "9.6154 %, 20 of 208",
    "changed(1e-5)>0.09": "9.6154 %, 20 of 208",
    "changed(exact, 'mlp.*') == 0.2": "20.0000 %, 20 of 100",
    "changed(1e-6, '*norm*') == 0": "0.0000 %, 0 of 8",
    'unchanged(mukherjee, "*") != 1': "90.3846 %, 188 of 208",
    "unchanged(bf16, 'vision_tower.*', 'model.norm*') >= 90%": "98.1481 %, 106 of 108",
    "changed(exact, '!vision_tower.*', '!mlp.*') == 25 %": "25.0000 %, 2 of 8",
    "nonfinite() == 0": "0",
    "touched() == 2": "2",
    "touched('vision_tower.*') == 0": "0",
    "entries('*.layers.0.*') == 1e2": "100",
    "tensors() == 3": "3",
    "rank() == 0.1": "10.0000 %",
    "rank('mlp.up_proj') == 20 %": "20.0000 %",
    "coverage(base) == 1": "100.0000 %, 208 of 208",
}


@pytest.mark.parametrize("text", HOLDING)
def test_an_assertion_that_holds(text):
    found = verdict(text)
    assert found.holds
    assert found.words.startswith(HOLDING[text] + ", in ")


@pytest.mark.parametrize(
    "text",
    [
        "unchanged(exact) == 1",
        "changed(exact, 'vision_tower.*') > 0",
        "touched() < 2",
        "entries() != 208",
        "rank() > 10 %",
        "changed(exact, 'mlp.*') < 0.2",
    ],
)
def test_an_assertion_that_fails(text):
    found = verdict(text)
    assert not found.holds
    assert not found.why_not


def test_equal_to_one_means_every_entry():
    big = 10**17
    info = [TensorInfo("w", "F32", (big,), "model.safetensors", 0, 4)]
    tally = dataclasses.replace(measured()[0][NORM], entries=big, equal=big - 1)
    found = judge(read_assertion("unchanged(exact) == 1"), align(info, info), {"w": tally}, {}, {})
    assert (big - 1) / big == 1.0, "what a float would say"
    assert not found.holds
    assert found.words.startswith("> 99.9999 %")


def test_a_decimal_is_meant_as_written():
    assert read_assertion("changed(exact) == 0.1").limit == Fraction(1, 10)
    assert read_assertion("changed(exact) == 1e-3 %").limit == Fraction(1, 100_000)


REFUSED = {
    "unchanged(exact) = 1": "one of ==",
    "unchanged(exact)": "a number",
    "unchanged(exact) == -1": "a number",
    "unchanged(exact) == 1 and nonfinite() == 0": "a number",
    "__import__('os').system('true') == 0": "a number",
    "unchanged(exact, vision_tower.*) == 1": "a number",
    "unchanged(exact, lm_head) == 1": "in quotes",
    "unchanged(exact, '') == 1": "not empty",
    "unchanged(exact, '!') == 1": "not empty",
    "same(exact) == 1": "not 'same'",
    "unchanged() == 1": "begins with one of exact",
    "unchanged(0.00001) == 1": "begins with one of exact",
    "coverage() == 1": "one of base, tuned",
    "coverage(base, 'mlp.*') == 1": "no pattern",
    "unchanged(exact) == 99": "from 0 to 1",
    "changed(exact) < 101 %": "from 0 to 1",
    "nonfinite() < 1 %": "whole number",
    "touched() > 0.5": "whole number",
    "unchanged(exact) >= 0": "holds for any",
    "rank() <= 100 %": "holds for any",
    "nonfinite() >= 0": "holds for any",
    "changed(exact) < 0": "fails for any",
    "nonfinite()\n== 0": "Something like",
    "": "a number",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_meant_is_refused_with_how_to_write_it(text):
    with pytest.raises(BadAssertion, match=REFUSED[text].replace("(", r"\(")) as refused:
        read_assertion(text)
    assert refused.value.exit_code == 2
    assert refused.value.do


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("unchanged(exact, 'visoin_tower.*') == 1", "'visoin_tower.*' names none"),
        ("unchanged(exact, 'vision_tower.*', 'head') == 1", "'head' names none"),
        ("unchanged(exact, '!head') == 1", "'!head' names none"),
        ("unchanged(exact, 'mlp.*', '!*proj*') == 1", "these take all away"),
        ("rank('*norm*') > 0", "names a matrix"),
    ],
)
def test_a_pattern_that_names_nothing_is_an_error(text, seen):
    with pytest.raises(BadAssertion) as refused:
        verdict(text)
    assert seen in str(refused.value)


def test_a_pattern_stands_for_all_its_tensors_also_those_not_compared():
    found = verdict("unchanged(exact, 'vision_tower.*') == 1", alignment=LOST)
    assert not found.holds
    assert "1 not compared, first 'vision_tower.new.weight': only the tuned model has it" in found.words
    assert verdict("unchanged(exact, 'vision_tower.*', '!*.new.*') == 1", alignment=LOST).holds
    alone = verdict("unchanged(exact, 'vision_tower.new.*') == 1", alignment=LOST)
    assert (alone.holds, alone.found) == (False, None)
    assert alone.words.startswith("cannot be told: 1 not compared")


def test_without_a_pattern_an_assertion_is_about_what_is_compared():
    assert verdict("touched() == 2", alignment=LOST).holds
    assert not verdict("coverage(tuned) == 1", alignment=LOST).holds
    assert verdict("coverage(tuned) > 69 %", alignment=LOST).holds


def test_what_could_not_be_measured_does_not_hold():
    gaps = {("tally", VISION): "the file ends early", ("spectrum", UP): "it has entries that are not finite"}
    found = verdict("unchanged(exact) > 0", without=[VISION], gaps=gaps)
    assert not found.holds
    assert "1 without a measurement, first 'vision_tower.patch.weight': the file ends early" in found.words
    assert not verdict("rank() >= 0.1", without=[UP], gaps=gaps).holds
    assert verdict("tensors() == 2", without=[VISION], gaps=gaps).holds
    assert not verdict("coverage(base) == 1", without=[VISION], gaps=gaps).holds


def test_the_report_holds_counts_as_integers():
    pair = Pair(PinnedModel("hub", "org/base", "a" * 40), PinnedModel("hub", "org/tuned", "b" * 40))
    verdicts = [verdict(text) for text in ("changed(exact, 'mlp.*') == 0.2", "rank() > 10 %", "touched() == 2")]
    document = report.check(pair, ALIGNMENT, measured()[0], verdicts)
    changed, rank, touched = document["assertions"]
    assert (document["holds"], changed["holds"], rank["holds"]) == (False, True, False)
    assert (changed["value"], changed["part"], changed["whole"], changed["tensors"]) == (0.2, 20, 100, 1)
    assert (rank["value"], rank["part"], rank["tensors"]) == (pytest.approx(0.1), None, 2)
    assert (touched["value"], touched["whole"], touched["entries"]) == (2, None, 208)
