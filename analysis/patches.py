"""How large a lossless sparse patch from one checkpoint to the next would be, from counts of changed entries alone.

A patch overwrites: new values of the changed entries, and where they are. Values are counted as they are stored, not
compressed. Tensors without a change cost nothing. The encodings are those that delta weight sync ships today.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

ENCODINGS = {
    "indices": "32-bit indices and values",
    "bitmap": "bitmap and values",
    "entropy": "entropy bound and values",
}
_LARGEST_INDEXED = 2**32  # entries; beyond, an index takes eight bytes


@dataclass(frozen=True)
class Sized:
    """One tensor of a patch: how many of its entries changed, and the bytes that the whole tensor takes."""

    entries: int
    changed: int
    bytes: int


@dataclass(frozen=True)
class PatchSize:
    """Bytes of a patch under each encoding; all hold the same values. `full` is the checkpoint that it replaces."""

    changed: int
    values: int
    indices: int
    bitmap: int
    entropy: float
    full: int

    def total(self, encoding: str) -> float:
        """Positions in this encoding, and values."""
        return self.values + float(getattr(self, encoding))

    def ratio(self, encoding: str) -> float:
        """The patch over the full checkpoint; nan where that is empty."""
        return self.total(encoding) / self.full if self.full else math.nan


def patch_size(tensors: Iterable[Sized]) -> PatchSize:
    """The sizes summed over tensors."""
    changed = values = indices = bitmap = full = 0
    entropy = 0.0
    for one in tensors:
        changed += one.changed
        values += one.changed * one.bytes // max(one.entries, 1)
        indices += one.changed * (4 if one.entries <= _LARGEST_INDEXED else 8)
        bitmap += -(-one.entries // 8) if one.changed else 0
        entropy += position_bits(one.entries, one.changed) / 8
        full += one.bytes
    return PatchSize(changed, values, indices, bitmap, entropy, full)


def position_bits(entries: int, changed: int) -> float:
    """N H(n/N): the bits that an ideal coder spends on the positions of n among N if it knows only their density."""
    if not 0 < changed < entries:
        return 0.0
    share = changed / entries
    return -(changed * math.log2(share) + (entries - changed) * math.log1p(-share) / math.log(2))
