"""The launches of the pass on a GPU for any two types, in Triton; `triton_pass` starts them and knows what they fill.

`sweep` reads every entry once: masks, rows, columns, the sums and binades of entries that stayed; each pair of values
that differ it appends to a list. `visit` walks that list for the histograms, whose arithmetic is dear: a fifth of the
entries, typically. Where both sides are bfloat16, `triton_steps` makes a shorter list another way.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from analysis.elementwise.triton_bins import (
    AT_BINADES,
    AT_JOINT,
    AT_RELATIVE,
    AT_RULES,
    AT_ULPS,
    BF16,
    BINADES,
    F16,
    F32,
    N_CHANGE,
    N_SUMS,
    NONFINITE_CHANGED,
    NONFINITE_SAME,
    RELATIVE,
    RULES,
    SIGN_FLIPS,
    ULPS,
    add_counts,
    binade_of,
    change_bin,
    is_finite,
    ratio_bin,
    rule_bin,
    stored_bits,
    ulp_bin,
    wide,
    within_mukherjee,
)

# Of these Triton shall not ask whether they are 1, or multiples of 16: a new shape would be a new compilation.
_SIZES = ("rows", "first_row", "row_step", "tiles_a_step", "mask_bytes", "map_rows", "sheet_size", "all_rows")


@no_type_check
@triton.jit
def _wide_bits(bits, KIND: tl.constexpr):
    """The value's bits in float32. NaN by integers: GPUs turn every NaN into one when they widen float16."""
    if KIND == BF16:
        return bits << 16
    elif KIND == F16:
        digits = bits & 0x3FF
        odd = ((bits & 0x8000) << 16) | 0x7F800000 | (digits << 13) | tl.where(digits != 0, 0x400000, 0)
        return tl.where(is_finite(bits, KIND), wide(bits, KIND).to(tl.int32, bitcast=True), odd)
    else:
        return bits


@no_type_check
@triton.jit
def _differ(p, q, x, y, BEFORE: tl.constexpr, AFTER: tl.constexpr):
    """Whether the exact rule calls them changed: finite ones by value, others by their bits."""
    if BEFORE == AFTER and BEFORE != F16:
        no_sign = 0x7FFFFFFF if BEFORE == F32 else 0x7FFF
        return (p != q) & (((p | q) & no_sign) != 0)
    else:
        finite = is_finite(p, BEFORE) & is_finite(q, AFTER)
        return tl.where(finite, x != y, _wide_bits(p, BEFORE) != _wide_bits(q, AFTER))


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
    p = stored_bits(tl.load(before + at, mask=here, other=0), BEFORE)
    q = stored_bits(tl.load(after + at, mask=here, other=0), AFTER)

    x, y = wide(p, BEFORE), wide(q, AFTER)
    changed = _differ(p, q, x, y, BEFORE, AFTER)
    beyond = changed & (within_mukherjee(x, y, BEFORE, AFTER) == 0)
    if BEFORE != BF16 or AFTER != BF16:  # rounding spoils what is not finite
        beyond = beyond | (changed & ((is_finite(p, BEFORE) & is_finite(q, AFTER)) == 0))

    counts = sheet + matrix * sheet_size
    stays = here & (changed == 0)
    kept = tl.where(stays, x, 0.0).to(tl.float64)
    square = tl.sum(tl.sum(kept * kept, axis=1), axis=0)
    if (square - square) != 0:  # something stayed that is not finite
        stays = stays & is_finite(p, BEFORE)
        kept = tl.where(stays, x, 0.0).to(tl.float64)
        square = tl.sum(tl.sum(kept * kept, axis=1), axis=0)
        n_same = tl.sum(tl.sum((here & (changed == 0) & (stays == 0)).to(tl.int32), axis=1), axis=0)
        tl.atomic_add(counts + NONFINITE_SAME, n_same.to(tl.int64), sem="relaxed")
    of_program = sums + (matrix * tl.num_programs(0) + tile) * 2
    tl.store(of_program, square)
    tl.store(of_program + 1, tl.sum(tl.sum(kept, axis=1), axis=0))
    flat_stays = tl.reshape(stays, [ROWS * COLUMNS])
    binades = tl.histogram(tl.reshape(binade_of(x), [ROWS * COLUMNS]), BINADES, mask=flat_stays)
    add_counts(counts + AT_BINADES, binades, BINADES)

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
@triton.jit(do_not_specialize=("stride", "sheet_size", "joint_copies", "joint_size"))
def visit(
    pairs, n_pairs, sheet, sums, change_edges, relative_edges, stride, sheet_size, joint_copies, joint_size,
    BEFORE: tl.constexpr, AFTER: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The histograms and sums of the pairs in the list. Programs: (any number, matrices)."""
    program, matrix = tl.program_id(0), tl.program_id(1).to(tl.int64)
    counts = sheet + matrix * sheet_size
    joint = counts + AT_JOINT + (program % joint_copies) * joint_size
    n = tl.load(n_pairs + matrix)
    relative = tl.zeros([RELATIVE], tl.int32)
    rules = tl.zeros([RULES], tl.int32)
    ulps = tl.zeros([ULPS], tl.int32)
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
        finite = is_finite(p, BEFORE) & is_finite(q, AFTER)
        odd += (here & (finite == 0)).to(tl.int32)
        here = here & finite
        x, y = tl.where(here, wide(p, BEFORE), 0.0), tl.where(here, wide(q, AFTER), 0.0)
        size = tl.abs(y - x)
        largest = tl.maximum(largest, size)

        binade, larger = binade_of(x), tl.where(here, tl.maximum(tl.abs(x), tl.abs(y)), 1.0)
        one = tl.full([TILE], 1, tl.int64)
        at = binade * N_CHANGE + change_bin(size, change_edges)
        tl.atomic_add(joint + at, one, mask=here, sem="relaxed")
        relative += tl.histogram(ratio_bin(size, larger, relative_edges), RELATIVE, mask=here)
        rules += tl.histogram(rule_bin(binade, x, y, size, larger, BEFORE, AFTER), RULES, mask=here)
        flipped = (x != 0) & (y != 0) & ((x < 0) != (y < 0))
        flips += flipped.to(tl.int32)
        if BEFORE == AFTER:
            no_sign = 0x7FFFFFFF if BEFORE > F16 else 0x7FFF
            steps = tl.abs((q & no_sign) - (p & no_sign))
            ulps += tl.histogram(ulp_bin(steps), ULPS, mask=here & (flipped == 0))

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
    add_counts(counts + AT_RELATIVE, relative, RELATIVE)
    add_counts(counts + AT_RULES, rules, RULES)
    add_counts(counts + AT_ULPS, ulps, ULPS)
    tl.atomic_add(counts + NONFINITE_CHANGED, tl.sum(odd, axis=0).to(tl.int64), sem="relaxed")
    tl.atomic_add(counts + SIGN_FLIPS, tl.sum(flips, axis=0).to(tl.int64), sem="relaxed")
    to = sums + (matrix * tl.num_programs(0) + program) * N_SUMS
    tl.store(to, tl.sum(s_b, axis=0))
    tl.store(to + 1, tl.sum(s_a, axis=0))
    tl.store(to + 2, tl.sum(s_u, axis=0))
    tl.store(to + 3, tl.sum(s_abs, axis=0))
    tl.store(to + 4, tl.sum(s_dot, axis=0))
    tl.store(to + 5, tl.sum(plain_b, axis=0))
    tl.store(to + 6, tl.sum(plain_a, axis=0))
    tl.store(to + 7, tl.max(largest, axis=0).to(tl.float64))
