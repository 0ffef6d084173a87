"""What a pickled table of tensors says, without unpickling it: its opcodes are read as data, and nothing is called.

A pickle is a program for a small stack machine, and some of its opcodes import and call whatever they name. Here the
few opcodes and names that `torch.save` writes for a table of tensors have a meaning; at the first other one the file
is refused. So no torch, and no code of anybody's, runs.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from analysis.errors import BadWeights

_DO = "Convert it to safetensors where its origin is trusted, and compare that"
_DAMAGE = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, StopIteration)
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_MAX_DEPTH = 3  # of tables in tables, where weights stand under a name such as 'model'
_INNER_TABLES = ("model", "module", "state_dict", "model_state_dict")

_OF_STORAGE = {
    "Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Long": "I64", "Int": "I32", "Short": "I16",
    "Char": "I8", "Byte": "U8", "Bool": "BOOL", "ComplexFloat": "C64", "ComplexDouble": "C128",
}  # fmt: skip
_OF_TORCH = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "uint16": "U16", "uint32": "U32", "uint64": "U64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0", "complex64": "C64", "complex128": "C128",
}  # fmt: skip
DTYPE_OF_NAME = {f"torch {kind}Storage": dtype for kind, dtype in _OF_STORAGE.items()} | {
    f"torch {name}": dtype for name, dtype in _OF_TORCH.items()
}
_UNTYPED = "torch.storage UntypedStorage"


@dataclass(frozen=True)
class Storage:
    """A stretch of numbers that tensors are views of: the archive holds it under `key`."""

    kind: str
    key: str
    length: int  # entries; bytes where the kind has no type


@dataclass(frozen=True)
class PickledTensor:
    """One tensor as the pickle describes it; offset and strides count entries."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Mark:
    pass


def read_table(pickle: bytes, file: str) -> dict[str, PickledTensor]:
    """The tensors by name, in the pickle's order. Raises BadWeights, naming `file`, for whatever is not a table of
    tensors: at the first call or import of anything else, before it could happen."""
    try:
        table = _Machine(file).run(pickle)
    except _DAMAGE as error:
        raise _bad(file, "its pickle is damaged") from error
    return _tensors(table, file)


def _tensors(table: object, file: str, depth: int = 0) -> dict[str, PickledTensor]:
    if not isinstance(table, dict):
        raise _bad(file, "it is not a table of tensors")
    found = {name: value for name, value in table.items() if isinstance(value, PickledTensor)}
    if not found and depth < _MAX_DEPTH:
        inner = next((name for name in _INNER_TABLES if isinstance(table.get(name), dict)), None)
        if inner is not None:
            return _tensors(table[inner], file, depth + 1)
    others = [name for name in table if name not in found and not str(name).endswith("_extra_state")]
    if not found or others or not all(isinstance(name, str) for name in found):
        what = f"'{ascii(others[0])[:80]}' in it is none" if others else "it holds none under a name"
        raise _bad(file, f"it is not a table of tensors: {what}")
    return found


def _argument(opcode: pickletools.OpcodeInfo | None, program: BinaryIO) -> Any:
    if opcode is None or opcode.arg is None:
        return None
    if opcode.name == "GLOBAL":  # the library's reader would follow escapes, which Python's unpickler does not
        return f"{_line(program)} {_line(program)}"
    return opcode.arg.reader(program)


def _line(program: BinaryIO) -> str:
    return program.readline().removesuffix(b"\n").decode("utf-8")


