"""A block of rows tallied with torch, on whatever device it lies: CUDA, and float64 everywhere.

Differences are taken in float32 after an exact upcast (in float64 where a side is stored so), unless a rule says
otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analysis.elementwise.block import BlockTally, Geometry
from analysis.measurements import (
    CHANGE_EDGES,
    FIRST_BINADE,
    LAST_BINADE,
    MUKHERJEE_ATOL,
    N_BINADES,
    N_CHANGE_BINS,
    N_RELATIVE_BINS,
    N_ULP_BINS,
    RELATIVE_EDGES,
    ULP_EDGES,
    MaskRule,
)

_WITH_STEPS = (torch.bfloat16, torch.float16, torch.float32)
_BITS_OF_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def tally_block(before: Tensor, after: Tensor, first_row: int, shape: Geometry) -> BlockTally:
    """What the rows from `first_row` on add to the Tally of a tensor of `shape`; before, after: (rows, columns)."""
    block = _Block.of(before, after)
    return BlockTally(
        amounts=block.amounts(),
        bins={name: counts.cpu().numpy() for name, counts in block.histograms().items()},
        row_changes=block.changed.sum(1).cpu().numpy(),
        column_changes=block.changed.sum(0).cpu().numpy(),
        density=_density(block.changed, first_row, shape).cpu().numpy(),
        packed_exact=_packed(block.changed),
        packed_mukherjee=_packed(block.mukherjee_changed),
    )


def packed_mask(before: Tensor, after: Tensor, rule: MaskRule) -> np.ndarray:
    """The block's entries that 'bf16' or a tolerance calls changed, as bits: masks that `tally_block` does not take."""
    wide = torch.float64 if torch.float64 in (before.dtype, after.dtype) else torch.float32
    left, right = before.to(wide), after.to(wide)
    size = (right - left).abs()
    if rule == "bf16":
        changed = size.double() * 1000 > torch.maximum(left.abs(), right.abs()).double()
    else:
        changed = size > float(np.float32(rule))
    finite, same = _finiteness(before, after, left, right)
    return _packed(changed if finite is None else changed.where(finite, ~same))


@dataclass(frozen=True)
class _Block:
    """One block of rows, with what the counts are taken from. The short vectors hold changed finite entries only."""

    before: Tensor  # (rows, columns), float32 or float64, 0 where either side is not finite
    after: Tensor
    changed: Tensor  # (rows, columns) bool: not unchanged under the exact rule
    mukherjee_changed: Tensor
    n_nonfinite: int
    n_nonfinite_same: int
    base: Tensor  # (n,) |before| of changed finite entries
    size: Tensor  # (n,) |after - before|
    larger: Tensor  # (n,) max(|after|, |before|)
    within_mukherjee: Tensor  # (n,) bool
    within_bf16: Tensor  # (n,) bool
    flipped: int
    steps: Tensor  # (m,) of the stored type, of those without a sign flip; 0 where there is no such type

    @staticmethod
    def of(before: Tensor, after: Tensor) -> _Block:
        wide = torch.float64 if torch.float64 in (before.dtype, after.dtype) else torch.float32
        left, right = before.to(wide), after.to(wide)
        finite, same = _finiteness(before, after, left, right)
        if finite is not None:
            left, right = left.where(finite, 0), right.where(finite, 0)
        moved = left != right
        b, a = left[moved], right[moved]
        size, larger = (a - b).abs(), torch.maximum(a.abs(), b.abs())
        within = _within_mukherjee(before, after, moved, b, a)
        changed = moved if finite is None else moved | ~(finite | same)
        flipped = a.sign() * b.sign() < 0
        return _Block(
            before=left,
            after=right,
            changed=changed,
            mukherjee_changed=changed.masked_scatter(moved, ~within),
            n_nonfinite=0 if finite is None else int((~finite).sum()),
            n_nonfinite_same=0 if finite is None else int(same.sum()),
            base=b.abs(),
            size=size,
            larger=larger,
            within_mukherjee=within,
            # 1000 d <= m decides d <= m / 1000 without rounding: near that ratio d has few enough bits.
            within_bf16=size.double() * 1000 <= larger.double(),
            flipped=int(flipped.sum()),
            steps=_steps(before[moved], after[moved])[~flipped],
        )

    def amounts(self) -> dict[str, float]:
        before, after = self.before.double(), self.after.double()
        update = after - before
        size = self.size.double()
        equal = self.before.numel() - self.n_nonfinite - self.size.numel()
        return {
            "entries": self.before.numel(),
            "nonfinite": self.n_nonfinite,
            "nonfinite_same": self.n_nonfinite_same,
            "equal": equal,
            "bf16_unchanged": equal + int(self.within_bf16.sum()),
            "mukherjee_unchanged": equal + int(self.within_mukherjee.sum()),
            "sign_flips": self.flipped,
            "base_square_sum": float(before.square().sum()),
            "tuned_square_sum": float(after.square().sum()),
            "update_square_sum": float(update.square().sum()),
            "update_abs_sum": float(update.abs().sum()),
            "base_dot_tuned": float((before * after).sum()),
            "base_sum": float(before.sum()),
            "tuned_sum": float(after.sum()),
            "max_abs_update": float(size.max()) if size.numel() else 0.0,
        }

    def histograms(self) -> dict[str, Tensor]:
        edges = torch.as_tensor(CHANGE_EDGES, device=self.size.device).to(self.size.dtype)
        relative_edges = torch.as_tensor(RELATIVE_EDGES, device=self.size.device)
        ulp_edges = torch.as_tensor(ULP_EDGES, device=self.size.device)
        change = torch.bucketize(self.size, edges, out_int32=True)
        binade = _binade(self.base)
        ratio = self.size.double() / self.larger.double()
        everywhere = torch.bincount(_binade(self.before.abs()).flatten(), minlength=N_BINADES)
        everywhere[0] -= self.n_nonfinite  # they were set to 0 above
        joint = torch.bincount(binade * N_CHANGE_BINS + change, minlength=N_BINADES * N_CHANGE_BINS)
        return {
            "joint": joint.view(N_BINADES, N_CHANGE_BINS),
            "base_binades": everywhere,
            "mukherjee_binades": torch.bincount(binade[~self.within_mukherjee], minlength=N_BINADES),
            "bf16_binades": torch.bincount(binade[~self.within_bf16], minlength=N_BINADES),
            "relative": torch.bincount(torch.bucketize(ratio, relative_edges), minlength=N_RELATIVE_BINS),
            "ulps": torch.bincount(torch.bucketize(self.steps[self.steps > 0], ulp_edges), minlength=N_ULP_BINS),
        }


