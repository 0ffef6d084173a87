"""The child that counts how the updates of several models of one base overlap, from their packed masks. No network.

Run as `python -m cache.backends.overlap`.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from analysis.errors import MasksMissing
from analysis.measurements import Consensus, Gap, MaskRule, Regions
from analysis.regions import count_blocks, count_regions
from cache.backends.child import Send, serve
from cache.masks import CHUNK_BYTES, MaskFile, read_mask

_CHUNKS_HELD = 2  # of each mask: the one counted, the one unpacked next


def overlap(request: dict[str, Any], send: Send) -> None:
    """Sends 'measured' for each (name, rule): the Regions, or the Consensus of a matrix whose shape the request has, or
    a Gap where a mask cannot be read any more. Several tensors at a time, as cores and memory allow.

    `request["masks"]` holds (name, rule, one MaskFile a model), in the order of the models' bits.
    """
    os.nice(10)
    folder, shapes = Path(request["masks_dir"]), request["shapes"]

    def count(entry: tuple[str, MaskRule, tuple[MaskFile, ...]]) -> None:
        name, rule, files = entry
        result = _counted(folder, rule, files, shapes.get(name))
        send({"event": "measured", "name": name, "rule": rule, "measurement": result})

    with ThreadPoolExecutor(_workers(request)) as pool:
        for _ in pool.map(count, request["masks"]):
            pass  # raises what the counting raised


def _counted(
    folder: Path, rule: MaskRule, files: tuple[MaskFile, ...], shape: tuple[int, ...] | None
) -> Regions | Consensus | Gap:
    masks = [read_mask(folder, file) for file in files]
    try:
        if shape is None:
            return Regions.of(rule, count_regions(masks, files[0].entries))
        rows, columns = math.prod(shape[:-1]), shape[-1]
        return Consensus(rule, rows, columns, count_blocks(masks, rows, columns))
    except MasksMissing as error:
        return Gap("overlap", error.saw)


def _workers(request: dict[str, Any]) -> int:
    """Threads: decompression, hashing and counting all let go of Python's lock."""
    most_masks = max((len(files) for _, _, files in request["masks"]), default=1)
    fit_in_memory = request["memory_budget"] // (_CHUNKS_HELD * CHUNK_BYTES * most_masks)
    return max(1, min(request["threads"], fit_in_memory))


if __name__ == "__main__":
    serve(overlap)
