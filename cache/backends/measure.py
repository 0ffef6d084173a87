"""The child that does the arithmetic: holes in, measurements out. No network, no database.

Run as `python -m cache.backends.measure`. Weights come from files, each read as soon as the parent says that it is
there, or step by step out of pipes that another child fills. From files, as many holes are filled at once as there are
threads, one thread each, so that one reads or compresses while another counts; on GPUs a few on each, and small
matrices that are alike in one go. Each measurement is announced before it
is begun, so that the parent knows on which a crash may have happened; what was suspected once is measured alone. Masks
are on disk, whole, before their tally is reported.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.adapters import Merging, ReadRows, widened
from analysis.elementwise import geometry
from analysis.errors import WorkerDied
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
from analysis.stacks import Ready, bytes_of_each, likeness, most_together
from analysis.tensors import TensorInfo, TensorPair
from cache.backends import devices
from cache.backends.child import Send, heard, nudge, serve
from cache.backends.devices import DeviceLost
from cache.backends.lanes import Keeper, Lanes
from cache.masks import Unsettled, begin_mask, settle
from cache.streams import Step, kept_aside
from cache.weights.passing import HasPassed, PassingWeights, StreamCut
from cache.weights.reader import bytes_per_row, rows
from cache.weights.shelf import Shelf
from cache.weights.values import STORED, decoder

R = TypeVar("R")

log = logging.getLogger(__name__)

_NICENESS = 10  # the page stays quick while a job runs on the same cores


class Rows(Protocol):
    """Where bytes of tensors come from: files, or a pipe."""

    def read_rows(
        self, tensor: TensorInfo, first_row: int, last_row: int, into: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]: ...


def measure(request: dict[str, Any], send: Send) -> None:
    """Sends 'device' once, then for each hole 'begin', and later 'measured' with the results of one or several; 'idle'
    where all files that are here are measured, 'starved' before the error if a pipe ends too early, 'lost' before it
    with the device that failed and the holes that it was filling."""
    os.nice(_NICENESS)
    engines = devices.engines(request)
    send({"event": "device", "device": devices.in_words(engines)})
    try:
        with suppress(MemoryError):  # then each hole finds out by itself
            _on_device(lambda: devices.warm_up(engines[0], {hole.kind for hole in request["holes"]}), engines[0])
        _measure(request, engines, send)
    except DeviceLost as lost:
        send({"event": "lost", "device": lost.device, "holes": lost.holes})
        raise WorkerDied(f"{lost.device} failed", do="Start the job again: what was measured is kept") from lost


def _measure(request: dict[str, Any], engines: tuple[Engine, ...], send: Send) -> None:

    def report(results: Sequence[Result]) -> None:
        settle([begun for result in results for begun in result.begun])
        ready = [
            {"hole": hole, "measurement": measurement, "masks": [each.mask for each in begun]}
            for hole, measurement, begun in results
        ]
        if ready:
            send({"event": "measured", "results": ready})

    with Shelf(request["pairs"]) as shelf, Keeper(report, on_error=nudge) as keeper:
        for side, file, folder in request["files"]:
            shelf.put(side, file, Path(folder))
        filling = _Filling(request, engines, shelf, keeper, send)
        if request["steps"]:
            _measure_passing(request, filling)
        else:
            _measure_arriving(request["holes"], filling)


class Result(NamedTuple):
    """What one hole leaves, its masks written and not yet settled."""

    hole: Hole
    measurement: Tally | Preview | Spectrum | Gap
    begun: tuple[Unsettled, ...] = ()


@dataclass
class _Filling:
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

    def begin(self, hole: Hole) -> None:
        """Says so, before memory is taken; where it was suspected before, once all else is reported."""
        if hole in self.alone:
            self.keeper.flush()
        self.send({"event": "begin", "hole": hole})

    def fill(self, hole: Hole, base: Rows, tuned: Rows | None, engine: Engine, *, in_company: bool = False) -> None:
        """Measures it, and hands over what comes of it. `tuned` None: the very bytes that the base has."""
        self.begin(hole)
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

    def fill_one(self, hole: Hole, engine: Engine, in_company: bool) -> None:
        """The same from files."""
        self.fill(hole, *self._on_shelf(hole), engine, in_company=in_company)

    def fill_together(self, holes: Sequence[Hole], engine: Engine) -> None:
        """Measures them in one go, and hands over what comes of it. Where that fails each is measured by itself, and
        what one of these meets is raised once the others are done."""
        for hole in holes:
            self.begin(hole)
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
                log.warning("%d matrices together failed, so each is measured by itself", len(left), exc_info=True)
            self._fill_each(left, engine)

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

    def _fill_each(self, holes: Sequence[Hole], engine: Engine) -> None:
        met: Exception | None = None
        for hole in holes:
            try:
                self.fill_one(hole, engine, True)
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
        readers = [_sides(pair, *self._on_shelf(hole), engine) for pair, hole in zip(pairs, holes, strict=True)]
        if first.kind == "spectrum":
            spectra = _on_device(lambda: measure_spectra(shape, readers, engine, first), engine)
            yield from (Result(hole, found) for hole, found in zip(holes, spectra, strict=True))
            return
        taken = _on_device(lambda: measure_tallies(shape, readers, engine, masks=masks), engine)
        for pair, hole, (found, packed) in zip(pairs, holes, taken, strict=True):
            yield _with_masks(pair, hole, found, packed, self.request)

    def _on_shelf(self, hole: Hole) -> tuple[Rows, Rows | None]:
        """Its two sides in files; None for the second where both are the same bytes."""
        same = self.shelf.are_same_bytes(self.pair_of_name[hole.name])
        return self.shelf.side("base"), None if same else self.shelf.side("tuned")


def _measure_arriving(holes: tuple[Hole, ...], filling: _Filling) -> None:
    """In the holes' order, side by side; small ones that are alike together where that pays."""
    pair_of_name = filling.pair_of_name
    engine = filling.engines[0]  # the others are like it
    lanes = Lanes({one: devices.lanes(one) for one in filling.engines}, engine.budget, on_change=nudge)

    def together(hole: Hole) -> tuple[Hashable, int]:
        if hole in filling.alone or hole in filling.on_cpu or not engine.stacks(hole.kind):
            return None, 1
        pair, budget = pair_of_name[hole.name], devices.share(engine, hole.kind).budget // 2
        like = likeness(hole, pair)
        return like, 1 if like is None else most_together(hole, pair, budget)

    def begin(group: tuple[Hole, ...], *, alone: bool) -> None:
        first = group[0]
        if alone:
            lanes.wait()
        if len(group) > 1:
            n_bytes = len(group) * bytes_of_each(first, pair_of_name[first.name])
            lanes.run(lambda on: filling.fill_together(group, devices.share(on, first.kind)), n_bytes)
        else:
            budget = devices.share(engine, first.kind).budget
            n_bytes = worker_bytes(pair_of_name[first.name], first.kind, budget) - PROCESS
            lanes.run(lambda on: filling.fill_one(first, devices.share(on, first.kind), not alone), n_bytes)
        if alone:
            lanes.wait()

    for group in _arriving(Ready(holes, together), holes, filling, lanes):
        begin(group, alone=group[0] in filling.alone)
    lanes.wait()
    while not filling.crowded.empty():
        begin((filling.crowded.get(),), alone=True)


