"""The Spectrum of a matrix that arrives in blocks of rows: singular values, numerical rank, and how sure that is.

On the CPU a matrix that the memory budget holds is put together, and `analysis.singular` chooses the way. A taller one
leaves its Gram matrix, summed in float64 block by block; so does any larger matrix on a GPU.

Numerical rank follows torch.linalg.matrix_rank in float32, so that it reproduces Mukherjee's table 2 (arXiv
2505.11711): the number of singular values above max(m, n) * eps(float32) * the largest. Squaring a matrix squares its
condition number, yet in float64 that keeps more digits at the tolerance than a float32 SVD has: (tolerance / largest)^2
is 2.4e-7 at n = 4096, nine orders above eps(float64). Where a value lies so close to the tolerance that a float32 SVD
could put it on either side, that SVD decides if the matrix is small enough. Of a larger one the rank is that of the
exact values: where the way taken could be off by more than a value's distance from the tolerance, a float64 Gram matrix
decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from analysis.elementwise.block import Geometry
from analysis.footprint import COLUMNS_AT_ONCE, DECIDED_DIRECTLY_UP_TO, DIRECT_UP_TO, is_whole, refusal
from analysis.measurements import Preview, Spectrum
from analysis.preview import estimate

Blocks = Iterator[tuple[Tensor, Tensor]]
Of = Literal["update", "base", "tuned", "adapter"]

_NOT_FINITE = "it has entries that are not finite, or too large for a float32 update"
_SOLVER_ERROR = 1e-8  # of trace and norm: above what rounding does to 20,000 values in float64
_SVD_ERROR = 1e-5  # of the largest value: what float32 SVDs were seen to be off by, docs/methods.md


def spectrum(blocks: Callable[[], Blocks], shape: Geometry, *, of: Of = "update", budget: int = 1 << 30) -> Spectrum:
    """The Spectrum of a matrix that arrives as (before, after) blocks of whole rows.

    `blocks()` starts a pass over the matrix; one is enough. `budget` bounds, in bytes, the matrix's float32 copy. A
    matrix with non-finite entries, or one too large, comes back with its reason in place of values.
    """
    if why_not := refusal(shape.rows, shape.columns, budget):
        return _refused(of, shape, why_not)
    values = (_block(before, after, of) for before, after in blocks())
    if not is_whole(shape.rows, shape.columns, budget):
        return _from_gram(_gram_of_tall(values), of, shape)
    matrix = _whole(values, shape)
    if not bool(torch.stack(torch.aminmax(matrix)).isfinite().all()):
        return _refused(of, shape, _NOT_FINITE)
    found = _on_gpu(matrix, of, shape) if matrix.is_cuda else _on_cpu(matrix, of, shape)
    return _settled(found, matrix, of, shape)


def spectra(before: Tensor, after: Tensor, *, of: Of = "update") -> list[Spectrum]:
    """The Spectrum of each of a stack of matrices, (matrices, rows, columns), as `spectrum` takes each of them on a
    GPU: their Gram matrices by one product, their eigenvalues by one call. Their short side is over DIRECT_UP_TO."""
    shape = Geometry(*before.shape[1:])
    matrices = _block(before, after, of)
    finite = torch.isfinite(matrices).flatten(1).all(1)
    matrices[~finite] = 0  # so that the solver ends for the others
    tall = (matrices if shape.rows >= shape.columns else matrices.mT).double()
    values = _roots(tall.mT @ tall)
    found = [_ranked(each, of, shape, "gram float64") for each in values]
    return [
        (_settled(one, matrix, of, shape) if is_finite else _refused(of, shape, _NOT_FINITE))
        for one, matrix, is_finite in zip(found, matrices, finite.tolist(), strict=True)
    ]


def preview(blocks: Callable[[], Blocks], shape: Geometry, *, of: Of, budget: int) -> Preview | str:
    """The Preview of the same; or the reason why there is none."""
    why_not = refusal(shape.rows, shape.columns, budget)
    if why_not or not is_whole(shape.rows, shape.columns, budget):
        return why_not or "it is put together only where the memory budget holds it whole"
    matrix = _whole((_block(before, after, of) for before, after in blocks()), shape)
    if not bool(torch.stack(torch.aminmax(matrix)).isfinite().all()):
        return _NOT_FINITE
    found = estimate(matrix)
    curve = found.positions.astype(np.float32), found.values.astype(np.float32)
    return Preview(of, shape.rows, shape.columns, *curve, found.stable_rank, found.effective_rank)


def spectrum_of(values: np.ndarray, of: Of, shape: Geometry, method: str) -> Spectrum:
    """The Spectrum of a matrix whose singular values that are not 0 are known, largest first; from factors, say."""
    if not np.isfinite(values).all():
        return _refused(of, shape, _NOT_FINITE)
    every = np.zeros(min(shape.rows, shape.columns), np.float32)
    every[: len(values)] = values[: len(every)]
    return _ranked(every, of, shape, method)


def _on_cpu(matrix: Tensor, of: Of, shape: Geometry) -> Spectrum:
    # Here, since a GPU's worker does without the libraries behind it.
    from analysis.singular import ERROR_OF, by_gram, singular_values

    values, method = singular_values(matrix.numpy())
    if min(matrix.shape) > DECIDED_DIRECTLY_UP_TO and _is_close(values, shape, ERROR_OF.get(method, 0.0)):
        values, method = by_gram(matrix.numpy())
    return spectrum_of(values.astype(np.float32), of, shape, method)


def _is_close(values: np.ndarray, shape: Geometry, error: float) -> bool:
    """Whether a value is so near the tolerance that `error`, of the largest, could move it across."""
    relative = max(shape.rows, shape.columns) * float(np.finfo(np.float32).eps)
    return bool((np.abs(values - relative * values[0]) <= error * values[0]).any())


def _on_gpu(matrix: Tensor, of: Of, shape: Geometry) -> Spectrum:
    if min(matrix.shape) <= DIRECT_UP_TO:
        return _direct(matrix, of, shape)
    tall = matrix if shape.rows >= shape.columns else matrix.T
    step = max(1, COLUMNS_AT_ONCE // (8 * tall.shape[1]))
    return _from_gram(_gram_of_tall(iter(tall.split(step))), of, shape)


def _direct(matrix: Tensor, of: Of, shape: Geometry) -> Spectrum:
    """By the very call that matrix_rank makes, so that the two agree where a value lies at the threshold. On the CPU
    wherever the matrix is: CUDA's SVD is another one, and slower at such sizes than moving the matrix."""
    return _ranked(torch.linalg.svdvals(matrix.cpu()).numpy(), of, shape, "svd float32")


