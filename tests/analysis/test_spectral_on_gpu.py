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


@pytest.mark.parametrize("shape", [(700, 900), (900, 700)], ids=str)
def test_a_stack_has_the_spectra_of_each_by_itself(shape: tuple[int, int]):
    """One of full rank, one of low rank (whose rank is in doubt), one that did not change, one that is not finite."""
    generator = torch.Generator().manual_seed(5)
    before = torch.randn(4, *shape, generator=generator) * 0.02
    after = before + torch.randn(4, *shape, generator=generator) * 1e-4
    factors = [torch.randn(side, 5, generator=generator) for side in shape]
    after[1] = before[1] + factors[0] @ factors[1].T * 1e-4
    after[2] = before[2]
    after[3, 0, 0] = torch.nan

    full, low, same, odd = spectral.spectra(before, after)

    for found, i in ((full, 0), (low, 1), (same, 2)):
        alone = spectral._on_gpu(after[i] - before[i], "update", Geometry(*shape))
        alone = spectral._settled(alone, after[i] - before[i], "update", Geometry(*shape))
        assert (found.rank, found.rank_low, found.rank_high) == (alone.rank, alone.rank_low, alone.rank_high)
        assert found.method == alone.method
        assert np.abs(found.singular_values - alone.singular_values).max() <= 1e-7 * alone.singular_values[0]
    assert (full.method, same.method, same.rank) == ("gram float64", "zero matrix", 0)
    assert "not finite" in odd.reason
    assert odd.rank is None


def test_a_solver_that_returns_another_matrixs_values_is_found_out(monkeypatch: pytest.MonkeyPatch):
    """The stack's values in the wrong order, as a batched solver may give them; one matrix at a time it is right."""
    matrices = torch.randn(3, 700, 900, generator=torch.Generator().manual_seed(6))
    grams = (matrices @ matrices.mT).double()
    right = torch.linalg.eigvalsh(grams)
    assert spectral.are_eigenvalues(right, grams).tolist() == [True] * 3
    assert spectral.are_eigenvalues(right[[0, 2, 1]], grams).tolist() == [True, False, False]
    assert spectral.are_eigenvalues(right * torch.nan, grams).tolist() == [False] * 3
    assert bool(spectral.are_eigenvalues(torch.zeros(4), torch.zeros(4, 4)))
    solve, answers = torch.linalg.eigvalsh, [right[[0, 2, 1]]]
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda gram: answers.pop() if answers else solve(gram))
    assert torch.equal(spectral._eigenvalues(grams), right)
    answers.append(right[1].clone())
    assert torch.equal(spectral._eigenvalues(grams[0]), right[0])
