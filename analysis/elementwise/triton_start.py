"""Whether Triton's kernels run on this machine and count right, which is tried once; and a pass by those that do."""

from __future__ import annotations

import dataclasses
import logging
import os
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from analysis.elementwise import torch_blocks
from analysis.elementwise.block import BlockTally, Geometry
from analysis.elementwise.triton_pass import STORED, TritonPass
from analysis.elementwise.triton_table import table_reach

log = logging.getLogger(__name__)

_TRIED = Geometry(24, 264)
_REACH = 2  # of the table that is tried


@cache
def works_on(device_type: str) -> bool:
    """Whether the kernels run there: on NVIDIA GPUs where Triton is installed and has what it needs (a C compiler, a
    folder for what it builds), and on a CPU in Triton's interpreter, which is for tests. AMD's GPUs take the torch
    path: nobody has run the kernels on one."""
    if find_spec("triton") is None:
        return False
    if device_type == "cuda" and torch.version.hip is None:
        works = _takes(device_type, torch.bfloat16, torch.bfloat16)
        if works:
            has_tables(device_type)  # is tried now, before several threads ask
        return works
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def has_tables(device_type: str) -> bool:
    """Whether the kernels that count steps run where the others do."""
    return device_type != "cuda" or counts_right(device_type, torch.bfloat16, torch.bfloat16, _REACH)


@cache
def _takes(device_type: str, before: torch.dtype, after: torch.dtype) -> bool:
    return device_type != "cuda" or counts_right(device_type, before, after, 0)


def fits(before: Tensor, after: Tensor) -> bool:
    """Whether `begin` gives a pass for such blocks: any two types of 16 or 32 bits, of which the first to come are
    tried on little."""
    device_type, dtypes = before.device.type, (before.dtype, after.dtype)
    return works_on(device_type) and all(dtype in STORED for dtype in dtypes) and _takes(device_type, *dtypes)


def begin(shape: Geometry, device: torch.device, *, stacked: int = 1) -> TritonPass:
    """A pass over so many matrices of this shape; with a table of steps where that pays, should they be bfloat16."""
    reach = table_reach(shape)
    return TritonPass(shape, device, reach if reach and has_tables(device.type) else 0, stacked=stacked)


def counts_right(device_type: str, of_base: torch.dtype, of_tuned: torch.dtype, reach: int) -> bool:
    """Whether the kernels count there, on a GPU on this thread's, what torch counts on the CPU, of a matrix with
    entries of every kind."""
    what = "Triton's tables of steps" if reach else f"Triton's kernels for {of_base} and {of_tuned}"
    before, after = _every_kind(of_base, of_tuned)
    try:
        device = torch.device(device_type, torch.cuda.current_device() if device_type == "cuda" else 0)
        counting = TritonPass(_TRIED, device, reach)
        for rows in (slice(0, 16), slice(16, None)):
            counting.add(before[rows].to(device), after[rows].to(device))
        wrong = differing(counting.finish()[0], torch_blocks.tally_block(before, after, 0, _TRIED))
    except Exception:  # of any kind: Triton's, the compiler's, the driver's
        log.warning("%s cannot run here, so others count on the GPU, slower", what, exc_info=True)
        return False
    if wrong:
        log.error("%s miscount here (%s), so others count on the GPU, slower", what, ", ".join(wrong))
    return not wrong


def _every_kind(of_base: torch.dtype, of_tuned: torch.dtype) -> tuple[Tensor, Tensor]:
    """Small updates, none, large ones, other signs, zeros, and what is not finite."""
    random = np.random.default_rng(0)
    size = _TRIED.rows, _TRIED.columns
    before = torch.from_numpy(random.normal(0, 0.02, size)).to(of_base)
    by_row = torch.tensor([1e-5, 1e-3, 0.0, 1.0])[torch.arange(_TRIED.rows) % 4, None]
    after = (before.float() + torch.from_numpy(random.normal(0, 1, size)).float() * by_row).to(of_tuned)
    after[2, ::3] = -before[2, ::3]
    before[6], after[6, ::2] = 0.0, -0.0
    before[10, ::5], after[10, ::7] = torch.nan, torch.inf
    return before, after


def differing(one: BlockTally, other: BlockTally) -> list[str]:
    """Which counts of two tallies are not the same integers, and which sums are farther apart than by rounding."""
    found = []
    largest = max(abs(other.amounts[name]) for name in ("base_square_sum", "tuned_square_sum"))
    lost = 1e-13 * np.sqrt(other.amounts["entries"] * largest)
    for name, amount in other.amounts.items():
        may = max(1e-11 * abs(amount), lost) if name.endswith(("_sum", "_tuned")) else 0
        found += [name] if abs(one.amounts[name] - amount) > may else []
    found += [name for name, counts in other.bins.items() if not np.array_equal(one.bins[name], counts)]
    places = [field.name for field in dataclasses.fields(BlockTally)[2:]]
    return found + [name for name in places if not np.array_equal(getattr(one, name), getattr(other, name))]
