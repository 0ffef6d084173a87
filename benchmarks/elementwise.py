"""The elementwise pass from files in the page cache to Tally and masks, against reading the same bytes.

    PYTHONPATH=. python benchmarks/elementwise.py [--gigabytes 1] [--hidden 2048] [--threads 2] [--repeats 5]

`gigabytes` counts both sides together. Each way runs once a round, in turn, in this one process; medians and spread
of the rounds are printed as a table. "reading" is one `readinto` pass over all files into one buffer of 16 MiB that is
used again; "reading into new memory" is what loading a model does. The paper's operations are those of its script on
the same tensors (bfloat16 difference, torch.isclose): whole tensors at a time, one tolerance, nothing else.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from analysis.alignment import align
from analysis.measure import Engine, measure_tally
from analysis.measurements import MASK_RULES
from analysis.tensors import TensorInfo, TensorPair
from benchmarks.pair import write_pair
from cache.backends.lanes import Keeper, Lanes
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
    options = parser.parse_args()
    torch.set_num_threads(1)  # one a lane; the paper's operations have all of them
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_pair(place, options.gigabytes, options.hidden)
        run(place, options.threads, options.repeats)


def run(place: Path, threads: int, repeats: int) -> None:
    tensors = {side: _tensors(place / side) for side in ("base", "tuned")}
    pairs = align(tensors["base"], tensors["tuned"]).pairs
    n_bytes = sum(2 * (pair.base.end - pair.base.begin) for pair in pairs)

    def tally(*, store: bool) -> None:
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

    ways: dict[str, Callable[[], None]] = {
        "reading": lambda: _read(place, fresh=False),
        "reading into new memory": lambda: _read(place, fresh=True),
        "Tally and masks": lambda: tally(store=False),
        "Tally and masks, masks stored": lambda: tally(store=True),
        "the paper's operations": lambda: _papers(place, tensors, threads),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    work: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            started, used = time.perf_counter(), time.process_time()
            way()
            seconds[name].append(time.perf_counter() - started)
            work[name].append(time.process_time() - used)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}, {threads} threads")
    print(f"{n_bytes / 1e9:.2f} GB in bfloat16, both sides; {repeats} rounds after one to warm up\n")
    print("| way | GB/s, median (least to most) | of reading | GB per CPU second |\n|---|---|---|---|")
    reading = statistics.median(n_bytes / one for one in seconds["reading"][1:])
    for name in ways:
        rates = sorted(n_bytes / 1e9 / one for one in seconds[name][1:])
        middle, cpu = statistics.median(rates), n_bytes / 1e9 / statistics.median(work[name][1:])
        share = 1e9 * middle / reading
        print(f"| {name} | {middle:.2f} ({rates[0]:.2f} to {rates[-1]:.2f}) | {share:.0%} | {cpu:.2f} |")
    sys.stdout.flush()


def _tensors(folder: Path) -> list[TensorInfo]:
    def read(file: str, begin: int, end: int) -> bytes:
        with (folder / file).open("rb") as opened:
            opened.seek(begin)
            return opened.read(end - begin)

    return list_tensors({path.name: path.stat().st_size for path in folder.iterdir()}, read)


def _read(place: Path, *, fresh: bool) -> None:
    buffer = bytearray(_BUFFER)
    for path in sorted(place.glob("*/*.safetensors")):
        with path.open("rb", buffering=0) as file:
            if fresh:
                whole = np.empty(path.stat().st_size, np.uint8)
                view = memoryview(whole)
                while view and (n := file.readinto(view)):
                    view = view[n:]
            else:
                while file.readinto(buffer):
                    pass


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
