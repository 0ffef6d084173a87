"""The launches for a bfloat16 pair on a GPU, which count changed entries by the base's 16 bits and how many steps up.

`count_steps` reads every entry once. A changed entry is one increment in a table, as in `bf16_steps` on the CPU, which
`weigh` turns into histograms and sums at the end. Entries outside the table (a new sign, more steps, most that are not
finite) are bits of a third mask, of which `gather` makes the list that `visit` walks. A thread has eight entries of a
row at a time, a byte of each mask, so that hardly anything passes between threads.
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
    LARGEST_WITHIN,
    N_CHANGE,
    N_SUMS,
    NONFINITE_CHANGED,
    NONFINITE_SAME,
    add_counts,
    binade_of,
    change_bin,
    is_finite,
    ratio_bin,
    rule_bin,
    ulp_bin,
    wide,
)

ROWS, COLUMNS = 4, 256  # that a program takes at once: a row for each warp, eight entries for each thread
REGISTERS = 96  # of a thread, so that five programs fit a processor
TURNS = 28  # of a program at most, so that what a thread counts stays within a byte
# While entries are read they are counted by exponent, as stored, from 2^-25 to below 1: all but a few of a model's
# weights. The upper thirteen exponents are in one float64, the lower twelve in another.
FIRST_EXPONENT, N_EXPONENTS, FIELDS = 102, 25, 16
_ROWS, _COLUMNS, _GROUPS, _FIELDS = (tl.constexpr(n) for n in (ROWS, COLUMNS, COLUMNS // 8, FIELDS))
_LOWER, _UPPER, _N_EXPONENTS = (tl.constexpr(n) for n in (FIRST_EXPONENT, FIRST_EXPONENT + 12, N_EXPONENTS))

_SIZES = (
    "rows", "columns", "first_row", "first_map_row", "row_step", "strips_a_step", "strip_rows", "strip_groups",
    "odd_bytes", "map_rows", "all_rows", "sheet_size", "table_size", "farthest",
)  # fmt: skip


def field_of_exponent(i: int) -> tuple[int, int]:
    """(which of the FIELDS that a warp leaves, which half of it) counts the entries of FIRST_EXPONENT + i."""
    nibble, first = (i, 0) if i < 12 else (i - 12, 8)
    byte = nibble // 2
    return first + 4 * (nibble % 2) + 2 * (byte // 4) + byte % 2, byte % 4 // 2


@no_type_check
@triton.jit(do_not_specialize=_SIZES)
def count_steps(
    before, after, exact, loose, odd, row_changes, marks, table, fields, sheet, sums,
    rows, columns, first_row, first_map_row, row_step, strips_a_step, strip_rows, strip_groups, odd_bytes, map_rows,
    all_rows, sheet_size, table_size, farthest,
):  # fmt: skip
    """A strip of `strip_rows` rows and eight times `strip_groups` columns, in one row of the density map. Programs:
    (strips, across, matrices). Both sides as words of two entries; columns are a multiple of 8. `farthest`: the most
    steps of the table, times 65536."""
    strip, across, matrix = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    map_row, in_step = first_map_row + strip // strips_a_step, (strip % strips_a_step) * strip_rows
    start = map_row * row_step - first_row + in_step
    last = tl.minimum(start + tl.minimum(strip_rows, row_step - in_step), rows)
    start = tl.maximum(start, 0)
    lane = tl.arange(0, _GROUPS)[None, :]
    a_row = columns // 8
    of_matrix = matrix * rows * a_row
    to_odd = matrix * (odd_bytes - rows * a_row)
    of_map_row = marks + (matrix * map_rows + map_row) * columns
    cells = table + matrix * table_size
    square, plain = tl.zeros([_ROWS, _GROUPS], tl.float64), tl.zeros([_ROWS, _GROUPS], tl.float64)
    lower_even, lower_odd = tl.zeros([_ROWS, _GROUPS], tl.int64), tl.zeros([_ROWS, _GROUPS], tl.int64)
    upper_even, upper_odd = tl.zeros([_ROWS, _GROUPS], tl.int64), tl.zeros([_ROWS, _GROUPS], tl.int64)
    largest, uncounted = tl.zeros([_ROWS, _GROUPS], tl.int32), tl.zeros([_ROWS, _GROUPS], tl.int32)
    left_edge = across * strip_groups
    right_edge = tl.minimum(left_edge + strip_groups, a_row)
    first = left_edge
    while first < right_edge:
        is_group = first + lane < right_edge
        row = start + tl.arange(0, _ROWS)[:, None] + tl.zeros([_ROWS, _GROUPS], tl.int32)
        at = of_matrix + row.to(tl.int64) * a_row + first + lane
        to_row = row_changes + matrix * all_rows + row + lane  # of which the first lane's is used
        low, high = tl.zeros([_ROWS, _GROUPS], tl.int32), tl.zeros([_ROWS, _GROUPS], tl.int32)  # changes of 4 columns
        top = start
        while top < last:
            here = (row < last) & is_group
            p0, p1, p2, p3 = _eight(before + at * 4, here)
            q0, q1, q2, q3 = _eight(after + at * 4, here)
            bits = tl.zeros([_ROWS, _GROUPS], tl.int32)  # a byte each: exact, loose, odd, and how many changed
            upper, lower = _no_powers(_UPPER), _no_powers(_LOWER)
            for k in tl.static_range(8):
                p, q = (p0, p1, p2, p3)[k // 2], (q0, q1, q2, q3)[k // 2]
                if k % 2 == 0:
                    base, b, a = p & 0xFFFF, p << 16, q << 16
                else:
                    base, b, a = (p >> 16) & 0xFFFF, p & -65536, q & -65536
                x, changed, beyond, near, cell = _compared(base, b, a, farthest)
                tl.atomic_add(cells + cell, 1, mask=near, sem="relaxed")
                flags = tl.where(beyond, (0x10101 << k) + (1 << 24), (0x10001 << k) + (1 << 24))
                bits += tl.where(changed, flags, 0)
                bits -= tl.where(near, 0x10000 << k, 0)

                kept = tl.where(changed, 0.0, x)
                value = kept.to(tl.float64)
                square += value * value
                plain += value
                power = (kept.to(tl.int32, bitcast=True) >> 1) & 0x3FC00000  # the exponent, four times
                upper += _as_float64(power)
                lower += _as_float64(tl.minimum(power, _UPPER << 22))
            tl.store(exact + at, (bits & 0xFF).to(tl.uint8), mask=here)
            tl.store(loose + at, ((bits >> 8) & 0xFF).to(tl.uint8), mask=here)
            tl.store(odd + to_odd + at, ((bits >> 16) & 0xFF).to(tl.uint8), mask=here)

            n_changed = bits >> 24
            by_row = tl.sum(n_changed, axis=1)[:, None]
            tl.atomic_add(to_row, by_row, mask=(lane == 0) & (by_row > 0), sem="relaxed")
            low += ((bits & 0xF) * 0x204081) & 0x01010101  # each bit goes to a byte of its own
            high += (((bits >> 4) & 0xF) * 0x204081) & 0x01010101
            uncounted += tl.where(here, 8 - n_changed, 0)
            counts = upper.to(tl.int64, bitcast=True)
            largest = tl.maximum(largest, (counts >> 32).to(tl.int32))
            upper_even += counts & 0x000F0F0F0F0F0F0F
            upper_odd += (counts >> 4) & 0x00000F0F0F0F0F0F
            counts = lower.to(tl.int64, bitcast=True)
            lower_even += counts & 0x00000F0F0F0F0F0F
            lower_odd += (counts >> 4) & 0x00000F0F0F0F0F0F
            top += _ROWS
            row += _ROWS
            at += _ROWS * a_row
            to_row += _ROWS
        at_marks = of_map_row + 8 * (first + tl.arange(0, _GROUPS))[:, None] + tl.arange(0, 4)[None, :]
        in_row = (first + tl.arange(0, _GROUPS) < right_edge)[:, None]
        _mark(at_marks, tl.sum(low, axis=0), in_row)
        _mark(at_marks + 4, tl.sum(high, axis=0), in_row)
        first += _GROUPS

    left, right = tl.sum(square, axis=1)[:, None], tl.sum(plain, axis=1)[:, None]
    counted, found = _fields(lane, lower_even, lower_odd, upper_even, upper_odd)
    missing = tl.sum(uncounted, axis=1)[:, None] - found
    overflown = tl.max(tl.max(largest, axis=1), axis=0) >> 20 > 4 * _UPPER + 52
    if overflown | (tl.max(tl.max(missing, axis=1), axis=0) > 0):
        n_known = tl.where(overflown, 0, _N_EXPONENTS)
        counted = tl.where(overflown, 0, counted)
        of_sheet = sheet + matrix * sheet_size
        left, right = _look_again(
            before, after, of_sheet, of_matrix, a_row, left_edge, right_edge, start, last, n_known
        )
    program = (matrix * tl.num_programs(0) + strip) * tl.num_programs(1) + across
    warp = program * _ROWS + tl.arange(0, _ROWS)[:, None]
    tl.store(fields + warp * _FIELDS + lane, counted, mask=lane < _FIELDS)
    tl.store(sums + warp * 2 + lane, tl.where(lane == 0, left, right), mask=lane < 2)


@no_type_check
@triton.jit
def _eight(at, here):
    """Eight entries side by side, two in each of four words."""
    words = tl.load(at[:, :, None] + tl.arange(0, 4)[None, None, :], mask=here[:, :, None], other=0)
    even, odd = tl.split(tl.reshape(words, [_ROWS, _GROUPS, 2, 2]))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@no_type_check
@triton.jit
def _compared(base, b, a, farthest):
    """The value before; whether it changed, and if so, beyond Mukherjee's rule, within the table; to which of its cells
    it belongs."""
    x = b.to(tl.float32, bitcast=True)
    delta = a.to(tl.float32, bitcast=True) - x
    changed = (b != a) & (delta != 0)  # -0.0 is 0.0; what is not finite differs by its bits, and by no number
    beyond = (tl.abs(delta) <= LARGEST_WITHIN) == 0
    moved = a - b + farthest  # up from the table's first row, times 65536
    near = changed & (moved.to(tl.uint32, bitcast=True) <= (2 * farthest).to(tl.uint32, bitcast=True))
    return x, changed, beyond, near, moved | base


@no_type_check
@triton.jit
def _as_float64(high):
    """The float64 of these upper 32 bits."""
    return (high.to(tl.int64) << 32).to(tl.float64, bitcast=True)


@no_type_check
@triton.jit
def _no_powers(exponent):
    """A float64 whose last bit is 2 ** (4 * exponent - 1023), the power of an entry with this exponent. What is added
    to it counts in the four bits of its own exponent, up to 15 times; anything smaller is lost, and nothing else is."""
    return _as_float64(tl.full([_ROWS, _GROUPS], (4 * exponent + 52) << 20, tl.int32))


@no_type_check
@triton.jit
def _mark(to, packed, is_group):
    """Adds the four counts in each number's bytes."""
    each = (packed[:, None] >> (8 * tl.arange(0, 4))[None, :]) & 0xFF
    tl.atomic_add(to, each, mask=is_group & (each > 0), sem="relaxed")


