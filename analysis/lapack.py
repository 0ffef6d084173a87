"""Three routines that neither numpy nor torch offers, from scipy-openblas32: the OpenBLAS that numpy's and scipy's own
wheels are built with. One thread each: matrices go side by side, not the parts of one.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import numpy as np
import scipy_openblas32
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_ROWS, _COLUMNS = 101, 102  # how C's interfaces call row-major and column-major order
_AS_IT_IS = 111
_LOWER, _VALUES_ONLY, _FORWARD, _BY_COLUMN = (ctypes.c_char(letter) for letter in (b"L", b"N", b"F", b"C"))


def subtract_product(left: Floats, right: Floats, target: Floats) -> None:
    """target -= left @ right in place, without the temporary that numpy would make. Rows lie together in all three."""
    _library().scipy_cblas_sgemm(
        *(_ROWS, _AS_IT_IS, _AS_IT_IS, *target.shape, left.shape[1]),
        *(ctypes.c_float(-1), _at(left), _stride(left), _at(right), _stride(right)),
        *(ctypes.c_float(1), _at(target), _stride(target)),
    )


def reflectors(panel: Floats) -> tuple[Floats, Floats, Floats]:
    """R, V, T with panel = (I - V T V^T) [R; 0]: Householder's QR of a tall panel, its reflectors as one block.
    V (rows, width) is unit lower trapezoidal and takes the panel's place if its columns lie together."""
    tall = np.asfortranarray(panel)
    rows, width = tall.shape
    scales, block = np.empty(width, np.float32), np.zeros((width, width), np.float32, order="F")
    library = _library()
    _check(library.scipy_LAPACKE_sgeqrf(_COLUMNS, rows, width, _at(tall), rows, _at(scales)))
    triangle = np.triu(tall[:width])
    tall[:width] = np.tril(tall[:width], -1) + np.eye(width, dtype=np.float32)
    shape = (_COLUMNS, _FORWARD, _BY_COLUMN, rows, width)
    _check(library.scipy_LAPACKE_slarft(*shape, _at(tall), rows, _at(scales), _at(block), width))
    return triangle, tall, block


def band_eigenvalues(band: NDArray[np.float64]) -> NDArray[np.float64]:
    """Eigenvalues, ascending, of a symmetric band matrix: band[i, j] is its entry (i + j, i). Destroys the band."""
    n, width = band.shape
    values, vectors = np.empty(n), np.empty(1)
    shape = (_COLUMNS, _VALUES_ONLY, _LOWER, n, width - 1)
    _check(_library().scipy_LAPACKE_dsbevd_2stage(*shape, _at(band), width, _at(values), _at(vectors), 1))
    return values


def _check(info: int) -> None:
    if info:
        raise np.linalg.LinAlgError(f"LAPACK returned {info}")


def _at(array: NDArray[np.floating]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _stride(matrix: Floats) -> int:
    return matrix.strides[0] // matrix.itemsize


@cache
def _library() -> ctypes.CDLL:
    found = sorted(Path(scipy_openblas32.get_lib_dir()).glob("*scipy_openblas*.[sd]*"))
    library = ctypes.CDLL(str(found[0]))
    library.scipy_openblas_set_num_threads(1)
    return library
