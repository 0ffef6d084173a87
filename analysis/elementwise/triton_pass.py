"""The pass over tensors on an NVIDIA GPU: a few launches a block, counts kept on the device, one transfer at the end.

Large bfloat16 pairs go the way of `triton_steps`, any others that of `triton_kernels`. Both take a stack of matrices of
one shape as easily as one matrix, so that a layer's experts go through in one launch.
Rows, columns, masks and histograms are added up by atomic integers: the same on every run. Sums are float64 and added
in a fixed order, but for which program met which changed entry; they may differ in the last bits.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from analysis.elementwise import triton_table
from analysis.elementwise.block import BlockTally, Geometry
from analysis.elementwise.triton_launch import current, one_at_a_time, processors
from analysis.measurements import (
    CHANGE_EDGES,
    N_BINADES,
    N_CHANGE_BINS,
    N_RELATIVE_BINS,
    N_ULP_BINS,
    RELATIVE_EDGES,
)

STORED = (torch.bfloat16, torch.float16, torch.float32)  # whose pairs it takes, by the kernels' numbers for them
_BITS = {2: torch.int16, 4: torch.int32}
TILE, WARPS = 2048, 4  # entries of a tile of the first launch; with more, registers leave a processor too few warps
_TALLEST, _NARROWEST = 32, 16  # rows and columns of a tile
_VISITED, _VISITING = 512, 4  # pairs of a tile of the second launch, and its warps
_JOINT_COPIES = 32  # of the largest histogram, so that programs seldom meet in a bin
_SUMS = (
    "base_square_sum", "tuned_square_sum", "update_square_sum", "update_abs_sum", "base_dot_tuned",
    "base_sum", "tuned_sum",
)  # fmt: skip


class TritonPass:
    """The pass over `stacked` matrices of one shape: `add` their rows in order, then `finish`. `reach`: how many steps
    a table of bfloat16 pairs holds; 0 for none. Tables need columns in multiples of 8."""

    def __init__(self, shape: Geometry, device: torch.device, reach: int, *, stacked: int = 1) -> None:
        # Importing Triton takes a second, and a machine that has it.
        from analysis.elementwise import triton_bins, triton_kernels

        self._bins, self._kernels = triton_bins, triton_kernels
        self._shape, self._stacked, self._device = shape, stacked, device
        self._copies = max(1, _JOINT_COPIES // stacked)
        joint = N_BINADES * N_CHANGE_BINS
        zeros = torch.zeros
        self._at_joint = triton_bins.AT_JOINT.value
        self._sheet = zeros(stacked, self._at_joint + self._copies * joint, dtype=torch.int64, device=device)
        self._sums = zeros(stacked, triton_bins.N_SUMS.value - 1, dtype=torch.float64, device=device)
        self._largest = zeros(stacked, dtype=torch.float64, device=device)
        self._row_changes = zeros(stacked, shape.rows, dtype=torch.int32, device=device)
        self._marks = zeros(stacked, shape.density_shape[0], shape.columns, dtype=torch.int32, device=device)
        self._edges = _edges(device)
        self._reach = reach
        self._table: triton_table.Table | None = None  # once a block of bfloat16 has come
        n_bytes = -(-shape.rows * shape.columns // 8)
        # On the host, where every block's bits go at once: pinned, so that nothing waits and no new memory is touched.
        self._masks = torch.empty(2, stacked, n_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._rows = self._mask_bytes = 0

    def add(self, before: Tensor, after: Tensor) -> None:
        """before, after: (matrices, rows, columns), or (rows, columns) of one; nothing waits for the GPU."""
        rows, columns = before.shape[-2:]
        left, right = (side.reshape(self._stacked, rows, columns).contiguous() for side in (before, after))
        kinds = {"BEFORE": STORED.index(before.dtype), "AFTER": STORED.index(after.dtype)}
        left, right = left.view(_BITS[left.element_size()]), right.view(_BITS[right.element_size()])
        narrow = left.element_size() == right.element_size() == 2
        pairs = torch.empty(left.shape, dtype=torch.int32 if narrow else torch.int64, device=self._device)
        n_pairs = torch.zeros(self._stacked, dtype=torch.int64, device=self._device)
        with current(self._device):
            if before.dtype == after.dtype == torch.bfloat16 and self._reach:
                self._count_steps(left, right, pairs, n_pairs)
            else:
                self._sweep(left, right, pairs, n_pairs, kinds)
            self._visit(pairs, n_pairs, kinds)
        self._rows += rows

    def finish(self) -> list[BlockTally]:
        """What each matrix's Tally is made of; the pass is over."""
        self._empty_table()
        height, width = self._shape.density_shape
        step = self._shape.column_step
        columns = self._marks.sum(1)
        padded = torch.nn.functional.pad(self._marks, (0, width * step - self._shape.columns))
        density = padded.view(self._stacked, height, width, step).sum(3)
        joint_at, joint = self._at_joint, N_BINADES * N_CHANGE_BINS
        joints = self._sheet[:, joint_at:].view(self._stacked, self._copies, joint).sum(1)
        counted = torch.cat([self._sheet[:, :joint_at], joints], 1).cpu().numpy()
        sums = torch.cat([self._sums, self._largest[:, None]], 1).cpu().numpy()
        by_row, by_column, by_place = (v.long().cpu().numpy() for v in (self._row_changes, columns, density))
        masks = self._masks.numpy()  # there, since what was asked of the GPU after them is
        return [
            BlockTally(
                *self._counted(counted[i], sums[i]), by_row[i], by_column[i], by_place[i], masks[0, i], masks[1, i]
            )
            for i in range(self._stacked)
        ]

    def _count_steps(self, before: Tensor, after: Tensor, pairs: Tensor, n_pairs: Tensor) -> None:
        """The launches of `triton_steps`: into the table what it holds, into the list what it does not."""
        if self._table is not None and not self._table.has_room(before[0].numel()):
            self._empty_table()
        self._table = self._table or triton_table.Table(self._shape, self._sheet, self._reach)
        counted = self._table.count(before, after, self._rows, self._row_changes, self._marks)
        self._gather(before, after, counted.odd, pairs, n_pairs)
        self._add_unchanged(counted.unchanged)
        self._keep(counted.masks)

    def _gather(self, before: Tensor, after: Tensor, odd: Tensor, pairs: Tensor, n_pairs: Tensor) -> None:
        triton_table.gather(before, after, odd, pairs, n_pairs)

    def _empty_table(self) -> None:
        """Adds what the table of steps holds, if there is one; a new one is begun where more comes."""
        if self._table is not None:
            self._add_changed(self._table.weigh(self._edges, self._copies))
        self._table = None

    def _add_changed(self, sums: Tensor) -> None:
        """sums: (matrices, programs, N_SUMS)."""
        self._sums += sums[:, :, :-1].sum(1)
        self._largest = torch.maximum(self._largest, sums[:, :, -1].amax(1))

    def _add_unchanged(self, sums: Tensor) -> None:
        """sums: (matrices, 2), of squares and of values."""
        square, plain = sums.unbind(1)
        self._sums += torch.stack([square, square, *[torch.zeros_like(square)] * 2, square, plain, plain], 1)

    def _sweep(self, before: Tensor, after: Tensor, pairs: Tensor, n_pairs: Tensor, kinds: dict[str, int]) -> None:
        rows, columns = before.shape[1:]
        step = self._shape.row_step
        tall, wide = tile_shape(step, columns)
        tiles_a_step = -(-step // tall)
        map_rows = (self._rows + rows - 1) // step - self._rows // step + 1
        tiles = map_rows * tiles_a_step * -(-columns // wide)
        pack = columns % 8 == 0 or rows == 1
        size = rows * -(-columns // 8) if pack else rows * columns
        masks = torch.empty(2 if pack else 1, self._stacked, size, dtype=torch.uint8, device=self._device)
        sums = torch.empty(self._stacked, tiles, 2, dtype=torch.float64, device=self._device)
        with one_at_a_time:
            self._kernels.sweep[tiles, self._stacked](
                before, after, masks[0], masks[-1], self._row_changes[:, self._rows :], self._marks, pairs, n_pairs,
                self._sheet, sums, rows, columns, self._rows, step, tiles_a_step, size, self._marks.shape[1],
                self._sheet.shape[1], self._shape.rows,
                ROWS=tall, COLUMNS=wide, PACK=pack, num_warps=WARPS, enable_fp_fusion=True, **kinds,
            )  # fmt: skip
        self._add_unchanged(sums.sum(1))
        self._keep(masks if pack else torch.stack([_packed(masks[0] & 1), _packed(masks[0] >> 1)]))

    def _keep(self, masks: Tensor) -> None:
        first, self._mask_bytes = self._mask_bytes, self._mask_bytes + masks.shape[2]
        if masks.shape == self._masks.shape:  # all at once: one copy, however many matrices
            self._masks.copy_(masks, non_blocking=True)
            return
        for whole, block in zip(self._masks.flatten(0, 1), masks.flatten(0, 1), strict=True):
            whole[first : self._mask_bytes].copy_(block, non_blocking=True)

    def _visit(self, pairs: Tensor, n_pairs: Tensor, kinds: dict[str, int]) -> None:
        entries = pairs[0].numel()
        programs = min(-(-entries // _VISITED), max(1, 6 * processors(self._device) // self._stacked))
        sums = torch.empty(self._stacked, programs, self._bins.N_SUMS.value, dtype=torch.float64, device=self._device)
        with one_at_a_time:
            self._kernels.visit[programs, self._stacked](
                pairs, n_pairs, self._sheet, sums, *self._edges, entries, self._sheet.shape[1], self._copies,
                N_BINADES * N_CHANGE_BINS, TILE=_VISITED, num_warps=_VISITING, enable_fp_fusion=True, **kinds,
            )  # fmt: skip
        self._add_changed(sums)

    def _counted(self, counts: np.ndarray, sums: np.ndarray) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """A matrix's amounts and bins, from its sheet and its sums."""
        k = self._bins
        entries = self._shape.columns * self._rows
        same, odd, flips = (int(counts[at.value]) for at in (k.NONFINITE_SAME, k.NONFINITE_CHANGED, k.SIGN_FLIPS))
        nonfinite = same + odd
        rules = counts[k.AT_RULES.value : k.AT_ULPS.value].reshape(2, 2, 64)  # (Mukherjee, bf16, binade)
        loose, wide = rules[1].sum(0)[:N_BINADES], rules[:, 1].sum(0)[:N_BINADES]
        joint = counts[k.AT_JOINT.value :].reshape(N_BINADES, N_CHANGE_BINS)
        amounts: dict[str, float] = {
            "entries": entries,
            "nonfinite": nonfinite,
            "nonfinite_same": same,
            "equal": entries - nonfinite - int(joint.sum()),
            "bf16_unchanged": entries - nonfinite - int(wide.sum()),
            "mukherjee_unchanged": entries - nonfinite - int(loose.sum()),
            "sign_flips": flips,
            **dict(zip(_SUMS, sums[:-1].tolist(), strict=True)),
            "max_abs_update": float(sums[-1]),
        }
        return amounts, {
            "joint": joint,
            "base_binades": counts[k.AT_BINADES.value :][:N_BINADES] + joint.sum(1),
            "mukherjee_binades": loose,
            "bf16_binades": wide,
            "relative": counts[k.AT_RELATIVE.value :][:N_RELATIVE_BINS],
            "ulps": counts[k.AT_ULPS.value :][:N_ULP_BINS],
        }


@cache
def _edges(device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.as_tensor(CHANGE_EDGES, device=device), torch.as_tensor(RELATIVE_EDGES, device=device)


def tile_shape(row_step: int, columns: int) -> tuple[int, int]:
    """(rows, columns) of a tile, powers of two. It lies in one row of the density map; a height is good that leaves
    few of its rows empty, and has many share what a column costs."""
    heights = [2**k for k in range(_TALLEST.bit_length())]
    tall = min(heights, key=lambda height: -(-row_step // height) * height / row_step + 1 / height)
    wide = min(TILE // tall, 1 << max(columns - 1, 1).bit_length())
    return tall, max(wide, _NARROWEST)


def _packed(flags: Tensor) -> Tensor:
    """(matrices, entries) of 0 and 1 -> (matrices, bytes), entry i in bit i % 8 of byte i // 8."""
    eights = torch.nn.functional.pad(flags, (0, -flags.shape[1] % 8)).view(len(flags), -1, 8)
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=flags.device)
    return (eights * weights).sum(2, dtype=torch.uint8)
