"""A safetensors header, checked: bytes in, TensorInfo out.

Stricter than the reference reader (which takes a name twice) and much stricter than the Hub library's parser (which
takes overlapping and negative offsets), because headers also come over the network, where nothing else would look.
Whatever the reference reader refuses is refused here. Knows nothing of where the bytes come from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from analysis.errors import BadWeights
from analysis.tensors import TensorInfo

MAX_HEADER_BYTES = 25_000_000
MAX_TENSORS = 300_000
LENGTH_BYTES = 8  # a little-endian number before the header: the header's length

# fmt: off
BITS_OF_DTYPE = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}
# fmt: on

_TOO_LARGE = 2**63
_PARTS = {"dtype", "shape", "data_offsets"}
_DO = "Upload or copy the file again, or choose another revision"
# How files begin that are often found under a weight file's name. Read as a length, each of them is over the limit.
_KIND_OF_START = {
    b"version https://git-lfs": (
        "a git-lfs pointer, not the file it stands for",
        "Run 'git lfs pull' in that folder",
    ),
    b"<!doctype": ("a web page", _DO),
    b"<html": ("a web page", _DO),
    b"pk\x03\x04": (
        "a PyTorch archive or another zip file; it is not opened",
        "Convert the model to safetensors",
    ),
    b"\x80": ("a Python pickle; it is not opened", "Convert the model to safetensors"),
    b"gguf": ("a GGUF file", "Choose the repository that holds the safetensors weights"),
}


def header_length(start: bytes, file_size: int, file: str) -> int:
    """The header's length in bytes, from the file's first 8 bytes (more are welcome: they tell what else it could be).
    Raises BadWeights where the file cannot hold such a header, or it is over 25 MB."""
    if file_size < LENGTH_BYTES or len(start) < LENGTH_BYTES:
        raise _bad(file, f"it holds {file_size} bytes, too few for a header")
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        refuse_other_kinds(start, file)
        raise _bad(file, f"its header would be {length:,} bytes, more than the {MAX_HEADER_BYTES:,} that are read")
    if LENGTH_BYTES + length > file_size:
        raise _bad(
            file,
            f"its header would end at byte {LENGTH_BYTES + length:,}, after the file's end at {file_size:,}",
        )
    return length


def parse_header(prefix: bytes, file_size: int, file: str) -> list[TensorInfo]:
    """All tensors of `file` in the order of their bytes; `prefix` holds the file up to the header's end or beyond.

    Offsets in the result count from the file's start. Raises BadWeights, naming `file` and the reason: not JSON, a
    name twice, an unknown type, tensors that overlap, leave holes or miss the file's end, more than 300,000 of them.
    """
    length = header_length(prefix, file_size, file)
    if len(prefix) < LENGTH_BYTES + length:
        raise _bad(file, "it ends inside its header")
    entries = _decode(prefix[LENGTH_BYTES : LENGTH_BYTES + length], file)
    _check_metadata(entries.pop("__metadata__", {}), file)
    if not entries:
        raise _bad(file, "it holds no tensors")
    if len(entries) > MAX_TENSORS:
        raise _bad(file, f"it holds {len(entries):,} tensors, more than the {MAX_TENSORS:,} that are read")
    data_start = LENGTH_BYTES + length
    tensors = [_tensor(name, entry, data_start, file) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    _check_covering(tensors, data_start, file_size, file)
    return tensors


def _bad(file: str, reason: str, do: str = _DO) -> BadWeights:
    return BadWeights(f"'{file[:200]}' is not a sound safetensors file: {reason}", do=do)


def refuse_other_kinds(start: bytes, file: str) -> None:
    seen = start[:64].lstrip().lower()
    for beginning, (kind, do) in _KIND_OF_START.items():
        if seen.startswith(beginning):
            raise BadWeights(f"'{file[:200]}' looks like {kind}", expected="Expected a safetensors file", do=do)


def _decode(header: bytes, file: str) -> dict[str, Any]:
    """The header's JSON as a dictionary; strict where Python's own reader is lenient."""
    try:
        text = header.decode("utf-8")
        entries = json.loads(
            text, object_pairs_hook=_without_repeats, parse_constant=_refuse_number, parse_int=_natural_number
        )
    except RecursionError as error:
        raise _bad(file, "its header is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise _bad(file, "its header is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise _bad(file, "its header is not JSON") from error
    except ValueError as error:
        raise _bad(file, str(error)) from error
    if not isinstance(entries, dict):
        raise _bad(file, "its header is not a JSON object")
    return entries


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in its header")
    return found


def _refuse_number(text: str) -> None:
    raise ValueError(f"its header holds the number {text}")


def _natural_number(text: str) -> int:
    if text.startswith("-") or len(text) > len(str(_TOO_LARGE)):
        raise ValueError("its header holds a number below 0 or beyond 2^63")
    return int(text)


def _check_metadata(metadata: object, file: str) -> None:
    texts = [*metadata.keys(), *metadata.values()] if isinstance(metadata, dict) else [None]
    if not all(_is_text(text) for text in texts):
        raise _bad(file, "its '__metadata__' is not a list of texts")


def _is_text(value: object) -> bool:
    """Whether `value` is text that UTF-8 can write; JSON's escapes can spell half a character, which is not."""
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value))


def _tensor(name: str, entry: object, data_start: int, file: str) -> TensorInfo:
    shown = ascii(name[:120])
    if not _is_text(name) or not isinstance(entry, dict) or set(entry) != _PARTS:
        raise _bad(file, f"the entry of {shown} is not a type, a shape and two offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS_OF_DTYPE:
        raise _bad(file, f"{shown} has the unknown type {ascii(dtype)[:40]}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise _bad(file, f"the shape or the offsets of {shown} are not whole numbers")
    begin, end = offsets
    if not _fits(shape, BITS_OF_DTYPE[dtype], end - begin):
        raise _bad(file, f"{shown} spans {end - begin:,} bytes, which its shape and type contradict")
    return TensorInfo(name, dtype, tuple(shape), file, data_start + begin, data_start + end)


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value < _TOO_LARGE for value in values)


def _fits(shape: Sequence[int], bits: int, n_bytes: int) -> bool:
    """Whether a tensor of `shape` takes exactly `n_bytes`. A product beyond 2^63 on the way to a side of 0 does not."""
    entries = 1
    for side in shape:
        entries *= side
        if entries >= _TOO_LARGE:
            return False
    return n_bytes >= 0 and math.prod(shape) * bits == n_bytes * 8


def _check_covering(tensors: Sequence[TensorInfo], data_start: int, file_size: int, file: str) -> None:
    """Every byte after the header belongs to exactly one tensor."""
    end = data_start
    for tensor in tensors:
        if tensor.begin != end:
            what = "overlaps another" if tensor.begin < end else "leaves a hole before it"
            raise _bad(file, f"{tensor.name[:120]!a} {what}")
        end = tensor.end
    if end != file_size:
        kind = "cut off" if end > file_size else "too long"
        raise _bad(file, f"it is {kind}: its tensors end at byte {end:,}, the file at {file_size:,}")
