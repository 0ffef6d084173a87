"""The child that does the arithmetic: holes in, measurements out, one after the other. No network, no database.

Run as `python -m cache.backends.measure`. Each measurement is announced before it is begun, so that the parent knows
on which one a crash happened; masks are on disk, whole, before their tally is reported.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from analysis.adapters import Merging, ReadRows, widened
from analysis.elementwise import geometry
from analysis.errors import BadSetting
from analysis.measure import (
    Engine,
    measure_own_spectrum,
    measure_own_tally,
    measure_spectrum,
    measure_tally,
    pick_device,
    read_once,
)
from analysis.measurements import Gap, Spectrum, Tally
from analysis.plan import Hole
from analysis.tensors import TensorInfo, TensorPair
from cache.backends.child import Send, serve
from cache.masks import MaskFile, write_mask
from cache.weights.reader import WeightFiles, bytes_per_row, rows

R = TypeVar("R")
Result = tuple[Tally | Spectrum | Gap, tuple[MaskFile, ...]]

_NICENESS = 10  # the page stays quick while a job runs on the same cores
_TORCH_DTYPE = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def measure(request: dict[str, Any], send: Send) -> None:
    """Sends 'device' once, then for each hole 'begin' and 'measured'."""
    os.nice(_NICENESS)
    engine = _engine(request)
    pair_of_name: dict[str, TensorPair] = {pair.name: pair for pair in request["pairs"]}
    holes: tuple[Hole, ...] = request["holes"]
    needed = [pair_of_name[hole.name] for hole in holes]
    send({"event": "device", "device": engine.device})
    with (
        WeightFiles(Path(request["base_folder"]), [one for pair in needed for one in pair.stored("base")]) as base,
        WeightFiles(Path(request["tuned_folder"]), [one for pair in needed for one in pair.stored("tuned")]) as tuned,
    ):
        for hole in holes:
            send({"event": "begin", "hole": hole})
            pair = pair_of_name[hole.name]
            if hole.of == "adapter":
                result, masks = _own(pair, base, tuned, engine, hole)
            elif hole.kind == "tally":
                result, masks = _tally(pair, *_sides(pair, base, tuned, engine), engine, request)
            else:
                result, masks = _spectrum(pair, *_sides(pair, base, tuned, engine), engine, hole)
            base.verify()
            tuned.verify()
            send({"event": "measured", "hole": hole, "measurement": result, "masks": masks})


def _engine(request: dict[str, Any]) -> Engine:
    torch.set_num_threads(request["threads"])
    try:
        device = pick_device(request["device"])
    except RuntimeError as error:
        raise BadSetting(
            "The device 'cuda' was asked for, and torch sees no CUDA device here",
            expected="A CUDA device and a torch build for it",
            do="Choose 'auto' or 'cpu' (SUBNETSCOPE_DEVICE, or --device in the terminal)",
        ) from error
    return Engine(device, request["threads"], request["memory_budget"])


def _tally(pair: TensorPair, before: ReadRows, after: ReadRows, engine: Engine, request: dict[str, Any]) -> Result:
    found = _survive(lambda on: measure_tally(pair, before, after, on, masks=request["masks"]), engine)
    if isinstance(found, str):
        return Gap("tally", found), ()
    tally, packed = found
    folder = Path(request["masks_dir"])
    written = (write_mask(folder, request["pair_key"], pair.name, rule, packed[rule], pair.entries) for rule in packed)
    return tally, tuple(written)


def _spectrum(pair: TensorPair, before: ReadRows, after: ReadRows, engine: Engine, hole: Hole) -> Result:
    found = _survive(lambda on: measure_spectrum(pair, before, after, on, hole), engine)
    return (Gap("spectrum", found) if isinstance(found, str) else found), ()


def _own(pair: TensorPair, base: WeightFiles, tuned: WeightFiles, engine: Engine, hole: Hole) -> Result:
    """What `hole` asks of an adapter's own update."""

    def work(on: Engine) -> Tally | Spectrum | Gap:
        merging = _merging(pair, _reader(base, pair.base), tuned, on)
        if hole.kind == "tally":
            return measure_own_tally(pair, merging, on)
        return measure_own_spectrum(pair, merging, on, hole)

    found = _survive(work, engine)
    return (Gap(hole.kind, found) if isinstance(found, str) else found), ()


def _sides(pair: TensorPair, base: WeightFiles, tuned: WeightFiles, engine: Engine) -> tuple[ReadRows, ReadRows]:
    """Readers of both sides. An adapter's tuned side is made from the base's rows, which are read once for both."""
    before = _reader(base, pair.base)
    if pair.match == "untouched":
        before = read_once(before)
        return before, before
    if pair.merge is None:
        return before, _reader(tuned, pair.tuned)
    before = read_once(before)
    return before, _merging(pair, before, tuned, engine).merged


def _merging(pair: TensorPair, before: ReadRows, tuned: WeightFiles, engine: Engine) -> Merging:
    assert pair.merge is not None
    dtype = _TORCH_DTYPE[pair.base.dtype]
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


def _reader(files: WeightFiles, tensor: TensorInfo) -> ReadRows:
    """Blocks of one tensor. A block is overwritten by the next: new memory would cost ten times the reading."""
    columns = tensor.shape[-1] if tensor.shape else 1
    buffer = np.empty(0, np.uint8)

    def read(first_row: int, last_row: int) -> Tensor:
        nonlocal buffer
        wanted = (last_row - first_row) * bytes_per_row(tensor)
        if len(buffer) < wanted:
            buffer = np.empty(wanted, np.uint8)
        raw = torch.from_numpy(files.read_rows(tensor, first_row, last_row, buffer))
        return raw.view(_TORCH_DTYPE[tensor.dtype]).view(last_row - first_row, columns)

    return read


if __name__ == "__main__":
    serve(measure)
