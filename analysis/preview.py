"""A quick look at the singular values of a matrix: block Lanczos quadrature (Golub and Meurant, 1994; Ubaru, Chen and
Saad, 2017), 64 products of the matrix with a vector. An estimate, and never taken for the values.

From WIDTH random vectors, STEPS products with the Gram matrix of the short side span a space in which that matrix is
small. Its eigenvalues there stand for parts of the spectrum, each for as many directions as the random vectors have of
it. The largest ones are singular values already, where they have converged, and stand for one direction each. What the
others stand for is scaled to the exact squared Frobenius norm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WIDTH = 2
STEPS = 16
POINTS = 256  # of the curve that is kept

Doubles = NDArray[np.float64]

_CONVERGED = 1e-3  # of an eigenvalue: its residual, below which it is one
_EXHAUSTED = 1e-6  # of the largest eigenvalue: what a new direction must add, or there are no more


@dataclass(frozen=True)
class Estimate:
    """Singular values by direction, at some of them; the largest, and ranks that follow from all of them."""

    positions: Doubles  # ascending, from 1
    values: Doubles  # descending
    stable_rank: float  # nan where all are 0
    effective_rank: float


def estimate(matrix: Tensor) -> Estimate:
    """The Estimate of a finite float32 matrix, on whose device it is made. Scales the matrix in place."""
    n = min(matrix.shape)
    largest = float(torch.stack(torch.aminmax(matrix)).abs().max())
    if largest == 0:
        return Estimate(np.array([1.0, n]), np.zeros(2), float("nan"), float("nan"))
    matrix.mul_(2.0 ** -np.frexp(largest)[1])
    square_sum = sum(float(torch.linalg.vector_norm(rows)) ** 2 for rows in matrix.split(64))
    squares, directions = _weighted(*_krylov(matrix), n, square_sum)
    values = np.sqrt(squares) * 2.0 ** float(np.frexp(largest)[1])
    total = float((directions * values).sum())
    shares = values[values > 0] / total
    entropy = -float((directions[values > 0] * shares * np.log(shares)).sum())
    positions = np.unique(np.geomspace(1, n, POINTS).round())
    middles = np.cumsum(directions) - directions / 2
    beyond = directions != 1  # what a value of its own stands for is no mean over its neighbours
    curve = np.interp(positions - 0.5, middles[beyond], values[beyond]) if beyond.any() else np.zeros(len(positions))
    own = positions <= np.argmax(beyond) if beyond.any() else positions <= len(values)
    curve[own] = values[positions[own].astype(np.int64) - 1]
    return Estimate(positions, curve, square_sum / squares[0], float(np.exp(entropy)))


def _weighted(
    nodes: Doubles, weights: Doubles, residuals: Doubles, n: int, square_sum: float
) -> tuple[Doubles, Doubles]:
    """(squared values, largest first; how many directions each stands for), the latter n in all."""
    order = np.argsort(-nodes)
    nodes, weights, residuals = nodes[order].clip(min=0), weights[order], residuals[order]
    leading = min(max(int(np.logical_and.accumulate(residuals <= _CONVERGED * nodes).sum()), 1), n)
    directions = np.r_[np.ones(leading), weights[leading:]]
    if (there := directions[leading:].sum()) > 0:
        directions[leading:] *= (n - leading) / there
    held = float((directions[leading:] * nodes[leading:]).sum())
    if held > 0:
        nodes[leading:] *= max(square_sum - float(nodes[:leading].sum()), 0.0) / held
        nodes[leading:] = nodes[leading:].clip(max=nodes[leading - 1])
    order = np.argsort(-nodes, kind="stable")
    return nodes[order], directions[order]


def _krylov(matrix: Tensor) -> tuple[Doubles, Doubles, Doubles]:
    """(eigenvalues of the Gram matrix within the space; the random vectors' mean share along each; residuals)."""
    n = min(matrix.shape)
    start = torch.from_numpy(np.random.default_rng(0).standard_normal((n, min(WIDTH, n)), np.float32))
    block = torch.linalg.qr(start.to(matrix.device))[0]
    basis, rows = block, []
    first = block.shape[1]
    for remaining in reversed(range(STEPS)):
        product = _by_gram(matrix, block)
        rows.append(basis.T @ product)
        for _ in range(2):  # twice is enough, for float32 too
            product -= basis @ (basis.T @ product)
        new, beyond = torch.linalg.qr(product)
        largest = max(float(torch.linalg.matrix_norm(part, 2)) for part in rows)
        there = beyond.diagonal().abs() > _EXHAUSTED * largest
        if not remaining or not bool(there.any()) or basis.shape[1] + int(there.sum()) > n:
            break
        block = new[:, there]
        block = torch.linalg.qr(block - basis @ (basis.T @ block))[0]
        basis = torch.hstack([basis, block])
    size = basis.shape[1]
    inner = np.zeros((size, size))
    done = 0
    for part in rows:
        height, width = part.shape
        inner[:height, done : done + width] = part.double().cpu().numpy()
        done += width
    inner = np.triu(inner) + np.triu(inner, 1).T
    nodes, vectors = np.linalg.eigh(inner)
    last = np.zeros((beyond.shape[0], size))
    last[:, size - beyond.shape[1] :] = beyond.double().cpu().numpy()
    residuals = np.linalg.norm(last @ vectors, axis=0)
    return nodes, np.square(vectors[:first]).sum(axis=0) / first, residuals


def _by_gram(matrix: Tensor, block: Tensor) -> Tensor:
    """The Gram matrix of the short side times the block, vector by vector: memory brings four single vectors in the
    time that a library's product takes over two."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    return torch.stack([tall.T @ (tall @ vector) for vector in block.T.contiguous()], dim=1)
