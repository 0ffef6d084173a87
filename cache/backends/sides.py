"""The two sides of a pair as blocks of values, from wherever their bytes come; an adapter's merged side among them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.adapters import Merging, ReadRows, widened
from analysis.elementwise import geometry
from analysis.measure import Engine, read_once
from analysis.tensors import TensorInfo, TensorPair
from cache.weights.reader import bytes_per_row, rows
from cache.weights.values import STORED, decoder


class Rows(Protocol):
    """Where bytes of tensors come from: files, or a pipe."""

    def read_rows(
        self, tensor: TensorInfo, first_row: int, last_row: int, into: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]: ...


def sides(pair: TensorPair, base: Rows, tuned: Rows | None, engine: Engine) -> tuple[ReadRows, ReadRows]:
    """Readers of both sides. Two sides that are the same bytes are read once, and so are the base's rows that an
    adapter's tuned side is made from."""
    before = reader(base, pair.base)
    if tuned is None:
        before = read_once(before)
        return before, before
    if pair.merge is None:
        return before, reader(tuned, pair.tuned)
    before = read_once(before)
    return before, merging(pair, before, tuned, engine).merged


def merging(pair: TensorPair, before: ReadRows, tuned: Rows, engine: Engine) -> Merging:
    assert pair.merge is not None
    dtype = STORED.get(pair.base.dtype, torch.float32)  # 8-bit weights are what they stand for, in float32
    readers = {role: (reader(tuned, info), rows(info)) for role, info in pair.merge.factors}
    whole = {role: widened(read(0, n), pair.merge, dtype) for role, (read, n) in readers.items() if role != "weight"}
    weight = readers["weight"][0] if "weight" in readers else None
    return Merging(pair.merge, geometry(pair.shape), before, whole, weight, engine.budget)


def reader(files: Rows, tensor: TensorInfo) -> ReadRows:
    """Blocks of one tensor. A block is overwritten by the next: new memory would cost ten times the reading."""
    decode = decoder(tensor, lambda whole: files.read_rows(whole, 0, rows(whole)))
    buffer, row_bytes = np.empty(0, np.uint8), bytes_per_row(tensor)

    def read(first_row: int, last_row: int) -> Tensor:
        nonlocal buffer
        wanted = (last_row - first_row) * row_bytes
        if len(buffer) < wanted:
            buffer = np.empty(wanted, np.uint8)
        return decode(files.read_rows(tensor, first_row, last_row, buffer), first_row)

    return read
