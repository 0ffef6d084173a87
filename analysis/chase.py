"""A symmetric band to tridiagonal form, compiled: each column's reflection makes a bulge one bandwidth further down,
which the next reflection takes away, until it has been chased off the end (Schwarz, 1968; in blocks: Bischof, Lang and
Sun, 2000). `benchmarks/spectra.py` runs it; LAPACK's takes more than twice as long.

The band lies column by column, each with BANDWIDTH rows above and twice as many below its diagonal: blocks on the
diagonal are then whole, and every block has its columns at one distance.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numpy.typing import NDArray

from analysis.blocks import first_reflection, reflect_below, reflect_diagonal
from analysis.compiled import compiled

BANDWIDTH = 32
SWEEPS = 2  # that follow each other closely, over the same part of the band while the cache holds it

Blocks = NDArray[np.float64]  # (blocks, BANDWIDTH, BANDWIDTH)

_APART = 3 * BANDWIDTH  # numbers from one column's entry to the next column's, in the same row
_first_reflection = first_reflection(BANDWIDTH)
_reflect_diagonal, _reflect_below = reflect_diagonal(BANDWIDTH), reflect_below(BANDWIDTH)


def tridiagonal(on: Blocks, below: Blocks) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The diagonal, and what lies beside it, of a tridiagonal matrix with the same eigenvalues. `on` are the band's
    blocks on the diagonal, whole; `below` those under them, upper triangles, the last one 0. The largest entry is near
    1, or larger: what is below 1e-30 may be taken for 0."""
    n = len(on) * BANDWIDTH
    band = np.zeros((n + _APART) * (_APART + 1))  # the last bulges reach beyond the n columns; they hold 0 there
    blocks = np.lib.stride_tricks.as_strided(
        band[BANDWIDTH:],
        (len(on), BANDWIDTH, 2 * BANDWIDTH),
        (8 * BANDWIDTH * (_APART + 1), 8 * _APART, 8),
    )  # (block, column, row from the block's first)
    blocks[:, :, :BANDWIDTH], blocks[:, :, BANDWIDTH:] = on.transpose(0, 2, 1), below.transpose(0, 2, 1)
    _chase(band, n)
    diagonal = BANDWIDTH + np.arange(n) * (_APART + 1)
    return band[diagonal], band[diagonal[:-1] + 1]


@no_type_check
@compiled()
def _chase(band, n):
    reflections, scales = np.empty((SWEEPS, 2, BANDWIDTH)), np.empty(SWEEPS)
    for first in range(0, n - 1, SWEEPS):
        sweeps = min(SWEEPS, n - 1 - first)
        for turn in range((n - first) // BANDWIDTH + sweeps):
            for sweep in range(sweeps):
                step = turn - sweep  # a block behind the sweep before, whose work there is done
                column = first + sweep
                start = column + 1 + step * BANDWIDTH
                if step < 0 or start >= n:
                    continue
                now, then = reflections[sweep, step % 2].ctypes.data, reflections[sweep, (step + 1) % 2].ctypes.data
                if step == 0:
                    scales[sweep] = _first_reflection(band[column * _APART + start + BANDWIDTH :].ctypes.data, now)
                scales[sweep] = _step(band, start, now, scales[sweep], then)


@no_type_check
@compiled()
def _step(band, start, v, scale, then):
    """Applies I - scale v v^T from both sides to the block on the diagonal at `start`, from the right to the one below;
    takes the bulge in that one's first column away by a new reflection, `then`, whose scale comes back."""
    last = start + BANDWIDTH - 1
    for row in range(start, last):  # the one column that was not in this diagonal block before
        band[last * _APART + row + BANDWIDTH] = band[row * _APART + last + BANDWIDTH]
    stride = 8 * _APART
    block = band.ctypes.data + 8 * (start * _APART + start + BANDWIDTH)
    _reflect_diagonal(block, stride, v, scale)
    return _reflect_below(block + 8 * BANDWIDTH, stride, v, scale, then)
