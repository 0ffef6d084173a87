"""Our values as lines of JSON, for the pipes between processes. Only the dataclasses listed here can cross.

    {"type": "Tally", "entries": 4096, ..., "joint": {"array": "<i8", "shape": [48, 302], "b85": "..."}}

Nothing is unpickled: a child that a hostile file took over can send wrong numbers, but no code.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

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
_ARRAY_KINDS = "iuf"


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
    if isinstance(value, np.ndarray):
        raw = zlib.compress(np.ascontiguousarray(value).tobytes(), 1)
        return {"array": value.dtype.str, "shape": value.shape, "b85": base64.b85encode(raw).decode()}
    if type(value) in _TYPES:
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, "fields": fields}
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
    if set(value) == {"array", "shape", "b85"}:
        return _array(value)
    if set(value) == {"type", "fields"}:
        return _TYPE_OF_NAME[value["type"]](**{name: _value(entry) for name, entry in value["fields"].items()})
    return {key: _value(entry) for key, entry in value.items()}


def _array(value: dict[str, Any]) -> np.ndarray:
    dtype = np.dtype(value["array"])
    if dtype.kind not in _ARRAY_KINDS:
        raise ValueError(f"arrays of {dtype} do not cross a pipe")
    n_bytes = math.prod(value["shape"]) * dtype.itemsize
    raw = zlib.decompressobj().decompress(base64.b85decode(value["b85"]), n_bytes + 1)  # never more than it claims
    return np.frombuffer(raw, dtype).reshape(value["shape"])
