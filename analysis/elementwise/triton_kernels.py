"""The two launches of the pass on a GPU, in Triton; `triton_pass` starts them and knows what they fill.

`sweep` reads every entry once: masks, rows, columns, the sums and binades of entries that stayed; each pair of values
that differ it appends to a list. `visit` walks that list for the histograms, whose arithmetic is
dear: a fifth of the entries, typically. Values arrive as raw bits and are widened exactly, so subnormals, zeros of
both signs and NaN are what they are on the CPU.
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

BF16, F16, F32 = range(3)  # how a side is stored

# Where what is in a matrix's sheet of int64 counts, which both launches add to. Sizes are powers of two for Triton.
N_COUNTS = 8
NONFINITE_SAME, NONFINITE_CHANGED, SIGN_FLIPS = range(3)
BINADES, RELATIVE, RULES, ULPS = 64, 256, 256, 64  # bins; RULES: binade + 64 beyond bf16 + 128 beyond Mukherjee's
AT_BINADES = N_COUNTS
AT_RELATIVE = AT_BINADES + BINADES
AT_RULES = AT_RELATIVE + RELATIVE
AT_ULPS = AT_RULES + RULES
AT_JOINT = AT_ULPS + ULPS
N_SUMS = 8  # of a program of `visit`: the seven sums of a Tally and the largest change

_BF16, _F16, _F32 = tl.constexpr(BF16), tl.constexpr(F16), tl.constexpr(F32)
_SAME, _ODD, _FLIPS = (tl.constexpr(at) for at in (NONFINITE_SAME, NONFINITE_CHANGED, SIGN_FLIPS))
_BINADES, _RELATIVE, _RULES, _ULPS = (tl.constexpr(n) for n in (BINADES, RELATIVE, RULES, ULPS))
_AT_BINADES, _AT_RELATIVE, _AT_RULES = (tl.constexpr(n) for n in (AT_BINADES, AT_RELATIVE, AT_RULES))
_AT_ULPS, _AT_JOINT, _N_SUMS = (tl.constexpr(n) for n in (AT_ULPS, AT_JOINT, N_SUMS))
_LOWEST, _HIGHEST = tl.constexpr(FIRST_BINADE - 1), tl.constexpr(LAST_BINADE + 1)
_N_CHANGE, _N_RELATIVE = tl.constexpr(N_CHANGE_BINS), tl.constexpr(N_RELATIVE_BINS)
_FIRST_CHANGE, _FIRST_RELATIVE = tl.constexpr(240.0), tl.constexpr(140.0)  # twenty edges a decade, from 1e-12, 1e-7
_TINY = tl.constexpr(1e-30)  # below every edge
_A_DOUBLING = tl.constexpr(20 * float(np.log10(2)))  # edges
# The largest float32 that rounds (ties to even) to the bfloat16 next to Mukherjee's tolerance or below, as bits.
_atol_bits = int(torch.tensor(MUKHERJEE_ATOL).bfloat16().view(torch.int16))
_LARGEST_WITHIN = tl.constexpr((_atol_bits << 16) + 0x8000 - _atol_bits % 2)


# Of these Triton shall not ask whether they are 1, or multiples of 16: a new shape would be a new compilation.
_SIZES = ("rows", "first_row", "row_step", "tiles_a_step", "mask_bytes", "map_rows", "sheet_size", "all_rows")


@no_type_check
@triton.jit
def _bits(loaded, KIND: tl.constexpr):
    """The stored bits of a side in int32, with zeros above."""
    if KIND <= _F16:
        return loaded.to(tl.int32) & 0xFFFF
    else:
        return loaded


@no_type_check
@triton.jit
def _is_finite(bits, KIND: tl.constexpr):
    if KIND == _BF16:
        return (bits & 0x7F80) != 0x7F80
    elif KIND == _F16:
        return (bits & 0x7C00) != 0x7C00
    else:
        return (bits & 0x7F800000) != 0x7F800000


@no_type_check
@triton.jit
def _wide(bits, KIND: tl.constexpr):
    """The value in float32, exactly."""
    if KIND == _BF16:
        return (bits << 16).to(tl.float32, bitcast=True)
    elif KIND == _F16:
        return bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    else:
        return bits.to(tl.float32, bitcast=True)


@no_type_check
@triton.jit
def _wide_bits(bits, KIND: tl.constexpr):
    """The value's bits in float32. NaN by integers: GPUs turn every NaN into one when they widen float16."""
    if KIND == _BF16:
        return bits << 16
    elif KIND == _F16:
        digits = bits & 0x3FF
        odd = ((bits & 0x8000) << 16) | 0x7F800000 | (digits << 13) | tl.where(digits != 0, 0x400000, 0)
        return tl.where(_is_finite(bits, KIND), _wide(bits, KIND).to(tl.int32, bitcast=True), odd)
    else:
        return bits


