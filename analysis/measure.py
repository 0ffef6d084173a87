"""One hole -> one measurement: reads a tensor pair in blocks of whole rows and hands them to the kernels.

Knows nothing about files: `ReadRows` returns a block of one tensor as (rows, columns), in its stored dtype, which may
be overwritten by the next call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analysis.elementwise import Geometry, geometry, tally
from analysis.measurements import Gap, MaskRule, Spectrum, Tally
from analysis.plan import Hole
from analysis.spectral import spectrum
from analysis.tensors import TensorPair

ReadRows = Callable[[int, int], Tensor]

# What a block costs while it is tallied, in bytes an entry: both sides, their flags, and torch's temporaries.
_BYTES_AN_ENTRY = {"cpu": 12, "cuda": 120}
_CPU_BLOCK = 4 << 20  # entries; beyond this a block leaves the cache and gains nothing


@dataclass(frozen=True)
class Engine:
    """Where and with how much the arithmetic runs. `budget` bounds the blocks' memory in bytes."""

    device: str = "cpu"
    threads: int = 1
    budget: int = 1 << 30

    def rows_at_once(self, shape: Geometry) -> int:
        """Rows of a block: a multiple of 8, so that the masks of blocks join at whole bytes."""
        kind = torch.device(self.device).type
        entries = self.budget // 4 // _BYTES_AN_ENTRY.get(kind, 120)
        entries = min(entries, _CPU_BLOCK) if kind == "cpu" else entries
        return max(8, entries // max(shape.columns, 1) // 8 * 8)


def pick_device(wanted: str) -> str:
    """'cpu' or 'cuda': what 'auto' means on this machine. Raises RuntimeError if 'cuda' is asked for and absent."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("no CUDA device is visible to torch")
    return wanted


def measure_tally(
    pair: TensorPair, before: ReadRows, after: ReadRows, engine: Engine, *, masks: Sequence[MaskRule]
) -> tuple[Tally, dict[MaskRule, np.ndarray]]:
    """The Tally of `pair` and its packed masks by the rules that `masks` names."""
    shape = geometry(pair.shape)
    pieces: dict[MaskRule, list[np.ndarray]] = {rule: [] for rule in masks}
    result = tally(
        _blocks(before, after, shape, engine),
        shape,
        on_mask=(lambda rule, packed: pieces[rule].append(packed)) if masks else None,
        rules=masks,
        threads=engine.threads,
    )
    return result, {rule: np.concatenate(packed) for rule, packed in pieces.items()}


def measure_spectrum(pair: TensorPair, before: ReadRows, after: ReadRows, engine: Engine, of: Hole) -> Spectrum | Gap:
    """The Spectrum that `of` asks for; a Gap with the reason where the matrix has none."""
    shape = geometry(pair.shape)
    found = spectrum(lambda: _blocks(before, after, shape, engine), shape, of=of.of, budget=engine.budget)
    return Gap("spectrum", found.reason) if found.reason else found


def _blocks(before: ReadRows, after: ReadRows, shape: Geometry, engine: Engine) -> Iterator[tuple[Tensor, Tensor]]:
    step = engine.rows_at_once(shape)
    for first in range(0, shape.rows, step):
        last = min(first + step, shape.rows)
        yield before(first, last).to(engine.device), after(first, last).to(engine.device)
