"""What one block of rows adds to a Tally, and how blocks add up. Numbers only, on the host."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.measurements import MAX_DENSITY_SIDE, Tally


@dataclass(frozen=True)
class Geometry:
    """A tensor seen as rows x columns, and the blocks of its density map."""

    rows: int
    columns: int

    @property
    def row_step(self) -> int:
        return math.ceil(self.rows / MAX_DENSITY_SIDE)

    @property
    def column_step(self) -> int:
        return math.ceil(self.columns / MAX_DENSITY_SIDE)

    @property
    def density_shape(self) -> tuple[int, int]:
        return math.ceil(self.rows / self.row_step), math.ceil(self.columns / self.column_step)


def geometry(shape: tuple[int, ...]) -> Geometry:
    """(..., n) -> rows x n; a vector is one row, a scalar one entry."""
    return Geometry(math.prod(shape[:-1]), shape[-1] if shape else 1)


@dataclass(frozen=True, eq=False)
class BlockTally:
    """The fields of a Tally for one block of rows (`amounts`: its scalars, `bins`: its histograms), and its masks."""

    amounts: dict[str, float]
    bins: dict[str, np.ndarray]
    row_changes: np.ndarray  # (rows of this block,)
    column_changes: np.ndarray  # (columns,)
    density: np.ndarray  # the whole tensor's map, with only this block's entries in it
    packed_exact: np.ndarray
    packed_mukherjee: np.ndarray

    def plus(self, other: BlockTally) -> BlockTally:
        """Both blocks' amounts; rows and masks, which belong to one block, are the other's."""
        return dataclasses.replace(
            other,
            amounts={name: _joined(name, amount, other.amounts[name]) for name, amount in self.amounts.items()},
            bins={name: counts + other.bins[name] for name, counts in self.bins.items()},
            column_changes=self.column_changes + other.column_changes,
            density=self.density + other.density,
        )

    def as_tally(self, row_changes: np.ndarray) -> Tally:
        is_float = {field.name: field.type == "float" for field in dataclasses.fields(Tally)}
        fields: dict[str, Any] = {name: (float if is_float[name] else int)(a) for name, a in self.amounts.items()}
        fields |= self.bins
        return Tally(**fields, row_changes=row_changes, column_changes=self.column_changes, density=self.density)


def _joined(name: str, left: float, right: float) -> float:
    return max(left, right) if name == "max_abs_update" else left + right
