"""How fast regions are counted from packed masks, against a plain pass over the same bytes, and against other ways.

    python -m benchmarks.overlaps [--entries 1e9] [--files FOLDER]

Masks of a fifth set entries in memory, k = 2, 3, 4, 6, 8, 9, 12; one thread. GB are bytes of all k masks; seconds are
of the CPU, so that other work on the machine does not count. The plain pass sums the same bytes as 64-bit words. With
FOLDER, masks are written there as the app does and counted by its child's own steps: read, decompress, hash, count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.regions import count_regions
from cache.masks import CHUNK_BYTES, read_mask, write_mask

_SHARE, _REPEATS, _MODELS = 0.2, 3, (2, 3, 4, 6, 8, 9, 12)
_KEY = "0" * 16
Mask = NDArray[np.uint8]


def random_masks(n_masks: int, entries: int) -> list[Mask]:
    random, piece = np.random.default_rng(0), 1 << 24
    return [
        np.concatenate(
            [
                np.packbits(random.random(min(piece, entries - first), np.float32) < _SHARE, bitorder="little")
                for first in range(0, entries, piece)
            ]
        )
        for _ in range(n_masks)
    ]


def chunks(mask: Mask) -> Iterator[Mask]:
    return (mask[start : start + CHUNK_BYTES] for start in range(0, len(mask), CHUNK_BYTES))


def plain_pass(masks: list[Mask]) -> None:
    for mask in masks:
        for chunk in chunks(mask):
            chunk[: len(chunk) // 8 * 8].view(np.uint64).sum()


def by_unpacking(masks: list[Mask]) -> NDArray[np.int64]:
    """Each chunk as bytes a bit, added up to codes, and bincount: the plain numpy way."""
    counts = np.zeros(1 << len(masks), np.int64)
    for parts in zip(*map(chunks, masks), strict=True):
        codes = np.zeros(8 * len(parts[0]), np.uint16)
        for bit, part in enumerate(parts):
            codes |= np.unpackbits(part, bitorder="little").astype(np.uint16) << np.uint16(bit)
        counts += np.bincount(codes, minlength=len(counts))
    return counts


def best_of(work: Callable[[], object], repeats: int = _REPEATS) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


def in_memory(masks: list[Mask], entries: int) -> None:
    print("| models | GB/s | of a plain pass | numpy, unpacked, GB/s | 8 billion parameters |\n|---|---|---|---|---|")
    few = [mask[: 1 << 22] for mask in masks]
    for k in _MODELS:
        some = masks[:k]
        count_regions([chunks(mask[:4096]) for mask in some], 8 * 4096)  # compiled before it is timed
        size = sum(mask.nbytes for mask in some) / 1e9
        plain = size / best_of(lambda some=some: plain_pass(some))  # type: ignore[misc]
        taken = best_of(lambda some=some: count_regions([chunks(m) for m in some], entries))  # type: ignore[misc]
        assert count_regions([chunks(m) for m in few[:k]], 8 << 22).tolist() == by_unpacking(few[:k]).tolist()
        unpacked = (k << 22) / 1e9 / best_of(lambda k=k: by_unpacking(few[:k]), 1)  # type: ignore[misc]
        whole = 8e9 / entries * taken
        print(
            f"| {k} | {size / taken:.2f} | {100 * size / taken / plain:.0f} % | {unpacked:.3f} | {whole:.1f} s |",
            flush=True,
        )


def from_files(masks: list[Mask], entries: int, folder: Path) -> None:
    files = [write_mask(folder, _KEY, str(i), "exact", mask, entries) for i, mask in enumerate(masks)]
    print("\n| models | from files, GB/s of bits | 8 billion parameters |\n|---|---|---|")
    for k in _MODELS:
        some = files[:k]
        taken = best_of(lambda some=some: count_regions([read_mask(folder, f) for f in some], entries), 2)  # type: ignore[misc]
        print(f"| {k} | {k * masks[0].nbytes / 1e9 / taken:.2f} | {8e9 / entries * taken:.1f} s |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=float, default=1e9)
    parser.add_argument("--files", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    entries = int(options.entries) // 64 * 64
    masks = random_masks(max(_MODELS), entries)
    in_memory(masks, entries)
    if options.files:
        from_files(masks, entries, options.files)


if __name__ == "__main__":
    main()
