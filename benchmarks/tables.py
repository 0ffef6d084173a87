"""How the benchmarks say what they measured: the machine above a table, medians with their spread in it."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path


def machine(*libraries: str) -> str:
    """The machine, how busy it is, and the versions of Python and of these libraries."""
    versions = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in libraries)]
    return f"{_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {', '.join(versions)}"


def spread(values: Sequence[float], digits: int = 1) -> str:
    """The median, and the least and the most; of a single value, the value."""
    middle, least, most = (f"{number:.{digits}f}" for number in (statistics.median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({least} to {most})"


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def heading(*cells: str) -> str:
    return f"{row(*cells)}\n|{'---|' * len(cells)}"


def _processor() -> str:
    """As Linux names it; else by its instruction set."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
