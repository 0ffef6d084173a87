"""Singular values of a matrix's update, from blocks of rows: the direct SVD for small matrices, the Gram matrix of the
short side in float64 for larger ones.

Numerical rank follows torch.linalg.matrix_rank in float32, so that it reproduces Mukherjee's table 2 (arXiv
2505.11711): the number of singular values above max(m, n) * eps(float32) * the largest. The Gram route squares the
condition number, yet at the tolerance it keeps more digits than a float32 SVD has: (tolerance / largest)^2 is 2.4e-7
at n = 4096, nine orders above eps(float64). Where a value lies so close to the tolerance that a float32 SVD could put
it on either side, and the matrix is small enough, the direct SVD decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from analysis.elementwise.block import Geometry
from analysis.footprint import COLUMNS_AT_ONCE, DECIDED_DIRECTLY_UP_TO, DIRECT_UP_TO, refusal, wide_copy
from analysis.measurements import Spectrum

Blocks = Iterator[tuple[Tensor, Tensor]]
Of = Literal["update", "base", "tuned", "adapter"]

_NOT_FINITE = "it has entries that are not finite, or too large for a float32 update"
_SVD_ERROR = 1e-5  # of the largest value: what float32 SVDs were seen to be off by, docs/methods.md


def spectrum(blocks: Callable[[], Blocks], shape: Geometry, *, of: Of = "update", budget: int = 1 << 30) -> Spectrum:
    """The Spectrum of a matrix that arrives as (before, after) blocks of whole rows.

    `blocks()` starts a new pass over the matrix. `budget` bounds, in bytes, the float32 copy that a wide matrix
    needs. A matrix with non-finite entries, or one too large, comes back with its reason in place of values.
    """
    short = min(shape.rows, shape.columns)
    if why_not := refusal(shape.rows, shape.columns, budget):
        return _refused(of, shape, why_not)
    if short <= DIRECT_UP_TO:
        return _direct(_whole(blocks(), of), of, shape)
    gram = _gram(blocks(), of, shape)
    if not bool(torch.isfinite(gram).all()):
        return _refused(of, shape, _NOT_FINITE)
    values = torch.linalg.eigvalsh(gram).flip(0).clamp_min(0).sqrt().float().cpu().numpy()
    result = _ranked(values, of, shape, "gram float64")
    doubtful = result.rank_low != result.rank_high
    if doubtful and short <= DECIDED_DIRECTLY_UP_TO and wide_copy(shape.rows, shape.columns) <= budget:
        return _direct(_whole(blocks(), of), of, shape)
    return result


def spectrum_of(values: np.ndarray, of: Of, shape: Geometry, method: str) -> Spectrum:
    """The Spectrum of a matrix whose singular values that are not 0 are known, largest first; from factors, say."""
    if not np.isfinite(values).all():
        return _refused(of, shape, _NOT_FINITE)
    every = np.zeros(min(shape.rows, shape.columns), np.float32)
    every[: len(values)] = values[: len(every)]
    return _ranked(every, of, shape, method)


def _direct(matrix: Tensor, of: Of, shape: Geometry) -> Spectrum:
    if not bool(torch.isfinite(matrix).all()):
        return _refused(of, shape, _NOT_FINITE)
    return _ranked(torch.linalg.svdvals(matrix).cpu().numpy(), of, shape, "svd float32")


def _ranked(values: np.ndarray, of: Of, shape: Geometry, method: str) -> Spectrum:
    """Rank and its bounds, counted in float32 exactly as torch.linalg.matrix_rank does."""
    largest = values[0] if len(values) else np.float32(0)
    relative = np.float32(max(shape.rows, shape.columns) * float(np.finfo(np.float32).eps))
    tolerance = np.float32(largest * relative)
    error = np.float32(_SVD_ERROR) * largest
    return Spectrum(
        of=of,
        rows=shape.rows,
        columns=shape.columns,
        singular_values=values.astype(np.float32, copy=False),
        tolerance=float(tolerance),
        rank=int((values > tolerance).sum()),
        rank_low=int((values > tolerance + error).sum()),
        rank_high=int((values > max(tolerance - error, np.float32(0))).sum()),
        method=method if largest > 0 else "zero matrix",
    )


def _refused(of: Of, shape: Geometry, reason: str) -> Spectrum:
    return Spectrum(of, shape.rows, shape.columns, np.empty(0, np.float32), 0.0, None, None, None, "none", reason)


def _value(before: Tensor, after: Tensor, of: Of) -> Tensor:
    """The block whose spectrum is asked for, in float32 after an exact upcast; a copy, since blocks may be reused."""
    if of in ("update", "adapter"):
        wide = torch.float64 if torch.float64 in (before.dtype, after.dtype) else torch.float32
        return (after.to(wide) - before.to(wide)).float()
    return (before if of == "base" else after).to(torch.float32, copy=True)


def _whole(blocks: Blocks, of: Of) -> Tensor:
    return torch.cat([_value(before, after, of) for before, after in blocks])


def _gram(blocks: Blocks, of: Of, shape: Geometry) -> Tensor:
    """A^T A of a tall matrix, summed block by block; A A^T of a wide one, from its float32 copy. In float64."""
    if shape.rows >= shape.columns:
        total: Tensor | None = None
        for before, after in blocks:
            product = _square(_value(before, after, of).T)
            total = product if total is None else total.add_(product)
        assert total is not None
        return total
    wide = _whole(blocks, of)
    step = max(1, COLUMNS_AT_ONCE // (8 * shape.rows))
    total = wide.new_zeros(shape.rows, shape.rows, dtype=torch.float64)
    for column in range(0, shape.columns, step):
        total += _square(wide[:, column : column + step])
    return total


def _square(matrix: Tensor) -> Tensor:
    """matrix @ matrix.T in float64. numpy calls BLAS's syrk for this on the CPU, which takes half the work."""
    wide = matrix.double()
    if wide.is_cuda:
        return wide @ wide.T
    array = np.ascontiguousarray(wide.numpy())
    return torch.from_numpy(array @ array.T)
