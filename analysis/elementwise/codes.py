"""8-bit codes to the float32 values that they stand for, by table: a core widens thousands of millions a second, where
torch's own conversion of float8_e4m3fn does a tenth of that."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.compiled import compiled

Floats = NDArray[np.float32]


def values_of_codes(dtype: torch.dtype) -> Floats:
    """(256,): what each code of this 8-bit type stands for."""
    values: Floats = torch.arange(256, dtype=torch.uint8).view(dtype).float().numpy()
    return values


@no_type_check
@compiled()
def widen(codes, value_of_code, scales, row_of_scales, width, out):
    """Fills `out` (rows, columns) with value * scale, rounded once to float32.

    `scales` is (any, blocks of a row), of which row i has those in row `row_of_scales[i]`, each for `width` columns,
    the last one perhaps for fewer.
    """
    for row in range(codes.shape[0]):
        of_row = scales[row_of_scales[row]]
        for block in range(len(of_row)):
            scale = of_row[block]
            for column in range(block * width, min((block + 1) * width, codes.shape[1])):
                out[row, column] = value_of_code[codes[row, column]] * scale
