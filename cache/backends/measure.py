"""The child that does the arithmetic: holes in, measurements out. No network, no database.

Run as `python -m cache.backends.measure`. Weights come from files, each read as soon as the parent says that it is
there, or step by step out of pipes that another child fills. From files, as many holes are filled at once as there are
threads, one thread each, so that one reads or compresses while another counts. Each measurement is announced before it
is begun, so that the parent knows on which a crash may have happened; what was suspected once is measured alone. Masks
are on disk, whole, before their tally is reported.
"""

from __future__ import annotations

import dataclasses
import heapq
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.adapters import Merging, ReadRows, widened
from analysis.elementwise import geometry, load
from analysis.errors import BadSetting, WorkerDied
from analysis.footprint import PROCESS, worker_bytes
from analysis.measure import (
    Engine,
    measure_own_spectrum,
    measure_own_tally,
    measure_preview,
    measure_spectrum,
    measure_tally,
    pick_device,
    read_once,
)
from analysis.measurements import Gap, Preview, Spectrum, Tally
from analysis.plan import Hole
from analysis.tensors import TensorInfo, TensorPair
from cache.backends.child import Send, heard, serve
from cache.backends.lanes import Keeper, Lanes
from cache.masks import Unsettled, begin_mask, settle
from cache.streams import Step, kept_aside
from cache.weights.passing import HasPassed, PassingWeights, StreamCut
from cache.weights.reader import bytes_per_row, rows
from cache.weights.shelf import Shelf
from cache.weights.values import STORED, decoder

R = TypeVar("R")

_NICENESS = 10  # the page stays quick while a job runs on the same cores


class Rows(Protocol):
    """Where bytes of tensors come from: files, or a pipe."""

    def read_rows(
        self, tensor: TensorInfo, first_row: int, last_row: int, into: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]: ...


def measure(request: dict[str, Any], send: Send) -> None:
    """Sends 'device' once, then for each hole 'begin', and later 'measured' with the results of one or several; 'idle'
    where all files that are here are measured, 'starved' before the error if a pipe ends too early."""
    os.nice(_NICENESS)
    engine = _engine(request)
    send({"event": "device", "device": engine.device})

    def report(results: Sequence[Result]) -> None:
        settle([begun for result in results for begun in result.begun])
        ready = [
            {"hole": hole, "measurement": measurement, "masks": [each.mask for each in begun]}
            for hole, measurement, begun in results
        ]
        if ready:
            send({"event": "measured", "results": ready})

    with Shelf(request["pairs"]) as shelf, Keeper(report) as keeper:
        for side, file, folder in request["files"]:
            shelf.put(side, file, Path(folder))
        filling = _Filling(request, engine, shelf, keeper, send)
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
    engine: Engine
    shelf: Shelf
    keeper: Keeper[Result]
    send: Send
    crowded: SimpleQueue[Hole] = field(default_factory=SimpleQueue)  # found no memory, in company

    def __post_init__(self) -> None:
        self.pair_of_name: dict[str, TensorPair] = {pair.name: pair for pair in self.request["pairs"]}
        self.alone = frozenset(self.request["alone"])

    def begin(self, hole: Hole) -> None:
        """Says so, before memory is taken; where it was suspected before, once all else is reported."""
        if hole in self.alone:
            self.keeper.flush()
        self.send({"event": "begin", "hole": hole})

    def fill(self, hole: Hole, base: Rows, tuned: Rows | None, engine: Engine, *, in_company: bool = False) -> None:
        """Measures it, and hands over what comes of it. `tuned` None: the very bytes that the base has."""
        self.begin(hole)
        pair = self.pair_of_name[hole.name]
        try:
            result = _measured(pair, hole, base, tuned, engine, self.request)
        except MemoryError:
            if in_company:
                self.crowded.put(hole)
                return
            result = Result(hole, Gap(hole.kind, "this machine's memory does not hold it"))
        self.shelf.verify(pair)
        self.keeper.keep(result)
        if hole in self.alone:
            self.keeper.flush()