def _arriving(
    ready: Ready, holes: tuple[Hole, ...], filling: _Filling, lanes: Lanes[Engine]
) -> Iterator[tuple[Hole, ...]]:
    """The holes as `ready` hands them out, among those whose files are here; ends when no more files come. Raises what
    work under way meets while the next file is waited for."""
    shelf, pair_of_name = filling.shelf, filling.pair_of_name
    absent = dict(enumerate(holes))
    n_files, more = -1, True
    while ready or (absent and more):
        if more:
            lanes.check()
            filling.keeper.check()
            if not ready and lanes.is_idle:
                filling.send({"event": "idle"})
            more = _put_what_came(shelf, wait=not ready and n_files >= 0)
        if shelf.n_files != n_files:
            n_files = shelf.n_files
            for position in [at for at, hole in absent.items() if shelf.has(pair_of_name[hole.name])]:
                ready.add(position)
                del absent[position]
        if ready:
            yield ready.take()


def _put_what_came(shelf: Shelf, *, wait: bool) -> bool:
    """Puts the files on the shelf that the parent has spoken of; whether more may come. Returns also when something
    has happened in a lane."""
    message = heard(wait=wait)
    while message is not None and message["event"] != "all":
        if message["event"] == "ready":
            shelf.put(message["side"], message["file"], Path(message["folder"]))
        message = heard(wait=False)
    return message is None


def _measure_passing(request: dict[str, Any], filling: _Filling) -> None:
    """Fills the holes step by step, while the bytes of both sides pass."""
    pipe_of_side = {side: PassingWeights(descriptor) for side, descriptor in request["pipes"].items()}
    try:
        for side, pipe in pipe_of_side.items():
            for tensor in kept_aside(request["steps"], side, filling.pair_of_name):
                pipe.keep(tensor)
        for step in request["steps"]:
            filling.begin(step.holes[0])  # before memory is taken for it
            _take(step, pipe_of_side, filling)
    except StreamCut as cut:
        filling.send({"event": "starved"})
        raise WorkerDied("The weights stopped coming", do="Start the job again: what was measured is kept") from cut