@no_type_check
@triton.jit
def _differ(p, q, x, y, BEFORE: tl.constexpr, AFTER: tl.constexpr):
    """Whether the exact rule calls them changed: finite ones by value, others by their bits."""
    if BEFORE == AFTER and BEFORE != _F16:
        no_sign = 0x7FFFFFFF if BEFORE == _F32 else 0x7FFF
        return (p != q) & (((p | q) & no_sign) != 0)
    else:
        finite = _is_finite(p, BEFORE) & _is_finite(q, AFTER)
        return tl.where(finite, x != y, _wide_bits(p, BEFORE) != _wide_bits(q, AFTER))


@no_type_check
@triton.jit
def _rounded_to_bf16(value):
    bits = value.to(tl.int32, bitcast=True)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)


@no_type_check
@triton.jit
def _within_mukherjee(x, y, BEFORE: tl.constexpr, AFTER: tl.constexpr):
    """Whether the bfloat16 difference of both values rounded to bfloat16 is within the bfloat16 tolerance."""
    if BEFORE == _BF16 and AFTER == _BF16:
        delta = y - x
    else:
        delta = _rounded_to_bf16(y) - _rounded_to_bf16(x)
    return (delta.to(tl.int32, bitcast=True) & 0x7FFFFFFF) <= _LARGEST_WITHIN


@no_type_check
@triton.jit
def _binade_of(x):
    """Which bin of N_BINADES a finite float32 belongs to."""
    bits = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    inside = tl.minimum(tl.maximum((bits >> 23) - 127, _LOWEST), _HIGHEST) - _LOWEST + 1
    return tl.where(bits != 0, inside, 0)


@no_type_check
@triton.jit
def _add(to, counted, N_BINS: tl.constexpr):
    tl.atomic_add(to + tl.arange(0, N_BINS), counted.to(tl.int64), mask=counted > 0, sem="relaxed")


