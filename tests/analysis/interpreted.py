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

from analysis.elementwise import geometry, tally_stack, triton_start, triton_table
from analysis.elementwise.block import BlockTally
from analysis.elementwise.triton_pass import TritonPass
from analysis.measurements import RULES

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
REACH = 2  # steps of a table: the interpreter takes its time for each thousand cells
N_MANY = 8
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


def trained(rows: int, columns: int, size: float = 1.76e-5) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights in bfloat16, of which an update of this size changes a fifth, most by a few steps."""
    left = normal(rows, columns, torch.bfloat16)
    return left, (left.double() + normal(rows, columns, torch.float64, seed=1) * size / 0.02).bfloat16()


def stepped(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Some steps up or down, as many as a small table holds and one more, from zeros, the smallest and the largest
    numbers, infinity and NaN of both signs on, and from where exponents meet."""
    places = [0, 1, 2, 3, 0x7F, 0x80, 0x2B00, 0x3F7F, 0x3F80, 0x407F, 0x4080, 0x7F7D, 0x7F7F, 0x7F80, 0x7F81, 0x7FFF]
    kinds = list(product([place | sign for place in places for sign in (0, 0x8000)], range(-4, 5)))
    bits = np.resize(np.array(kinds, np.int32), (rows * columns, 2))
    sides = [bits[:, 0], bits[:, 0] + bits[:, 1]]
    left, right = (torch.from_numpy(side.astype(np.uint16).view(np.int16)).view(torch.bfloat16) for side in sides)
    return left.reshape(rows, columns), right.reshape(rows, columns)


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


def _with(left: torch.Tensor, right: torch.Tensor, unchanged: list[float]) -> tuple:
    left[1, : len(unchanged)] = right[1, : len(unchanged)] = torch.tensor(unchanged, dtype=left.dtype)
    return left, right


def by_steps() -> dict[str, Case]:
    """Those that are counted by steps, too, in a table of REACH."""
    found = {name: cases()[name] for name in ("torch.bfloat16 to torch.bfloat16", "in blocks")}
    left, _ = trained(3, 264)
    one_step = (left.view(torch.int16) + 1).view(torch.bfloat16)
    return found | {
        "trained, in blocks": (*trained(40, 520), 16),
        "trained, more rows than the map, in blocks": (*trained(300, 64), 77),
        "trained, many steps": (*trained(9, 264, size=1e-3), 9),
        "stepped": (*stepped(4, 136), 4),
        "trained, with a zero, a tiny and a large number": (*_with(*trained(5, 264), [0.0, 1e-9, 3.0]), 5),
        "trained, with a zero": (*_with(*trained(5, 264), [0.0]), 5),
        "nothing changed, in bfloat16": (left, left, 3),
        "all changed, by one step": (left, one_step, 3),
        "one row of whole words": (*trained(1, 2056), 1),
    }


def stack() -> tuple[torch.Tensor, torch.Tensor]:
    """Three experts, of which one did not change."""
    left, right = strange(torch.bfloat16, torch.bfloat16, rows=9, columns=136)
    return torch.stack([left, right, left]), torch.stack([right, right, left * 2])


def many() -> tuple[torch.Tensor, torch.Tensor]:
    """Little experts, whose tables are counted side by side."""
    sides = [(*trained(3, 136, size=size),) for size in np.geomspace(1e-6, 1e-2, N_MANY)]
    before, after = zip(*sides, strict=True)
    return torch.stack(before), torch.stack(after)


def passed(before: torch.Tensor, after: torch.Tensor, rows: int, reach: int | None = None) -> BlockTally:
    shape = geometry(tuple(before.shape))
    counting = TritonPass(shape, before.device, triton_table.table_reach(shape) if reach is None else reach)
    for first in range(0, len(before), rows):
        counting.add(before[first : first + rows], after[first : first + rows])
    (found,) = counting.finish()
    return found


def passed_together(before: torch.Tensor, after: torch.Tensor, reach: int) -> list[BlockTally]:
    counting = TritonPass(geometry(tuple(before.shape[1:])), before.device, reach, stacked=len(before))
    counting.add(before, after)
    return counting.finish()


def main() -> None:
    np.seterr(all="ignore")  # the interpreter computes with numpy
    found = {name: passed(*case) for name, case in cases().items()}
    found |= {f"{name}, by steps": passed(*case, REACH) for name, case in by_steps().items()}
    found |= {f"of many {i}": expert for i, expert in enumerate(passed_together(*many(), 1))}
    tried = {
        f"{dtypes}, {reach}": triton_start.counts_right("cpu", *dtypes, reach)
        for dtypes, reach in ((DTYPES[1:], 0), (DTYPES[:1] * 2, 0), (DTYPES[:1] * 2, 2))
    }
    gather, triton_table.gather = triton_table.gather, lambda *_: None
    tried["with entries lost"] = triton_start.counts_right("cpu", *DTYPES[:1] * 2, 2)
    triton_table.gather = gather
    triton_table.MOST_COUNTED = 5000  # so that a table is emptied between blocks
    found["emptied"] = passed(*by_steps()["trained, in blocks"], 1)
    before, after = stack()
    counting = triton_start.begin(geometry(tuple(before.shape[1:])), before.device, stacked=len(before))
    counting.add(before, after)
    found |= {f"expert {i}": expert for i, expert in enumerate(counting.finish())}
    Path(sys.argv[1]).write_bytes(pickle.dumps((found, tally_stack(before, after, rules=RULES), tried)))


if __name__ == "__main__":
    main()
