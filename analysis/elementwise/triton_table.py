"""Counts of a bfloat16 stack's changed entries by the base's 16 bits and how many steps they moved, kept on a GPU.

What `step_table` is on the CPU. The launches are those of `triton_steps`, whose increments meet in the GPU's L2.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from analysis.elementwise.block import Geometry
from analysis.elementwise.triton_launch import current, one_at_a_time, words
from analysis.measurements import FIRST_BINADE, N_BINADES, N_CHANGE_BINS

FEWEST_ENTRIES = 1 << 18  # of a matrix that has a table, which costs as much as reading so many
FARTHEST = 32  # steps that a table holds at most
MOST_COUNTED = 2**31 - 1  # entries, before a table is full, so that no count of it overflows
_WIDEST = 1 << 23  # columns whose programs a launch has room for
_WORDS = 256  # of a mask, of 32 entries each, that a program goes through for the list
_CELLS, _WEIGHING = 1024, 4  # of a table that a program weighs, and its warps


def table_reach(shape: Geometry) -> int:
    """How many steps the table of a bfloat16 matrix holds: for each more, the table takes 0.4 microseconds longer to
    clear and to read, and fewer entries go through the list. 0: no table."""
    entries = shape.rows * shape.columns
    if entries < FEWEST_ENTRIES or shape.columns % 8 or shape.columns > _WIDEST:
        return 0
    return min(FARTHEST, math.isqrt(entries // FEWEST_ENTRIES))


class Counted(NamedTuple):
    """What one block leaves besides the table: packed masks (2, matrices, bytes), which entries the table does not
    hold, as bits (matrices, words), and sums over what did not change (matrices, 2), of squares and of values."""

    masks: Tensor
    odd: Tensor
    unchanged: Tensor


class Table:
    """One for each of a stack of matrices, whose columns are a multiple of 8. What they count is added to `sheet`, the
    matrices' histograms."""

    def __init__(self, shape: Geometry, sheet: Tensor, reach: int) -> None:
        from analysis.elementwise import triton_bins, triton_steps  # which import Triton

        self._bins, self._steps = triton_bins, triton_steps
        self._shape, self._sheet, self._reach = shape, sheet, reach
        self._counts = torch.zeros(len(sheet), (2 * reach + 1) << 16, dtype=torch.int32, device=sheet.device)
        self._n_counted = 0  # entries

    def has_room(self, entries: int) -> bool:
        return self._n_counted + entries <= MOST_COUNTED

    def count(self, before: Tensor, after: Tensor, first_row: int, row_changes: Tensor, marks: Tensor) -> Counted:
        """Blocks of rows from `first_row` on as int16 (matrices, rows, columns), which adds to `row_changes` (matrices,
        rows) and `marks` (matrices, rows of the density map, columns)."""
        stacked, rows, columns = before.shape
        k, step, entries = self._steps, self._shape.row_step, rows * columns
        self._n_counted += entries
        strips_a_step = -(-step // (k.TURNS * k.ROWS))
        turns = -(-step // strips_a_step // k.ROWS)  # of the rows, for each of some blocks of columns
        blocks = min(k.TURNS // turns, -(-columns // k.COLUMNS))
        first_map_row = first_row // step
        strips = ((first_row + rows - 1) // step - first_map_row + 1) * strips_a_step
        across = -(-columns // (blocks * k.COLUMNS))
        n_words = -(-entries // 32)
        warps = stacked, strips, across, k.ROWS
        masks = before.new_empty(2, stacked, entries // 8, dtype=torch.uint8)
        odd = before.new_empty(stacked, 4 * n_words, dtype=torch.uint8)
        odd[:, entries // 8 :] = 0  # what fills the last word
        fields = before.new_empty(*warps, k.FIELDS, dtype=torch.int32)
        sums = before.new_empty(*warps, 2, dtype=torch.float64)
        with one_at_a_time:
            k.count_steps[strips, across, stacked](
                words(before), words(after), masks[0], masks[1], odd, row_changes[:, first_row:], marks,
                self._counts, fields, self._sheet, sums, rows, columns, first_row, first_map_row, step, strips_a_step,
                turns * k.ROWS, blocks * k.COLUMNS // 8, 4 * n_words, marks.shape[1], self._shape.rows,
                self._sheet.shape[1], self._counts.shape[1], self._reach << 16, num_warps=k.ROWS, maxnreg=k.REGISTERS,
            )  # fmt: skip
        self._add_fields(fields.flatten(1, 3))
        return Counted(masks, odd.view(torch.int32), sums.sum((1, 2, 3)))

    def weigh(self, edges: tuple[Tensor, Tensor], copies: int) -> Tensor:
        """Adds the counts to the sheet, of whose largest histogram there are `copies`, which ends the table's use; sums
        over what changed (matrices, programs, N_SUMS), the last of them the largest update."""
        stacked, size = self._counts.shape
        n_sums = self._bins.N_SUMS.value
        sums = torch.zeros(stacked, size // _CELLS, n_sums, dtype=torch.float64, device=self._counts.device)
        with one_at_a_time, current(self._counts.device):
            self._steps.weigh[size // _CELLS, stacked](
                self._counts, self._sheet, sums, *edges, self._sheet.shape[1], size, self._reach, copies,
                N_BINADES * N_CHANGE_BINS, TILE=_CELLS, num_warps=_WEIGHING,
            )  # fmt: skip
        return sums

    def _add_fields(self, fields: Tensor) -> None:
        """fields: (matrices, warps, FIELDS), two counts each, by the exponent of what did not change."""
        k = self._steps
        halves = torch.stack([(fields & 0xFFFF).sum(1), (fields >> 16).sum(1)], 2).flatten(1)
        binades = self._bins.AT_BINADES.value + k.FIRST_EXPONENT - 127 - FIRST_BINADE + 2
        self._sheet[:, binades : binades + k.N_EXPONENTS] += halves[:, _places(fields.device)]


def gather(before: Tensor, after: Tensor, odd: Tensor, pairs: Tensor, n_pairs: Tensor) -> None:
    """Appends to `pairs` (matrices, entries) the entries whose bits are set in `odd`, and counts them in `n_pairs`."""
    from analysis.elementwise import triton_steps

    stacked, n_words = odd.shape
    with one_at_a_time:
        triton_steps.gather[-(-n_words // _WORDS), stacked](
            before, after, odd, pairs, n_pairs, n_words, before[0].numel(), TILE=_WORDS, num_warps=1
        )


@cache
def _places(device: torch.device) -> Tensor:
    """Which half of which of the fields counts each exponent."""
    from analysis.elementwise.triton_steps import N_EXPONENTS, field_of_exponent

    return torch.tensor([2 * field + half for field, half in map(field_of_exponent, range(N_EXPONENTS))]).to(device)
