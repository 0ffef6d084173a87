"""What this machine has: memory, disks, and how many GPUs, asked without torch."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

from analysis.forecast import Machine
from cache.settings import Settings

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_NVIDIA = "/proc/driver/nvidia/version"


def seen(settings: Settings, downloads_dir: str | Path) -> Machine:
    """What a comparison may take here and now."""
    downloads, disk_of_downloads = disk_free(Path(downloads_dir))
    results, disk_of_results = disk_free(settings.masks_dir)
    return Machine(
        memory=settings.memory_limit or memory(),
        budget=settings.memory_budget,
        disk_of_downloads=downloads,
        disk_of_results=results,
        one_disk=disk_of_downloads == disk_of_results,
        spare_disk=settings.spare_disk,
        threads=settings.threads,
        device="cuda" if (n_gpus := gpus(settings.device, os.environ)) else "cpu",
        gpus=n_gpus,
    )


def memory() -> int:
    """Bytes of memory that this process may have: the machine's, or less where a container is given less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _CGROUP_LIMITS:
        try:
            text = Path(file).read_text(encoding="ascii").strip()
        except OSError:
            continue
        limits += [int(text)] if text.isdigit() else []
    return min(limits)


def disk_free(folder: Path) -> tuple[int, int]:
    """(bytes free, which disk) where the folder is, or is going to be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free, folder.stat().st_dev


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


def _visible(names: str | None) -> float:
    """As many as CUDA lets a process see: those named before the first that is none."""
    if names is None:
        return math.inf
    return len(list(takewhile(lambda name: name.strip() not in ("", "-1"), names.split(","))))
