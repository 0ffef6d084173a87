"""Packed masks in memory: entry i in bit i % 8 of byte i // 8."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint8]


def words(bits: Bits) -> NDArray[np.uint64]:
    """The same bits, eight bytes at a time; a last, odd stretch is filled up with zeros."""
    spare = -len(bits) % 8
    return (np.concatenate([bits, np.zeros(spare, np.uint8)]) if spare else bits).view(np.uint64)
