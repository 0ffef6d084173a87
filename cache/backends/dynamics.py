"""The child that follows a run of checkpoints through their packed masks, tensor by tensor. No network.

Run as `python -m cache.backends.dynamics`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from analysis.errors import MasksMissing
from analysis.measurements import Gap, StepCounts
from cache.backends.child import Send, serve
from cache.masks import count_steps, read_mask


def dynamics(request: dict[str, Any], send: Send) -> None:
    """Sends 'measured' for each (name, rule): the StepCounts, or a Gap where a mask cannot be read any more.

    `request["masks"]` holds (name, rule, one MaskFile a checkpoint against the base, one a checkpoint against the one
    before), both in the order of the run.
    """
    os.nice(10)
    folder = Path(request["masks_dir"])
    for name, rule, from_base, moved in request["masks"]:
        entries = from_base[0].entries
        try:
            counts = count_steps(
                [read_mask(folder, file) for file in from_base],
                [read_mask(folder, file) for file in moved],
                read_mask(folder, from_base[-1]),
                entries,
            )
            result: StepCounts | Gap = StepCounts(rule, entries, *counts)
        except MasksMissing as error:
            result = Gap("dynamics", error.saw)
        send({"event": "measured", "name": name, "rule": rule, "measurement": result})


if __name__ == "__main__":
    serve(dynamics)