class _Machine:
    """The pickle's stack machine, for the opcodes of a table of tensors."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, pickle: bytes) -> object:
        program = io.BytesIO(pickle)
        while code := program.read(1):
            opcode = _OPCODES.get(code.decode("latin-1"))
            name = opcode.name if opcode else repr(code)
            if name == "STOP":
                return self._stack.pop()
            if name not in _STEPS:
                raise _bad(self._file, f"its pickle does more than list tensors (opcode {name})")
            _STEPS[name](self, _argument(opcode, program))
        raise ValueError("no end")

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop_to_mark(self) -> list[Any]:
        at = next(place for place in range(len(self._stack) - 1, -1, -1) if isinstance(self._stack[place], _Mark))
        taken = self._stack[at + 1 :]
        del self._stack[at:]
        return taken

    def name(self, argument: str) -> None:
        """An import: allowed for what has a meaning here, and even then only the name is kept."""
        if argument not in DTYPE_OF_NAME and argument not in _CALLS and argument != _UNTYPED:
            shown = ascii(argument.replace(" ", "."))[1:-1][:80]
            raise _bad(self._file, f"loading it would run '{shown}'; nothing in it was run")
        self.push(_Global(argument))

    def name_on_stack(self, _: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self.name(f"{module} {name}")

    def call(self, _: object) -> None:
        arguments, what = self._stack.pop(), self._stack.pop()
        if not isinstance(what, _Global) or what.name not in _CALLS:
            raise _bad(self._file, "its pickle calls what is no function of a table of tensors; nothing in it was run")
        self.push(_CALLS[what.name](*arguments))

    def build(self, _: object) -> None:
        """State of an object: torch gives version numbers to its tables. It is dropped."""
        self._stack.pop()
        if not isinstance(self._stack[-1], dict):
            raise _bad(self._file, "its pickle gives state to what is no table")

    def storage(self, _: object) -> None:
        what, kind, key, _place, length = self._stack.pop()
        if what != "storage" or not isinstance(kind, _Global) or not isinstance(key, str) or not _is_size(length):
            raise ValueError("no storage")
        self.push(Storage(kind.name, key, length))

    def set_items(self, _: object) -> None:
        taken = self.pop_to_mark()
        self._set(taken[0::2], taken[1::2])

    def set_item(self, _: object) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key], [value])

    def _set(self, keys: list[Any], values: list[Any]) -> None:
        table = self._stack[-1]
        if not isinstance(table, dict) or not all(isinstance(key, str | int) for key in keys):
            raise ValueError("no table")
        table.update(zip(keys, values, strict=True))

    def append(self, values: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise ValueError("no list")
        self._stack[-1].extend(values)

    def tuple_of(self, count: int) -> None:
        taken = self._stack[-count:]
        if len(taken) < count:
            raise ValueError("too little on the stack")
        del self._stack[-count:]
        self.push(tuple(taken))

    def keep(self, at: int) -> None:
        self._memo[at] = self._stack[-1]

    def keep_next(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def recall(self, at: int) -> None:
        self.push(self._memo[at])

    def drop(self) -> None:
        self._stack.pop()


def _ordered(items: object = ()) -> dict[Any, Any]:
    if not isinstance(items, list | tuple) or not all(isinstance(key, str | int) for key, _ in items):
        raise ValueError("no table")
    return dict(items)


def _tensor(storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> Any:
    return _typed(storage, offset, shape, strides, DTYPE_OF_NAME[storage.kind])


def _tensor_of_type(
    storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], _grad: object, _hooks: object,
    dtype: _Global, *_: object,
) -> Any:  # fmt: skip
    return _typed(storage, offset, shape, strides, DTYPE_OF_NAME[dtype.name])


def _typed(storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: str) -> Any:
    sizes = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or len(shape) != len(strides) or not all(map(_is_size, sizes)):
        raise ValueError("no tensor")
    return PickledTensor(storage, dtype, offset, tuple(shape), tuple(strides))


def _parameter(data: object, *_: object) -> object:
    return data


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _bad(file: str, reason: str) -> BadWeights:
    return BadWeights(
        f"'{file[:200]}' is not read: {reason}", expected="Only pickles of tensors alone are read", do=_DO
    )


_CALLS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": _ordered,
    "torch Size": tuple,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor_v3": _tensor_of_type,
    "torch._utils _rebuild_parameter": _parameter,
}
_PUSHES = (
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "LONG4",
    "BINFLOAT",
)

_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda _, __: None),
    **dict.fromkeys(_PUSHES, lambda machine, value: machine.push(value)),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": lambda machine, _: machine.push(_Mark()),
    "POP": lambda machine, _: machine.drop(),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": lambda machine, _: machine.append([machine._stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BINPUT": _Machine.keep,
    "LONG_BINPUT": _Machine.keep,
    "MEMOIZE": lambda machine, _: machine.keep_next(),
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_on_stack,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
}
