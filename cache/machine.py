"""What this machine has: memory, disks, and whether a GPU is there, asked without torch."""

from __future__ import annotations

import os
import shutil
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
        device="cuda" if settings.device.startswith("cuda") or (settings.device == "auto" and has_gpu()) else "cpu",
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


def has_gpu() -> bool:
    """Whether the driver that torch would need for CUDA is there; torch itself decides in the worker."""
    return Path(_NVIDIA).exists()
