"""LLVM's own vectors of whole numbers, as `sweep` and `counting` write them: a chunk is CHUNK entries of a tensor."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

CHUNK = 32  # entries at once; stretches are filled up to a multiple of it
BIT, BYTE, SHORT, INT, LONG = (ir.IntType(width) for width in (1, 8, 16, 32, 64))
FAST = ("reassoc", "contract", "nsz")


def vector(element: ir.Type, width: int = CHUNK) -> ir.VectorType:
    return ir.VectorType(element, width)


def all_of(element: ir.IntType, value: int) -> ir.Constant:
    return ir.Constant(vector(element), [value] * CHUNK)


def long(value: int) -> ir.Constant:
    return ir.Constant(LONG, value)


def variable(builder: Any, kind: ir.Type) -> Any:
    """A place in memory, zero at first."""
    return cgutils.alloca_once_value(builder, ir.Constant(kind, None if isinstance(kind, ir.VectorType) else 0))


def load(builder: Any, address: Any, kind: ir.Type) -> Any:
    found = builder.load(builder.inttoptr(address, kind.as_pointer()))
    found.align = 1
    return found


def store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = 1


def lanes(builder: Any, values: Any, first: int, width: int) -> Any:
    chosen = ir.Constant(vector(INT, width), list(range(first, first + width)))
    return builder.shuffle_vector(values, ir.Constant(values.type, ir.Undefined), chosen)


def interleaved(builder: Any, low: Any, high: Any) -> Any:
    """32 x i32, the entries of `high` above those of `low`."""
    order = [entry + side for entry in range(CHUNK) for side in (0, CHUNK)]
    together = builder.shuffle_vector(low, high, ir.Constant(vector(INT, 2 * CHUNK), order))
    return builder.bitcast(together, vector(INT))


def splat(builder: Any, number: Any, width: int) -> Any:
    """The number in every lane."""
    one = vector(number.type, 1)
    alone = builder.insert_element(ir.Constant(one, ir.Undefined), number, ir.Constant(INT, 0))
    return builder.shuffle_vector(alone, ir.Constant(one, ir.Undefined), ir.Constant(vector(INT, width), None))


def reduced(builder: Any, by: str, values: Any, *first: Any) -> Any:
    """One number of a vector's; fadd has a number to begin with."""
    element = values.type.element
    kind = ir.FunctionType(element, [*(number.type for number in first), values.type])
    suffix = f"v{values.type.count}{'f64' if isinstance(element, ir.DoubleType) else f'i{element.width}'}"
    reduce = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.{by}.{suffix}")
    return builder.call(reduce, [*first, values], fastmath=FAST if first else ())


def larger(builder: Any, one: Any, other: Any, *, signed: bool = False) -> Any:
    compare = builder.icmp_signed if signed else builder.icmp_unsigned
    return builder.select(compare(">", one, other), one, other)
