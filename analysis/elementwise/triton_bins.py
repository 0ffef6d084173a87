"""What the launches on a GPU share, in Triton: which count lies where in a matrix's sheet of counts, what stored bits
are worth, and which bins values belong to.

Values arrive as raw bits and are widened exactly, so subnormals, zeros of both signs and NaN are what they are on the
CPU.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
import torch
import triton
import triton.language as tl

from analysis.measurements import (
    FIRST_BINADE,
    LAST_BINADE,
    MUKHERJEE_ATOL,
    N_CHANGE_BINS,
    N_RELATIVE_BINS,
)

BF16, F16, F32 = (tl.constexpr(kind) for kind in range(3))  # how a side is stored

# Where what is in a matrix's sheet of int64 counts, which all launches add to. Sizes are powers of two for Triton.
N_COUNTS = 8
NONFINITE_SAME, NONFINITE_CHANGED, SIGN_FLIPS = (tl.constexpr(at) for at in range(3))
BINADES, RELATIVE, RULES, ULPS = (tl.constexpr(n) for n in (64, 256, 256, 64))  # bins; RULES: see `rule_bin`
AT_BINADES = tl.constexpr(N_COUNTS)
AT_RELATIVE = tl.constexpr(AT_BINADES.value + BINADES.value)
AT_RULES = tl.constexpr(AT_RELATIVE.value + RELATIVE.value)
AT_ULPS = tl.constexpr(AT_RULES.value + RULES.value)
AT_JOINT = tl.constexpr(AT_ULPS.value + ULPS.value)
N_CHANGE, N_RELATIVE = tl.constexpr(N_CHANGE_BINS), tl.constexpr(N_RELATIVE_BINS)
N_SUMS = tl.constexpr(8)  # of a program: the seven sums of a Tally and the largest change

_LOWEST, _HIGHEST = tl.constexpr(FIRST_BINADE - 1), tl.constexpr(LAST_BINADE + 1)
_FIRST_CHANGE, _FIRST_RELATIVE = tl.constexpr(240.0), tl.constexpr(140.0)  # twenty edges a decade, from 1e-12, 1e-7
_TINY = tl.constexpr(1e-30)  # below every edge
_A_DOUBLING = tl.constexpr(20 * float(np.log10(2)))  # edges
# The largest float32 that rounds (ties to even) to the bfloat16 next to Mukherjee's tolerance or below.
_atol_bits = int(torch.tensor(MUKHERJEE_ATOL).bfloat16().view(torch.int16))
_largest_within = (_atol_bits << 16) + 0x8000 - _atol_bits % 2
LARGEST_WITHIN = tl.constexpr(float(np.uint32(_largest_within).view(np.float32)))


@no_type_check
@triton.jit
def stored_bits(loaded, KIND: tl.constexpr):
    """The stored bits of a side in int32, with zeros above."""
    if KIND <= F16:
        return loaded.to(tl.int32) & 0xFFFF
    else:
        return loaded


@no_type_check
@triton.jit
def is_finite(bits, KIND: tl.constexpr):
    if KIND == BF16:
        return (bits & 0x7F80) != 0x7F80
    elif KIND == F16:
        return (bits & 0x7C00) != 0x7C00
    else:
        return (bits & 0x7F800000) != 0x7F800000


@no_type_check
@triton.jit
def wide(bits, KIND: tl.constexpr):
    """The value in float32, exactly."""
    if KIND == BF16:
        return (bits << 16).to(tl.float32, bitcast=True)
    elif KIND == F16:
        return bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    else:
        return bits.to(tl.float32, bitcast=True)


@no_type_check
@triton.jit
def _rounded_to_bf16(value):
    bits = value.to(tl.int32, bitcast=True)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)


@no_type_check
@triton.jit
def within_mukherjee(x, y, BEFORE: tl.constexpr, AFTER: tl.constexpr):
    """Whether the bfloat16 difference of both values rounded to bfloat16 is within the bfloat16 tolerance."""
    if BEFORE == BF16 and AFTER == BF16:
        delta = y - x
    else:
        delta = _rounded_to_bf16(y) - _rounded_to_bf16(x)
    return tl.abs(delta) <= LARGEST_WITHIN


@no_type_check
@triton.jit
def binade_of(x):
    """Which bin of N_BINADES a finite float32 belongs to."""
    bits = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    inside = tl.minimum(tl.maximum((bits >> 23) - 127, _LOWEST), _HIGHEST) - _LOWEST + 1
    return tl.where(bits != 0, inside, 0)


@no_type_check
@triton.jit
def add_counts(to, counted, N_BINS: tl.constexpr):
    tl.atomic_add(to + tl.arange(0, N_BINS), counted.to(tl.int64), mask=counted > 0, sem="relaxed")


@no_type_check
@triton.jit
def _bin_of(value, guess, edges, N_BINS: tl.constexpr):
    """How many of the N_BINS - 1 edges lie below the value; `guess` is off by less than one."""
    bin_ = tl.minimum(tl.maximum(guess, 1.0), N_BINS - 3.0).to(tl.int32) - 1
    bin_ += (value > tl.load(edges + bin_)).to(tl.int32)
    bin_ += ((bin_ < N_BINS - 1) & (value > tl.load(edges + tl.minimum(bin_, N_BINS - 2)))).to(tl.int32)
    bin_ += ((bin_ < N_BINS - 1) & (value > tl.load(edges + tl.minimum(bin_, N_BINS - 2)))).to(tl.int32)
    return bin_


@no_type_check
@triton.jit
def change_bin(size, edges):
    return _bin_of(size, tl.log2(tl.maximum(size, _TINY)) * _A_DOUBLING + _FIRST_CHANGE, edges, N_CHANGE)


@no_type_check
@triton.jit
def ratio_bin(size, larger, edges):
    ratio = size.to(tl.float64) / larger.to(tl.float64)
    guess = tl.log2(tl.maximum(ratio.to(tl.float32), _TINY)) * _A_DOUBLING + _FIRST_RELATIVE
    return _bin_of(ratio, guess, edges, N_RELATIVE)


@no_type_check
@triton.jit
def rule_bin(binade, x, y, size, larger, BEFORE: tl.constexpr, AFTER: tl.constexpr):
    """The binade, + 64 where the change is beyond bf16's rule, + 128 beyond Mukherjee's."""
    beyond = size.to(tl.float64) * 1000 > larger.to(tl.float64)
    loose = within_mukherjee(x, y, BEFORE, AFTER) == 0
    return binade + beyond.to(tl.int32) * 64 + loose.to(tl.int32) * 128


@no_type_check
@triton.jit
def ulp_bin(steps):
    doublings = ((steps - 1).to(tl.float64).to(tl.int64, bitcast=True) >> 52).to(tl.int32) - 1021
    return tl.where(steps <= 4, steps - 1, doublings)
