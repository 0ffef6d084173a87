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

CHUNK = 32  # entries at once; stretches are filled up to a multiple of it
COUNTED = 64  # bytes that `count_equal` takes at once

_BIT, _BYTE, _SHORT, _INT, _LONG = (ir.IntType(width) for width in (1, 8, 16, 32, 64))
_SUMMED = 16  # float64 numbers of a running sum
_FAST = ("reassoc", "contract", "nsz")


class Sides(NamedTuple):
    """A chunk of both sides, and what `_compare` makes of it."""

    before: Any  # 32 x i16
    after: Any
    wide_before: Any  # 32 x i32, the bits of float32 numbers
    wide_after: Any
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
        n_moved = _variable(builder, _LONG)
        total = [_variable(builder, _vector(ir.DoubleType(), _SUMMED)) for _ in range(2)]
        greatest = _variable(builder, _vector(_SHORT))
        with cgutils.for_range(builder, n, intp=_LONG) as loop:
            two_bytes = builder.mul(loop.index, _long(2 * CHUNK))
            sides = _compare(
                builder,
                _load(builder, builder.add(left, two_bytes), _vector(_SHORT)),
                _load(builder, builder.add(right, two_bytes), _vector(_SHORT)),
                largest_within,
            )
            words = builder.mul(loop.index, _long(CHUNK // 8))
            _store(builder, builder.bitcast(sides.moved, _INT), builder.add(exact, words))
            _store(builder, builder.bitcast(sides.loose, _INT), builder.add(loose, words))
            place = builder.add(marks, two_bytes)
            counted = builder.sub(_load(builder, place, _vector(_SHORT)), builder.sext(sides.moved, _vector(_SHORT)))
            _store(builder, counted, place)
            sizes = [builder.and_(side, _all(_SHORT, 0x7FFF)) for side in (sides.before, sides.after)]
            _store(
                builder, _exponents(builder, sizes[0]), builder.add(exponents, builder.mul(loop.index, _long(CHUNK)))
            )
            for size in sizes:
                builder.store(_larger(builder, size, builder.load(greatest)), greatest)
            _add_unchanged(builder, total, sides)
            if picks:
                _pick(builder, sides, pairs, n_moved)
            if not picks:
                count = builder.zext(builder.ctpop(builder.bitcast(sides.moved, _INT)), _LONG)
                builder.store(builder.add(builder.load(n_moved), count), n_moved)
        _store(builder, _reduced(builder, "umax", builder.load(greatest)), largest)
        for k, each in enumerate(total):
            place = builder.add(sums, _long(8 * k))
            _store(
                builder, _reduced(builder, "fadd", builder.load(each), _load(builder, place, ir.DoubleType())), place
            )
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
        most, largest = _variable(builder, _vector(_INT)), _variable(builder, _vector(_INT))
        smallest = cgutils.alloca_once_value(builder, _all(_INT, 0x7FFF))
        with cgutils.for_range(builder, n, intp=_LONG) as loop:
            offset = builder.mul(loop.index, _long(4 * CHUNK))
            both = _load(builder, builder.add(pairs, offset), _vector(_INT))
            before, after = builder.and_(both, _all(_INT, 0xFFFF)), builder.lshr(both, _all(_INT, 16))
            moved = builder.add(builder.sub(after, before), _all(_INT, farthest))
            other_sign = builder.and_(builder.xor(before, after), _all(_INT, 0x8000))
            moved = _larger(builder, builder.and_(moved, _all(_INT, 0xFFFF)), other_sign)
            is_beyond = builder.icmp_unsigned(">", moved, _all(_INT, 2 * farthest))
            _store(builder, builder.bitcast(is_beyond, _INT), builder.add(beyond, builder.mul(loop.index, _long(4))))
            moved = builder.select(is_beyond, _all(_INT, 2 * farthest + 1), moved)
            row = builder.shl(moved, _all(_INT, 16))
            _store(builder, builder.or_(row, before), builder.add(index, offset))
            steps = builder.select(is_beyond, _all(_INT, farthest), moved)
            up, down = (builder.sub(*sides) for sides in ((steps, _all(_INT, farthest)), (_all(_INT, farthest), steps)))
            size = builder.and_(before, _all(_INT, 0x7FFF))
            for found, value in ((most, _larger(builder, up, down, signed=True)), (largest, size)):
                builder.store(_larger(builder, value, builder.load(found)), found)
            least = builder.load(smallest)
            builder.store(builder.select(builder.icmp_unsigned("<", size, least), size, least), smallest)
        for k, (by, found) in enumerate((("umax", most), ("umin", smallest), ("umax", largest))):
            _store(builder, _reduced(builder, by, builder.load(found)), builder.add(reach, _long(4 * k)))
        return context.get_dummy_value()

    @intrinsic
    def placed(_: Any, _pairs: Any, _n: Any, _index: Any, _beyond: Any, _reach: Any) -> Any:
        return types.void(*[types.intp] * 5), written

    return placed


@intrinsic
def count_equal(_: Any, _bytes: Any, _n: Any, _value: Any) -> Any:
    """How many of n * COUNTED bytes have this value."""

    def written(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        address, n, value = arguments
        found = _variable(builder, _LONG)
        wanted = _splat(builder, builder.trunc(value, _BYTE), COUNTED)
        with cgutils.for_range(builder, n, intp=_LONG) as loop:
            values = _load(builder, builder.add(address, builder.mul(loop.index, _long(COUNTED))), wanted.type)
            bits = builder.bitcast(builder.icmp_unsigned("==", values, wanted), ir.IntType(COUNTED))
            builder.store(builder.add(builder.load(found), builder.ctpop(bits)), found)
        return builder.load(found)

    return types.int64(types.intp, types.intp, types.intp), written


@intrinsic
def vectors_pick(_: Any) -> Any:
    """Whether `sweep` fills `pairs` on this machine."""
    return types.boolean(), lambda context, *_: ir.Constant(_BIT, int(picks_from_vectors(context)))


def picks_from_vectors(context: Any) -> bool:
    """Whether the machine that is compiled for has an instruction that moves the chosen lanes together."""
    _, _, features = context.codegen().magic_tuple()
    return "+avx512f" in features.split(",")


def _compare(builder: Any, before: Any, after: Any, largest_within: int) -> Sides:
    wide = [builder.zext(side, _vector(_INT)) for side in (before, after)]
    wide_before, wide_after = (builder.shl(side, _all(_INT, 16)) for side in wide)
    some = builder.icmp_unsigned("!=", builder.and_(builder.or_(before, after), _all(_SHORT, 0x7FFF)), _all(_SHORT, 0))
    moved = builder.and_(builder.icmp_unsigned("!=", before, after), some)
    floats = [builder.bitcast(side, _vector(ir.FloatType())) for side in (wide_before, wide_after)]
    update = builder.bitcast(builder.fsub(floats[1], floats[0]), _vector(_INT))
    size = builder.and_(update, _all(_INT, 0x7FFFFFFF))
    loose = builder.and_(moved, builder.icmp_unsigned(">", size, _all(_INT, largest_within)))
    return Sides(before, after, wide_before, wide_after, moved, loose)


def _exponents(builder: Any, size: Any) -> Any:
    one = _all(_SHORT, 1)
    at_least = builder.select(builder.icmp_unsigned("<", size, one), size, one)
    return builder.trunc(_larger(builder, builder.lshr(size, _all(_SHORT, 7)), at_least), _vector(_BYTE))


def _larger(builder: Any, one: Any, other: Any, *, signed: bool = False) -> Any:
    compare = builder.icmp_signed if signed else builder.icmp_unsigned
    return builder.select(compare(">", one, other), one, other)


def _add_unchanged(builder: Any, total: list[Any], sides: Sides) -> None:
    kept = builder.select(sides.moved, ir.Constant(_vector(_INT), None), sides.wide_before)
    squares, plain = (builder.load(each) for each in total)
    for first in range(0, CHUNK, _SUMMED):
        bits = _lanes(builder, kept, first, _SUMMED)
        value = builder.fpext(
            builder.bitcast(bits, _vector(ir.FloatType(), _SUMMED)), _vector(ir.DoubleType(), _SUMMED)
        )
        squares = builder.fadd(squares, builder.fmul(value, value, _FAST), _FAST)
        plain = builder.fadd(plain, value, _FAST)
    builder.store(squares, total[0])
    builder.store(plain, total[1])


def _pick(builder: Any, sides: Sides, pairs: Any, n_moved: Any) -> None:
    """Appends the changed entries' pairs of bits; each store writes a whole vector, and the next one over its end."""
    both = builder.or_(sides.wide_after, builder.zext(sides.before, _vector(_INT)))
    vector = _vector(_INT, 16)
    kind = ir.FunctionType(vector, [vector, vector, _vector(_BIT, 16)])
    compress = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.mask.compress.v16i32")
    for first in range(0, CHUNK, 16):
        chosen = _lanes(builder, sides.moved, first, 16)
        together = builder.call(compress, [_lanes(builder, both, first, 16), ir.Constant(vector, None), chosen])
        found = builder.load(n_moved)
        _store(builder, together, builder.add(pairs, builder.mul(found, _long(4))))
        count = builder.ctpop(builder.bitcast(chosen, _SHORT))
        builder.store(builder.add(found, builder.zext(count, _LONG)), n_moved)


def _vector(element: ir.Type, width: int = CHUNK) -> ir.VectorType:
    return ir.VectorType(element, width)


def _all(element: ir.IntType, value: int) -> ir.Constant:
    return ir.Constant(_vector(element), [value] * CHUNK)


def _long(value: int) -> ir.Constant:
    return ir.Constant(_LONG, value)


def _variable(builder: Any, kind: ir.Type) -> Any:
    """Zero."""
    return cgutils.alloca_once_value(builder, ir.Constant(kind, None if isinstance(kind, ir.VectorType) else 0))


def _load(builder: Any, address: Any, kind: ir.Type) -> Any:
    found = builder.load(builder.inttoptr(address, kind.as_pointer()))
    found.align = 1
    return found


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = 1


def _lanes(builder: Any, vector: Any, first: int, width: int) -> Any:
    chosen = ir.Constant(_vector(_INT, width), list(range(first, first + width)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), chosen)


def _splat(builder: Any, number: Any, width: int) -> Any:
    one = _vector(number.type, 1)
    alone = builder.insert_element(ir.Constant(one, ir.Undefined), number, ir.Constant(_INT, 0))
    return builder.shuffle_vector(alone, ir.Constant(one, ir.Undefined), ir.Constant(_vector(_INT, width), None))


def _reduced(builder: Any, by: str, vector: Any, *first: Any) -> Any:
    """One number of a vector's; fadd has a number to begin with."""
    element = vector.type.element
    kind = ir.FunctionType(element, [*(number.type for number in first), vector.type])
    suffix = f"v{vector.type.count}{'f64' if isinstance(element, ir.DoubleType) else f'i{element.width}'}"
    reduce = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.{by}.{suffix}")
    return builder.call(reduce, [*first, vector], fastmath=_FAST if first else ())
