"""The kernels for NVIDIA GPUs, run by Triton's interpreter on the CPU: `python -m tests.analysis.interpreted FILE` with
TRITON_INTERPRET=1 writes what they make of every case, for test_triton to compare. A process of its own, because Triton
decides at import whether it interprets.
"""

from __future__ import annotations

import pickle
import sys
from itertools import product
from pathlib import Path

import numpy as np
import torch

from analysis.elementwise import geometry, tally_stack
from analysis.elementwise.block import BlockTally
from analysis.elementwise.triton_pass import TritonPass
from analysis.measurements import RULES

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
Case = tuple[torch.Tensor, torch.Tensor, int]  # before, after, rows of a block


def normal(rows: int, columns: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return (torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02).to(dtype)


def any_bits(columns: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Numbers of any kind: every bit at random."""
    kind = np.uint32 if dtype == torch.float32 else np.uint16
    bits = np.random.default_rng(seed).integers(0, np.iinfo(kind).max, columns, dtype=kind, endpoint=True)
    return torch.from_numpy(bits.view(f"i{bits.itemsize}")).view(dtype)


def strange(before: torch.dtype, after: torch.dtype, rows: int = 10, columns: int = 520) -> tuple:
    """Row by row: small updates, updates of any size, specials, any bits, the same bits, nothing finite, zeros."""
    left = normal(rows, columns, before)
    right = (left.double() + normal(rows, columns, torch.float64, seed=1) * 2e-3).to(after)
    right[1] = (left[1].double() * torch.logspace(-9, 0, columns, dtype=torch.float64) + left[1].double()).to(after)
    specials = [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1.0, -1.0, 1e-5, 6e-8, 1e-40, 65504.0]
    pairs = list(product(specials, repeat=2))
    left[2, : len(pairs)] = torch.tensor([p for p, _ in pairs]).to(before)
    right[2, : len(pairs)] = torch.tensor([q for _, q in pairs]).to(after)
    left[2, -1], right[2, -1] = torch.finfo(before).min, torch.finfo(after).max
    left[3], right[3] = any_bits(columns, before, seed=2), any_bits(columns, after, seed=3)
    left[4] = any_bits(columns, before, seed=4)
    right[4] = left[4].to(after)
    if before == after == torch.float16:  # NaN that differ in the bit that widening sets
        left[7, :2] = torch.tensor([0x7C01, 0x7E02], dtype=torch.int16).view(before)
        right[7, :2] = torch.tensor([0x7E01, 0x7E01], dtype=torch.int16).view(after)
    left[5], right[5] = torch.inf, torch.nan
    left[6], right[6] = 0.0, -0.0
    return left, right


def _sparse(rows: int, columns: int) -> tuple:
    left = normal(rows, columns, torch.bfloat16)
    right = left.clone()
    right[::7, ::3] += 0.01
    return left, right


def cases() -> dict[str, Case]:
    same = normal(4, 64, torch.float16)
    return {
        **{f"{b} to {a}": (*strange(b, a), 10) for b, a in product(DTYPES, repeat=2)},
        "in blocks": (*strange(torch.bfloat16, torch.bfloat16, rows=27), 8),
        "odd columns, in blocks": (*strange(torch.float16, torch.float32, rows=24, columns=133), 8),
        "more rows than the map, in blocks": (*_sparse(135, 16), 72),
        "one row": (*_sparse(1, 1111), 1),
        "one column": (*_sparse(131, 1), 131),
        "one entry": (torch.zeros(1, 1), torch.ones(1, 1), 1),
        "nothing changed": (same, same, 4),
        "all changed": (same, -same - 1, 4),
    }


def stack() -> tuple[torch.Tensor, torch.Tensor]:
    """Three experts, of which one did not change."""
    left, right = strange(torch.bfloat16, torch.bfloat16, rows=9, columns=136)
    return torch.stack([left, right, left]), torch.stack([right, right, left * 2])


def passed(before: torch.Tensor, after: torch.Tensor, rows: int) -> BlockTally:
    counting = TritonPass(geometry(tuple(before.shape)), before.device)
    for first in range(0, len(before), rows):
        counting.add(before[first : first + rows], after[first : first + rows])
    (found,) = counting.finish()
    return found


def main() -> None:
    np.seterr(all="ignore")  # the interpreter computes with numpy
    found = {name: passed(*case) for name, case in cases().items()}
    before, after = stack()
    counting = TritonPass(geometry(tuple(before.shape[1:])), before.device, stacked=len(before))
    counting.add(before, after)
    found |= {f"expert {i}": expert for i, expert in enumerate(counting.finish())}
    Path(sys.argv[1]).write_bytes(pickle.dumps((found, tally_stack(before, after, rules=RULES))))


if __name__ == "__main__":
    main()
