"""The child that does the arithmetic: holes in, measurements out, one after the other. No network, no database.

Run as `python -m cache.backends.measure`. Weights come from files, each read as soon as the parent says that it is
there, or step by step out of pipes that another child fills. Each measurement is announced before it is begun, so that
the parent knows on which one a crash happened; masks are on disk, whole, before their tally is reported.
"""

from __future__ import annotations

import dataclasses
import heapq
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.adapters import Merging, ReadRows, widened
from analysis.elementwise import geometry
from analysis.errors import BadSetting, WorkerDied
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
from cache.masks import MaskFile, write_mask
from cache.streams import Step, kept_aside
from cache.weights.passing import HasPassed, PassingWeights, StreamCut
from cache.weights.reader import bytes_per_row, rows
from cache.weights.shelf import Shelf
from cache.weights.values import STORED, decoder

R = TypeVar("R")
Result = tuple[Tally | Preview | Spectrum | Gap, tuple[MaskFile, ...]]

_NICENESS = 10  # the page stays quick while a job runs on the same cores


class Rows(Protocol):
    """Where bytes of tensors come from: files, or a pipe."""

    def read_rows(
        self, tensor: TensorInfo, first_row: int, last_row: int, into: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]: ...


def measure(request: dict[str, Any], send: Send) -> None:
    """Sends 'device' once, then for each hole 'begin' and 'measured'; 'idle' where all files that are here are
    measured, 'starved' before the error if a pipe ends too early."""
    os.nice(_NICENESS)
    engine = _engine(request)
    pair_of_name: dict[str, TensorPair] = {pair.name: pair for pair in request["pairs"]}
    send({"event": "device", "device": engine.device})

    def fill(hole: Hole, base: Rows, tuned: Rows | None, shelf: Shelf) -> None:
        send({"event": "begin", "hole": hole})
        pair = pair_of_name[hole.name]
        result, masks = _measured(pair, hole, base, tuned, engine, request)
        shelf.verify(pair)
        send({"event": "measured", "hole": hole, "measurement": result, "masks": masks})

    with Shelf(request["pairs"]) as shelf:
        for side, file, folder in request["files"]:
            shelf.put(side, file, Path(folder))
        if request["steps"]:
            _measure_passing(request, pair_of_name, shelf, fill, send)
        else:
            _measure_arriving(request["holes"], pair_of_name, shelf, fill, send)


Fill = Callable[[Hole, Rows, Rows | None, Shelf], None]  # None for the tuned side: the very bytes that the base has


def _measure_arriving(
    holes: tuple[Hole, ...], pair_of_name: Mapping[str, TensorPair], shelf: Shelf, fill: Fill, send: Send
) -> None:
    for hole in _arriving(holes, pair_of_name, shelf, send):
        are_same = shelf.are_same_bytes(pair_of_name[hole.name])
        fill(hole, shelf.side("base"), None if are_same else shelf.side("tuned"), shelf)


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


def _measure_passing(
    request: dict[str, Any], pair_of_name: Mapping[str, TensorPair], shelf: Shelf, fill: Fill, send: Send
) -> None:
    """Fills the holes step by step, while the bytes of both sides pass."""
    pipe_of_side = {side: PassingWeights(descriptor) for side, descriptor in request["pipes"].items()}
    try:
        for side, pipe in pipe_of_side.items():
            for tensor in kept_aside(request["steps"], side, pair_of_name):
                pipe.keep(tensor)
        for step in request["steps"]:
            send({"event": "begin", "hole": step.holes[0]})  # before memory is taken for it
            _take(step, pair_of_name[step.name], pipe_of_side, shelf, fill)
    except StreamCut as cut:
        send({"event": "starved"})
        raise WorkerDied("The weights stopped coming", do="Start the job again: what was measured is kept") from cut


def _take(step: Step, pair: TensorPair, pipe_of_side: Mapping[str, PassingWeights], shelf: Shelf, fill: Fill) -> None:
    passing = [(side, pipe_of_side[side]) for side in ("base", "tuned") if getattr(step, side) == "stream"]
    for side, pipe in passing:
        pipe.begin(getattr(pair, side), held=step.held)
    base: Rows = pipe_of_side["base"] if step.base == "stream" else shelf.side("base")
    of_tuned: dict[str, Rows | None] = {"base": None, "file": shelf.side("tuned")}
    tuned = pipe_of_side["tuned"] if step.tuned == "stream" else of_tuned[step.tuned]
    for hole in step.holes:
        fill(hole, base, tuned, shelf)
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
    if hole.of == "adapter":
        assert tuned is not None
        return _own(pair, hole, base, tuned, engine)
    if hole.kind != "tally":
        work = {"preview": measure_preview, "spectrum": measure_spectrum}[hole.kind]
        found = _survive(lambda on: work(pair, *_sides(pair, base, tuned, on), on, hole), engine)
        return (Gap(hole.kind, found) if isinstance(found, str) else found), ()
    taken = _survive(lambda on: measure_tally(pair, *_sides(pair, base, tuned, on), on, masks=request["masks"]), engine)
    if isinstance(taken, str):
        return Gap("tally", taken), ()
    tally, packed = taken
    folder = Path(request["masks_dir"])
    written = (write_mask(folder, request["pair_key"], pair.name, rule, packed[rule], pair.entries) for rule in packed)
    return tally, tuple(written)


def _own(pair: TensorPair, hole: Hole, base: Rows, tuned: Rows, engine: Engine) -> Result:
    """What `hole` asks of an adapter's own update."""

    def work(on: Engine) -> Tally | Spectrum | Gap:
        merging = _merging(pair, read_once(_reader(base, pair.base)), tuned, on)
        if hole.kind == "tally":
            return measure_own_tally(pair, merging, on)
        return measure_own_spectrum(pair, merging, on, hole)

    found = _survive(work, engine)
    return (Gap(hole.kind, found) if isinstance(found, str) else found), ()


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
    except MemoryError:
        return "this machine's memory does not hold it"
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


if __name__ == "__main__":
    serve(measure)
