"""Our values as lines of JSON, for the pipes between processes. Only the dataclasses listed here can cross.

    {"type": "Tally", "entries": 96, ..., "joint": {"array": "<i8", "shape": [48, 302], "zstd": true, "base64": "..."}}

Nothing is unpickled: a child that a hostile file took over can send wrong numbers, but no code.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from analysis.measurements import Consensus, Gap, Preview, Regions, Spectrum, StepCounts, Tally
from analysis.models import ModelRef, Pair, PinnedModel
from analysis.plan import Hole, Plan
from analysis.selection import Selection, Stretch
from analysis.tensors import Alignment, Merge, NotCompared, Place, Scales, TensorInfo, TensorPair
from cache.masks import MaskFile
from cache.patience import Patience
from cache.records import ModelCard
from cache.streams import Step

_TYPES = (
    Tally, Preview, Spectrum, Regions, Consensus, StepCounts, Gap, ModelRef, PinnedModel, Pair, Hole, Plan, Alignment,
    NotCompared, Place, Scales, TensorInfo, TensorPair, Merge, MaskFile, ModelCard, Step, Patience, Selection, Stretch,
)  # fmt: skip
_TYPE_OF_NAME = {kind.__name__: kind for kind in _TYPES}
_FIELDS = {kind: tuple(field.name for field in dataclasses.fields(kind)) for kind in _TYPES}
_AS_THEY_ARE = (str, int, float, bool)
_ARRAY_KINDS = "iuf"
_COMPRESSED = 1024  # bytes, of the arrays that are worth it
_MOST_BYTES = 1 << 28  # of an array: of a tensor, its rows or columns are counted in 8 bytes each


class _Zstandard(threading.local):
    """Each thread's own: both take as long to make as to use."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=1).compress
        self.decompress = zstandard.ZstdDecompressor().decompress


_zstandard = _Zstandard()


def to_line(message: Mapping[str, Any]) -> bytes:
    """One message as one line. Raises TypeError for a value that may not cross."""
    return json.dumps(_plain(message), separators=(",", ":"), allow_nan=True).encode() + b"\n"


def from_line(line: bytes) -> dict[str, Any]:
    """The message that `to_line` wrote; sequences come back as tuples. Raises ValueError for anything else."""
    message = _value(json.loads(line))
    if not isinstance(message, dict):
        raise ValueError("a message is an object")
    return message


def _plain(value: Any) -> Any:
    if value is None or type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, np.ndarray):
        return _plain_array(value)
    if names := _FIELDS.get(type(value)):
        return {"type": type(value).__name__, "fields": {name: _plain(getattr(value, name)) for name in names}}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)  # comes back as text
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"{type(value).__name__} does not cross a pipe")


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_value(entry) for entry in value)
    if not isinstance(value, dict):
        return value
    if value.keys() == {"array", "shape", "base64", "zstd"}:
        return _array(value)
    if value.keys() == {"type", "fields"}:
        return _TYPE_OF_NAME[value["type"]](**{name: _value(entry) for name, entry in value["fields"].items()})
    return {key: _value(entry) for key, entry in value.items()}


def _plain_array(value: np.ndarray) -> dict[str, Any]:
    raw, is_large = np.ascontiguousarray(value).tobytes(), value.nbytes >= _COMPRESSED
    text = base64.b64encode(_zstandard.compress(raw) if is_large else raw).decode()
    return {"array": value.dtype.str, "shape": value.shape, "base64": text, "zstd": is_large}


def _array(value: dict[str, Any]) -> np.ndarray:
    dtype = np.dtype(value["array"])
    if dtype.kind not in _ARRAY_KINDS:
        raise ValueError(f"arrays of {dtype} do not cross a pipe")
    raw = base64.b64decode(value["base64"])
    if value["zstd"]:
        raw = _decompressed(raw, math.prod(value["shape"]) * dtype.itemsize)
    return np.frombuffer(raw, dtype).reshape(value["shape"])


def _decompressed(raw: bytes, n_bytes: int) -> bytes:
    """Never more than it claims, nor than a result may be."""
    try:
        if 0 <= n_bytes <= _MOST_BYTES and zstandard.frame_content_size(raw) == n_bytes:
            return _zstandard.decompress(raw)
    except zstandard.ZstdError as error:
        raise ValueError("an array that is damaged") from error
    raise ValueError("an array that is not as long as its shape, or too long")
