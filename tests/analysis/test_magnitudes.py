"""The largest magnitudes of rows and columns, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.magnitudes import largest_entries


def test_a_matrix_one_can_see():
    by_row, by_column = largest_entries(np.array([[1, -5, 0], [-0.0, 0, 0], [2, 3, -1e-45]], np.float32))
    assert by_row.tolist() == [5, 0, 3]
    assert by_column.tolist() == [2, 5, np.float32(1e-45)]


@pytest.mark.parametrize("lies", ["by rows", "by columns", "a part"])
def test_they_are_numpys_wherever_the_matrix_lies(lies: str):
    exponents = np.random.default_rng(0).integers(-140, 128, (70, 90))
    matrix = np.ldexp(np.random.default_rng(1).standard_normal((70, 90)) / 8, exponents).astype(np.float32)
    matrix = {"by rows": matrix, "by columns": np.asfortranarray(matrix), "a part": matrix[3:50, 5:80]}[lies]
    by_row, by_column = largest_entries(matrix)
    assert (by_row == np.abs(matrix).max(1)).all()
    assert (by_column == np.abs(matrix).max(0)).all()
