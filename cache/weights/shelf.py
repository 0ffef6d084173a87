"""The weight files of both models as they arrive, one by one: which tensor pairs can be read already, and where."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from analysis.tensors import TensorInfo, TensorPair
from cache.weights.reader import WeightFiles

Side = Literal["base", "tuned"]


class Shelf:
    """Files of two models, each opened when it is put here and watched until the shelf is closed."""

    def __init__(self, pairs: Iterable[TensorPair]) -> None:
        self._tensors_of_file: dict[tuple[Side, str], list[TensorInfo]] = defaultdict(list)
        for pair in pairs:
            self._tensors_of_file["base", pair.base.file].append(pair.base)
            self._tensors_of_file["tuned", pair.tuned.file].append(pair.tuned)
        self._opened: dict[tuple[Side, str], WeightFiles] = {}

    def put(self, side: Side, file: str, folder: Path) -> None:
        """From now on `file` can be read in `folder`. Raises FileChanged where it is not what the pairs say."""
        if (side, file) in self._tensors_of_file and (side, file) not in self._opened:
            self._opened[side, file] = WeightFiles(folder, self._tensors_of_file[side, file])

    @property
    def n_files(self) -> int:
        return len(self._opened)

    def has(self, pair: TensorPair) -> bool:
        return ("base", pair.base.file) in self._opened and ("tuned", pair.tuned.file) in self._opened

    def holding(self, side: Side, pair: TensorPair) -> WeightFiles:
        """The open file that holds this side of the pair."""
        return self._opened[side, getattr(pair, side).file]

    def are_same_bytes(self, pair: TensorPair) -> bool:
        """Whether both sides are one stretch of one file, seen twice: as much is certain without reading it twice."""
        files = (self.holding("base", pair), self.holding("tuned", pair))
        base, tuned = (each.identity(info.file) for each, info in zip(files, (pair.base, pair.tuned), strict=True))
        return base == tuned and are_one_stretch(pair)

    def verify(self, pair: TensorPair) -> None:
        """Nothing, or FileChanged if a file of the pair is no longer what it was when it was put here."""
        for side in ("base", "tuned"):
            if opened := self._opened.get((side, getattr(pair, side).file)):
                opened.verify()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._opened:
            self._opened.popitem()[1].__exit__(kind, error, trace)


def are_one_stretch(pair: TensorPair) -> bool:
    """Whether both sides are the same bytes if their files have the same content."""
    base, tuned = pair.base, pair.tuned
    return (base.begin, base.end, base.dtype, base.shape) == (tuned.begin, tuned.end, tuned.dtype, tuned.shape)
