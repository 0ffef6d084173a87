"""How a hole is filled: measured where its bytes are, alone or with others like it, and what comes of it handed over.

An error of one matrix is that matrix's: it leaves a gap with its reason, or is raised once those beside it are done.
"""

from __future__ import annotations

import dataclasses
import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.elementwise import geometry
from analysis.footprint import PROCESS, worker_bytes
from analysis.measure import (
    Engine,
    measure_own_spectrum,
    measure_own_tally,
    measure_preview,
    measure_spectra,
    measure_spectrum,
    measure_tallies,
    measure_tally,
    read_once,
)
from analysis.measurements import Gap, MaskRule, Preview, Spectrum, Tally
from analysis.plan import Hole
from analysis.tensors import TensorPair
from cache.backends.child import Send
from cache.backends.devices import DeviceLost, attempt, survive
from cache.backends.lanes import Keeper
from cache.backends.sides import Rows, merging, reader, sides
from cache.masks import Unsettled, begin_mask
from cache.weights.shelf import Shelf

log = logging.getLogger(__name__)


class Result(NamedTuple):
    """What one hole leaves, its masks written and not yet settled."""

    hole: Hole
    measurement: Tally | Preview | Spectrum | Gap
    begun: tuple[Unsettled, ...] = ()


@dataclass
class Filling:
    """What it takes to fill a hole, whoever has its bytes."""

    request: dict[str, Any]
    engines: tuple[Engine, ...]
    shelf: Shelf
    keeper: Keeper[Result]
    send: Send
    crowded: SimpleQueue[Hole] = field(default_factory=SimpleQueue)  # found no memory, in company

    def __post_init__(self) -> None:
        self.pair_of_name: dict[str, TensorPair] = {pair.name: pair for pair in self.request["pairs"]}
        self.alone = frozenset(self.request["alone"])
        self.on_cpu = frozenset(self.request["on_cpu"])  # a GPU failed while it was filling them
        self.under_way: dict[Hole, str] = {}  # its device

    def begin(self, *holes: Hole) -> None:
        """Says so, before memory is taken; where one was suspected before, once all else is reported."""
        if not self.alone.isdisjoint(holes):
            self.keeper.flush()
        self.send({"event": "begin", "holes": holes})

    def fill(self, hole: Hole, base: Rows, tuned: Rows | None, engine: Engine, *, in_company: bool = False) -> None:
        """Measures it once it was begun, and hands over what comes of it. `tuned` None: the very bytes that the base
        has."""
        pair = self.pair_of_name[hole.name]
        if hole in self.on_cpu:
            engine = dataclasses.replace(engine, device="cpu")
        try:
            with self._at_work([hole], engine):
                result = _measured(pair, hole, base, tuned, engine, self.request, in_company)
        except MemoryError:
            if in_company:
                self.crowded.put(hole)
                return
            result = Result(hole, Gap(hole.kind, "this machine's memory does not hold it"))
        self.shelf.verify(pair)
        self.keeper.keep(result)
        if hole in self.alone:
            self.keeper.flush()

    def fill_in_turn(self, holes: Sequence[Hole], engine: Engine, in_company: bool) -> None:
        """The same from files, one after the other, all announced at once."""
        self.begin(*holes)
        self._fill_each(holes, engine, in_company)

    def fill_together(self, holes: Sequence[Hole], engine: Engine) -> None:
        """Measures them in one go, and hands over what comes of it. Where that fails each is measured by itself, and
        what one of these meets is raised once the others are done."""
        self.begin(*holes)
        left = list(holes)
        try:
            with self._at_work(holes, engine):
                for result in self._measured_together(holes, engine):
                    self.shelf.verify(self.pair_of_name[result.hole.name])
                    self.keeper.keep(result)
                    left.remove(result.hole)
        except DeviceLost:
            raise
        except Exception as error:
            if not isinstance(error, MemoryError):
                log.warning("%d together failed, so each is measured by itself\n%s", len(left), traceback.format_exc())
        # Here, where no error holds the stack's memory; none are left where all went well.
        self._fill_each(left, engine, in_company=True)

    @contextmanager
    def _at_work(self, holes: Sequence[Hole], engine: Engine) -> Iterator[None]:
        """Should the device be lost meanwhile, in whatever lane it shows, these are among the holes that it filled."""
        self.under_way |= dict.fromkeys(holes, engine.device)
        try:
            yield
        except DeviceLost as lost:
            lost.holes = tuple(hole for hole, device in list(self.under_way.items()) if device == lost.device)
            raise
        finally:
            for hole in holes:
                self.under_way.pop(hole, None)

    def _fill_each(self, holes: Sequence[Hole], engine: Engine, in_company: bool) -> None:
        """Raises the first error that one of them met, once the others are done."""
        met: Exception | None = None
        for hole in holes:
            self.keeper.check()
            try:
                self.fill(hole, *self._on_shelf(hole), engine, in_company=in_company)
            except DeviceLost:
                raise
            except Exception as error:
                met = met or error
        if met is not None:
            raise met

    def _measured_together(self, holes: Sequence[Hole], engine: Engine) -> Iterator[Result]:
        pairs, first = [self.pair_of_name[hole.name] for hole in holes], holes[0]
        shape, masks = geometry(pairs[0].shape), self.request["masks"]
        torch.set_num_threads(_torch_threads(pairs[0], first, engine))
        readers = [sides(pair, *self._on_shelf(hole), engine) for pair, hole in zip(pairs, holes, strict=True)]
        if first.kind == "spectrum":
            spectra = attempt(lambda: measure_spectra(shape, readers, engine, first), engine)
            yield from (Result(hole, found) for hole, found in zip(holes, spectra, strict=True))
            return
        taken = attempt(lambda: measure_tallies(shape, readers, engine, masks=masks), engine)
        for pair, hole, (found, packed) in zip(pairs, holes, taken, strict=True):
            yield _with_masks(pair, hole, found, packed, self.request)

    def _on_shelf(self, hole: Hole) -> tuple[Rows, Rows | None]:
        """Its two sides in files; None for the second where both are the same bytes."""
        same = self.shelf.are_same_bytes(self.pair_of_name[hole.name])
        return self.shelf.side("base"), None if same else self.shelf.side("tuned")


