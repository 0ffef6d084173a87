"""The child that counts how the updates of several models of one base overlap, from their packed masks. No network.

Run as `python -m cache.backends.overlap`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from analysis.errors import MasksMissing
from analysis.measurements import Gap, Regions
from cache.backends.child import Send, serve
from cache.masks import count_regions, read_mask


def overlap(request: dict[str, Any], send: Send) -> None:
    """Sends 'measured' for each (name, rule): the Regions, or a Gap where a mask cannot be read any more.

    `request["masks"]` holds (name, rule, one MaskFile a model), in the order of the models' bits.
    """
    os.nice(10)
    folder = Path(request["masks_dir"])
    for name, rule, files in request["masks"]:
        try:
            counts = count_regions([read_mask(folder, file) for file in files], files[0].entries)
            result: Regions | Gap = Regions(rule, counts)
        except MasksMissing as error:
            result = Gap("overlap", error.saw)
        send({"event": "measured", "name": name, "rule": rule, "measurement": result})


if __name__ == "__main__":
    serve(overlap)
