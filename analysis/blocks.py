"""Householder's reflections of square float64 blocks, as LLVM's vectors: a row has as many numbers as a vector, so what
is computed for all rows stays in registers. A reflection is I - scale v v^T, and v[0] is 1.

As in `analysis.vectors`, all take addresses and distances in bytes, and check nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from analysis.vectors import FAST, INDEX, Writer, index

_VANISHING = 1e-60  # squares that sum to less; the largest entry of the matrix is near 1, or larger


def first_reflection(width: int) -> Any:
    """first_reflection(column, v): leaves only the first of a column's `width` entries, by a reflection I - scale v v^T
    whose v is written and whose scale comes back."""

    def written(write: Writer, column: Any, v: Any) -> Any:
        reflection, left, scale = _reflection(write, write.load(column))
        write.store(reflection, v)
        write.store(left, column)
        return scale

    return intrinsic(lambda _, _a, _b: (types.float64(types.intp, types.intp), _by_writer(written, width)))


def reflect_diagonal(width: int) -> Any:
    """reflect_diagonal(rows, stride, v, scale): a symmetric block A becomes H A H, where H = I - scale v v^T. That is
    A - v w^T - w v^T, where w = y - (scale y^T v / 2) v and y = scale A v."""

    def written(write: Writer, rows: Any, stride: Any, v: Any, scale: Any) -> Any:
        builder, values = write.builder, write.load(v)
        y = builder.fmul(_combined(write, rows, stride, v), write.all(scale), flags=FAST)
        half = builder.fmul(builder.fmul(write.one(0.5), scale, flags=FAST), write.dot(y, values), flags=FAST)
        others = write.subtract_product(write.all(half), values, y)
        w = write.kept(others)
        with cgutils.for_range(builder, index(write.width), intp=INDEX) as loop:
            place = write.row(rows, stride, loop.index)
            mine = write.subtract_product(write.all(write.number(v, loop.index)), others, write.load(place))
            write.store(write.subtract_product(write.all(write.number(w, loop.index)), values, mine), place)

    signature = types.void(types.intp, types.intp, types.intp, types.float64)
    return intrinsic(lambda _, _a, _b, _c, _d: (signature, _by_writer(written, width)))


def reflect_below(width: int) -> Any:
    """reflect_below(rows, stride, v, scale, then): a block, a column of it in each row, from the right by I - scale v
    v^T; from the left by the reflection that leaves only the first entry of its first column. That one's vector is
    written to `then`, and its scale comes back."""

    def written(write: Writer, rows: Any, stride: Any, v: Any, scale: Any, then: Any) -> Any:
        builder = write.builder
        w = builder.fmul(_combined(write, rows, stride, v), write.all(scale), flags=FAST)
        column = write.subtract_product(write.all(write.number(v, index(0))), w, write.load(rows))
        reflection, left, next_scale = _reflection(write, column)
        write.store(reflection, then)
        taken = builder.fmul(reflection, write.all(next_scale), flags=FAST)
        with cgutils.for_range(builder, index(write.width), intp=INDEX) as loop:
            place = write.row(rows, stride, loop.index)
            mine = write.subtract_product(write.all(write.number(v, loop.index)), w, write.load(place))
            part = write.all(write.dot(mine, reflection))
            write.store(write.subtract_product(part, taken, mine), place)
        write.store(left, rows)  # the same, with zeros in place of what rounding leaves
        return next_scale

    signature = types.float64(types.intp, types.intp, types.intp, types.float64, types.intp)
    return intrinsic(lambda _, _a, _b, _c, _d, _e: (signature, _by_writer(written, width)))


def _combined(write: Writer, rows: Any, stride: Any, weights: Any) -> Any:
    """The sum of weights[i] * rows[i] of a square block."""
    builder, totals = write.builder, (write.variable(), write.variable())
    with cgutils.for_range_slice(builder, index(0), index(write.width), index(2), INDEX) as (at, _count):
        for half, total in enumerate(totals):
            row = builder.add(at, index(half))
            weight = write.all(write.number(weights, row))
            mine = write.load(write.row(rows, stride, row))
            builder.store(write.add_product(weight, mine, builder.load(total)), total)
    return builder.fadd(*map(builder.load, totals), flags=FAST)


def _reflection(write: Writer, column: Any) -> tuple[Any, Any, Any]:
    """v, what is left of the column, and scale, where I - scale v v^T leaves only the column's first entry. Others that
    nearly vanish are dropped: their squares have few bits, and a reflection made from these would be none."""
    builder, zero = write.builder, write.one(0)
    first = builder.extract_element(column, index(0))
    rest = builder.insert_element(column, zero, index(0))
    squares = write.dot(rest, rest)
    is_done = builder.fcmp_ordered("<", squares, write.one(_VANISHING))
    norm = write.of_one("sqrt", builder.fadd(builder.fmul(first, first, flags=FAST), squares, flags=FAST))
    turned = builder.fneg(write.of_one("copysign", norm, first))
    scale = builder.fdiv(builder.fsub(turned, first), turned)
    shrink = builder.select(is_done, zero, builder.fdiv(write.one(1), builder.fsub(first, turned)))
    v = builder.insert_element(builder.fmul(rest, write.all(shrink), flags=FAST), write.one(1), index(0))
    left = builder.insert_element(write.constant(0), builder.select(is_done, first, turned), index(0))
    return v, left, builder.select(is_done, zero, scale)


def _by_writer(written: Callable[..., Any], width: int) -> Callable[..., Any]:
    def write(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        found = written(Writer(builder, ir.DoubleType(), width), *arguments)
        return context.get_dummy_value() if found is None else found

    return write