def _measured(
    pair: TensorPair,
    hole: Hole,
    base: Rows,
    tuned: Rows | None,
    engine: Engine,
    request: dict[str, Any],
    in_company: bool,
) -> Result:
    """Raises MemoryError where the host's memory does not hold it; `in_company`: or the device's, beside others."""
    torch.get_num_threads()  # from its first use on, a thread has a number of its own
    torch.set_num_threads(_torch_threads(pair, hole, engine))
    if hole.of == "adapter":
        assert tuned is not None
        return Result(hole, _own(pair, hole, base, tuned, engine, in_company))
    if hole.kind != "tally":
        work = {"preview": measure_preview, "spectrum": measure_spectrum}[hole.kind]
        found = survive(lambda on: work(pair, *sides(pair, base, tuned, on), on, hole), engine, in_company)
        return Result(hole, Gap(hole.kind, found) if isinstance(found, str) else found)

    def tallied(on: Engine) -> tuple[Tally, dict[MaskRule, NDArray[np.uint8]]]:
        return measure_tally(pair, *sides(pair, base, tuned, on), on, masks=request["masks"])

    taken = survive(tallied, engine, in_company)
    if isinstance(taken, str):
        return Result(hole, Gap("tally", taken))
    return _with_masks(pair, hole, *taken, request)


def _with_masks(
    pair: TensorPair, hole: Hole, tally: Tally, packed: Mapping[MaskRule, NDArray[np.uint8]], request: dict[str, Any]
) -> Result:
    folder, key = Path(request["masks_dir"]), request["pair_key"]
    begun = tuple(begin_mask(folder, key, pair.name, rule, packed[rule], pair.entries) for rule in packed)
    return Result(hole, tally, begun)


def _torch_threads(pair: TensorPair, hole: Hole, engine: Engine) -> int:
    """A spectrum's share of the threads, by how many of its size the memory holds at once; one for a tally. The same
    however the weights are brought, since sums of several threads may differ in the last bits."""
    if hole.kind == "tally":
        return 1
    n_bytes = max(worker_bytes(pair, "spectrum", engine.budget) - PROCESS, 1)
    return max(1, engine.threads // max(1, min(engine.threads, engine.budget // n_bytes)))


def _own(
    pair: TensorPair, hole: Hole, base: Rows, tuned: Rows, engine: Engine, in_company: bool
) -> Tally | Spectrum | Gap:
    """What `hole` asks of an adapter's own update."""

    def work(on: Engine) -> Tally | Spectrum | Gap:
        own = merging(pair, read_once(reader(base, pair.base)), tuned, on)
        if hole.kind == "tally":
            return measure_own_tally(pair, own, on)
        return measure_own_spectrum(pair, own, on, hole)

    found = survive(work, engine, in_company)
    return Gap(hole.kind, found) if isinstance(found, str) else found
