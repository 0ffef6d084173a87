"""Loops over whole vectors of numbers that LLVM does not find by itself in compiled Python: every array could overlap
every other there, so sums that fit into registers are written to memory and read again. Here they are written as LLVM's
own vectors, of a width known when they are compiled; the machine's registers may be narrower.

All take addresses of C-contiguous memory, distances between rows in bytes, and check nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 32  # float32 numbers that `dots` and `subtract_rows` take at once: rows are padded to a multiple of it
ROWS = 4  # that they take at once
SHIFTS = 32  # that `pivots` takes at once: while one vector is divided, others are

FAST = ("reassoc", "contract", "nsz")
INDEX = ir.IntType(64)
_LEAST_PIVOT = 1e-290  # nearer to 0 they count as this far below it, so that nothing is divided by 0


class Writer:
    """Writes arithmetic on vectors of `width` numbers at addresses."""

    def __init__(self, builder: Any, element: ir.Type, width: int) -> None:
        self.builder = builder
        self.element = element
        self.vector = ir.VectorType(element, width)
        self.width = width

    def load(self, address: Any, kind: ir.Type | None = None) -> Any:
        kind = kind or self.vector
        found = self.builder.load(self.builder.inttoptr(address, kind.as_pointer()))
        found.align = self._align
        return found

    def store(self, value: Any, address: Any) -> None:
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer())).align = self._align

    def all(self, number: Any) -> Any:
        """The number in every lane."""
        one = ir.VectorType(self.element, 1)
        alone = self.builder.insert_element(ir.Constant(one, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.width), None)
        return self.builder.shuffle_vector(alone, ir.Constant(one, ir.Undefined), zeros)

    def add_product(self, left: Any, right: Any, total: Any) -> Any:
        return self.builder.fadd(total, self.builder.fmul(left, right, flags=FAST), flags=FAST)

    def subtract_product(self, left: Any, right: Any, total: Any) -> Any:
        return self.builder.fsub(total, self.builder.fmul(left, right, flags=FAST), flags=FAST)

    def one(self, number: float) -> Any:
        return ir.Constant(self.element, float(number))

    def constant(self, number: float) -> Any:
        return ir.Constant(self.vector, [float(number)] * self.width)

    def absolute(self, vector: Any) -> Any:
        name = f"llvm.fabs.v{self.width}{self._suffix}"
        kind = ir.FunctionType(self.vector, [self.vector])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [vector])

    def sum(self, vector: Any) -> Any:
        kind = ir.FunctionType(self.element, [self.element, self.vector])
        name = f"llvm.vector.reduce.fadd.v{self.width}{self._suffix}"
        add = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(add, [ir.Constant(self.element, 0.0), vector], fastmath=FAST)

    def dot(self, left: Any, right: Any) -> Any:
        return self.sum(self.builder.fmul(left, right, flags=FAST))

    def of_one(self, name: str, *numbers: Any) -> Any:
        """LLVM's function of this name, of one number or of two."""
        kind = ir.FunctionType(self.element, [self.element] * len(numbers))
        function = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.{name}.{self._suffix}")
        return self.builder.call(function, numbers)

    def kept(self, vector: Any) -> Any:
        """The address of a copy in memory, whose numbers can be read one by one."""
        place = cgutils.alloca_once(self.builder, self.vector)
        self.builder.store(vector, place)
        return self.builder.ptrtoint(place, INDEX)

    def variable(self) -> Any:
        found = cgutils.alloca_once(self.builder, self.vector)
        self.builder.store(ir.Constant(self.vector, None), found)
        return found

    def row(self, address: Any, stride: Any, nth: Any) -> Any:
        return self.builder.add(address, self.builder.mul(stride, nth))

    def number(self, address: Any, nth: Any) -> Any:
        return self.load(self.row(address, index(self._align), nth), self.element)

    @property
    def _suffix(self) -> str:
        return "f32" if isinstance(self.element, ir.FloatType) else "f64"

    @property
    def _align(self) -> int:
        return 4 if isinstance(self.element, ir.FloatType) else 8


