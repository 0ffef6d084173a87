"""In which order holes are taken, and which of them together, worked by hand."""

from __future__ import annotations

import dataclasses

import pytest

from analysis.plan import Hole
from analysis.stacks import (
    MOST_TOGETHER,
    Ready,
    bytes_of_each,
    handful,
    largest_first,
    likeness,
    most_in_turn,
    most_together,
)
from analysis.tensors import Merge, Place, TensorInfo, TensorPair


def pair(name: str = "w", shape: tuple[int, ...] = (768, 2048), *dtypes: str, match: str = "exact") -> TensorPair:
    base, tuned = dtypes or ("BF16", "BF16")
    sides = (TensorInfo(name, dtype, shape, "f", 0, 0) for dtype in (base, tuned))
    return TensorPair(*sides, Place(None, "", name), match=match)


def like(one: TensorPair, kind: str = "tally", of: str = "update"):
    return likeness(Hole(kind, one.name, of), one)


def test_experts_are_alike_and_other_shapes_types_and_kinds_are_not():
    assert like(pair("experts.0")) == like(pair("experts.1")) is not None
    different = [pair(), pair(shape=(2048, 768)), pair("w", (768, 2048), "BF16", "F32")]
    every = {like(one) for one in different} | {like(pair(), "spectrum"), like(pair(), "spectrum", "base")}
    assert len(every) == 5
    assert None not in every


@pytest.mark.parametrize(
    ("one", "kind", "of"),
    [
        pytest.param(pair(shape=(4096, 4096)), "tally", "update", id="large"),
        pytest.param(pair("w", (768, 2048), "F8_E4M3", "BF16"), "tally", "update", id="codes with scales"),
        pytest.param(pair("w", (768, 2048), "F64", "F64"), "tally", "update", id="float64"),
        pytest.param(pair(), "preview", "update", id="a preview"),
        pytest.param(pair(shape=(512, 2048)), "spectrum", "update", id="solved directly, on the CPU"),
        pytest.param(pair(shape=(2049, 2048)), "tally", "update", id="just too large"),
        pytest.param(pair(match="untouched"), "spectrum", "update", id="zero by construction"),
        pytest.param(dataclasses.replace(pair(), merge=Merge("lora", ())), "tally", "update", id="made of factors"),
        pytest.param(pair(), "tally", "adapter", id="an adapter's own"),
    ],
)
def test_what_is_measured_by_itself(one: TensorPair, kind: str, of: str):
    assert like(one, kind, of) is None


def test_how_many_go_together_is_bounded_in_bytes_and_number():
    hole, one = Hole("tally", "w"), pair()
    each = bytes_of_each(hole, one)
    assert each == 768 * 2048 * 12 + 4 * 128 * 2048 + 300_000
    assert most_together(hole, one, 10 * each) == most_together(hole, one, 11 * each - 1) == 10
    assert most_together(hole, one, each // 2) == 1
    assert most_together(hole, pair(shape=(64, 64)), 1 << 40) == MOST_TOGETHER


def test_small_ones_of_a_kind_are_a_handful_whatever_their_shape():
    small, other, large = pair(shape=(256, 256)), pair("b", (768,), "F8_E4M3", "BF16"), pair(shape=(257, 256))
    assert handful(Hole("tally", "w"), small) == handful(Hole("tally", "b"), other) is not None
    assert handful(Hole("tally", "w"), small) != handful(Hole("spectrum", "w"), small)
    assert handful(Hole("tally", "w"), large) is None
    assert [most_in_turn(holes, 2) for holes in (1, 13, 80, 50_000)] == [1, 3, 20, 32]


def test_the_largest_tallies_come_first_and_all_else_as_it_was():
    pairs = {name: pair(name, (rows, 8)) for name, rows in {"norm": 1, "embedding": 50, "q": 4, "k": 4}.items()}
    plan = [*(Hole("tally", name) for name in pairs), Hole("tally", "q", "adapter"), Hole("preview", "q")]
    plan += [Hole("spectrum", name) for name in ("norm", "embedding")]
    ordered = largest_first(plan, pairs)
    assert [(hole.name, hole.of) for hole in ordered[:5]] == [
        ("embedding", "update"),
        ("q", "update"),
        ("k", "update"),
        ("q", "adapter"),
        ("norm", "update"),
    ]
    assert list(ordered[5:]) == plan[5:]


def test_the_first_hole_takes_those_like_it_along_and_no_hole_is_lost():
    """Experts as models list them: gate, up and down of each; gate and up are alike."""
    holes = [Hole("tally", f"{i}.{what}") for i in range(4) for what in ("gate", "norm", "up", "down")]

    def together(hole: Hole):
        what = hole.name.partition(".")[2]
        return {"gate": ("tall", 3), "up": ("tall", 3), "down": ("wide", 3), "norm": (None, 1)}[what]

    ready = Ready(holes, together)
    for position in (1, 0, 2, 3, 4, 6, 7, 5):  # of the first two experts
        ready.add(position)
    taken = [[hole.name for hole in ready.take()]]
    for position in range(8, 16):
        ready.add(position)
    while ready:
        taken.append([hole.name for hole in ready.take()])

    assert taken[0] == ["0.gate", "0.up", "1.gate"]
    assert taken[1:3] == [["0.norm"], ["0.down", "1.down", "2.down"]]
    assert ["1.up", "2.gate", "2.up"] in taken
    assert sorted(name for group in taken for name in group) == sorted(hole.name for hole in holes)
