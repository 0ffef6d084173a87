"""The elementwise pass from files in the page cache to Tally and masks, against reading the same bytes.

    python -m benchmarks.elementwise [--gigabytes 1] [--hidden 2048] [--threads 2] [--repeats 5] [--cold]

`gigabytes` counts both sides together. Each way runs once a round, in turn, in this one process; medians and spread
of the rounds are printed as a table. "reading into memory" is one `readinto` pass over all files into memory that was
there before and holds them all; "through the cache" uses one buffer of 16 MiB again and again, whose bytes hardly leave
the processor; "into new memory" is what loading a model does. The paper's operations are those of its script on the
same tensors (bfloat16 difference, torch.isclose): whole tensors at a time, one tolerance, nothing else.
"from memory" counts as much without reading: one block of either side, again and again. `--cold` drops the files from
the page cache before each way, so that the disk is part of it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from analysis.alignment import align
from analysis.elementwise import geometry
from analysis.measure import Engine, measure_tally
from analysis.measurements import MASK_RULES
from analysis.plan import Hole
from analysis.stacks import largest_first
from analysis.tensors import TensorInfo, TensorPair
from benchmarks.pair import write_pair
from benchmarks.tables import heading, machine, row
from cache.backends.lanes import Keeper, Lanes
from cache.backends.measure import load_kernels
from cache.backends.sides import reader
from cache.masks import begin_mask, settle
from cache.weights import list_tensors
from cache.weights.reader import WeightFiles, rows

_BUFFER = 16 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)  # one a lane; the paper's operations have all of them
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_pair(place, options.gigabytes, options.hidden)
        run(place, options.threads, options.repeats, cold=options.cold)


def run(place: Path, threads: int, repeats: int, *, cold: bool) -> None:
    tensors, pairs = aligned(place)
    n_bytes = sum(2 * (pair.base.end - pair.base.begin) for pair in pairs)

    def count() -> None:
        lanes = Lanes({"cpu": threads}, 1 << 30)
        for pair in pairs:
            lanes.run(lambda _, pair=pair: _count(pair, seen), pair.entries // 2)
        lanes.wait()

    seen = _a_block(place, tensors, max(pairs, key=lambda pair: pair.entries))
    whole, small = np.ones(n_bytes + (1 << 20) * len(tensors), np.uint8), np.ones(_BUFFER, np.uint8)
    ways: dict[str, Callable[[], None]] = {
        "reading into memory": lambda: _read(place, whole),
        "reading through the cache": lambda: _read(place, small),
        "reading into new memory": lambda: _read(place, np.empty(len(whole), np.uint8)),
        "Tally and masks, from memory": count,
        "Tally and masks": lambda: tally(place, tensors, pairs, threads, store=False),
        "Tally and masks, masks stored": lambda: tally(place, tensors, pairs, threads, store=True),
        "the paper's operations": lambda: _papers(place, tensors, threads),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    work: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            if cold:
                _drop(place)
            started, used = time.perf_counter(), time.process_time()
            way()
            seconds[name].append(time.perf_counter() - started)
            work[name].append(time.process_time() - used)
    print(f"{machine('numpy', 'torch')}; {threads} threads")
    print(f"{n_bytes / 1e9:.2f} GB in bfloat16, both sides; {repeats} rounds after one to warm up\n")
    readings = [name for name in ways if name.startswith("reading")]
    shares = (f"of {name}" for name in readings)
    print(heading("way", "GB/s, median (least to most)", *shares, "GB per CPU second"))
    middle_of = {name: statistics.median(n_bytes / 1e9 / one for one in seconds[name][1:]) for name in ways}
    for name in ways:
        rates = sorted(n_bytes / 1e9 / one for one in seconds[name][1:])
        cpu = n_bytes / 1e9 / statistics.median(work[name][1:])
        shares = (f"{middle_of[name] / middle_of[reading]:.0%}" for reading in readings)
        print(row(name, f"{middle_of[name]:.2f} ({rates[0]:.2f} to {rates[-1]:.2f})", *shares, f"{cpu:.2f}"))
    sys.stdout.flush()


def aligned(place: Path) -> tuple[dict[str, list[TensorInfo]], Sequence[TensorPair]]:
    """The tensors of both sides, and how they pair, in the order of measuring."""
    tensors = {side: _tensors(place / side) for side in ("base", "tuned")}
    pair_of_name = {pair.name: pair for pair in align(tensors["base"], tensors["tuned"]).pairs}
    holes = largest_first([Hole("tally", name) for name in pair_of_name], pair_of_name)
    return tensors, [pair_of_name[hole.name] for hole in holes]


def tally(
    place: Path, tensors: Mapping[str, list[TensorInfo]], pairs: Sequence[TensorPair], threads: int, *, store: bool
) -> None:
    """As the measuring child does it: a tensor a lane, masks settled by a keeper."""
    engine, lanes = Engine("cpu", 1), Lanes({"cpu": threads}, 1 << 30)

    def one(pair: TensorPair) -> None:
        readers = reader(base, pair.base), reader(tuned, pair.tuned)
        _, masks = measure_tally(pair, *readers, engine, masks=MASK_RULES)
        for rule in masks if store else ():
            keeper.keep(begin_mask(place / "masks", "0" * 16, pair.name, rule, masks[rule], pair.entries))

    with (
        WeightFiles(place / "base", tensors["base"]) as base,
        WeightFiles(place / "tuned", tensors["tuned"]) as tuned,
        Keeper(settle) as keeper,
    ):
        for pair in pairs:
            lanes.run(lambda _, pair=pair: one(pair), pair.entries // 2)
        lanes.wait()


def once(place: Path, threads: int) -> None:
    """One pass with masks stored, in a process that has loaded its compiled code; prints seconds by the clock and of
    the CPU."""
    torch.set_num_threads(1)
    load_kernels()
    tensors, pairs = aligned(place)
    begun, used = time.perf_counter(), time.process_time()
    tally(place, tensors, pairs, threads, store=True)
    print(time.perf_counter() - begun, time.process_time() - used)


def _tensors(folder: Path) -> list[TensorInfo]:
    def read(file: str, begin: int, end: int) -> bytes:
        with (folder / file).open("rb") as opened:
            opened.seek(begin)
            return opened.read(end - begin)

    return list_tensors({path.name: path.stat().st_size for path in folder.iterdir()}, read)


def _read(place: Path, memory: np.ndarray) -> None:
    """All files one after the other into `memory`; from its start again once it is full."""
    view, at = memoryview(memory), 0
    for path in sorted(place.glob("*/*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while n := file.readinto(view[at:]):
                at = (at + n) % len(view)


def _drop(place: Path) -> None:
    for path in place.glob("*/*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _a_block(place: Path, tensors: dict[str, list[TensorInfo]], pair: TensorPair) -> tuple[torch.Tensor, torch.Tensor]:
    """As many rows of both sides as are tallied at once, one entry after the other."""
    n_rows = Engine("cpu", 1).rows_at_once(geometry(pair.shape))
    with WeightFiles(place / "base", tensors["base"]) as base, WeightFiles(place / "tuned", tensors["tuned"]) as tuned:
        return reader(base, pair.base)(0, n_rows).flatten(), reader(tuned, pair.tuned)(0, n_rows).flatten()


def _count(pair: TensorPair, seen: tuple[torch.Tensor, torch.Tensor]) -> None:
    columns = pair.shape[-1]
    readers = [lambda first, last, side=side: side[: (last - first) * columns].view(-1, columns) for side in seen]
    measure_tally(pair, readers[0], readers[1], Engine("cpu", 1), masks=MASK_RULES)


def _papers(place: Path, tensors: dict[str, list[TensorInfo]], threads: int) -> None:
    torch.set_num_threads(threads)
    of_name = {tensor.name: tensor for tensor in tensors["tuned"]}
    with (
        WeightFiles(place / "base", tensors["base"]) as base,
        WeightFiles(place / "tuned", tensors["tuned"]) as tuned,
    ):
        for info in tensors["base"]:
            before = reader(base, info)(0, rows(info))
            after = reader(tuned, of_name[info.name])(0, rows(info))
            delta = after - before
            torch.isclose(delta, torch.zeros_like(delta), atol=1e-5).sum().item()
    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
