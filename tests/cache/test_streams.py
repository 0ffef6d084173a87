"""What is asked of the Hub, and in which order: on paper, without a byte moved."""

from __future__ import annotations

import pytest

from analysis.alignment import align
from analysis.footprint import held_bytes
from analysis.plan import Hole, Plan
from analysis.tensors import TensorInfo
from cache import streams
from cache.streams import Request, Step

MB = 1 << 20


def matrix(name: str, begin: int, rows: int, columns: int = 1024, file: str = "a") -> TensorInfo:
    return TensorInfo(name, "BF16", (rows, columns), file, begin, begin + 2 * rows * columns)


def steps_of(base: list[TensorInfo], tuned: list[TensorInfo], budget: int) -> tuple[Step, ...]:
    alignment = align(base, tuned)
    return streams.steps(alignment.pairs, tuple(Plan(keep_files=False).wanted(alignment)), budget, lambda *_: "stream")


def test_pairs_follow_the_files_of_the_base_and_a_matrix_is_measured_both_ways_while_it_is_there():
    base = [matrix("layers.1.w", 100, 64), matrix("layers.0.w", 100 + 2 * 64 * 1024, 64)]
    assert [(step.name, [hole.kind for hole in step.holes], step.held) for step in steps_of(base, base, 1 << 30)] == [
        ("layers.1.w", ["tally", "spectrum"], True),
        ("layers.0.w", ["tally", "spectrum"], True),
    ]


def test_what_memory_does_not_hold_passes_twice_and_the_second_time_after_all_else():
    base = [matrix("embed", 0, 8192, 4096), matrix("w", 2 * 8192 * 4096, 64)]
    assert [(step.name, *step.holes, step.held) for step in steps_of(base, base, 64 * MB)] == [
        ("embed", Hole("tally", "embed"), False),
        ("w", Hole("tally", "w"), Hole("spectrum", "w"), True),
        ("embed", Hole("spectrum", "embed"), False),
    ]


def test_a_matrix_whose_rank_may_be_settled_by_a_second_look_is_held():
    wide = TensorInfo("w", "F32", (1024, 1024), "a", 0, 4 * MB)
    [pair] = align([wide], [wide]).pairs
    assert held_bytes(pair, 5 * MB) == 8 * MB, "two sides of 4 MB, but a float32 copy of 4 MB fits"
    assert held_bytes(pair, 3 * MB) == 0


@pytest.mark.parametrize(
    ("wanted", "requests"),
    [
        pytest.param([("a", 10, 20), ("a", 20, 30)], [("a", 10, 30)], id="neighbours"),
        pytest.param([("a", 10, 20), ("a", 24, 30)], [("a", 10, 30)], id="a small gap is read through"),
        pytest.param([("a", 10, 20), ("a", 40, 50)], [("a", 10, 20), ("a", 40, 50)], id="a large one is not"),
        pytest.param([("a", 40, 50), ("a", 10, 20)], [("a", 40, 50), ("a", 10, 20)], id="never backwards"),
        pytest.param([("a", 10, 20), ("b", 20, 30)], [("a", 10, 20), ("b", 20, 30)], id="never across files"),
        pytest.param([("a", 10, 110)], [("a", 10, 43), ("a", 43, 76), ("a", 76, 110)], id="even pieces"),
        pytest.param([("a", 10, 10)], [], id="nothing"),
    ],
)
def test_ranges_are_joined_and_cut(wanted, requests):
    found = list(streams.requests(wanted, {"a": 1000, "b": 1000}, most=40, gap=5))
    assert [(request.file, request.begin, request.end) for request in found] == requests
    sent = [(request.file, *part) for request in found for part in request.wanted]
    assert "".join(f"{file}{byte} " for file, begin, end in sent for byte in range(begin, end)) == "".join(
        f"{file}{byte} " for file, begin, end in wanted for byte in range(begin, end)
    ), "exactly the wanted bytes, in their order"


def test_a_file_that_passes_whole_is_read_from_its_first_byte_to_its_last():
    assert list(streams.requests([("a", 8, 50), ("a", 50, 98)], {"a": 100}, most=60, gap=10)) == [
        Request("a", 0, 50, ((8, 50),), hashed=True),
        Request("a", 50, 100, ((50, 98),), hashed=True, last=True),
    ]
    assert not any(request.hashed for request in streams.requests([("a", 8, 50)], {"a": 100}, most=60, gap=10))
