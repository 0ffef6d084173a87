"""Is it the right base: what the tuned model says of itself, and which of the bases compared is nearer."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.bases import another_declared, is_named, nearer
from analysis.measurements import Tally
from analysis.models import PinnedModel
from tests.analysis.by_hand import tally_of

PRETRAINED = PinnedModel("hub", "Org/Base", "a" * 40)
INSTRUCT = PinnedModel("hub", "org/base-instruct", "b" * 40)
FOLDER = PinnedModel("folder", "./runs/Base", "files-" + "c" * 40)


@pytest.mark.parametrize(
    ("base", "declared", "same"),
    [
        (PRETRAINED, "org/base", True),
        (PRETRAINED, "Org/Base@main", True),
        (PRETRAINED, "org/base-instruct", False),
        (INSTRUCT, "org/base", False),
        (FOLDER, "org/base", True),
        (FOLDER, "./other/base", True),
        (FOLDER, "./runs/base-2", False),
        (PRETRAINED, "not an id", False),
    ],
)
def test_which_base_a_name_means(base: PinnedModel, declared: str, same: bool):
    assert is_named(base, declared) == same


def test_the_tuned_models_own_base_is_offered_where_it_is_another():
    assert list(another_declared(PRETRAINED, ())) == []
    assert list(another_declared(PRETRAINED, ("org/base",))) == []
    [alert] = another_declared(PRETRAINED, ("org/base-instruct",))
    assert (alert.kind, alert.models) == ("declared_base", ("org/base-instruct",))
    [alert] = another_declared(PRETRAINED, ("org/one", "org/two"))
    assert "2 other models" in alert.sentence
    assert list(another_declared(PRETRAINED, ("org/one", "org/base"))) == [], "one of a merge's"


def tallies(share: float, step: float, *, names: int = 6) -> dict[str, Tally]:
    """A `share` of the entries of `names` tensors moved by about `step` times the weights."""
    random, found = np.random.default_rng(0), {}
    for i in range(names):
        before = random.normal(0, 0.02, (40, 40)).astype(np.float32)
        moved = random.random(before.shape) < share
        found[f"w{i}"] = tally_of(before, np.where(moved, before * np.float32(1 + step), before).astype(np.float32))
    return found


def test_a_chain_names_the_link_that_is_nearer():
    """An RL model against its instruct model and against the pretrained one: 3 % and 45 % changed."""
    against_pretrained, against_instruct = tallies(0.45, 0.01), tallies(0.03, 0.005)
    [alert] = nearer(against_pretrained, {INSTRUCT: against_instruct})
    assert (alert.kind, alert.models) == ("nearer_base", (str(INSTRUCT),))
    assert "of the values changed" in alert.sentence
    assert list(nearer(against_instruct, {PRETRAINED: against_pretrained})) == []


def test_equally_near_bases_raise_no_alert():
    assert list(nearer(tallies(0.30, 0.01), {INSTRUCT: tallies(0.28, 0.009)})) == []


def test_a_base_that_changed_nothing_is_nearer_and_the_nearest_is_named():
    same = tallies(0.0, 0.0)
    [alert] = nearer(tallies(0.3, 0.01), {INSTRUCT: tallies(0.03, 0.001), PRETRAINED: same})
    assert alert.models == (str(PRETRAINED),)


def test_a_part_that_was_selected_is_judged_by_its_own_tensors():
    part = {name: tally for name, tally in tallies(0.45, 0.01).items() if name in ("w0", "w1")}
    [alert] = nearer(part, {INSTRUCT: tallies(0.03, 0.001)})
    assert alert.kind == "nearer_base"


def test_what_shares_few_tensors_is_not_judged():
    few = {name: tally for name, tally in tallies(0.01, 0.001).items() if name in ("w0", "w1")}
    assert list(nearer(tallies(0.45, 0.01), {INSTRUCT: few})) == []
    assert list(nearer({}, {INSTRUCT: few})) == []