@intrinsic
def dots(_: Any, _rows: Any, _stride: Any, _vector: Any, _n: Any, _into: Any) -> Any:
    """into[r] = rows[r] . vector for ROWS rows of n float32 numbers, n a multiple of LANES."""

    def written(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        rows, stride, vector, n, into = arguments
        write = Writer(builder, ir.FloatType(), LANES)
        totals = [write.variable() for _ in range(ROWS)]
        with cgutils.for_range_slice(builder, index(0), n, index(LANES), INDEX) as (at, _count):
            offset = builder.mul(at, index(4))
            values = write.load(builder.add(vector, offset))
            for row, total in enumerate(totals):
                mine = write.load(builder.add(write.row(rows, stride, index(row)), offset))
                builder.store(write.add_product(mine, values, builder.load(total)), total)
        for row, total in enumerate(totals):
            write.store(write.sum(builder.load(total)), builder.add(into, index(4 * row)))
        return None

    return types.void(types.intp, types.intp, types.intp, types.intp, types.intp), _nothing(written)


@intrinsic
def subtract_rows(_: Any, _rows: Any, _stride: Any, _vector: Any, _n: Any, _times: Any) -> Any:
    """rows[r] -= times[r] * vector for ROWS rows of n float32 numbers, n a multiple of LANES."""

    def written(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        rows, stride, vector, n, times = arguments
        write = Writer(builder, ir.FloatType(), LANES)
        factors = [write.all(write.number(times, index(row))) for row in range(ROWS)]
        with cgutils.for_range_slice(builder, index(0), n, index(LANES), INDEX) as (at, _count):
            offset = builder.mul(at, index(4))
            values = write.load(builder.add(vector, offset))
            for row, factor in enumerate(factors):
                place = builder.add(write.row(rows, stride, index(row)), offset)
                write.store(write.subtract_product(factor, values, write.load(place)), place)
        return None

    return types.void(types.intp, types.intp, types.intp, types.intp, types.intp), _nothing(written)


@intrinsic
def pivots(_: Any, _diagonal: Any, _squares: Any, _n: Any, _shifts: Any, _below: Any, _sums: Any) -> Any:
    """For each of SHIFTS numbers x: how many eigenvalues l of a symmetric tridiagonal matrix lie below x (Sylvester's
    law), the sum of 1 / (l - x), and that of their squares; `sums` takes all of the first and then all of the second.
    squares[i] is the square of what lies beside diagonal[i], before it; squares[0] is 0."""

    def written(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        diagonal, squares, n, shifts, below, sums = arguments
        write = Writer(builder, ir.DoubleType(), SHIFTS)
        counts = ir.VectorType(INDEX, SHIFTS)
        x, least = write.load(shifts), write.constant(-_LEAST_PIVOT)
        n_below = cgutils.alloca_once(builder, counts)
        builder.store(ir.Constant(counts, None), n_below)
        inverse, slope, bend, first, second = (write.variable() for _ in range(5))
        with cgutils.for_range(builder, n, intp=INDEX) as loop:
            beside = builder.fmul(write.all(write.number(squares, loop.index)), builder.load(inverse))
            pivot = builder.fsub(builder.fsub(write.all(write.number(diagonal, loop.index)), x), beside)
            size = write.absolute(pivot)
            pivot = builder.select(builder.fcmp_ordered("<", size, write.constant(_LEAST_PIVOT)), least, pivot)
            is_below = builder.sext(builder.fcmp_ordered("<", pivot, write.constant(0)), counts)
            builder.store(builder.sub(builder.load(n_below), is_below), n_below)
            # By the quotient rule: derivatives of the pivot by x, the first and the second, each over the pivot.
            over = builder.fdiv(write.constant(1), pivot)
            rise = write.add_product(beside, builder.load(slope), write.constant(-1))
            rise = builder.fmul(rise, over, flags=FAST)
            before = builder.load(slope)
            square = builder.fmul(before, before, flags=FAST)
            twice = builder.fadd(square, square, flags=FAST)
            bent = builder.fmul(beside, builder.fsub(builder.load(bend), twice, flags=FAST), flags=FAST)
            bent = builder.fmul(bent, over, flags=FAST)
            builder.store(builder.fsub(builder.load(first), rise, flags=FAST), first)
            more = builder.fsub(builder.fmul(rise, rise, flags=FAST), bent, flags=FAST)
            builder.store(builder.fadd(builder.load(second), more, flags=FAST), second)
            for value, place in ((over, inverse), (rise, slope), (bent, bend)):
                builder.store(value, place)
        write.store(builder.load(n_below), below)
        write.store(builder.load(first), sums)
        write.store(builder.load(second), builder.add(sums, index(8 * SHIFTS)))
        return None

    return types.void(*[types.intp] * 6), _nothing(written)


def _nothing(written: Callable[..., Any]) -> Callable[..., Any]:
    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        written(context, builder, signature, arguments)
        return context.get_dummy_value()

    return write


def index(value: int) -> Any:
    return ir.Constant(INDEX, value)