def _settled(found: Spectrum, matrix: Tensor, of: Of, shape: Geometry) -> Spectrum:
    """The same; by the direct SVD where the rank is in doubt and the matrix small enough."""
    is_doubtful = found.rank_low != found.rank_high
    return _direct(matrix, of, shape) if is_doubtful and min(matrix.shape) <= DECIDED_DIRECTLY_UP_TO else found


def _from_gram(gram: Tensor, of: Of, shape: Geometry) -> Spectrum:
    if not bool(torch.isfinite(gram).all()):
        return _refused(of, shape, _NOT_FINITE)
    return _ranked(_roots(gram), of, shape, "gram float64")


def _roots(gram: Tensor) -> np.ndarray:
    """Singular values, largest first, of one Gram matrix or of each of a stack."""
    values: np.ndarray = _eigenvalues(gram).flip(-1).clamp_min(0).sqrt().float().cpu().numpy()
    return values


def _eigenvalues(gram: Tensor) -> Tensor:
    """Of one matrix or of each of a stack, ascending. Where the GPU's solver fails, or its values cannot be this
    matrix's, LAPACK's: the same matrix in the same precision."""
    try:
        values = torch.linalg.eigvalsh(gram)
    except torch.linalg.LinAlgError:
        if not gram.is_cuda:
            raise
        return torch.linalg.eigvalsh(gram.cpu())
    wrong = ~are_eigenvalues(values, gram)
    if bool(wrong.any()):
        values[wrong] = torch.linalg.eigvalsh(gram[wrong].cpu()).to(values.device)
    return values


def are_eigenvalues(values: Tensor, gram: Tensor) -> Tensor:
    """Whether they can be: their sum is the trace, and their squares' the squared norm. Batched solvers of GPUs have
    been seen to return others without a word, depending on what was solved before (pytorch issue 192483)."""
    trace, norm = gram.diagonal(dim1=-2, dim2=-1).sum(-1), torch.linalg.matrix_norm(gram)
    adds_up = (values.sum(-1) - trace).abs() <= _SOLVER_ERROR * trace
    return adds_up & ((torch.linalg.vector_norm(values, dim=-1) - norm).abs() <= _SOLVER_ERROR * norm)


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


def _block(before: Tensor, after: Tensor, of: Of) -> Tensor:
    """The block whose spectrum is asked for, in float32 after an exact upcast; a copy, since blocks may be reused."""
    if of in ("update", "adapter"):
        wide = torch.float64 if torch.float64 in (before.dtype, after.dtype) else torch.float32
        return after.to(wide, copy=True).sub_(before).float()
    return (before if of == "base" else after).to(torch.float32, copy=True)


def _whole(values: Iterator[Tensor], shape: Geometry) -> Tensor:
    whole: Tensor | None = None
    first = 0
    for block in values:
        if len(block) == shape.rows:
            whole = block
            continue
        if whole is None:
            whole = block.new_empty(shape.rows, shape.columns)
        whole[first : first + len(block)] = block
        first += len(block)
    assert whole is not None
    return whole


def _gram_of_tall(values: Iterator[Tensor]) -> Tensor:
    """A^T A in float64, summed block by block."""
    total: Tensor | None = None
    for block in values:
        product = _square(block.double().T)
        total = product if total is None else total.add_(product)
    assert total is not None
    return total


def _square(matrix: Tensor) -> Tensor:
    """matrix @ matrix.T. numpy calls BLAS's syrk for this on the CPU, which takes half the work."""
    if matrix.is_cuda:
        return matrix @ matrix.T
    array = matrix.numpy()
    return torch.from_numpy(array @ array.T)