def _take(step: Step, pipe_of_side: Mapping[str, PassingWeights], filling: _Filling) -> None:
    pair, shelf = filling.pair_of_name[step.name], filling.shelf
    passing = [(side, pipe_of_side[side]) for side in ("base", "tuned") if getattr(step, side) == "stream"]
    for side, pipe in passing:
        pipe.begin(getattr(pair, side), held=step.held)
    base: Rows = pipe_of_side["base"] if step.base == "stream" else shelf.side("base")
    of_tuned: dict[str, Rows | None] = {"base": None, "file": shelf.side("tuned")}
    tuned = pipe_of_side["tuned"] if step.tuned == "stream" else of_tuned[step.tuned]
    for hole in step.holes:
        filling.fill(hole, base, tuned, filling.engines[0])
    for _, pipe in passing:
        pipe.end()


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
        found = _survive(lambda on: work(pair, *_sides(pair, base, tuned, on), on, hole), engine, in_company)
        return Result(hole, Gap(hole.kind, found) if isinstance(found, str) else found)

    def tallied(on: Engine) -> tuple[Tally, dict[MaskRule, NDArray[np.uint8]]]:
        return measure_tally(pair, *_sides(pair, base, tuned, on), on, masks=request["masks"])

    taken = _survive(tallied, engine, in_company)
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
        merging = _merging(pair, read_once(_reader(base, pair.base)), tuned, on)
        if hole.kind == "tally":
            return measure_own_tally(pair, merging, on)
        return measure_own_spectrum(pair, merging, on, hole)

    found = _survive(work, engine, in_company)
    return Gap(hole.kind, found) if isinstance(found, str) else found


def _sides(pair: TensorPair, base: Rows, tuned: Rows | None, engine: Engine) -> tuple[ReadRows, ReadRows]:
    """Readers of both sides. Two sides that are the same bytes are read once, and so are the base's rows that an
    adapter's tuned side is made from."""
    before = _reader(base, pair.base)
    if tuned is None:
        before = read_once(before)
        return before, before
    if pair.merge is None:
        return before, _reader(tuned, pair.tuned)
    before = read_once(before)
    return before, _merging(pair, before, tuned, engine).merged


def _merging(pair: TensorPair, before: ReadRows, tuned: Rows, engine: Engine) -> Merging:
    assert pair.merge is not None
    dtype = STORED.get(pair.base.dtype, torch.float32)  # 8-bit weights are what they stand for, in float32
    readers = {role: (_reader(tuned, info), rows(info)) for role, info in pair.merge.factors}
    whole = {role: widened(read(0, n), pair.merge, dtype) for role, (read, n) in readers.items() if role != "weight"}
    weight = readers["weight"][0] if "weight" in readers else None
    return Merging(pair.merge, geometry(pair.shape), before, whole, weight, engine.budget)


def _survive(work: Callable[[Engine], R], engine: Engine, in_company: bool = False) -> R | str:
    """What `work` returns; on the CPU where the device's memory does not hold it, or its solver refuses it; the reason
    where that fails too. Raises MemoryError and DeviceLost, the former also where a device is crowded."""
    try:
        return _on_device(lambda: work(engine), engine)
    except MemoryError:
        if engine.kind == "cpu" or in_company:
            raise
        return _survive(work, dataclasses.replace(engine, device="cpu"))
    except torch.linalg.LinAlgError:
        return "the singular value decomposition did not converge"
    except HasPassed:
        return "the device's memory did not hold it, and its bytes had passed: keep the files, or allow more memory"
    except RuntimeError as error:
        if engine.kind == "cpu" or not devices.is_of_solver(error):
            raise
        log.warning("%s refused a matrix, which the CPU takes", engine.device, exc_info=True)
        return _survive(work, dataclasses.replace(engine, device="cpu"))


def _on_device(work: Callable[[], R], engine: Engine) -> R:
    """What `work` returns. Raises MemoryError where the device's memory or the host's does not hold it, and DeviceLost
    where the device fails."""
    try:
        with devices.current(engine):
            return work()
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):
            raise MemoryError from error
        if engine.kind == "cpu":
            raise
        if devices.lacks_memory(error):
            torch.cuda.empty_cache()
            raise MemoryError from error
        if devices.is_of_device(error) and not devices.is_of_solver(error):
            log.error("%s failed", engine.device, exc_info=True)
            raise DeviceLost(engine.device) from error
        raise


def _reader(files: Rows, tensor: TensorInfo) -> ReadRows:
    """Blocks of one tensor. A block is overwritten by the next: new memory would cost ten times the reading."""
    decode = decoder(tensor, lambda whole: files.read_rows(whole, 0, rows(whole)))
    buffer = np.empty(0, np.uint8)

    def read(first_row: int, last_row: int) -> Tensor:
        nonlocal buffer
        wanted = (last_row - first_row) * bytes_per_row(tensor)
        if len(buffer) < wanted:
            buffer = np.empty(wanted, np.uint8)
        return decode(files.read_rows(tensor, first_row, last_row, buffer), first_row)

    return read


if __name__ == "__main__":
    serve(measure)