@no_type_check
@triton.jit
def _fields(lane, lower_even, lower_odd, upper_even, upper_odd):
    """What the bytes of all four add up to over a row, as FIELDS numbers of two counts, a lane each; and in total."""
    fields, total = tl.zeros([_ROWS, _GROUPS], tl.int32), tl.zeros([_ROWS, 1], tl.int32)
    for k in tl.static_range(_FIELDS):
        half = ((lower_even, lower_odd, upper_even, upper_odd)[k // 4] >> (32 * (k // 2 % 2))).to(tl.int32)
        pair = tl.sum((half >> (8 * (k % 2))) & 0xFF00FF, axis=1)[:, None]
        fields = tl.where(lane == k, pair, fields)
        total += (pair & 0xFFFF) + (pair >> 16)
    return fields, total


@no_type_check
@triton.jit
def _look_again(before, after, counts, of_matrix, a_row, left_edge, right_edge, start, last, n_known):
    """The sums, by row of warps, of what stayed of a strip with numbers that are not finite, zeros, or unusual
    exponents: all but `n_known` of them are counted now, straight in the sheet."""
    square, plain = tl.zeros([_ROWS, _GROUPS, 4], tl.float64), tl.zeros([_ROWS, _GROUPS, 4], tl.float64)
    binades, same = tl.zeros([BINADES], tl.int32), tl.zeros([_ROWS, _GROUPS, 4], tl.int32)
    width = (right_edge - left_edge + _GROUPS - 1) // _GROUPS
    for turn in range((last - start + _ROWS - 1) // _ROWS * width * 2):
        shift, block = turn % 2 * 16, turn // 2
        row = start + block // width * _ROWS + tl.arange(0, _ROWS)[:, None, None]
        group = left_edge + block % width * _GROUPS + tl.arange(0, _GROUPS)[None, :, None]
        here = (row < last) & (group < right_edge)
        word = (of_matrix + row.to(tl.int64) * a_row + group) * 4 + tl.arange(0, 4)[None, None, :]
        p = (tl.load(before + word, mask=here, other=0) >> shift) & 0xFFFF
        q = (tl.load(after + word, mask=here, other=0) >> shift) & 0xFFFF
        stays = here & ((p == q) | (((p | q) & 0x7FFF) == 0))
        same += (stays & (is_finite(p, BF16) == 0)).to(tl.int32)
        stays = stays & is_finite(p, BF16)
        x = tl.where(stays, wide(p, BF16), 0.0)
        value = x.to(tl.float64)
        square += value * value
        plain += value
        exponent = ((p >> 7) & 0xFF) - _LOWER
        unknown = tl.reshape(stays & ((exponent < 0) | (exponent >= n_known)), [4 * _ROWS * _GROUPS])
        if tl.max(unknown.to(tl.int32), axis=0) > 0:
            binades += tl.histogram(tl.reshape(binade_of(x), [4 * _ROWS * _GROUPS]), BINADES, mask=unknown)
    add_counts(counts + AT_BINADES, binades, BINADES)
    n_same = tl.sum(tl.sum(tl.sum(same, axis=2), axis=1), axis=0)
    tl.atomic_add(counts + NONFINITE_SAME, n_same.to(tl.int64), sem="relaxed")
    return tl.sum(tl.sum(square, axis=2), axis=1)[:, None], tl.sum(tl.sum(plain, axis=2), axis=1)[:, None]


@no_type_check
@triton.jit(do_not_specialize=("n_words", "stride"))
def gather(before, after, odd, pairs, n_pairs, n_words, stride, TILE: tl.constexpr):
    """Appends the pairs whose bits are set in `odd`, words of 32 bits, to the list. Programs: (tiles, matrices)."""
    word, matrix = tl.program_id(0) * TILE + tl.arange(0, TILE), tl.program_id(1).to(tl.int64)
    left = tl.load(odd + matrix * n_words + word, mask=word < n_words, other=0)
    n = left - ((left >> 1) & 0x55555555)
    n = (n & 0x33333333) + ((n >> 2) & 0x33333333)
    n = ((((n + (n >> 4)) & 0x0F0F0F0F) * 0x01010101) >> 24) & 0xFF
    n_here = tl.sum(n, axis=0)
    if n_here > 0:
        first = tl.atomic_add(n_pairs + matrix, n_here.to(tl.int64), sem="relaxed")
        to = pairs + matrix * stride + first + (tl.cumsum(n, axis=0) - n)
        while tl.max((left != 0).to(tl.int32), axis=0) > 0:
            lowest = (left & -left).to(tl.uint32, bitcast=True).to(tl.float32).to(tl.int32, bitcast=True)
            at = matrix * stride + word.to(tl.int64) * 32 + ((lowest >> 23) - 127)
            p = tl.load(before + at, mask=left != 0, other=0).to(tl.int32) & 0xFFFF
            q = tl.load(after + at, mask=left != 0, other=0).to(tl.int32)
            tl.store(to, (q << 16) | p, mask=left != 0)
            left &= left - 1
            to += 1


@no_type_check
@triton.jit(do_not_specialize=("sheet_size", "table_size", "reach", "joint_copies", "joint_size"))
def weigh(
    table, sheet, sums, change_edges, relative_edges, sheet_size, table_size, reach, joint_copies, joint_size,
    TILE: tl.constexpr,
):  # fmt: skip
    """The histograms and sums of what is in the table: cells of one number of steps. Programs: (tiles, matrices)."""
    program, matrix = tl.program_id(0), tl.program_id(1).to(tl.int64)
    cell = program * TILE + tl.arange(0, TILE)
    times = tl.load(table + matrix * table_size + cell, mask=cell < table_size, other=0)
    if tl.max(times, axis=0) > 0:
        counts = sheet + matrix * sheet_size
        p, step = cell & 0xFFFF, (cell >> 16) - reach
        q = (p + step) & 0xFFFF
        finite = is_finite(p, BF16) & is_finite(q, BF16)
        odd = tl.sum(tl.where(finite, 0, times).to(tl.int64), axis=0)
        tl.atomic_add(counts + NONFINITE_CHANGED, odd, mask=odd > 0, sem="relaxed")
        here = finite & (times > 0)
        x, y = tl.where(here, wide(p, BF16), 0.0), tl.where(here, wide(q, BF16), 0.0)
        n = tl.where(here, times, 0).to(tl.int64)
        size, larger = tl.abs(y - x), tl.where(here, tl.maximum(tl.abs(x), tl.abs(y)), 1.0)

        binade = binade_of(x)
        joint = counts + AT_JOINT + (program % joint_copies) * joint_size
        tl.atomic_add(joint + binade * N_CHANGE + change_bin(size, change_edges), n, mask=here, sem="relaxed")
        to = counts + AT_RELATIVE + ratio_bin(size, larger, relative_edges)
        tl.atomic_add(to, n, mask=here, sem="relaxed")
        to = counts + AT_RULES + rule_bin(binade, x, y, size, larger, BF16, BF16)
        tl.atomic_add(to, n, mask=here, sem="relaxed")
        steps = tl.abs(((program * TILE) >> 16) - reach)  # of all: a tile lies in one row of the table
        tl.atomic_add(counts + AT_ULPS + ulp_bin(steps), tl.sum(n, axis=0), sem="relaxed")

        b, a, many = x.to(tl.float64), y.to(tl.float64), n.to(tl.float64)
        u = a - b
        to = sums + (matrix * tl.num_programs(0) + program) * N_SUMS
        tl.store(to, tl.sum(many * b * b, axis=0))
        tl.store(to + 1, tl.sum(many * a * a, axis=0))
        tl.store(to + 2, tl.sum(many * u * u, axis=0))
        tl.store(to + 3, tl.sum(many * tl.abs(u), axis=0))
        tl.store(to + 4, tl.sum(many * b * a, axis=0))
        tl.store(to + 5, tl.sum(many * b, axis=0))
        tl.store(to + 6, tl.sum(many * a, axis=0))
        tl.store(to + 7, tl.max(size, axis=0).to(tl.float64))
