"""What a comparison costs as it grows: time and memory of `cli.py compare --no-spectra`, by bytes and by matrices.

    python -m benchmarks.growth [--gigabytes 0.1 0.5 2 8] [--matrices 100 1000 50000] [--side 64]
                                             [--repeats 3] [--keep FOLDER]

`gigabytes` counts both sides of a Llama-shaped bfloat16 pair; `matrices` are squares of `side`, as of many small
experts. Every run is a process of its own with an empty store, the weights in the page cache. Prints a markdown table,
and the straight lines through the medians, in seconds and in seconds of the CPU, which other work disturbs less.
`--keep` leaves the pairs in FOLDER, to be used again by the next call.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.pair import into_page_cache, write_pair
from benchmarks.processes import Cost, run
from benchmarks.tables import heading, machine, row, spread

ROOT = Path(__file__).resolve().parents[1]
_SHARD = 2000  # matrices
_NOISE = 1.75e-5  # as in pair.py


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="*", default=[0.1, 0.5, 2.0, 8.0])
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--matrices", type=int, nargs="*", default=[100, 1000, 50_000])
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="subnetscope-"))
    try:
        show(folder, options)
    finally:
        if not options.keep:
            shutil.rmtree(folder)


def show(folder: Path, options: argparse.Namespace) -> None:
    print(f"{machine('torch', 'duckdb')}; medians of {options.repeats} (least to most)\n")
    peaks = ("worker, MB", "all processes, MB", "of that anonymous")
    print(heading("pair", "tensors", "GB", "seconds", "of the CPU", *peaks), flush=True)
    by_size = [_row(folder, f"{size:g} GB", options, gigabytes=size) for size in options.gigabytes]
    by_number = [_row(folder, f"{number:,} matrices", options, matrices=number) for number in options.matrices]
    for unit, name in (("seconds", "s"), ("work", "s of the CPU")):
        a_gigabyte = 0.0
        if len(by_size) > 1:
            bytes_and_time = ([row[key] for row in by_size] for key in ("gigabytes", unit))
            a_gigabyte, start = np.polyfit(*bytes_and_time, 1)
            print(f"\nBy size: {start:.1f} {name} and {a_gigabyte:.2f} {name} a GB")
        if len(by_number) > 1:
            least, most = by_number[0], by_number[-1]
            each = (most[unit] - least[unit]) / (most["tensors"] - least["tensors"])
            bytes_alone = a_gigabyte * most["gigabytes"] / most["tensors"]
            print(f"\nBy number: {1e3 * each:.2f} m{name} a matrix, of which {1e3 * bytes_alone:.2f} for its bytes")


def _row(
    folder: Path, title: str, options: argparse.Namespace, *, gigabytes: float = 0, matrices: int = 0
) -> Mapping[str, float]:
    place = folder / title.replace(" ", "-").replace(",", "")
    if not (place / "written").exists():
        if matrices:
            write_matrices(place, matrices, options.side)
        else:
            write_pair(place, gigabytes, options.hidden)
        (place / "written").touch()
    costs = []
    for _ in range(options.repeats):
        n_bytes = into_page_cache(place)
        costs.append(compare(place))
    tensors = _tensors(place)
    if not options.keep:
        shutil.rmtree(place)
    seconds, work = [cost.seconds for cost in costs], [cost.work for cost in costs]
    worker = max(cost.peaks.of_process["measure"] for cost in costs)
    together, anonymous = (max(getattr(cost.peaks, name) for cost in costs) for name in ("together", "anonymous"))
    size = f"{n_bytes / 1e9:.2f}"
    print(row(title, f"{tensors:,}", size, spread(seconds), spread(work), worker, together, anonymous), flush=True)
    middle = {"seconds": statistics.median(seconds), "work": statistics.median(work)}
    return middle | {"gigabytes": n_bytes / 1e9, "tensors": tensors}


def compare(place: Path) -> Cost:
    """The whole command, on a store of its own."""
    data = Path(tempfile.mkdtemp(prefix="subnetscope-", dir=place))
    environ = os.environ | {"SUBNETSCOPE_DATA": str(data), "SUBNETSCOPE_LOCAL_ROOTS": str(place)}
    command = [sys.executable, "cli.py", "compare", str(place / "base"), str(place / "tuned"), "--no-spectra"]
    cost = run(command, ROOT, environ)
    shutil.rmtree(data)
    return cost


def _tensors(place: Path) -> int:
    index = json.loads((place / "base" / "model.safetensors.index.json").read_text())
    return len(index["weight_map"])


def write_matrices(place: Path, number: int, side: int) -> None:
    """A pair of many small matrices in bfloat16, 64 experts a layer, a fifth of the entries changed."""
    generator = torch.Generator().manual_seed(0)
    shard_of_tensor: dict[str, str] = {}
    for name in ("base", "tuned"):
        (place / name).mkdir(parents=True)
    names = [f"model.layers.{i // 64}.mlp.experts.{i % 64}.up_proj.weight" for i in range(number)]
    for first in range(0, number, _SHARD):
        shard, file = names[first : first + _SHARD], f"model-{first // _SHARD + 1:05}.safetensors"
        base = (torch.randn(len(shard), side, side, generator=generator) * 0.02).bfloat16()
        tuned = (base.float() + torch.randn(base.shape, generator=generator) * _NOISE).bfloat16()
        for of_side, weights in (("base", base), ("tuned", tuned)):
            split = {name: weights[i].clone() for i, name in enumerate(shard)}
            save_file(split, place / of_side / file, {"format": "pt"})
        shard_of_tensor |= dict.fromkeys(shard, file)
    for name in ("base", "tuned"):
        index = json.dumps({"metadata": {}, "weight_map": shard_of_tensor})
        (place / name / "model.safetensors.index.json").write_text(index)
        config = {"model_type": "llama", "hidden_size": side, "num_hidden_layers": -(-number // 64)}
        (place / name / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main()
