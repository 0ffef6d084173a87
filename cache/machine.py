"""What this machine has: memory, disks, and how many GPUs, asked without torch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from analysis.forecast import Machine
from cache.gpus import gpus
from cache.memory import memory
from cache.settings import Settings


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


def disk_free(folder: Path) -> tuple[int, int]:
    """(bytes free, which disk) where the folder is, or is going to be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free, folder.stat().st_dev
