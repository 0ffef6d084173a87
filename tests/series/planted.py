"""A run of checkpoints in which every entry's story is planted: touched at random, and some brought back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.hub.builders import BFloat16, llama

Values = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Run:
    """The base and its checkpoints, and the truth by plain numpy. A change of one bit is a bfloat16 step, which
    Mukherjee's rule sees only in weights that are not small."""

    base: dict[str, BFloat16]
    checkpoints: list[dict[str, BFloat16]]

    def changed(self, rule: str) -> list[dict[str, NDArray[np.bool_]]]:
        """By checkpoint and tensor: true where it differs from the base."""
        return [_differs(self.base, one, rule) for one in self.checkpoints]

    def moved(self, rule: str) -> list[dict[str, NDArray[np.bool_]]]:
        """By checkpoint and tensor: true where it differs from the one before."""
        before = [self.base, *self.checkpoints[:-1]]
        return [_differs(one, other, rule) for one, other in zip(before, self.checkpoints, strict=True)]

    def truth(self, rule: str) -> dict[str, dict[str, list[int]]]:
        """By tensor: what `StepCounts` should hold, counted entry by entry."""
        changed, moved = self.changed(rule), self.moved(rule)
        return {name: oracle([c[name] for c in changed], [m[name] for m in moved]) for name in self.base}


def oracle(changed: list[NDArray[np.bool_]], moved: list[NDArray[np.bool_]]) -> dict[str, list[int]]:
    """The counts of one tensor, the slow and plain way."""
    final = changed[-1]
    return {
        "changed": [int(one.sum()) for one in changed],
        "moved": [int(one.sum()) for one in moved],
        "changed_outside": [int((one & ~final).sum()) for one in changed],
        "moved_outside": [int((one & ~final).sum()) for one in moved],
        "union": [int(np.logical_or.reduce(changed[: t + 1]).sum()) for t in range(len(changed))],
    }


def planted_run(n_steps: int = 4, *, layers: int = 2, seed: int = 0, share: float = 0.15) -> Run:
    """Each step touches some entries, by toggling the last bit: an entry touched twice is back at the base's value."""
    random = np.random.default_rng(seed)
    base = llama(layers=layers)
    checkpoints, current = [], base
    for _ in range(n_steps):
        current = {
            name: BFloat16(tensor.bits ^ (random.random(tensor.shape) < share).astype(np.uint16))
            for name, tensor in current.items()
        }
        checkpoints.append(current)
    return Run(base, checkpoints)


def _differs(before: dict[str, BFloat16], after: dict[str, BFloat16], rule: str) -> dict[str, NDArray[np.bool_]]:
    if rule == "exact":
        return {name: before[name].bits != after[name].bits for name in before}
    edge = BFloat16.of(np.array([1e-5], np.float32)).values[0]
    found = {}
    for name in before:
        update = BFloat16.of(after[name].values - before[name].values).values
        found[name] = np.abs(update) > edge
    return found
