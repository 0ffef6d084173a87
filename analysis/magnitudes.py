"""The largest magnitudes of a matrix, compiled: those of its rows and of its columns in one pass."""

from __future__ import annotations

from typing import no_type_check

import numpy as np

from analysis.compiled import compiled
from analysis.lapack import Floats

_MAGNITUDE = np.int32(0x7FFFFFFF)  # all bits of a float32 but its sign


def largest_entries(matrix: Floats) -> tuple[Floats, Floats]:
    """The largest magnitude in each row, and in each column, of a matrix without NaN."""
    by_row, by_column = (np.zeros(side, np.int32) for side in matrix.shape)
    _find_largest(matrix.view(np.int32), by_row, by_column)
    return by_row.view(np.float32), by_column.view(np.float32)


@no_type_check
@compiled()
def _find_largest(codes, by_row, by_column):
    """As integers, whose comparisons LLVM takes by vectors: without its sign, a larger number has a larger code."""
    for i in range(len(by_row)):
        largest = np.int32(0)
        for j in range(len(by_column)):
            size = codes[i, j] & _MAGNITUDE
            by_column[j] = max(by_column[j], size)
            largest = max(largest, size)
        by_row[i] = largest
