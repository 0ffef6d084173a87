"""Two routines that neither numpy nor torch offers, from scipy-openblas32: the OpenBLAS that numpy's and scipy's own
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

_ROWS = 101  # how C's interface calls row-major order
_AS_IT_IS = 111
_TURNED = 112


def subtract_product(left: Floats, right: Floats, target: Floats) -> None:
    """target -= left @ right.T in place, without numpy's temporary. The numbers of a row lie together in all three."""
    _library().scipy_cblas_sgemm(
        *(_ROWS, _AS_IT_IS, _TURNED, *target.shape, left.shape[1]),
        *(ctypes.c_float(-1), _at(left), _stride(left), _at(right), _stride(right)),
        *(ctypes.c_float(1), _at(target), _stride(target)),
    )


def tridiagonal_eigenvalues(diagonal: NDArray[np.float64], beside: NDArray[np.float64]) -> NDArray[np.float64]:
    """Eigenvalues, ascending, of a symmetric tridiagonal matrix. Destroys both."""
    _check(_library().scipy_LAPACKE_dsterf(len(diagonal), _at(diagonal), _at(beside)))
    return diagonal


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