@no_type_check
@triton.jit(do_not_specialize=_SIZES)
def sweep(
    before, after, exact, loose, row_changes, marks, pairs, n_pairs, sheet, sums,
    rows, columns, first_row, row_step, tiles_a_step, mask_bytes, map_rows, sheet_size, all_rows,
    BEFORE: tl.constexpr, AFTER: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PACK: tl.constexpr,
):  # fmt: skip
    """One tile of ROWS x COLUMNS entries, all in one row of the density map. Programs: (tiles, matrices).

    `marks` counts changes by (map row, column). Without PACK, `exact` takes a byte an entry: 1 changed, 2 under
    Mukherjee's rule too.
    """
    tile, matrix = tl.program_id(0), tl.program_id(1).to(tl.int64)
    tiles_across = tl.cdiv(columns, COLUMNS)
    down, across = tile // tiles_across, tile % tiles_across
    map_row = first_row // row_step + down // tiles_a_step
    in_step = (down % tiles_a_step) * ROWS + tl.arange(0, ROWS)
    row = map_row * row_step - first_row + in_step
    column = across * COLUMNS + tl.arange(0, COLUMNS)
    is_row = (in_step < row_step) & (row >= 0) & (row < rows)
    here = is_row[:, None] & (column < columns)[None, :]
    at = matrix * rows * columns + row.to(tl.int64)[:, None] * columns + column[None, :]
    p = _bits(tl.load(before + at, mask=here, other=0), BEFORE)
    q = _bits(tl.load(after + at, mask=here, other=0), AFTER)

    x, y = _wide(p, BEFORE), _wide(q, AFTER)
    changed = _differ(p, q, x, y, BEFORE, AFTER)
    beyond = changed & (_within_mukherjee(x, y, BEFORE, AFTER) == 0)
    if BEFORE != _BF16 or AFTER != _BF16:  # rounding spoils what is not finite
        beyond = beyond | (changed & ((_is_finite(p, BEFORE) & _is_finite(q, AFTER)) == 0))

    counts = sheet + matrix * sheet_size
    stays = here & (changed == 0)
    kept = tl.where(stays, x, 0.0).to(tl.float64)
    square = tl.sum(tl.sum(kept * kept, axis=1), axis=0)
    if (square - square) != 0:  # something stayed that is not finite
        stays = stays & _is_finite(p, BEFORE)
        kept = tl.where(stays, x, 0.0).to(tl.float64)
        square = tl.sum(tl.sum(kept * kept, axis=1), axis=0)
        n_same = tl.sum(tl.sum((here & (changed == 0) & (stays == 0)).to(tl.int32), axis=1), axis=0)
        tl.atomic_add(counts + _SAME, n_same.to(tl.int64), sem="relaxed")
    of_program = sums + (matrix * tl.num_programs(0) + tile) * 2
    tl.store(of_program, square)
    tl.store(of_program + 1, tl.sum(tl.sum(kept, axis=1), axis=0))
    flat_stays = tl.reshape(stays, [ROWS * COLUMNS])
    binades = tl.histogram(tl.reshape(_binade_of(x), [ROWS * COLUMNS]), _BINADES, mask=flat_stays)
    _add(counts + _AT_BINADES, binades, _BINADES)

    both = tl.where(changed, tl.where(beyond, 0x10001, 1), 0)
    if PACK:
        byte = across * (COLUMNS // 8) + tl.arange(0, COLUMNS // 8)
        a_row = (columns + 7) // 8
        is_byte = is_row[:, None] & (byte < a_row)[None, :]
        to = matrix * mask_bytes + row.to(tl.int64)[:, None] * a_row + byte[None, :]
        eights = tl.reshape(both, [ROWS, COLUMNS // 8, 8]) << tl.arange(0, 8)[None, None, :]
        packed = tl.sum(eights, axis=2)
        tl.store(exact + to, (packed & 0xFF).to(tl.uint8), mask=is_byte)
        tl.store(loose + to, (packed >> 16).to(tl.uint8), mask=is_byte)
    else:
        tl.store(exact + at, ((both & 1) + (both >> 15)).to(tl.uint8), mask=here)

    ones = both & 1
    by_row, by_column = tl.sum(ones, axis=1), tl.sum(ones, axis=0)
    tl.atomic_add(row_changes + matrix * all_rows + row, by_row, mask=is_row & (by_row > 0), sem="relaxed")
    of_column = marks + (matrix * map_rows + map_row) * columns + column
    tl.atomic_add(of_column, by_column, mask=by_column > 0, sem="relaxed")

    n_changed = tl.sum(by_row, axis=0)
    if n_changed > 0:
        if pairs.dtype.element_ty == tl.int32:
            pair = (q << 16) | p
        else:
            pair = (q.to(tl.int64) << 32) | (p.to(tl.int64) & 0xFFFFFFFF)
        first = tl.atomic_add(n_pairs + matrix, n_changed.to(tl.int64), sem="relaxed")
        before_row = tl.cumsum(by_row, axis=0) - by_row
        place = tl.cumsum(ones, axis=1) + (before_row - 1)[:, None]
        tl.store(pairs + matrix * rows * columns + first + place, pair, mask=changed)


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
@triton.jit(do_not_specialize=("stride", "sheet_size", "joint_copies", "joint_size"))
def visit(
    pairs, n_pairs, sheet, sums, change_edges, relative_edges, stride, sheet_size, joint_copies, joint_size,
    BEFORE: tl.constexpr, AFTER: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The histograms and sums of the pairs in the list. Programs: (any number, matrices)."""
    program, matrix = tl.program_id(0), tl.program_id(1).to(tl.int64)
    counts = sheet + matrix * sheet_size
    joint = counts + _AT_JOINT + (program % joint_copies) * joint_size
    n = tl.load(n_pairs + matrix)
    relative = tl.zeros([_RELATIVE], tl.int32)
    rules = tl.zeros([_RULES], tl.int32)
    ulps = tl.zeros([_ULPS], tl.int32)
    flips, odd = tl.zeros([TILE], tl.int32), tl.zeros([TILE], tl.int32)
    largest = tl.zeros([TILE], tl.float32)
    s_b, s_a = tl.zeros([TILE], tl.float64), tl.zeros([TILE], tl.float64)
    s_u, s_abs = tl.zeros([TILE], tl.float64), tl.zeros([TILE], tl.float64)
    s_dot = tl.zeros([TILE], tl.float64)
    plain_b, plain_a = tl.zeros([TILE], tl.float64), tl.zeros([TILE], tl.float64)
    first = program.to(tl.int64) * TILE
    while first < n:
        i = first + tl.arange(0, TILE)
        here = i < n
        pair = tl.load(pairs + matrix * stride + i, mask=here, other=0)
        if pairs.dtype.element_ty == tl.int32:
            p, q = pair & 0xFFFF, (pair >> 16) & 0xFFFF
        else:
            p, q = pair.to(tl.int32), (pair >> 32).to(tl.int32)
        finite = _is_finite(p, BEFORE) & _is_finite(q, AFTER)
        odd += (here & (finite == 0)).to(tl.int32)
        here = here & finite
        x, y = tl.where(here, _wide(p, BEFORE), 0.0), tl.where(here, _wide(q, AFTER), 0.0)
        size, larger = tl.abs(y - x), tl.maximum(tl.abs(x), tl.abs(y))
        largest = tl.maximum(largest, size)

        binade = _binade_of(x)
        change = _bin_of(size, tl.log2(tl.maximum(size, _TINY)) * _A_DOUBLING + _FIRST_CHANGE, change_edges, _N_CHANGE)
        one = tl.full([TILE], 1, tl.int64)
        tl.atomic_add(joint + binade * _N_CHANGE + change, one, mask=here, sem="relaxed")
        ratio = size.to(tl.float64) / tl.where(here, larger, 1.0).to(tl.float64)
        guess = tl.log2(tl.maximum(ratio.to(tl.float32), _TINY)) * _A_DOUBLING + _FIRST_RELATIVE
        relative += tl.histogram(_bin_of(ratio, guess, relative_edges, _N_RELATIVE), _RELATIVE, mask=here)
        wide = size.to(tl.float64) * 1000 > larger.to(tl.float64)
        loose = _within_mukherjee(x, y, BEFORE, AFTER) == 0
        rules += tl.histogram(binade + wide.to(tl.int32) * 64 + loose.to(tl.int32) * 128, _RULES, mask=here)
        flipped = (x != 0) & (y != 0) & ((x < 0) != (y < 0))
        flips += flipped.to(tl.int32)
        if BEFORE == AFTER:
            no_sign = 0x7FFFFFFF if BEFORE > _F16 else 0x7FFF
            steps = tl.abs((q & no_sign) - (p & no_sign))
            doublings = ((steps - 1).to(tl.float64).to(tl.int64, bitcast=True) >> 52).to(tl.int32) - 1021
            bin_ = tl.where(steps <= 4, steps - 1, doublings)
            ulps += tl.histogram(bin_, _ULPS, mask=here & (flipped == 0))

        b, a = x.to(tl.float64), y.to(tl.float64)
        u = a - b
        s_b += b * b
        s_a += a * a
        s_u += u * u
        s_abs += tl.abs(u)
        s_dot += b * a
        plain_b += b
        plain_a += a
        first += tl.num_programs(0) * TILE
    _add(counts + _AT_RELATIVE, relative, _RELATIVE)
    _add(counts + _AT_RULES, rules, _RULES)
    _add(counts + _AT_ULPS, ulps, _ULPS)
    tl.atomic_add(counts + _ODD, tl.sum(odd, axis=0).to(tl.int64), sem="relaxed")
    tl.atomic_add(counts + _FLIPS, tl.sum(flips, axis=0).to(tl.int64), sem="relaxed")
    to = sums + (matrix * tl.num_programs(0) + program) * _N_SUMS
    tl.store(to, tl.sum(s_b, axis=0))
    tl.store(to + 1, tl.sum(s_a, axis=0))
    tl.store(to + 2, tl.sum(s_u, axis=0))
    tl.store(to + 3, tl.sum(s_abs, axis=0))
    tl.store(to + 4, tl.sum(s_dot, axis=0))
    tl.store(to + 5, tl.sum(plain_b, axis=0))
    tl.store(to + 6, tl.sum(plain_a, axis=0))
    tl.store(to + 7, tl.max(largest, axis=0).to(tl.float64))
