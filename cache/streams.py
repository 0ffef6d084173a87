"""What a job reads from the Hub without keeping it: steps, tensor pair by tensor pair, and the requests that bring it.

Both children are given the same steps: the one with the network sends the bytes of each side in this order, the one
that measures takes them in this order, so that nothing but bytes passes between them. Steps follow the files of the
base, so that neighbours come in one request, and a file passes from its first byte to its last and can be hashed.
Knows nothing about HTTP and opens nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from analysis.footprint import held_bytes
from analysis.plan import Hole
from analysis.tensors import TensorInfo, TensorPair

Origin = Literal["stream", "file", "base"]  # "base": the very bytes that the base has
Stretch = tuple[str, int, int]  # file, first byte, one past the last

REQUEST_BYTES = 32 << 20  # of one request at most, and of one buffer
GAP_BYTES = 1 << 20  # unwanted bytes that are read through: asking again costs as much


@dataclass(frozen=True)
class Step:
    """One tensor pair at one moment of the stream. `held`: both sides are kept in memory while its holes are filled;
    else blocks of rows are measured as they pass, once."""

    name: str
    holes: tuple[Hole, ...]
    base: Origin
    tuned: Origin
    held: bool


@dataclass(frozen=True)
class Request:
    """One range of one file, and which of its bytes are wanted, in order. `hashed`: the whole file passes, this range
    in its turn, so that its hash is known after the `last`."""

    file: str
    begin: int
    end: int
    wanted: tuple[tuple[int, int], ...]
    hashed: bool = False
    last: bool = False


def steps(
    pairs: Iterable[TensorPair],
    holes: Sequence[Hole],
    budget: int,
    origin: Callable[[Literal["base", "tuned"], TensorPair], Origin],
) -> tuple[Step, ...]:
    """Every hole in one step, in the order of the base's files. What needs bytes that have passed already comes last:
    the spectrum of a pair that `budget` bytes do not hold, and a tensor of the base that has a second partner."""
    holes_of_name: dict[str, list[Hole]] = {}
    for hole in holes:
        holes_of_name.setdefault(hole.name, []).append(hole)
    first: list[Step] = []
    again: list[Step] = []
    reached: tuple[str, int] = ("", 0)
    for pair in sorted(pairs, key=lambda pair: (pair.base.file, pair.base.begin, pair.base.end)):
        wanted = holes_of_name.get(pair.name, [])
        held = held_bytes(pair, budget) > 0
        passes = [wanted] if held else [[hole] for hole in wanted]
        made = [Step(pair.name, tuple(p), origin("base", pair), origin("tuned", pair), held) for p in passes if p]
        in_order = (pair.base.file, pair.base.begin) >= reached
        first += made[:1] if in_order else []
        again += made[1:] if in_order else made
        if made and in_order:
            reached = (pair.base.file, pair.base.end)
    return tuple(first + again)


def kept_aside(steps: Iterable[Step], side: str, pair_of_name: Mapping[str, TensorPair]) -> list[TensorInfo]:
    """What a side's streamed tensors need beside them, such as scales; small, and so sent first and kept to the end."""
    tensors = [getattr(pair_of_name[step.name], side) for step in steps if getattr(step, side) == "stream"]
    parts = dict.fromkeys(part for tensor in tensors for part in tensor.parts[1:])
    return sorted(parts, key=lambda part: (part.file, part.begin, part.end))


def stretches(steps: Iterable[Step], side: str, pair_of_name: Mapping[str, TensorPair]) -> list[Stretch]:
    """The bytes of one side: what is kept aside, then step by step."""
    steps = tuple(steps)
    tensors = kept_aside(steps, side, pair_of_name)
    tensors += [getattr(pair_of_name[step.name], side) for step in steps if getattr(step, side) == "stream"]
    return [(tensor.file, tensor.begin, tensor.end) for tensor in tensors]


def requests(
    wanted: Iterable[Stretch], size_of_file: Mapping[str, int], *, most: int = REQUEST_BYTES, gap: int = GAP_BYTES
) -> Iterator[Request]:
    """Ranges of at most `most` bytes that hold the wanted stretches, in their order. Neighbours less than `gap` bytes
    apart share a range; a file's header and its end are read too where that makes the file whole."""
    for file, parts in _runs(wanted, gap):
        begin, end, size = parts[0][0], parts[-1][1], size_of_file[file]
        whole = begin <= gap and size - end <= gap
        begin, end = (0, size) if whole else (begin, end)
        n_pieces = max(1, -(-(end - begin) // most))
        edges = [begin + (end - begin) * piece // n_pieces for piece in range(n_pieces + 1)]
        position = 0
        for low, high in pairwise(edges):
            inside = []
            while position < len(parts) and parts[position][0] < high:
                inside.append((max(parts[position][0], low), min(parts[position][1], high)))
                if parts[position][1] > high:
                    break
                position += 1
            yield Request(file, low, high, tuple(inside), hashed=whole, last=high == end)


def _runs(wanted: Iterable[Stretch], gap: int) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """(file, stretches that follow each other in it)."""
    run: list[tuple[int, int]] = []
    run_file = ""
    for file, begin, end in wanted:
        if begin == end:
            continue
        if run and not (file == run_file and 0 <= begin - run[-1][1] <= gap):
            yield run_file, run
            run = []
        run_file = file
        run.append((begin, end))
    if run:
        yield run_file, run
