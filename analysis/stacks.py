"""In which order holes are handed out, and which together: those of small matrices, such as a mixture's experts.

On a GPU, alike ones are filled in one go: a launch and the transfer of its counts take as long as some megabytes of
weights take to arrive. Alike are holes of one kind, shape and pair of types; how many go together is bounded in bytes.
Elsewhere a handful is filled one after the other: to announce each, and to find a thread for it, takes longer than to
count it.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence

from analysis.footprint import DECIDED_DIRECTLY_UP_TO, DIRECT_UP_TO, is_whole
from analysis.measurements import MAX_DENSITY_SIDE
from analysis.plan import Hole
from analysis.tensors import TensorPair

BYTES_OF_DTYPE = {"F32": 4, "F16": 2, "BF16": 2}  # the types that a stack may be of
MOST_TOGETHER = 64  # so that results keep coming
SMALL = 1 << 22  # entries; the bytes of a larger matrix take longer than its launches
_COUNTS = 300_000  # bytes of a matrix's counts on the device, whatever its size
_HANDFUL = 32
_OF_A_HANDFUL = 1 << 16  # entries at most


def largest_first(holes: Sequence[Hole], pair_of_name: Mapping[str, TensorPair]) -> tuple[Hole, ...]:
    """Tallies by size, and then the rest as it is: were an embedding the last to be begun, all lanes but one would wait
    for it."""
    tallies = sorted(
        (hole for hole in holes if hole.kind == "tally"), key=lambda hole: -pair_of_name[hole.name].entries
    )
    return (*tallies, *(hole for hole in holes if hole.kind != "tally"))


def handful(hole: Hole, pair: TensorPair) -> Hashable:
    """Equal for holes that one thread may fill one after the other; None for one that is worth a thread."""
    return hole.kind if pair.entries <= _OF_A_HANDFUL else None


def most_in_turn(holes: int, lanes: int) -> int:
    """How many are a handful; of few holes, every lane has some."""
    return max(1, min(_HANDFUL, holes // (2 * lanes)))


def likeness(hole: Hole, pair: TensorPair) -> Hashable:
    """Equal for holes that may be filled together; None for one that is filled by itself."""
    dtypes = pair.base.dtype, pair.tuned.dtype
    if pair.merge is not None or hole.of == "adapter" or any(dtype not in BYTES_OF_DTYPE for dtype in dtypes):
        return None
    if pair.entries > SMALL or not pair.entries:
        return None
    if hole.kind == "spectrum":
        is_trivial = pair.match == "untouched" and hole.of == "update"
        by_gram = DIRECT_UP_TO < min(pair.shape) <= DECIDED_DIRECTLY_UP_TO
        return None if is_trivial or not by_gram else (hole.kind, hole.of, pair.shape, dtypes)
    return (hole.kind, hole.of, pair.shape, dtypes) if hole.kind == "tally" else None


def most_together(hole: Hole, pair: TensorPair, budget: int) -> int:
    """How many holes like this one go together within `budget` bytes."""
    if hole.kind == "spectrum" and not is_whole(pair.shape[0], pair.shape[1], budget):
        return 1
    return max(1, min(MOST_TOGETHER, budget // bytes_of_each(hole, pair)))


def bytes_of_each(hole: Hole, pair: TensorPair) -> int:
    """Bytes on the device that a hole with a likeness takes in a stack."""
    both = sum(BYTES_OF_DTYPE[side.dtype] for side in (pair.base, pair.tuned))
    if hole.kind == "spectrum":
        # Both sides, the update in float32 with what it is made from, and in float64; the Gram matrix, the solver's
        # copy and its workspace.
        return pair.entries * (both + 3 * 4 + 8) + 3 * 8 * min(pair.shape) ** 2
    columns = pair.shape[-1] if pair.shape else 1
    # Both sides, the list of values that differ, the masks, a table of steps; marks by column and row of the map.
    return pair.entries * (2 * both + 4) + 4 * MAX_DENSITY_SIDE * columns + _COUNTS


class Ready:
    """Holes that can be filled now, by their position in the plan. `together(hole)`: its likeness, and how many."""

    def __init__(self, holes: Sequence[Hole], together: Callable[[Hole], tuple[Hashable, int]]) -> None:
        self._holes, self._together = holes, together
        self._order: list[int] = []  # a heap
        self._alike: defaultdict[Hashable, list[int]] = defaultdict(list)  # heaps
        self._here: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._here)

    def add(self, position: int) -> None:
        self._here.add(position)
        heapq.heappush(self._order, position)
        if (like := self._together(self._holes[position])[0]) is not None:
            heapq.heappush(self._alike[like], position)

    def take(self) -> tuple[Hole, ...]:
        """The first hole, and with it those like it that follow, wherever they stand."""
        while self._order[0] not in self._here:
            heapq.heappop(self._order)
        like, most = self._together(self._holes[self._order[0]])
        heap = self._order if like is None else self._alike[like]
        taken = [heapq.heappop(heap) for _ in range(min(most, len(heap)) if like is not None else 1)]
        self._here.difference_update(taken)
        return tuple(self._holes[position] for position in taken)
