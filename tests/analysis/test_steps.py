"""The compiled pass over bfloat16 pairs at shapes that fill no vector, and on machines with other vectors."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from analysis.elementwise import Geometry, bf16_steps, cpu_blocks, geometry, tally
from analysis.measurements import Tally
from tests.analysis.alike import assert_alike
from tests.analysis.test_elementwise import STEP_PAIRS, blocks

_FEWEST = 1 << 18
Pair = tuple[torch.Tensor, torch.Tensor]


def every_kind(columns: int, seed: int) -> Pair:
    """Rows of weights with a small, a large and no update, of zeros, and of bits at random, one below the other; of
    5,003 entries, one is not finite."""
    random = np.random.default_rng(seed)
    rows = -(-_FEWEST // columns) + 5
    before = torch.from_numpy(random.normal(0, 0.02, (rows, columns))).bfloat16()
    std = torch.tensor([2e-5, 1e-3, 0.0, 1e-4, 0.0])[torch.arange(rows) % 5, None]
    after = (before.float() + torch.from_numpy(random.normal(0, 1, (rows, columns))).float() * std).bfloat16()
    bits = random.integers(0, 1 << 16, (2, -(-rows // 5), columns), dtype=np.uint16).view(np.int16)
    before[2::5] = torch.from_numpy(bits[0]).view(torch.bfloat16)[: len(before[2::5])]
    after[2::5] = torch.from_numpy(bits[1]).view(torch.bfloat16)[: len(after[2::5])]
    before[4::10], after[4::10] = 0.0, -0.0
    before.view(-1)[::5003] = torch.nan
    after.view(-1)[::10006] = torch.inf
    return before, after


def counted(
    before: torch.Tensor, after: torch.Tensor, rows: int, threads: int = 1
) -> tuple[Tally, dict[str, np.ndarray]]:
    shape, masks = geometry(tuple(before.shape)), {}
    assert bf16_steps.fits(before, after, shape)
    found = tally(
        blocks(before, after, rows), shape, on_mask=lambda rule, bits: masks.update({rule: bits}), threads=threads
    )
    return found, masks


def no_normal_number(columns: int, seed: int) -> Pair:
    """Numbers of either sign below the normal ones, a third of them changed."""
    random = np.random.default_rng(seed)
    shape = -(-_FEWEST // columns), columns
    before, other = random.integers(-0x80, 0x80, (2, *shape)).astype(np.int16) & ~0x7F80
    after = np.where(random.random(shape) < 1 / 3, other, before)
    return torch.from_numpy(before).view(torch.bfloat16), torch.from_numpy(after).view(torch.bfloat16)


@pytest.mark.parametrize("columns", [8, 24, 32, 40, 96, 1016, 1032, 1056, 2040, 3080])
@pytest.mark.parametrize("kind", [every_kind, no_normal_number])
def test_any_width_gives_what_the_other_kernel_gives(columns: int, kind: Callable[..., Pair]):
    before, after = kind(columns, seed=columns)
    found, masks = counted(before, after, rows=64)
    expected = cpu_blocks.tally_block(before, after, 0, Geometry(*before.shape))
    assert np.array_equal(masks["exact"], expected.packed_exact)
    assert np.array_equal(masks["mukherjee"], expected.packed_mukherjee)
    assert_alike(found, expected.as_tally(expected.row_changes), rel=1e-11)


@pytest.mark.parametrize(("rows", "threads"), [(8, 1), (40, 3), (500, 2)], ids=str)
def test_sums_are_the_same_bits_however_the_rows_come(rows: int, threads: int):
    before, after = every_kind(1032, seed=1)
    one, other = counted(before, after, rows=len(before))[0], counted(before, after, rows=rows, threads=threads)[0]
    assert_alike(one, other)


def digest() -> str:
    """Of all whole numbers and masks of these pairs."""
    found = hashlib.sha256()
    for before, after in [*STEP_PAIRS.values(), every_kind(1032, seed=1)]:
        counts, masks = counted(before, after, rows=96)
        for field in dataclasses.fields(Tally):
            value = getattr(counts, field.name)
            found.update(b"" if isinstance(value, float) else np.asarray(value, np.int64).tobytes())
        found.update(masks["exact"].tobytes() + masks["mukherjee"].tobytes())
    return found.hexdigest()


AVX2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+bmi,+bmi2,+fma,+popcnt"}
LEAST = {"NUMBA_CPU_NAME": "generic"}


@pytest.mark.parametrize(
    "machine",
    [LEAST, AVX2] if platform.machine() == "x86_64" else [LEAST],
    ids=lambda machine: machine["NUMBA_CPU_NAME"],
)
def test_a_machine_without_wide_vectors_counts_the_same(machine: dict[str, str]):
    """Compiled for the least that this architecture has, and for shorter vectors: changed entries are picked one by one
    there, and bytes looked up without a table."""
    run = subprocess.run(
        [sys.executable, "-c", "from tests.analysis.test_steps import digest; print(digest())"],
        env={**os.environ, **machine, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.stdout.strip() == digest(), run.stderr
