"""Raw bytes of tensors that pass once, through a pipe, in an order agreed on: the same verb as files have.

Knows neither names nor files: whoever writes into the pipe and whoever reads go through the same steps.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from analysis.tensors import TensorInfo
from cache.weights.reader import bytes_per_row


class StreamCut(Exception):
    """The pipe ended before the tensor did: its writer is gone."""


class HasPassed(Exception):
    """Rows are asked for whose bytes have passed already and were not held."""


class PassingWeights:
    """One side's weights out of a pipe. Between `begin` and `end` the rows of one tensor can be read: in any order and
    as often as wanted where it is held, else each once, in order; and those of what was kept before."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._memory = np.empty(0, np.uint8)  # the held tensor's; kept, because new memory costs more than reading
        self._tensor: TensorInfo | None = None
        self._held, self._passed = False, 0
        self._kept: dict[TensorInfo, NDArray[np.uint8]] = {}

    def keep(self, tensor: TensorInfo) -> None:
        """Takes a small tensor whole, to be read at any time from now on. Raises StreamCut."""
        self._kept[tensor] = np.empty(tensor.end - tensor.begin, np.uint8)
        self._fill(self._kept[tensor])

    def begin(self, tensor: TensorInfo, *, held: bool) -> None:
        """From here on `tensor` passes. Raises StreamCut."""
        self._tensor, self._held, self._passed = tensor, held, 0
        if held:
            size = tensor.end - tensor.begin
            if len(self._memory) < size:
                self._memory = np.empty(0, np.uint8)  # the old one goes before the new one comes
                self._memory = np.empty(size, np.uint8)
            self._fill(self._memory[:size])

    def read_rows(
        self, tensor: TensorInfo, first_row: int, last_row: int, into: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """The bytes of rows `first_row` up to but without `last_row`, as WeightFiles.read_rows; of a held tensor a part
        of the memory that holds it. Raises StreamCut, or HasPassed."""
        begin, end = first_row * bytes_per_row(tensor), last_row * bytes_per_row(tensor)
        if tensor in self._kept:
            return self._kept[tensor][begin:end]
        if tensor != self._tensor:
            raise HasPassed
        if self._held:
            return self._memory[begin:end]
        if begin != self._passed:
            raise HasPassed
        buffer = np.empty(end - begin, np.uint8) if into is None else into[: end - begin]
        self._fill(buffer)
        return buffer

    def end(self) -> None:
        """Lets pass what of the tensor was not read. Raises StreamCut."""
        if self._tensor is None:
            return
        rest = np.empty(1 << 20, np.uint8)
        while left := self._tensor.end - self._tensor.begin - self._passed:
            self._fill(rest[:left])
        self._tensor = None

    def _fill(self, buffer: NDArray[np.uint8]) -> None:
        view, done = buffer.data, 0
        while done < len(view):
            count = os.readv(self._descriptor, [view[done:]])
            if count == 0:
                raise StreamCut
            done += count
        self._passed += done
