"""One sweep over a stretch of a bfloat16 pair by vector instructions: masks, changes by column, sums of what stayed,
and the changed entries side by side.

Written as LLVM's own vectors, as in `analysis/vectors.py`, for the same reason. A compare of 32 entries is 32 bits of a
mask; with AVX-512 the same bits pick the changed entries out of the vector, elsewhere they are picked one by one.
All functions take addresses of memory that is large enough for whole chunks, and check nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from analysis.elementwise.chunks import (
    BIT,
    BYTE,
    CHUNK,
    FAST,
    INT,
    LONG,
    SHORT,
    all_of,
    interleaved,
    lanes,
    larger,
    load,
    long,
    reduced,
    store,
    variable,
    vector,
)

_SUMMED = 16  # float64 numbers of a running sum


class Sides(NamedTuple):
    """A chunk of both sides, and what `_compare` makes of it."""

    before: Any  # 32 x i16
    after: Any
    wide_before: Any  # 32 x i32, the bits of float32 numbers
    moved: Any  # 32 x i1
    loose: Any


def sweep(largest_within: int) -> Any:
    """sweep(left, right, n_chunks, marks, exact, loose, exponents, pairs, sums, largest) -> number of changed entries.

    Adds the changes to `marks` (uint16, a column each) and the sums of squares and of values of unchanged entries to
    `sums` (2 float64). Writes both masks (32 bits a chunk; Mukherjee's are differences of more than the float32 of bits
    `largest_within`); the base's exponents, a byte an entry, where 0 is a zero and 1 any number below the normal ones;
    the changed entries' bits (uint32, the tuned side's 16 above the base's; up to CHUNK more than there are); and the
    `largest` bits without sign (one uint16) of either side.

    Where it cannot pick changed entries out of a vector, `pairs` is left alone."""

    def written(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        left, right, n, marks, exact, loose, exponents, pairs, sums, largest = arguments
        picks = picks_from_vectors(context)
        n_moved = variable(builder, LONG)
        total = [variable(builder, vector(ir.DoubleType(), _SUMMED)) for _ in range(2)]
        greatest = variable(builder, vector(SHORT))
        with cgutils.for_range(builder, n, intp=LONG) as loop:
            two_bytes = builder.mul(loop.index, long(2 * CHUNK))
            sides = _compare(
                builder,
                load(builder, builder.add(left, two_bytes), vector(SHORT)),
                load(builder, builder.add(right, two_bytes), vector(SHORT)),
                largest_within,
            )
            words = builder.mul(loop.index, long(CHUNK // 8))
            store(builder, builder.bitcast(sides.moved, INT), builder.add(exact, words))
            store(builder, builder.bitcast(sides.loose, INT), builder.add(loose, words))
            place = builder.add(marks, two_bytes)
            marked = builder.sub(load(builder, place, vector(SHORT)), builder.sext(sides.moved, vector(SHORT)))
            store(builder, marked, place)
            sizes = [builder.and_(side, all_of(SHORT, 0x7FFF)) for side in (sides.before, sides.after)]
            store(builder, _exponents(builder, sizes[0]), builder.add(exponents, builder.mul(loop.index, long(CHUNK))))
            for size in sizes:
                builder.store(larger(builder, size, builder.load(greatest)), greatest)
            _add_unchanged(builder, total, sides)
            if picks:
                _pick(builder, sides, pairs, n_moved)
            if not picks:
                count = builder.zext(builder.ctpop(builder.bitcast(sides.moved, INT)), LONG)
                builder.store(builder.add(builder.load(n_moved), count), n_moved)
        store(builder, reduced(builder, "umax", builder.load(greatest)), largest)
        for k, each in enumerate(total):
            place = builder.add(sums, long(8 * k))
            store(builder, reduced(builder, "fadd", builder.load(each), load(builder, place, ir.DoubleType())), place)
        return builder.load(n_moved)

    @intrinsic
    def swept(
        _: Any, _left: Any, _right: Any, _n: Any, _marks: Any, _exact: Any, _loose: Any, _exponents: Any, _pairs: Any,
        _sums: Any, _largest: Any,
    ) -> Any:  # fmt: skip
        return types.int64(*[types.intp] * 10), written

    return swept


def place(farthest: int) -> Any:
    """place(pairs, n_chunks, index, beyond, reach): of each of `pairs`, as `sweep` leaves them, how many steps it moved
    plus `farthest`, above the base's 16 bits.

    What moved farther, or has another sign, gets 2 * `farthest` + 1, and its bit in `beyond` (32 a chunk). `reach` (3
    uint32): the most steps in either direction, the smallest and the largest size of the base, as bits without sign."""

    def written(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pairs, n, index, beyond, reach = arguments
        most, largest = variable(builder, vector(INT)), variable(builder, vector(INT))
        smallest = cgutils.alloca_once_value(builder, all_of(INT, 0x7FFF))
        with cgutils.for_range(builder, n, intp=LONG) as loop:
            offset = builder.mul(loop.index, long(4 * CHUNK))
            both = load(builder, builder.add(pairs, offset), vector(INT))
            before, after = builder.and_(both, all_of(INT, 0xFFFF)), builder.lshr(both, all_of(INT, 16))
            moved = builder.add(builder.sub(after, before), all_of(INT, farthest))
            other_sign = builder.and_(builder.xor(before, after), all_of(INT, 0x8000))
            moved = larger(builder, builder.and_(moved, all_of(INT, 0xFFFF)), other_sign)
            is_beyond = builder.icmp_unsigned(">", moved, all_of(INT, 2 * farthest))
            store(builder, builder.bitcast(is_beyond, INT), builder.add(beyond, builder.mul(loop.index, long(4))))
            moved = builder.select(is_beyond, all_of(INT, 2 * farthest + 1), moved)
            row = builder.shl(moved, all_of(INT, 16))
            store(builder, builder.or_(row, before), builder.add(index, offset))
            none = all_of(INT, farthest)
            steps = builder.select(is_beyond, none, moved)
            up, down = builder.sub(steps, none), builder.sub(none, steps)
            size = builder.and_(before, all_of(INT, 0x7FFF))
            for found, value in ((most, larger(builder, up, down, signed=True)), (largest, size)):
                builder.store(larger(builder, value, builder.load(found)), found)
            least = builder.load(smallest)
            builder.store(builder.select(builder.icmp_unsigned("<", size, least), size, least), smallest)
        for k, (by, found) in enumerate((("umax", most), ("umin", smallest), ("umax", largest))):
            store(builder, reduced(builder, by, builder.load(found)), builder.add(reach, long(4 * k)))
        return context.get_dummy_value()

    @intrinsic
    def placed(_: Any, _pairs: Any, _n: Any, _index: Any, _beyond: Any, _reach: Any) -> Any:
        return types.void(*[types.intp] * 5), written

    return placed


@intrinsic
def vectors_pick(_: Any) -> Any:
    """Whether `sweep` fills `pairs` on this machine."""
    return types.boolean(), lambda context, *_: ir.Constant(BIT, int(picks_from_vectors(context)))


def picks_from_vectors(context: Any) -> bool:
    """Whether the machine that is compiled for has an instruction that moves the chosen lanes together."""
    _, _, features = context.codegen().magic_tuple()
    return "+avx512f" in features.split(",")


def _compare(builder: Any, before: Any, after: Any, largest_within: int) -> Sides:
    nothing = ir.Constant(vector(SHORT), None)
    wide_before, wide_after = (interleaved(builder, nothing, side) for side in (before, after))
    either = builder.and_(builder.or_(before, after), all_of(SHORT, 0x7FFF))
    some = builder.icmp_unsigned("!=", either, all_of(SHORT, 0))
    moved = builder.and_(builder.icmp_unsigned("!=", before, after), some)
    floats = [builder.bitcast(side, vector(ir.FloatType())) for side in (wide_before, wide_after)]
    update = builder.bitcast(builder.fsub(floats[1], floats[0]), vector(INT))
    size = builder.and_(update, all_of(INT, 0x7FFFFFFF))
    loose = builder.and_(moved, builder.icmp_unsigned(">", size, all_of(INT, largest_within)))
    return Sides(before, after, wide_before, moved, loose)


def _exponents(builder: Any, size: Any) -> Any:
    at_least_1 = larger(builder, builder.lshr(size, all_of(SHORT, 7)), all_of(SHORT, 1))
    is_zero = builder.icmp_unsigned("==", size, all_of(SHORT, 0))
    return builder.trunc(builder.select(is_zero, all_of(SHORT, 0), at_least_1), vector(BYTE))


def _add_unchanged(builder: Any, total: list[Any], sides: Sides) -> None:
    kept = builder.select(sides.moved, ir.Constant(vector(INT), None), sides.wide_before)
    squares, plain = (builder.load(each) for each in total)
    for first in range(0, CHUNK, _SUMMED):
        bits = lanes(builder, kept, first, _SUMMED)
        value = builder.fpext(builder.bitcast(bits, vector(ir.FloatType(), _SUMMED)), vector(ir.DoubleType(), _SUMMED))
        squares = builder.fadd(squares, builder.fmul(value, value, flags=FAST), flags=FAST)
        plain = builder.fadd(plain, value, flags=FAST)
    builder.store(squares, total[0])
    builder.store(plain, total[1])


def _pick(builder: Any, sides: Sides, pairs: Any, n_moved: Any) -> None:
    """Appends the changed entries' pairs of bits; each store writes a whole vector, and the next one over its end."""
    both = interleaved(builder, sides.before, sides.after)
    half = vector(INT, 16)
    kind = ir.FunctionType(half, [half, half, vector(BIT, 16)])
    compress = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.mask.compress.v16i32")
    for first in range(0, CHUNK, 16):
        chosen = lanes(builder, sides.moved, first, 16)
        together = builder.call(compress, [lanes(builder, both, first, 16), ir.Constant(half, None), chosen])
        found = builder.load(n_moved)
        store(builder, together, builder.add(pairs, builder.mul(found, long(4))))
        count = builder.ctpop(builder.bitcast(chosen, SHORT))
        builder.store(builder.add(found, builder.zext(count, LONG)), n_moved)
