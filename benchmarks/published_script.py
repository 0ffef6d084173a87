"""The paper's own script against `cli.py compare --no-spectra`, each from start to end on the same pair; and against
the elementwise pass alone, files to Tally and stored masks, either without the imports at its beginning.

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
import ast
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pair import into_page_cache, pair_in
from benchmarks.processes import Cost, run
from benchmarks.tables import heading, machine, row, spread

ROOT = Path(__file__).resolve().parents[1]
_CORES = os.cpu_count() or 1


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


@dataclass(frozen=True)
class Found:
    """What one run cost, what it says is unchanged (exactly, and by the script's rule), and the part of its seconds and
    of those of the CPU that its imports did not take."""

    cost: Cost
    shares: tuple[float, ...] = ()
    beyond_imports: tuple[float, float] | None = None


def show(pair: Path, script: Path, python: str, repeats: int) -> None:
    ways: dict[str, Callable[[], Found]] = {
        "the published script": lambda: published(pair, script, python),
        "`cli.py compare --no-spectra`": lambda: ours(pair),
        "files to Tally and stored masks": lambda: the_pass(pair),
    }
    found: dict[str, list[Found]] = {name: [] for name in ways}
    load = machine("torch", "transformers")
    for _ in range(repeats):
        for name, way in ways.items():
            n_bytes = into_page_cache(pair)
            found[name].append(way())
    print(f"{load}; {n_bytes / 1e9:.2f} GB, medians of {repeats} (least to most)\n")
    memory = ("all processes, MB", "of that anonymous, MB")
    imported = ("without imports", "of the CPU")
    print(heading("way", "seconds", "of the CPU", *imported, *memory, "unchanged", "within 1e-5"))
    for name, each in found.items():
        shares = [f"{share:.2%}" for share in each[-1].shares] or ["", ""]
        print(row(name, *(spread(figures, digits) if figures else "" for figures, digits in measured(each)), *shares))
    theirs, *own = found.values()
    for name, each in zip(list(found)[1:], own, strict=True):
        print(row(f"times {name}", *ratios(theirs, each), "", ""))


def ratios(theirs: list[Found], own: list[Found]) -> Iterator[str]:
    """How many times as much the script takes, column by column."""
    for (theirs_of, _), (own_of, _) in zip(measured(theirs), measured(own), strict=True):
        yield f"{statistics.median(theirs_of) / statistics.median(own_of):.1f}" if theirs_of and own_of else ""


def measured(found: list[Found]) -> list[tuple[list[float], int]]:
    """The columns, each with the digits to show."""
    costs, beyond = [one.cost for one in found], [one.beyond_imports for one in found if one.beyond_imports]
    return [
        ([cost.seconds for cost in costs], 1),
        ([cost.work for cost in costs], 1),
        ([seconds for seconds, _ in beyond], 2),
        ([work for _, work in beyond], 2),
        ([cost.peaks.together for cost in costs], 0),
        ([cost.peaks.anonymous for cost in costs], 0),
    ]


def published(pair: Path, script: Path, python: str) -> Found:
    """With the shares that it printed: exact zeros, and those within its tolerance."""
    sides = ["--sft_model", str(pair / "base"), "--rl_model", str(pair / "tuned")]
    environ = os.environ | {"HF_HUB_OFFLINE": "1"}
    imports = run([python, "-c", imports_of(script)], pair, environ)
    cost = run([python, str(script), *sides], pair, environ)
    shares = re.findall(r"(?:task vector|close to zero): ([0-9.]+)", cost.output)
    rest = cost.seconds - imports.seconds, cost.work - imports.work
    return Found(cost, tuple(map(float, shares)), rest)


def imports_of(script: Path) -> str:
    """The imports at the beginning of a script, as a program of their own."""
    lines = ast.parse(script.read_text(encoding="utf-8")).body
    return "\n".join(ast.unparse(line) for line in lines if isinstance(line, ast.Import | ast.ImportFrom))


def ours(pair: Path) -> Found:
    """The whole command, with an empty store."""
    with tempfile.TemporaryDirectory(prefix="subnetscope-") as folder:
        data, numbers = Path(folder) / "data", Path(folder) / "numbers.json"
        environ = os.environ | {"SUBNETSCOPE_DATA": str(data), "SUBNETSCOPE_LOCAL_ROOTS": str(pair)}
        sides = [str(pair / "base"), str(pair / "tuned")]
        cost = run([sys.executable, "cli.py", "compare", *sides, "--no-spectra", "--json", str(numbers)], ROOT, environ)
        totals = json.loads(numbers.read_text())["totals"]
    return Found(cost, tuple(totals["unchanged"][rule] / totals["entries"] for rule in ("exact", "mukherjee")))


def the_pass(pair: Path) -> Found:
    """A process that does nothing else, with a thread for each core."""
    program = f"from pathlib import Path; from benchmarks.elementwise import once; once(Path({str(pair)!r}), {_CORES})"
    try:
        cost = run([sys.executable, "-c", program], ROOT, os.environ)
    finally:
        shutil.rmtree(pair / "masks", ignore_errors=True)
    seconds, work = map(float, cost.output.split()[-2:])
    return Found(cost, beyond_imports=(seconds, work))


if __name__ == "__main__":
    main()
