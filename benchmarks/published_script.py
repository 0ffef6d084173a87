"""The paper's own script against `cli.py compare --no-spectra`, each from start to end on the same pair.

    git clone https://github.com/SagnikMukherjee/sparsity_in_rl SOMEWHERE
    python -m benchmarks.published_script --script SOMEWHERE/src/check_sparsity.py [--gigabytes 1] [--hidden 2048]
                                          [--repeats 3] [--python PYTHON] [--keep FOLDER]

The script is run as it was published, with its defaults (bfloat16, one tolerance of 1e-5, torch's own number of
threads), by PYTHON, which needs torch, transformers, accelerate and tqdm. `gigabytes` counts both sides of the pair;
the script holds some six times as much memory. Each way is a process of its own, in turn, with the weights in the page
cache, and ours with an empty store. Prints a markdown table, and what each says of the same pair.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.pair import into_page_cache, pair_in
from benchmarks.processes import Cost, run
from benchmarks.tables import heading, machine, row, spread

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", type=Path, required=True)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the pair there; use the one that is there")
    options = parser.parse_args()
    with pair_in(options.keep, options.gigabytes, options.hidden) as folder:
        show(folder, options.script.resolve(), options.python, options.repeats)


def show(pair: Path, script: Path, python: str, repeats: int) -> None:
    ways: dict[str, Callable[[], tuple[Cost, list[float]]]] = {
        "the published script": lambda: published(pair, script, python),
        "`cli.py compare --no-spectra`": lambda: ours(pair),
    }
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    said: dict[str, list[float]] = {}
    load = machine("torch", "transformers")
    for _ in range(repeats):
        for name, way in ways.items():
            n_bytes = into_page_cache(pair)
            cost, said[name] = way()
            costs[name].append(cost)
    print(f"{load}; {n_bytes / 1e9:.2f} GB, medians of {repeats} (least to most)\n")
    memory = ("all processes, MB", "of that anonymous, MB")
    print(heading("way", "seconds", "of the CPU", *memory, "unchanged", "within 1e-5"))
    for name, each in costs.items():
        shares = (f"{share:.2%}" for share in said[name])
        print(row(name, *(spread(figures, digits) for figures, digits in measured(each)), *shares))
    ratios = (
        f"{statistics.median(a) / statistics.median(b):.1f}"
        for (a, _), (b, _) in zip(*map(measured, costs.values()), strict=True)
    )
    print(row("times as much", *ratios, "", ""))


def measured(costs: list[Cost]) -> list[tuple[list[float], int]]:
    """The columns, each with the digits to show."""
    peaks = [cost.peaks for cost in costs]
    return [
        ([cost.seconds for cost in costs], 1),
        ([cost.work for cost in costs], 1),
        ([peak.together for peak in peaks], 0),
        ([peak.anonymous for peak in peaks], 0),
    ]


def published(pair: Path, script: Path, python: str) -> tuple[Cost, list[float]]:
    """What it cost, and the shares that it printed: exact zeros, and those within its tolerance."""
    sides = ["--sft_model", str(pair / "base"), "--rl_model", str(pair / "tuned")]
    cost = run([python, str(script), *sides], pair, os.environ | {"HF_HUB_OFFLINE": "1"})
    lines = re.findall(r"(?:task vector|close to zero): ([0-9.]+)", cost.output)
    return cost, [float(share) for share in lines]


def ours(pair: Path) -> tuple[Cost, list[float]]:
    """The same of ours, by exact equality and by the script's rule."""
    with tempfile.TemporaryDirectory(prefix="subnetscope-") as folder:
        data, numbers = Path(folder) / "data", Path(folder) / "numbers.json"
        environ = os.environ | {"SUBNETSCOPE_DATA": str(data), "SUBNETSCOPE_LOCAL_ROOTS": str(pair)}
        sides = [str(pair / "base"), str(pair / "tuned")]
        cost = run([sys.executable, "cli.py", "compare", *sides, "--no-spectra", "--json", str(numbers)], ROOT, environ)
        totals = json.loads(numbers.read_text())["totals"]
    return cost, [totals["unchanged"][rule] / totals["entries"] for rule in ("exact", "mukherjee")]


if __name__ == "__main__":
    main()
