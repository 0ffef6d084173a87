"""A symmetric band to tridiagonal form, compiled: each column's reflection makes a bulge one bandwidth further down,
which the next reflection takes away, until it has been chased off the end (Schwarz, 1968; in blocks: Bischof, Lang and
Sun, 2000). `benchmarks/spectra.py` runs it; LAPACK's takes two to three times as long.

The band lies column by column, each with BANDWIDTH rows above and twice as many below its diagonal: blocks on the
diagonal are then whole, and every block has its columns at one distance.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numpy.typing import NDArray

from analysis.compiled import SUMS, compiled
from analysis.vectors import combine, reflect_both, subtract_both

BANDWIDTH = 32
SWEEPS = 4  # that follow each other closely, over the same part of the band while the cache holds it

Blocks = NDArray[np.float64]  # (blocks, BANDWIDTH, BANDWIDTH)

_VANISHING = 1e-60  # squares that sum to less are of entries that are 0, beside a largest near 1

_APART = 3 * BANDWIDTH  # numbers from one column's entry to the next column's, in the same row
_combine, _subtract_both, _reflect_both = combine(BANDWIDTH), subtract_both(BANDWIDTH), reflect_both(BANDWIDTH)


def tridiagonal(on: Blocks, below: Blocks) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The diagonal, and what lies beside it, of a tridiagonal matrix with the same eigenvalues. `on` are the band's
    blocks on the diagonal, whole; `below` those under them, upper triangles, the last one 0. The largest entry is near 1,
    or larger: what is below 1e-30 may be taken for 0."""
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
    room = np.empty((2, BANDWIDTH))
    reflections, scales = np.empty((SWEEPS, 2, BANDWIDTH)), np.empty(SWEEPS)
    for first in range(0, n - 1, SWEEPS):
        sweeps = min(SWEEPS, n - 1 - first)
        for turn in range((n - first) // BANDWIDTH + 2 * sweeps):
            for sweep in range(sweeps):
                step = turn - 2 * sweep  # two blocks behind the sweep before, whose work there is done
                column = first + sweep
                start = column + 1 + step * BANDWIDTH
                if step < 0 or start >= n:
                    continue
                if step == 0:
                    scales[sweep] = _reflection(band, column * _APART + start + BANDWIDTH, reflections[sweep, 0])
                now, then = reflections[sweep, step % 2], reflections[sweep, (step + 1) % 2]
                scales[sweep] = _step(band, start, now, scales[sweep], then, room)


@no_type_check
@compiled(fastmath=SUMS)
def _step(band, start, v, scale, then, room):
    """Applies I - scale v v^T from both sides to the block on the diagonal at `start`, from the right to the one below;
    takes the bulge in that one's first column away by a new reflection, `then`, whose scale comes back."""
    last = start + BANDWIDTH - 1
    for row in range(start, last):  # the one column that was not in this diagonal block before
        band[last * _APART + row + BANDWIDTH] = band[row * _APART + last + BANDWIDTH]
    w, scaled = room
    stride = 8 * _APART
    corner = start * _APART + start + BANDWIDTH
    block, at_v, at_w = band.ctypes.data + 8 * corner, v.ctypes.data, w.ctypes.data
    _combine(block, stride, at_v, at_w)
    along = 0.0
    for i in range(BANDWIDTH):
        w[i] *= scale
        along += w[i] * v[i]
    for i in range(BANDWIDTH):
        w[i] -= 0.5 * scale * along * v[i]
    _subtract_both(block, stride, at_v, at_w)

    below, corner = block + 8 * BANDWIDTH, corner + BANDWIDTH
    _combine(below, stride, at_v, at_w)
    for i in range(BANDWIDTH):
        w[i] *= scale
        band[corner + i] -= w[i]
    next_scale = _reflection(band, corner, then)
    for i in range(BANDWIDTH):
        scaled[i] = next_scale * then[i]
    _reflect_both(below, stride, at_v, at_w, then.ctypes.data, scaled.ctypes.data)
    return next_scale


@no_type_check
@compiled(fastmath=SUMS)
def _reflection(band, at, v):
    """The scale of the reflection I - scale v v^T that leaves only the first of the BANDWIDTH entries at `at`, and
    leaves only it there."""
    squares = 0.0
    for i in range(1, BANDWIDTH):
        squares += band[at + i] * band[at + i]
    v[0] = 1
    if squares < _VANISHING:
        v[1:] = 0
        for i in range(1, BANDWIDTH):
            band[at + i] = 0
        return 0.0
    first = band[at]
    turned = -np.copysign(np.sqrt(first * first + squares), first)
    for i in range(1, BANDWIDTH):
        v[i] = band[at + i] / (first - turned)
        band[at + i] = 0
    band[at] = turned
    return (turned - first) / turned
