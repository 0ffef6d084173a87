"""What launches on a GPU need of their host."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

one_at_a_time = threading.Lock()  # Triton builds and launches for one thread at a time; a launch returns at once


def current(device: torch.device) -> torch.cuda.device | torch.device:
    """A context in which Triton launches there: it asks which device is the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else device


def processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def words(side: Tensor) -> Tensor:
    """Two entries of 16 bits each, where they lie at whole words."""
    return (side if side.storage_offset() % 2 == 0 else side.clone()).view(torch.int32)
