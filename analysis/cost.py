"""What a measurement costs before it is made: seconds by a rough model, to estimate and to share out progress.

The rates are one core's, rounded down from docs/performance.md; a running job replaces them by what it sees, so only
the ratios between kinds of work have to hold.
"""

from __future__ import annotations

from analysis.plan import Hole
from analysis.scales import EIGHT_BIT
from analysis.tensors import TensorInfo, TensorPair

_BYTES_A_SECOND = 0.6e9  # one pass over both sides, masks written
_GRAM_FLOPS = 45e9
_EIGEN_FLOPS = 30e9
_PREVIEW_BYTES_A_SECOND = 0.3e9  # of the update in float32: read, put together, and gone through 64 times
_OVERHEAD = 0.004  # a message, a row, two files
_GPU_SPEEDUP = 15.0


def seconds(hole: Hole, pair: TensorPair, *, threads: int = 1, device: str = "cpu") -> float:
    """How long `hole` should take on `threads` cores; on a GPU the linear algebra is taken to be 15 times as fast."""
    if hole.of == "adapter" and hole.kind == "spectrum" and pair.merge and pair.merge.rank:
        return _OVERHEAD  # from thin factors
    if pair.match == "untouched" and hole.kind == "spectrum":
        return _OVERHEAD
    if hole.kind == "tally":
        return _OVERHEAD + (_bytes_of(pair.base) + _bytes_of(pair.tuned)) / _BYTES_A_SECOND
    if hole.kind == "preview":
        return _OVERHEAD + 4 * pair.entries / _PREVIEW_BYTES_A_SECOND
    short, long = sorted((pair.shape[0], pair.shape[-1]))
    work = short**2 * long / _GRAM_FLOPS + 4 / 3 * short**3 / _EIGEN_FLOPS
    return _OVERHEAD + work / (_GPU_SPEEDUP if device == "cuda" else min(threads, 2) ** 0.5)


def _bytes_of(tensor: TensorInfo) -> int:
    """Bytes that the pass reads: 8-bit codes are widened to float32 first, at little cost beside the pass itself."""
    return (tensor.end - tensor.begin) * (4 if tensor.dtype in EIGHT_BIT else 1)
