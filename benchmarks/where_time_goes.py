"""Where a comparison's time goes: `cli.py compare` of a Llama-shaped pair, by process and by part of the work.

    python -m benchmarks.where_time_goes [--gigabytes 2] [--hidden 2048] [--spectra] [--repeats 3] [--keep FOLDER]

Runs it plainly, then once under `sampler.py`, which costs some of the CPU itself. For each part: seconds of the CPU;
seconds that its threads were ready and had no core; seconds that they waited for something else, such as the disk; and
from when to when, in seconds from the start, it used the CPU. Threads that wait for work are not listed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.pair import into_page_cache, pair_in
from benchmarks.processes import Cost, run
from benchmarks.sampler import plant
from benchmarks.tables import heading, machine, row, spread

ROOT = Path(__file__).resolve().parents[1]
_IDLE, _REST = "waiting for work", "the rest"
_LEAST = 0.02  # seconds of the CPU; what took less goes to the rest

# The first that fits any frame of a stack, then the first that fits a frame, the innermost frame first.
_ANYWHERE = (
    (r"numba/core/(caching|dispatcher|compiler|codegen)", "the kernels' compiled code"),
    (r"importlib", "imports"),
)
_INNERMOST = r"threading\.py:(wait|_wait_for_tstate_lock)|queue\.py:get|child\.py:(messages|_hear)|thread\.py:_worker"
_FRAMES = (
    (r"bf16_steps\.py:(_empty_tables|finish)", "decoding the counts"),
    (r"analysis/(elementwise/|measure\.py:on_mask)", "counting, and packing masks"),
    (r"masks\.py:(_write_whole|_created)", "compressing and writing masks"),
    (r"masks\.py:(begin_mask|_count_bits)", "hashing masks"),
    (r"masks\.py:(settle|_sync)", "syncing masks"),
    (r"cache/weights/|cache/folders\.py:(_chunks|_content_print)", "reading weights"),
    (
        r"analysis/(singular|spectral|symmetric|band|chase|eigenvalues|reflections|lapack|preview|vectors|blocks)\.py"
        r"|analysis/magnitudes\.py",
        "singular values",
    ),
    (r"backends/wire\.py|child\.py:(send|_say)", "messages"),
    (r"cache/(batch|database|rows|store|catalog|migrations|queries)\.py", "rows and transactions"),
)


@dataclass
class Spent:
    """Seconds of one part: of the CPU, ready without a core, by the clock; and from when to when."""

    work: float = 0.0
    ready: float = 0.0
    clock: float = 0.0
    began: float = float("inf")
    ended: float = 0.0

    def add(self, work: float, ready: float, clock: float, began: float, ended: float) -> None:
        self.work, self.ready, self.clock = self.work + work, self.ready + ready, self.clock + clock
        self.began, self.ended = min(self.began, began), max(self.ended, ended)

    @property
    def waited(self) -> float:
        return max(0.0, self.clock - self.work - self.ready)


@dataclass
class Process:
    name: str
    began: float
    ended: float
    work: float
    parts: dict[str, Spent] = field(default_factory=lambda: defaultdict(Spent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--spectra", action="store_true")
    parser.add_argument("--repeats", type=int, default=3, help="plain runs")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the pair there; use the one that is there")
    options = parser.parse_args()
    with pair_in(options.keep, options.gigabytes, options.hidden) as folder:
        show(folder, [] if options.spectra else ["--no-spectra"], options.repeats)


def show(pair: Path, options: list[str], repeats: int) -> None:
    load, n_bytes = machine("torch", "numba", "duckdb"), into_page_cache(pair)
    plain = [compare(pair, options, {}) for _ in range(repeats)]
    with tempfile.TemporaryDirectory(prefix="subnetscope-") as folder:
        looked_at = compare(pair, options, {"PYTHONPATH": plant(Path(folder))})
        processes = [process_of(json.loads(file.read_text())) for file in Path(folder).glob("*.json")]
    print(f"{load}; {n_bytes / 1e9:.2f} GB\n")
    if plain:
        seconds, work = spread([cost.seconds for cost in plain]), spread([cost.work for cost in plain])
        print(f"Plainly, median of {repeats}: {seconds} s, {work} s of the CPU\n")
    print(f"Looked at: {looked_at.seconds:.1f} s, {looked_at.work:.1f} s of the CPU\n")
    print(heading("process", "part", "s of the CPU", "without a core", "waiting", "from", "to"))
    processes.sort(key=lambda process: process.began)
    for process in processes:
        print_process(process, processes[0].began)


def print_process(process: Process, start: float) -> None:
    span = (f"{at - start:.1f} s" for at in (process.began, process.ended))
    print(row(f"**{process.name}**", "all", f"{process.work:.2f}", "", "", *span))
    rest = Spent()
    for part, spent in sorted(process.parts.items(), key=lambda item: item[1].began):
        if part in (_IDLE, _REST) or spent.work < _LEAST:
            rest.add(spent.work, spent.ready, 0, process.ended, process.began)
            continue
        times = (spent.work, spent.ready, spent.waited)
        print(
            row("", part, *(f"{t:.2f}" for t in times), f"{spent.began - start:.1f} s", f"{spent.ended - start:.1f} s")
        )
    print(row("", _REST, f"{rest.work:.2f}", f"{rest.ready:.2f}", "", "", ""))


def compare(pair: Path, options: list[str], environ: dict[str, str]) -> Cost:
    """The whole command, on a store of its own."""
    with tempfile.TemporaryDirectory(prefix="subnetscope-") as data:
        own = {"SUBNETSCOPE_DATA": data, "SUBNETSCOPE_LOCAL_ROOTS": str(pair)}
        command = [sys.executable, "cli.py", "compare", str(pair / "base"), str(pair / "tuned"), *options]
        return run(command, ROOT, os.environ | own | environ)


def process_of(found: dict[str, Any]) -> Process:
    name = next((word for word in found["process"] if word.startswith("cache.backends.")), "cli.py")
    process = Process(name.rpartition("cache.backends.")[2], found["began"], found["ended"], found["cpu"])
    for each in found["stacks"]:
        process.parts[part_of(each["stack"])].add(*each["spent"])
    return process


def part_of(stack: list[str]) -> str:
    """What a thread with this stack, innermost first, is doing."""
    if not stack:
        return "threads of libraries"
    for pattern, part in _ANYWHERE:
        if any(re.search(pattern, frame) for frame in stack):
            return part
    if re.search(_INNERMOST, stack[0]):
        return _IDLE
    for frame in stack:
        for pattern, part in _FRAMES:
            if re.search(pattern, frame):
                return part
    return _REST


if __name__ == "__main__":
    main()
