"""When two ways of counting one pair of tensors found the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest

from analysis.measurements import Tally

_OF_BOTH_SIGNS = ("base_sum", "tuned_sum", "base_dot_tuned")


def assert_alike(found: Tally, expected: Tally, *, rel: float = 0.0) -> None:
    """Every count is the same, and so are sums of floats up to `rel`; with 0 to the last bit."""
    for field in dataclasses.fields(Tally):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if rel and isinstance(one, float):
            lost = lost_in_cancelling(vars(expected)) if field.name in _OF_BOTH_SIGNS else 0
            assert one == pytest.approx(other, rel=rel, abs=lost), field.name
        else:
            assert np.array_equal(one, other), field.name


def lost_in_cancelling(amounts: Mapping[str, float]) -> float:
    """What a plain sum of entries of both signs may differ by when it is taken in another order."""
    return 1e-13 * float(np.sqrt(amounts["entries"] * max(amounts["base_square_sum"], amounts["tuned_square_sum"])))
