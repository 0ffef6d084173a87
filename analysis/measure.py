"""One hole -> one measurement: reads a tensor pair in blocks of whole rows and hands them to the kernels.

Knows nothing about files: `ReadRows` returns a block of one tensor as (rows, columns), in its stored dtype, which may
be overwritten by the next call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analysis import footprint
from analysis.adapters import Merging, ReadRows, thin_singular_values
from analysis.elementwise import Geometry, geometry, tally, tally_stack, way_on
from analysis.measurements import Gap, MaskRule, Preview, Spectrum, Tally
from analysis.plan import Hole, Kind
from analysis.spectral import preview, spectra, spectrum, spectrum_of
from analysis.tensors import TensorPair
from analysis.upload import on_device

Sides = tuple[ReadRows, ReadRows]  # of one pair: before, after


@dataclass(frozen=True)
class Engine:
    """Where and with how much the arithmetic runs. `budget` bounds the blocks' memory in bytes."""

    device: str = "cpu"
    threads: int = 1
    budget: int = 1 << 30

    @property
    def kind(self) -> str:
        """'cpu' or 'cuda', whichever of them it is."""
        return torch.device(self.device).type

    def rows_at_once(self, shape: Geometry) -> int:
        """Rows of a block: a multiple of 8, so that the masks of blocks join at whole bytes."""
        return footprint.rows_at_once(shape.columns, self.budget, way_on(self.kind))

    def stacks(self, kind: Kind) -> bool:
        """Whether small matrices of one shape are measured together there: a launch for each would take longer than
        its work. On a CPU nothing is launched."""
        return way_on(self.kind) == "triton" if kind == "tally" else kind == "spectrum" and self.kind == "cuda"


def pick_device(wanted: str) -> str:
    """The first of `devices`."""
    return devices(wanted)[0]


def devices(wanted: str) -> tuple[str, ...]:
    """Every device that 'auto', 'cpu', 'cuda', 'cuda:1' or several with commas between mean here: all GPUs for 'cuda',
    and for 'auto' where there is one. Raises RuntimeError where that GPU is absent.

    Apple's GPUs are not among them: without float64 their counts at a rule's border would differ."""
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto" and not here:
        return ("cpu",)
    if wanted in ("auto", "cuda") and here:
        return tuple(f"cuda:{i}" for i in range(here))
    named = tuple(dict.fromkeys(torch.device(name) for name in wanted.split(",")))
    if any(device.type == "cuda" and (device.index or 0) >= here for device in named):
        raise RuntimeError(f"torch sees {here} CUDA devices" if here else "no CUDA device is visible to torch")
    return tuple(map(str, named))


