"""How much memory there is, and how much of it a worker uses where nobody says."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_A_CORE = 1_000_000_000  # bytes: the singular values of an 8B model's matrices take 0.7 to 1 GB each
_SHARE = 4  # a worker's default is at most this part of the memory


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


def default_budget(cores: int, memory: int) -> int:
    """Bytes for blocks of tensors: 1 GB a core, so that each can have a large matrix, within a quarter of the memory;
    1 GB where that is less."""
    return max(_A_CORE, min(cores * _A_CORE, memory // _SHARE))
