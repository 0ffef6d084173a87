"""Histograms of bytes and sums of columns' marks, by vector instructions; written as `sweep` is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from analysis.elementwise.chunks import BYTE, INT, LONG, SHORT, load, long, reduced, splat, store, variable, vector

_BYTES = 64  # of a vector
COUNTED = 16 * _BYTES  # bytes that `count_down` takes at once
VALUES = 16  # that it counts at once
ADDED = 8  # numbers that `sum_of_shorts` takes at once


@intrinsic
def count_down(_: Any, _bytes: Any, _n: Any, _first: Any, _times: Any) -> Any:
    """How many of n * COUNTED bytes have the value `first`, how many the next smaller one, and so on, 255 after 0:
    `times` (VALUES int64, which are added to).

    Each byte becomes a single bit, by its value, and bits of one place are added up as a hardware adder does it, in
    vectors for ones, twos, fours and so on (positional population count, Klarqvist et al., arXiv 1911.02696)."""

    def written(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        address, n, first, times = arguments
        looked_up = _byte_table(context, builder)
        start = splat(builder, builder.trunc(first, BYTE), _BYTES)
        sums = [[variable(builder, vector(BYTE, _BYTES)) for _ in range(4)] for _ in range(VALUES // 8)]
        with cgutils.for_range(builder, n, intp=LONG) as loop:
            block = builder.add(address, builder.mul(loop.index, long(COUNTED)))
            bits: list[list[Any]] = [[] for _ in sums]
            for k in range(COUNTED // _BYTES):
                values = load(builder, builder.add(block, long(k * _BYTES)), vector(BYTE, _BYTES))
                below = builder.sub(start, values)
                for eighth, found in enumerate(bits):
                    found.append(looked_up(below, eighth))
            for eighth, (found, weights) in enumerate(zip(bits, sums, strict=True)):
                for weight in weights:
                    total = builder.load(weight)
                    carried = []
                    for one, other in zip(found[::2], found[1::2], strict=True):
                        total, carry = _added(builder, total, one, other)
                        carried.append(carry)
                    builder.store(total, weight)
                    found = carried
                (sixteens,) = found
                _count_bits(builder, sixteens, COUNTED // _BYTES, times, 8 * eighth)
        for eighth, weights in enumerate(sums):
            for power, weight in enumerate(weights):
                _count_bits(builder, builder.load(weight), 1 << power, times, 8 * eighth)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), written


@intrinsic
def sum_of_shorts(_: Any, _shorts: Any, _n: Any) -> Any:
    """The sum of n * ADDED uint16, below 2 ** 32."""

    def written(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        address, n = arguments
        total = variable(builder, vector(INT, ADDED))
        with cgutils.for_range(builder, n, intp=LONG) as loop:
            values = load(builder, builder.add(address, builder.mul(loop.index, long(2 * ADDED))), vector(SHORT, ADDED))
            builder.store(builder.add(builder.load(total), builder.zext(values, vector(INT, ADDED))), total)
        return builder.zext(reduced(builder, "add", builder.load(total)), LONG)

    return types.int64(types.intp, types.intp), written


def _byte_table(context: Any, builder: Any) -> Callable[[Any, int], Any]:
    """looked_up(bytes, k): 1 << (byte - 8 * k), where that is one of the lowest eight bits; else 0."""
    kind = vector(BYTE, _BYTES)
    _, _, features = context.codegen().magic_tuple()
    if "+avx512bw" not in features.split(","):

        def shifted(values: Any, k: int) -> Any:
            place = builder.sub(values, ir.Constant(kind, [8 * k] * _BYTES))
            is_inside = builder.icmp_unsigned("<", place, ir.Constant(kind, [8] * _BYTES))
            bits = builder.shl(ir.Constant(kind, [1] * _BYTES), builder.and_(place, ir.Constant(kind, [7] * _BYTES)))
            return builder.select(is_inside, bits, ir.Constant(kind, None))

        return shifted
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind, kind]), "llvm.x86.avx512.pshuf.b.512"
    )

    def looked_up(values: Any, k: int) -> Any:
        table = [1 << (i - 8 * k) if 0 <= i - 8 * k < 8 else 0 for i in range(16)]
        # What is 16 or more gets its highest bit, which stands for 0 whatever the others are.
        return builder.call(function, [ir.Constant(kind, table * (_BYTES // 16)), _saturated(builder, values, 0x70)])

    return looked_up


def _saturated(builder: Any, values: Any, more: int) -> Any:
    kind = values.type
    add = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind, kind]), f"llvm.uadd.sat.v{kind.count}i8"
    )
    return builder.call(add, [values, ir.Constant(kind, [more] * kind.count)])


def _added(builder: Any, one: Any, other: Any, third: Any) -> tuple[Any, Any]:
    """The sum of three bits, in each place: itself, and what is carried."""
    carry = builder.or_(builder.and_(one, other), builder.and_(builder.or_(one, other), third))
    return builder.xor(builder.xor(one, other), third), carry


def _count_bits(builder: Any, values: Any, weight: int, times: Any, first: int) -> None:
    """times[first + k] += weight * how many of the bytes have bit k."""
    for k in range(8):
        mask = ir.Constant(values.type, [1 << k] * _BYTES)
        has_it = builder.icmp_unsigned("!=", builder.and_(values, mask), ir.Constant(values.type, None))
        count = builder.zext(builder.ctpop(builder.bitcast(has_it, ir.IntType(_BYTES))), LONG)
        place = builder.add(times, long(8 * (first + k)))
        store(builder, builder.add(load(builder, place, LONG), builder.mul(count, long(weight))), place)
