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
    scale = _scaler(tensor, read_whole)
    buffer = torch.empty(0)

    def decode(raw: NDArray[np.uint8], first_row: int) -> Tensor:
        nonlocal buffer
        if buffer.numel() < raw.size:
            buffer = torch.empty(raw.size)
        values = buffer[: raw.size].copy_(torch.from_numpy(raw).view(_CODES[tensor.dtype])).view(-1, columns)
        scale(values, first_row)
        return values

    return decode


def _scaler(tensor: TensorInfo, read_whole: ReadWhole) -> Callable[[Tensor, int], None]:
    """Multiplies a block of rows, in place, by its scales."""
    if tensor.scales is None:
        return lambda _, __: None
    scales = tensor.scales
    raw = torch.from_numpy(read_whole(scales.info))
    numbers = raw.view({**STORED, **_CODES}[scales.info.dtype]).float().flatten()
    if numbers.numel() == 1:
        return lambda values, _: values.mul_(numbers)
    width = scales.block[1]
    table = numbers.view(-1, -(-tensor.shape[-1] // width))  # (rows of blocks, blocks of a row)

    def multiply(values: Tensor, first_row: int) -> None:
        of_row = table[_table_rows(tensor.shape, scales, first_row, len(values))]
        whole = values.shape[1] // width  # blocks of full width
        values[:, : whole * width].unflatten(1, (whole, width)).mul_(of_row[:, :whole, None])
        values[:, whole * width :].mul_(of_row[:, whole:])

    return multiply


def _table_rows(shape: tuple[int, ...], scales: Scales, first_row: int, n_rows: int) -> Tensor:
    """(n_rows,): the row of the table of scales that each row's scales stand in."""
    row, height = torch.arange(first_row, first_row + n_rows), scales.block[0]
    if len(shape) <= 2:
        return (scales.first_row + row) // height
    of_slice = shape[-2]
    return row // of_slice * -(-of_slice // height) + row % of_slice // height
