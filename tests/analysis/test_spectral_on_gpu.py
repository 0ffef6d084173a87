"""The way to singular values that a GPU takes, by the same calls on the CPU; tests/test_cuda.py has the real one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis import spectral
from analysis.elementwise import Geometry


@pytest.mark.parametrize("shape", [(700, 700), (700, 1500), (1500, 700)], ids=str)
@pytest.mark.parametrize("rank", [5, 700])
def test_its_values_are_those_of_a_float64_svd(shape: tuple[int, int], rank: int):
    generator = torch.Generator().manual_seed(3)
    left, right = (torch.randn(side, rank, generator=generator) for side in shape)
    matrix = left @ right.T * 1e-4
    exact = torch.linalg.svdvals(matrix.double()).numpy()

    found = spectral._on_gpu(matrix, "update", Geometry(*shape))

    assert found.method == "gram float64"
    assert np.abs(found.singular_values - exact).max() <= 1e-7 * exact[0]
    assert found.rank_low is not None
    assert found.rank_low <= int(torch.linalg.matrix_rank(matrix)) <= (found.rank_high or 0)
