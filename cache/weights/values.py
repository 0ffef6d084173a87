"""From bytes to numbers: a block of a tensor's rows, as its file holds it, in; the same rows as torch sees them, out.

Knows nothing of files. 8-bit codes become float32(code) * scale, in float32; every other type stays as it is stored.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.tensors import Scales, TensorInfo

Decode = Callable[[NDArray[np.uint8], int], Tensor]  # (bytes, first row) -> (rows, columns)
TableRows = Callable[[int, int], NDArray[np.int64]]
ReadWhole = Callable[[TensorInfo], NDArray[np.uint8]]

STORED = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_CODES = {
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,  # of scales only
}


def decoder(tensor: TensorInfo, read_whole: ReadWhole) -> Decode:
    """What turns blocks of whole rows of `tensor` into values. Its scales, if it has any, are read at once; they are
    small. A block of values is overwritten by the next one."""
    columns = tensor.shape[-1] if tensor.shape else 1
    if tensor.dtype in STORED:
        return lambda raw, _: torch.from_numpy(raw).view(STORED[tensor.dtype]).view(-1, columns)
    return _by_table(tensor, columns, read_whole)


def _by_table(tensor: TensorInfo, columns: int, read_whole: ReadWhole) -> Decode:
    from analysis.elementwise.codes import values_of_codes, widen  # compiled, which other types have no use for

    values = values_of_codes(_CODES[tensor.dtype])
    scales, width, rows = _scales(tensor, columns, read_whole)
    buffer = np.empty(0, np.float32)

    def decode(raw: NDArray[np.uint8], first_row: int) -> Tensor:
        nonlocal buffer
        if len(buffer) < raw.size:
            buffer = np.empty(raw.size, np.float32)
        block = buffer[: raw.size].reshape(-1, columns)
        widen(raw.reshape(-1, columns), values, scales, rows(first_row, len(block)), width, block)
        return torch.from_numpy(block)

    return decode


def _scales(tensor: TensorInfo, columns: int, read_whole: ReadWhole) -> tuple[NDArray[np.float32], int, TableRows]:
    """The table of scales (rows of blocks, blocks of a row), the columns that one is for, and which of the table's rows
    stand for n rows from a first one on."""
    if tensor.scales is None:
        return np.ones((1, 1), np.float32), columns, _first_of_table
    scales = tensor.scales
    raw = torch.from_numpy(read_whole(scales.info))
    numbers = raw.view({**STORED, **_CODES}[scales.info.dtype]).float().flatten().numpy()
    if numbers.size == 1:
        return numbers.reshape(1, 1), columns, _first_of_table
    width = scales.block[1]
    table = numbers.reshape(-1, -(-columns // width))
    return table, width, lambda first, n: _table_rows(tensor.shape, scales, first, n)


def _first_of_table(_: int, n_rows: int) -> NDArray[np.int64]:
    return np.zeros(n_rows, np.int64)


def _table_rows(shape: tuple[int, ...], scales: Scales, first_row: int, n_rows: int) -> NDArray[np.int64]:
    """(n_rows,): the row of the table of scales that each row's scales stand in."""
    row, height = np.arange(first_row, first_row + n_rows), scales.block[0]
    if len(shape) <= 2:
        return (scales.first_row + row) // height
    of_slice = shape[-2]
    return row // of_slice * -(-of_slice // height) + row % of_slice // height
