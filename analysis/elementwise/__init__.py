"""One pass over a tensor pair: blocks of rows in, one Tally out, and on the way the packed masks of changed entries.

On the CPU compiled kernels read each entry once: `bf16_steps` where both sides are bfloat16, `cpu_blocks` else. NVIDIA
GPUs take `triton_pass`. Every other device, and float64, goes through torch (`torch_blocks`). All count the same
integers, which tests compare over dtypes and shapes; sums may differ in the last bits.
Knows nothing about names, layers or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from analysis.elementwise import torch_blocks, triton_start
from analysis.elementwise.block import BlockTally, Geometry, geometry
from analysis.measurements import MASK_RULES, MaskRule, Tally

__all__ = ["Geometry", "geometry", "load", "tally", "tally_stack", "way_on"]

Blocks = Iterable[tuple[Tensor, Tensor]]
OnMask = Callable[[MaskRule, np.ndarray], None]


def tally(
    blocks: Blocks,
    shape: Geometry,
    *,
    on_mask: OnMask | None = None,
    rules: Sequence[MaskRule] = MASK_RULES,
    threads: int = 1,
) -> Tally:
    """The Tally of a tensor that arrives as (before, after) blocks of whole rows, in order.

    `on_mask(rule, packed)` receives, for each of `rules`, each block's changed entries as bits (or all of them at the
    end), entry i in bit i % 8 of byte i // 8: every block but the last must hold a multiple of 8; it may be
    overwritten by the next. `threads` is for the CPU, and changes no bit of the result.
    """
    arriving = iter(blocks)
    first = next(arriving, None)
    if first is None:
        raise ValueError("a tensor pair has at least one row")
    whole = chain([first], arriving)
    if triton_start.fits(*first):
        return _by_triton(whole, shape, on_mask, rules, first[0].device)
    if first[0].device.type == "cpu":
        from analysis.elementwise import bf16_steps  # a GPU's worker does without numba, which takes a second to load

        if bf16_steps.fits(*first, shape):
            return _by_steps(whole, shape, on_mask, rules, threads)
    return _by_blocks(whole, shape, on_mask, rules, threads)


def tally_stack(
    before: Tensor, after: Tensor, *, rules: Sequence[MaskRule] = ()
) -> list[tuple[Tally, dict[MaskRule, np.ndarray]]]:
    """The Tally of each of a stack of matrices, such as a layer's experts, with its masks by `rules`; before, after:
    (matrices, rows, columns). On an NVIDIA GPU all of them take the launches of one."""
    shape = Geometry(*before.shape[1:])
    if not triton_start.fits(before, after):
        return [_alone(*pair, shape, rules) for pair in zip(before, after, strict=True)]
    counting = triton_start.begin(shape, before.device, stacked=len(before))
    counting.add(before, after)
    tallies = []
    for found, *pair in zip(counting.finish(), before, after, strict=True):
        ready = {"exact": found.packed_exact, "mukherjee": found.packed_mukherjee}
        tallies.append((found.as_tally(found.row_changes), {rule: _packed(rule, ready, *pair) for rule in rules}))
    return tallies


def load() -> None:
    """Loads what the passes on the CPU need, numba and its compiled code, by passes over next to nothing."""
    for rows in (1, 512):  # as of a norm, and enough for `bf16_steps`
        before, after = torch.zeros((rows, 512)).bfloat16(), torch.ones((rows, 512)).bfloat16()
        tally([(before, after)], Geometry(rows, 512))


def way_on(device_type: str) -> str:
    """How blocks are tallied there: 'cpu', 'triton' or 'torch', by which their memory is reckoned."""
    if triton_start.works_on(device_type):
        return "triton"
    return "cpu" if device_type == "cpu" else "torch"


def _alone(
    before: Tensor, after: Tensor, shape: Geometry, rules: Sequence[MaskRule]
) -> tuple[Tally, dict[MaskRule, np.ndarray]]:
    masks: dict[MaskRule, np.ndarray] = {}

    def keep(rule: MaskRule, packed: np.ndarray) -> None:
        masks[rule] = packed.copy()  # the next matrix's may take its place

    return tally([(before, after)], shape, on_mask=keep, rules=rules), masks


def _by_triton(
    blocks: Blocks, shape: Geometry, on_mask: OnMask | None, rules: Sequence[MaskRule], device: torch.device
) -> Tally:
    counting = triton_start.begin(shape, device)
    for before, after in blocks:
        counting.add(before, after)
        if on_mask is not None:
            for rule in rules:
                if rule not in ("exact", "mukherjee"):
                    on_mask(rule, torch_blocks.packed_mask(before, after, rule))
    (found,) = counting.finish()
    if on_mask is not None:
        _hand_over(on_mask, rules, found.packed_exact, found.packed_mukherjee)
    return found.as_tally(found.row_changes)


def _by_steps(
    blocks: Blocks, shape: Geometry, on_mask: OnMask | None, rules: Sequence[MaskRule], threads: int
) -> Tally:
    from analysis.elementwise import bf16_steps

    counting, first_row = bf16_steps.StepPass(shape, threads), 0
    for before, after in blocks:
        counting.add(before, after, first_row)
        first_row += before.shape[0]
        if on_mask is not None:
            for rule in rules:
                if rule not in ("exact", "mukherjee"):
                    on_mask(rule, torch_blocks.packed_mask(before, after, rule))
    found, exact, mukherjee = counting.finish()
    if on_mask is not None:
        _hand_over(on_mask, rules, exact, mukherjee)
    return found


def _by_blocks(
    blocks: Blocks, shape: Geometry, on_mask: OnMask | None, rules: Sequence[MaskRule], threads: int
) -> Tally:
    total: BlockTally | None = None
    rows: list[np.ndarray] = []
    first_row = 0
    for before, after in blocks:
        block = _block(before, after, first_row, shape, threads)
        rows.append(block.row_changes)
        first_row += before.shape[0]
        if on_mask is not None:
            for rule in rules:
                ready = {"exact": block.packed_exact, "mukherjee": block.packed_mukherjee}
                on_mask(rule, _packed(rule, ready, before, after))
        total = block if total is None else total.plus(block)
    assert total is not None
    return total.as_tally(np.concatenate(rows))


def _hand_over(on_mask: OnMask, rules: Sequence[MaskRule], exact: np.ndarray, mukherjee: np.ndarray) -> None:
    ready: dict[MaskRule, np.ndarray] = {"exact": exact, "mukherjee": mukherjee}
    for rule in rules:
        if rule in ready:
            on_mask(rule, ready[rule])


def _packed(rule: MaskRule, ready: Mapping[str, np.ndarray], before: Tensor, after: Tensor) -> np.ndarray:
    """The pass over the block has two masks ready; any other is taken by a second one."""
    return ready[rule] if rule in ready else torch_blocks.packed_mask(before, after, rule)


def _block(before: Tensor, after: Tensor, first_row: int, shape: Geometry, threads: int) -> BlockTally:
    compiled = before.device.type == "cpu" and torch.float64 not in (before.dtype, after.dtype)
    if compiled:
        from analysis.elementwise import cpu_blocks

        return cpu_blocks.tally_block(before, after, first_row, shape, threads=threads)
    return torch_blocks.tally_block(before, after, first_row, shape)
