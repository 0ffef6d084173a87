"""How fast singular values are computed, next to torch.linalg.svdvals and to WeightWatcher where it is installed.

    python -m benchmarks.spectra [--shapes 1024x1024 ...] [--repeats 5] [--most-of-peers 3]
    python -m benchmarks.spectra --two-cores [--shapes 1024x1024 ...] [--repeats 5]

Every way gets the same update (a fifth of bfloat16 entries changed), in turn, in random order, on one thread. Seconds
are of the CPU, so that other work on the machine counts as little as may be: the median, and from the least to the
most. "as called" is the orientation that the matrix has, as in the published script; "tall" is the better one of the
two. Ours is the whole way from two blocks in bfloat16 to a rank. WeightWatcher analyses a layer with that weight, with
its fits of power laws and nothing drawn. With --two-cores it is seconds by the clock, on two cores for either: ours two
matrices side by side, as a job measures them; torch's one after the other on two threads, as a script's default is, and
two side by side on one thread each.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.util
import io
import logging
import os
import platform
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from analysis.elementwise import geometry
from analysis.lapack import _library
from analysis.spectral import spectrum
from benchmarks.updates import Random, normal

_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
_COMMAND = (sys.executable, "-m", "benchmarks.spectra")
_SHAPES = ("1024x1024", "2048x2048", "4096x4096", "4096x11008")
Ways = dict[str, Callable[[], int]]  # each returns the numerical rank


def pair_of(m: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = Random().manual_seed(0)
    base = (0.02 * normal(generator, m, n)).bfloat16()
    return base, (base.float() + 1.76e-5 * normal(generator, m, n)).bfloat16()


def ways(m: int, n: int) -> Ways:
    before, after = pair_of(m, n)
    update = after.float() - before.float()

    def rank(values: torch.Tensor) -> int:
        return int((values > max(m, n) * float(np.finfo(np.float32).eps) * values[0]).sum())

    def ours() -> int:
        return spectrum(lambda: iter([(before, after)]), geometry((m, n))).rank or 0

    found: Ways = {"ours": ours, "torch, as called": lambda: rank(torch.linalg.svdvals(update))}
    if m < n:
        found["torch, tall"] = lambda: rank(torch.linalg.svdvals(update.T))
    if importlib.util.find_spec("weightwatcher"):
        found["WeightWatcher"] = lambda: weightwatcher_rank(update)
    return found


def weightwatcher_rank(update: torch.Tensor) -> int:
    """Its numerical rank has another threshold, so what is compared is the number of values."""
    import weightwatcher

    logging.getLogger("weightwatcher").setLevel(logging.ERROR)
    layer = torch.nn.Linear(update.shape[1], update.shape[0], bias=False)
    layer.weight.data = update
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        details = weightwatcher.WeightWatcher(model=torch.nn.Sequential(layer)).analyze(plot=False, randomize=False)
    return int(details.num_evals.iloc[0])


def kernels_of_openblas() -> str:
    """Which processor's they are: what it found, or what OPENBLAS_CORETYPE says, which may be slower by half."""
    name = _library().scipy_openblas_get_corename
    name.restype = ctypes.c_char_p
    return str(name().decode())


def on_two_cores(shape: str, repeats: int) -> None:
    """Seconds a matrix, by the clock."""
    plans = {  # (the way, how many side by side, threads of each)
        "ours, side by side": ("ours", 2, 1),
        "torch, two threads": ("torch, tall", 1, 2),
        "torch, side by side": ("torch, tall", 2, 1),
    }
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        for name, (way, n, threads) in plans.items():
            command = [*_COMMAND, "--one-way", way, "--shapes", shape, "--repeats", "3"]
            environment = {**os.environ, **{name: str(threads) for name in _ONE_THREAD}}
            running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(n)]
            taken = [float(process.communicate()[0]) for process in running]
            seconds[name].append(max(taken) / n)
    ours = statistics.median(seconds["ours, side by side"])
    for name, taken in seconds.items():
        spread = f"{statistics.median(taken):.3f} | {min(taken):.3f} to {max(taken):.3f}, {len(taken)}"
        print(f"| {shape} | {name} | {spread} | {statistics.median(taken) / ours:.1f} |", flush=True)


def one_way(shape: str, name: str, repeats: int) -> None:
    """Prints the median of seconds by the clock, after one turn that is not counted."""
    table = ways(*map(int, shape.split("x")))
    way = table.get(name) or table["torch, as called"]
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        way()
        seconds.append(time.perf_counter() - started)
    print(statistics.median(seconds[1:]))


def measured(shape: str, repeats: int, most_of_peers: int) -> None:
    table = ways(*map(int, shape.split("x")))
    seconds: dict[str, list[float]] = defaultdict(list)
    results: dict[str, int] = {}
    if min(map(int, shape.split("x"))) <= 1024:
        for way in table.values():
            way()  # libraries are loaded before they are timed
    for turn in range(repeats):
        for name in random.Random(turn).sample(sorted(table), len(table)):
            if name == "ours" or turn < most_of_peers:
                started = time.process_time()
                results[name] = table[name]()
                seconds[name].append(time.process_time() - started)
    ours = statistics.median(seconds["ours"])
    for name in table:
        taken = seconds[name]
        spread = f"{statistics.median(taken):.3f} | {min(taken):.3f} to {max(taken):.3f}, {len(taken)}"
        what = f"{results[name]:,}{' values' if name == 'WeightWatcher' else ''}"
        print(f"| {shape} | {name} | {spread} | {statistics.median(taken) / ours:.1f} | {what} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=_SHAPES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--most-of-peers", type=int, default=3, help="turns of the others, which take longer")
    parser.add_argument("--two-cores", action="store_true")
    parser.add_argument("--one-way", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_way:
        one_way(options.shapes[0], options.one_way, options.repeats)
        return
    if not os.environ.items() >= _ONE_THREAD.items():  # libraries read it as they are loaded
        os.execve(sys.executable, [*_COMMAND, *sys.argv[1:]], {**os.environ, **_ONE_THREAD})
    with contextlib.suppress(OSError):
        model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        print(model[0].partition(": ")[2] if model else platform.machine(), f"({os.cpu_count()} cores)")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}")
    print(f"OpenBLAS's kernels: {kernels_of_openblas()}")
    with contextlib.suppress(OSError):
        print(f"load before: {os.getloadavg()[0]:.1f}")
    print("\n| shape | by | CPU seconds, median | least to most, runs | times ours | rank |\n|---|---|---|---|---|---|")
    for shape in options.shapes:
        if options.two_cores:
            on_two_cores(shape, options.repeats)
            continue
        measured(shape, options.repeats, options.most_of_peers)


if __name__ == "__main__":
    main()