def measure_tally(
    pair: TensorPair, before: ReadRows, after: ReadRows, engine: Engine, *, masks: Sequence[MaskRule]
) -> tuple[Tally, dict[MaskRule, np.ndarray]]:
    """The Tally of `pair` and its packed masks by the rules that `masks` names."""
    shape = geometry(pair.shape)
    packed = {rule: np.empty(-(-pair.entries // 8), np.uint8) for rule in masks}
    filled = dict.fromkeys(masks, 0)

    def on_mask(rule: MaskRule, piece: np.ndarray) -> None:
        if len(piece) == len(packed[rule]):
            packed[rule] = piece  # whole, in memory of its own
            return
        packed[rule][filled[rule] : filled[rule] + len(piece)] = piece
        filled[rule] += len(piece)

    result = tally(
        _blocks(before, after, shape, engine),
        shape,
        on_mask=on_mask if masks else None,
        rules=masks,
        threads=engine.threads,
    )
    return result, packed


def measure_tallies(
    shape: Geometry, sides: Sequence[Sides], engine: Engine, *, masks: Sequence[MaskRule]
) -> list[tuple[Tally, dict[MaskRule, np.ndarray]]]:
    """What `measure_tally` returns for each of several pairs of one shape and type, in the launches of one."""
    return tally_stack(*_stacked(sides, shape, engine), rules=masks)


def measure_spectra(shape: Geometry, sides: Sequence[Sides], engine: Engine, of: Hole) -> list[Spectrum | Gap]:
    """What `measure_spectrum` returns for each of several such pairs, in one call of the solver; `of` stands for all of
    their holes."""
    every = spectra(*_stacked(sides, shape, engine), of=of.of)
    return [Gap("spectrum", found.reason) if found.reason else found for found in every]


def measure_spectrum(pair: TensorPair, before: ReadRows, after: ReadRows, engine: Engine, of: Hole) -> Spectrum | Gap:
    """The Spectrum that `of` asks for; a Gap with the reason where the matrix has none."""
    shape = geometry(pair.shape)
    if pair.match == "untouched" and of.of == "update":
        return spectrum_of(np.empty(0, np.float32), of.of, shape, "zero matrix")
    found = spectrum(lambda: _blocks(before, after, shape, engine), shape, of=of.of, budget=engine.budget)
    return Gap("spectrum", found.reason) if found.reason else found


def measure_preview(pair: TensorPair, before: ReadRows, after: ReadRows, engine: Engine, of: Hole) -> Preview | Gap:
    """The Preview of the spectrum that would be asked for by `of`; a Gap with the reason where there is none."""
    shape = geometry(pair.shape)
    found = preview(lambda: _blocks(before, after, shape, engine), shape, of=of.of, budget=engine.budget)
    return Gap("preview", found) if isinstance(found, str) else found


def measure_own_tally(pair: TensorPair, merging: Merging, engine: Engine) -> Tally:
    """The Tally of an adapter's own update: from zero to what merging would add, if nothing were rounded."""
    return measure_tally(pair, _nothing(merging), merging.own, engine, masks=())[0]


def measure_own_spectrum(pair: TensorPair, merging: Merging, engine: Engine, of: Hole) -> Spectrum | Gap:
    """The Spectrum of an adapter's own update: from its thin factors where it is of low rank by construction."""
    values = thin_singular_values(merging.merge, merging.factors)
    if values is None:
        return measure_spectrum(pair, _nothing(merging), merging.own, engine, of)
    found = spectrum_of(values.numpy(), of.of, geometry(pair.shape), "factors float64")
    return Gap("spectrum", found.reason) if found.reason else found


def read_once(read: ReadRows) -> ReadRows:
    """The same rows asked for twice in a row are read once."""
    seen: tuple[int, int] | None = None
    block: Tensor | None = None

    def again(first: int, last: int) -> Tensor:
        nonlocal seen, block
        if block is None or seen != (first, last):
            seen, block = (first, last), read(first, last)
        return block

    return again


def _nothing(merging: Merging) -> ReadRows:
    return lambda first, last: torch.zeros(last - first, merging.shape.columns)


def _stacked(sides: Sequence[Sides], shape: Geometry, engine: Engine) -> tuple[Tensor, Tensor]:
    """(matrices, rows, columns) of both sides, on the device: each matrix is copied there like any block, and from
    there into its place, which costs the device next to nothing."""
    whole = ((before(0, shape.rows), after(0, shape.rows)) for before, after in sides)
    stacks: list[Tensor] = []
    for i, block in enumerate(on_device(whole, torch.device(engine.device))):
        stacks = stacks or [side.new_empty(len(sides), shape.rows, shape.columns) for side in block]
        for stack, side in zip(stacks, block, strict=True):
            stack[i] = side
    return stacks[0], stacks[1]


def _blocks(before: ReadRows, after: ReadRows, shape: Geometry, engine: Engine) -> Iterator[tuple[Tensor, Tensor]]:
    step = engine.rows_at_once(shape)
    parts = ((first, min(first + step, shape.rows)) for first in range(0, shape.rows, step))
    return on_device(((before(*part), after(*part)) for part in parts), torch.device(engine.device))
