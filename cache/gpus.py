"""How many GPUs are going to measure, as far as the driver tells without torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

_NVIDIA = "/proc/driver/nvidia/version"


def gpus(wanted: str, environ: Mapping[str, str], driver: Path = Path(_NVIDIA), nodes: Path = Path("/dev")) -> int:
    """How many GPUs this value of SUBNETSCOPE_DEVICE means here, as far as the driver tells; 0: the CPU measures. torch
    itself decides in the worker."""
    if wanted == "cpu":
        return 0
    if ":" in wanted:
        return len(set(wanted.split(",")))
    if not driver.exists():
        return int(wanted == "cuda")
    here = sum(1 for node in nodes.iterdir() if re.fullmatch(r"nvidia\d+", node.name)) or 1
    return int(min(here, _visible(environ.get("CUDA_VISIBLE_DEVICES")))) or int(wanted == "cuda")


def surely_none(driver: Path = Path(_NVIDIA), nodes: Path = Path("/dev")) -> bool:
    """Whether nothing here speaks for a GPU: no driver, no device of NVIDIA's, and none as WSL or a Jetson have it."""
    return not driver.exists() and not any(re.match(r"nvidia|nvhost|dxg$", node.name) for node in nodes.iterdir())


def _visible(names: str | None) -> float:
    """As many as CUDA lets a process see: those named before the first that is none."""
    if names is None:
        return math.inf
    return len(list(takewhile(lambda name: name.strip() not in ("", "-1"), names.split(","))))