def _measure_arriving(holes: tuple[Hole, ...], filling: _Filling) -> None:
    """In the holes' order, side by side on a CPU; one after the other on a device, which has threads of its own."""
    engine, shelf = filling.engine, filling.shelf
    lanes = Lanes(engine.threads if engine.device == "cpu" else 1, engine.budget)
    in_a_lane = dataclasses.replace(engine, threads=1, budget=max(engine.budget // engine.threads, 1))

    def begin(hole: Hole, *, alone: bool) -> None:
        pair = filling.pair_of_name[hole.name]
        base, tuned = shelf.side("base"), None if shelf.are_same_bytes(pair) else shelf.side("tuned")
        on = in_a_lane if hole.kind == "tally" and engine.device == "cpu" else engine
        if alone:
            lanes.wait()
        n_bytes = worker_bytes(pair, hole.kind, on.budget) - PROCESS
        lanes.run(lambda: filling.fill(hole, base, tuned, on, in_company=not alone), n_bytes)
        if alone:
            lanes.wait()

    for hole in _arriving(holes, filling.pair_of_name, shelf, filling.send):
        begin(hole, alone=hole in filling.alone)
    lanes.wait()
    while not filling.crowded.empty():
        begin(filling.crowded.get(), alone=True)


def _arriving(
    holes: tuple[Hole, ...], pair_of_name: Mapping[str, TensorPair], shelf: Shelf, send: Send
) -> Iterator[Hole]:
    """The holes in their order, among those whose files are here; ends when no more files come."""
    ready: list[int] = []
    absent = dict(enumerate(holes))
    n_files, more = -1, True
    while ready or (absent and more):
        if more:
            if not ready:
                send({"event": "idle"})
            more = _put_what_came(shelf, wait=not ready and n_files >= 0)
        if shelf.n_files != n_files:
            n_files = shelf.n_files
            for position in [at for at, hole in absent.items() if shelf.has(pair_of_name[hole.name])]:
                heapq.heappush(ready, position)
                del absent[position]
        if ready:
            yield holes[heapq.heappop(ready)]


def _put_what_came(shelf: Shelf, *, wait: bool) -> bool:
    """Puts the files on the shelf that the parent has spoken of; whether more may come."""
    message = heard(wait=wait)
    while message is not None and message["event"] == "ready":
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
        filling.fill(hole, base, tuned, filling.engine)
    for _, pipe in passing:
        pipe.end()


def _engine(request: dict[str, Any]) -> Engine:
    torch.set_num_threads(request["threads"])
    try:
        device = pick_device(request["device"])
    except RuntimeError as error:
        raise BadSetting(
            f"The device '{request['device']}' was asked for: {error}",
            expected="A CUDA device of that number and a torch build for it",
            do="Choose 'auto' or 'cpu' (SUBNETSCOPE_DEVICE, or --device in the terminal)",
        ) from error
    return Engine(device, request["threads"], request["memory_budget"])


def _measured(
    pair: TensorPair, hole: Hole, base: Rows, tuned: Rows | None, engine: Engine, request: dict[str, Any]
) -> Result:
    """Raises MemoryError where the host's memory does not hold it."""
    torch.get_num_threads()  # from its first use on, a thread has a number of its own
    torch.set_num_threads(_torch_threads(pair, hole, engine))
    if hole.of == "adapter":
        assert tuned is not None
        return Result(hole, _own(pair, hole, base, tuned, engine))
    if hole.kind != "tally":
        work = {"preview": measure_preview, "spectrum": measure_spectrum}[hole.kind]
        found = _survive(lambda on: work(pair, *_sides(pair, base, tuned, on), on, hole), engine)
        return Result(hole, Gap(hole.kind, found) if isinstance(found, str) else found)
    taken = _survive(lambda on: measure_tally(pair, *_sides(pair, base, tuned, on), on, masks=request["masks"]), engine)
    if isinstance(taken, str):
        return Result(hole, Gap("tally", taken))
    tally, packed = taken
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


def _own(pair: TensorPair, hole: Hole, base: Rows, tuned: Rows, engine: Engine) -> Tally | Spectrum | Gap:
    """What `hole` asks of an adapter's own update."""

    def work(on: Engine) -> Tally | Spectrum | Gap:
        merging = _merging(pair, read_once(_reader(base, pair.base)), tuned, on)
        if hole.kind == "tally":
            return measure_own_tally(pair, merging, on)
        return measure_own_spectrum(pair, merging, on, hole)

    found = _survive(work, engine)
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


def _survive(work: Callable[[Engine], R], engine: Engine) -> R | str:
    """What `work` returns; on the CPU where the device's memory does not hold it; the reason where that fails too."""
    try:
        return work(engine)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return _survive(work, dataclasses.replace(engine, device="cpu"))
    except torch.linalg.LinAlgError:
        return "the singular value decomposition did not converge"
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise MemoryError from error
    except HasPassed:
        return "the device's memory did not hold it, and its bytes had passed: keep the files, or allow more memory"


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


def load_kernels() -> None:
    """Where the CPU will measure: a GPU's worker does without numba."""
    if pick_device("auto") == "cpu":
        load()


if __name__ == "__main__":
    serve(measure, meanwhile=load_kernels)
