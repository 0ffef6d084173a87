"""The weight files of both models as they arrive, one by one: which tensor pairs can be read already, and where."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from analysis.tensors import SIDES, TensorInfo, TensorPair
from cache.weights.reader import WeightFiles

Side = Literal["base", "tuned"]


class Shelf:
    """Files of two models, each opened when it is put here and watched until the shelf is closed."""

    def __init__(self, pairs: Iterable[TensorPair]) -> None:
        self._tensors_of_file: dict[tuple[Side, str], list[TensorInfo]] = defaultdict(list)
        for pair in pairs:
            for side in SIDES:
                for part in pair.parts(side):
                    self._tensors_of_file[side, part.file].append(part)
        self._opened: dict[tuple[Side, str], WeightFiles] = {}

    def put(self, side: Side, file: str, folder: Path) -> None:
        """From now on `file` can be read in `folder`. Raises FileChanged where it is not what the pairs say."""
        if (side, file) in self._tensors_of_file and (side, file) not in self._opened:
            self._opened[side, file] = WeightFiles(folder, self._tensors_of_file[side, file])

    @property
    def n_files(self) -> int:
        return len(self._opened)

    def has(self, pair: TensorPair) -> bool:
        return all((side, file) in self._opened for side in SIDES for file in pair.files(side))

    def side(self, side: Side) -> ShelfSide:
        """One model's files, to read from."""
        return ShelfSide(self._opened, side)

    def are_same_bytes(self, pair: TensorPair) -> bool:
        """Whether both sides are one stretch of one file, seen twice: as much is certain without reading it twice; and
        so it is where an adapter leaves the tensor alone."""
        if pair.match == "untouched" or pair.merge is not None:
            return pair.merge is None
        return are_same_stretches(pair) and all(
            self._opened["base", base].identity(base) == self._opened["tuned", tuned].identity(tuned)
            for base, tuned in zip(*files_in_step(pair), strict=True)
        )

    def verify(self, pair: TensorPair) -> None:
        """Nothing, or FileChanged if a file of the pair is no longer what it was when it was put here."""
        for side in SIDES:
            for file in pair.files(side):
                if opened := self._opened.get((side, file)):
                    opened.verify()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._opened:
            self._opened.popitem()[1].__exit__(kind, error, trace)


class ShelfSide:
    """The files of one model that have arrived: WeightFiles' verb, over all of them."""

    def __init__(self, opened: Mapping[tuple[Side, str], WeightFiles], side: Side) -> None:
        self._opened, self._side = opened, side

    def read_rows(
        self, tensor: TensorInfo, first_row: int, last_row: int, into: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        return self._opened[self._side, tensor.file].read_rows(tensor, first_row, last_row, into)


def are_same_stretches(pair: TensorPair) -> bool:
    """Whether both sides are the same values if their files have the same content."""
    base, tuned = (
        [(part.begin, part.end, part.dtype, part.shape) for part in side.parts] for side in (pair.base, pair.tuned)
    )
    return base == tuned and _spread(pair.base) == _spread(pair.tuned)


def files_in_step(pair: TensorPair) -> tuple[list[str], list[str]]:
    """The files of both sides, part by part."""
    return [part.file for part in pair.base.parts], [part.file for part in pair.tuned.parts]


def _spread(tensor: TensorInfo) -> object:
    """Which of its scales is for which of its codes."""
    return tensor.scales and (tensor.scales.block, tensor.scales.first_row)
