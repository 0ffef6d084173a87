"""The pass over tensors on an NVIDIA GPU: a few launches a block, counts kept on the device, one transfer at the end.

Large bfloat16 pairs go the way of `triton_steps`, any others that of `triton_kernels`. Both take a stack of matrices of
one shape as easily as one matrix, so that a layer's experts go through in one launch.
Rows, columns, masks and histograms are added up by atomic integers: the same on every run. Sums are float64 and added
in a fixed order, but for which program met which changed entry; they may differ in the last bits.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from analysis.elementwise.block import BlockTally, Geometry
from analysis.measurements import (
    CHANGE_EDGES,
    FIRST_BINADE,
    N_BINADES,
    N_CHANGE_BINS,
    N_RELATIVE_BINS,
    N_ULP_BINS,
    RELATIVE_EDGES,
)

log = logging.getLogger(__name__)

_STORED = (torch.bfloat16, torch.float16, torch.float32)  # by the kernels' numbers for them
_BITS = {2: torch.int16, 4: torch.int32}
TILE, WARPS = 2048, 4  # entries of a tile of the first launch; with more, registers leave a processor too few warps
_TALLEST, _NARROWEST = 32, 16  # rows and columns of a tile
_VISITED, _VISITING = 512, 4  # pairs of a tile of the second launch, and its warps
FEWEST_ENTRIES = 1 << 18  # of a bfloat16 matrix that are counted by steps; a table costs as much as reading so many
FARTHEST = 32  # steps that a table holds at most
_WORDS = 256  # of a mask, of 32 entries each, that a program goes through for the list
_CELLS = 1024  # of a table that a program weighs
MOST_COUNTED = 2**31 - 1  # entries, before a table is emptied, so that no count of it overflows
_WIDEST = 1 << 23  # columns whose programs a launch has room for
_launching = threading.Lock()  # Triton builds and launches for one thread at a time; a launch returns at once
_JOINT_COPIES = 32  # of the largest histogram, so that programs seldom meet in a bin
_SUMS = (
    "base_square_sum", "tuned_square_sum", "update_square_sum", "update_abs_sum", "base_dot_tuned",
    "base_sum", "tuned_sum",
)  # fmt: skip


@cache
def works_on(device_type: str) -> bool:
    """Whether the kernels run there: on NVIDIA GPUs where Triton is installed and has what it needs (a C compiler, a
    folder for what it builds), and on a CPU in Triton's interpreter, which is for tests. AMD's GPUs take the torch
    path: nobody has run the kernels on one."""
    if find_spec("triton") is None:
        return False
    if device_type == "cuda" and torch.version.hip is None:
        return _starts()
    return os.environ.get("TRITON_INTERPRET") == "1"


def _starts() -> bool:
    try:
        device = torch.device("cuda", torch.cuda.current_device())
        for dtype, reach in ((torch.float32, 0), (torch.bfloat16, 1)):
            eight = torch.ones(1, 8, dtype=dtype, device=device)
            counting = TritonPass(Geometry(1, 8), device, reach=reach)
            counting.add(eight, eight)
            if counting.finish()[0].amounts["equal"] != 8:
                raise RuntimeError(f"kernels for {dtype} miscount")
        return True
    except Exception:  # of any kind: Triton's, the compiler's, the driver's
        log.warning("Triton cannot run here, so torch counts on the GPU, slower", exc_info=True)
        return False


def fits(before: Tensor, after: Tensor) -> bool:
    """Whether `TritonPass` takes such blocks: any two types of 16 or 32 bits."""
    return works_on(before.device.type) and before.dtype in _STORED and after.dtype in _STORED


class TritonPass:
    """The pass over `stacked` matrices of one shape: `add` their rows in order, then `finish`. `reach`: how many steps
    a table of bfloat16 pairs holds, if not as many as pay; 0 for none. Tables need columns in multiples of 8."""

    def __init__(self, shape: Geometry, device: torch.device, *, stacked: int = 1, reach: int | None = None) -> None:
        # Importing Triton takes a second, and a machine that has it.
        from analysis.elementwise import triton_bins, triton_kernels, triton_steps

        self._bins, self._kernels, self._steps = triton_bins, triton_kernels, triton_steps
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
        self._reach = table_reach(shape) if reach is None else reach
        self._table: Tensor | None = None  # of steps, once a block of bfloat16 has come
        self._in_table = 0
        n_bytes = -(-shape.rows * shape.columns // 8)
        # On the host, where every block's bits go at once: pinned, so that nothing waits and no new memory is touched.
        self._masks = torch.empty(2, stacked, n_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._rows = self._mask_bytes = 0

    def add(self, before: Tensor, after: Tensor) -> None:
        """before, after: (matrices, rows, columns), or (rows, columns) of one; nothing waits for the GPU."""
        rows, columns = before.shape[-2:]
        left, right = (side.reshape(self._stacked, rows, columns).contiguous() for side in (before, after))
        kinds = {"BEFORE": _STORED.index(before.dtype), "AFTER": _STORED.index(after.dtype)}
        left, right = left.view(_BITS[left.element_size()]), right.view(_BITS[right.element_size()])
        narrow = left.element_size() == right.element_size() == 2
        pairs = torch.empty(left.shape, dtype=torch.int32 if narrow else torch.int64, device=self._device)
        n_pairs = torch.zeros(self._stacked, dtype=torch.int64, device=self._device)
        with _current(self._device):
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
        """The first launch of `triton_steps`, and the second, which makes the list of what its table does not hold."""
        rows, columns = before.shape[1:]
        k, step, entries = self._steps, self._shape.row_step, rows * columns
        size = (2 * self._reach + 1) << 16
        if self._table is None:
            self._table = torch.zeros(self._stacked, size, dtype=torch.int32, device=self._device)
        elif self._in_table + entries > MOST_COUNTED:
            self._empty_table()
            self._table.zero_()
        self._in_table += entries
        strips_a_step = -(-step // (k.TURNS * k.ROWS))
        turns = -(-step // strips_a_step // k.ROWS)  # of the rows, for each of some blocks of columns
        blocks = min(k.TURNS // turns, -(-columns // k.COLUMNS))
        first_map_row = self._rows // step
        strips = ((self._rows + rows - 1) // step - first_map_row + 1) * strips_a_step
        across = -(-columns // (blocks * k.COLUMNS))
        n_words = -(-entries // 32)
        warps = self._stacked, strips, across, k.ROWS
        masks = torch.empty(2, self._stacked, entries // 8, dtype=torch.uint8, device=self._device)
        odd = torch.empty(self._stacked, 4 * n_words, dtype=torch.uint8, device=self._device)
        odd[:, entries // 8 :] = 0  # what fills the last word
        fields = torch.empty(*warps, k.FIELDS, dtype=torch.int32, device=self._device)
        sums = torch.empty(*warps, 2, dtype=torch.float64, device=self._device)
        with _launching:
            k.count_steps[strips, across, self._stacked](
                _words(before), _words(after), masks[0], masks[1], odd, self._row_changes[:, self._rows :], self._marks,
                self._table, fields, self._sheet, sums, rows, columns, self._rows, first_map_row, step, strips_a_step,
                turns * k.ROWS, blocks * k.COLUMNS // 8, 4 * n_words, self._marks.shape[1], self._shape.rows,
                self._sheet.shape[1], size, self._reach << 16, num_warps=k.ROWS, maxnreg=k.REGISTERS,
            )  # fmt: skip
        self._gather(before, after, odd.view(torch.int32), pairs, n_pairs)
        self._add_fields(fields.flatten(1, 3))
        self._add_unchanged(sums.sum((1, 2, 3)))
        self._keep(masks)

    def _gather(self, before: Tensor, after: Tensor, odd: Tensor, pairs: Tensor, n_pairs: Tensor) -> None:
        n_words = odd.shape[1]
        with _launching:
            self._steps.gather[-(-n_words // _WORDS), self._stacked](
                before, after, odd, pairs, n_pairs, n_words, before[0].numel(), TILE=_WORDS, num_warps=1
            )

    def _add_fields(self, fields: Tensor) -> None:
        """fields: (matrices, warps, FIELDS), two counts each, by the exponent of what did not change."""
        k = self._steps
        halves = torch.stack([(fields & 0xFFFF).sum(1), (fields >> 16).sum(1)], 2).flatten(1)
        binades = self._bins.AT_BINADES.value + k.FIRST_EXPONENT - 127 - FIRST_BINADE + 2
        self._sheet[:, binades : binades + k.N_EXPONENTS] += halves[:, _places(self._device)]

    def _empty_table(self) -> None:
        """Adds what the table of steps holds, if there is one."""
        if self._table is None:
            return
        size, self._in_table = self._table.shape[1], 0
        sums = torch.zeros(
            self._stacked, size // _CELLS, self._bins.N_SUMS.value, dtype=torch.float64, device=self._device
        )
        with _launching, _current(self._device):
            self._steps.weigh[size // _CELLS, self._stacked](
                self._table, self._sheet, sums, *self._edges, self._sheet.shape[1], size, self._reach, self._copies,
                N_BINADES * N_CHANGE_BINS, TILE=_CELLS, num_warps=_VISITING,
            )  # fmt: skip
        self._add_changed(sums)

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
        with _launching:
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
        programs = min(-(-entries // _VISITED), max(1, 6 * _processors(self._device) // self._stacked))
        sums = torch.empty(self._stacked, programs, self._bins.N_SUMS.value, dtype=torch.float64, device=self._device)
        with _launching:
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


@cache
def _places(device: torch.device) -> Tensor:
    """Which half of which of the fields counts each exponent."""
    from analysis.elementwise.triton_steps import N_EXPONENTS, field_of_exponent

    return torch.tensor([2 * field + half for field, half in map(field_of_exponent, range(N_EXPONENTS))]).to(device)


def table_reach(shape: Geometry) -> int:
    """How many steps the table of a bfloat16 matrix holds: for each more, the table takes 0.4 microseconds longer to
    clear and to read, and fewer entries go through the list. 0: no table."""
    entries = shape.rows * shape.columns
    if entries < FEWEST_ENTRIES or shape.columns % 8 or shape.columns > _WIDEST:
        return 0
    return min(FARTHEST, math.isqrt(entries // FEWEST_ENTRIES))


def tile_shape(row_step: int, columns: int) -> tuple[int, int]:
    """(rows, columns) of a tile, powers of two. It lies in one row of the density map; a height is good that leaves
    few of its rows empty, and has many share what a column costs."""
    heights = [2**k for k in range(_TALLEST.bit_length())]
    tall = min(heights, key=lambda height: -(-row_step // height) * height / row_step + 1 / height)
    wide = min(TILE // tall, 1 << max(columns - 1, 1).bit_length())
    return tall, max(wide, _NARROWEST)


def _words(side: Tensor) -> Tensor:
    """Two entries of 16 bits each, where they lie at whole words."""
    return (side if side.storage_offset() % 2 == 0 else side.clone()).view(torch.int32)


def _packed(flags: Tensor) -> Tensor:
    """(matrices, entries) of 0 and 1 -> (matrices, bytes), entry i in bit i % 8 of byte i // 8."""
    eights = torch.nn.functional.pad(flags, (0, -flags.shape[1] % 8)).view(len(flags), -1, 8)
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=flags.device)
    return (eights * weights).sum(2, dtype=torch.uint8)


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _current(device: torch.device) -> torch.cuda.device | torch.device:
    """A context in which Triton launches there: it asks which device is the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else device