def _steps(before: Tensor, after: Tensor) -> Tensor:
    """(n,): how many values of their type two finite values are apart, where they do not lie on both sides of 0; 0
    where they are of two types, or of one without steps. The bits without the sign count the values from 0 on."""
    if before.dtype != after.dtype or before.dtype not in _WITH_STEPS:
        return before.new_zeros(before.shape, dtype=torch.int64)
    bits = _BITS_OF_SIZE[before.element_size()]
    from_0 = [side.view(bits).long() & (0x7FFF if bits == torch.int16 else 0x7FFFFFFF) for side in (before, after)]
    return (from_0[1] - from_0[0]).abs()


def _finiteness(before: Tensor, after: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor | None, Tensor]:
    """(finite on both sides, not finite but the same bits). The first is None where every entry is finite."""
    finite = torch.isfinite(left) & torch.isfinite(right)
    if bool(finite.all()):
        return None, finite
    odd = ~finite
    bits = _BITS_OF_SIZE[left.element_size()]
    # Widened on the CPU: GPUs make every NaN of float16 the same.
    first, second = (side[odd].cpu().to(left.dtype).view(bits) for side in (before, after))
    return finite, odd.masked_scatter(odd, (first == second).to(odd.device))


def _within_mukherjee(before: Tensor, after: Tensor, moved: Tensor, b: Tensor, a: Tensor) -> Tensor:
    """What torch.isclose(after.bfloat16() - before.bfloat16(), 0, atol=1e-5) says of the moved entries.

    There both |delta| and the tolerance are bfloat16, so it compares with 1.00136e-5.
    """
    if before.dtype == after.dtype == torch.bfloat16:
        delta = (a - b).bfloat16()  # a float32 difference rounded once: what a bfloat16 subtraction gives
    else:
        delta = after[moved].bfloat16() - before[moved].bfloat16()
    return delta.abs() <= torch.tensor(MUKHERJEE_ATOL, dtype=torch.bfloat16, device=delta.device)


def _binade(magnitude: Tensor) -> Tensor:
    """Which bin of N_BINADES each |before| belongs to, from the exponent bits of its float32."""
    bits = magnitude.float().view(torch.int32)
    exponent = (bits >> 23) - 127
    inside = exponent.clamp(FIRST_BINADE - 1, LAST_BINADE + 1) - FIRST_BINADE + 2
    return inside.where(bits != 0, 0)


def _density(changed: Tensor, first_row: int, shape: Geometry) -> Tensor:
    """(map rows, map columns): changed entries of this block, in the blocks of the whole tensor's map."""
    height, width = shape.density_shape
    padded = torch.nn.functional.pad(changed, (0, width * shape.column_step - shape.columns))
    per_row = padded.view(len(changed), width, shape.column_step).sum(2)
    target = torch.arange(first_row, first_row + len(changed), device=changed.device) // shape.row_step
    return per_row.new_zeros(height, width).index_add_(0, target, per_row)


def _packed(flags: Tensor) -> np.ndarray:
    """Bits of `flags`, entry i in bit i % 8 of byte i // 8; packed on the device, so that an eighth of it travels."""
    flat = flags.flatten()
    if not flat.is_cuda:
        return np.packbits(flat.cpu().numpy(), bitorder="little")
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=flat.device)
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    return (padded * weights).sum(1, dtype=torch.uint8).cpu().numpy()
