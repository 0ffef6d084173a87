"""Small measurements to store: made from a seed, so that another process can make the same ones again."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np

from analysis.alignment import align
from analysis.measurements import N_BINADES, N_CHANGE_BINS, N_RELATIVE_BINS, N_ULP_BINS, Spectrum, Tally
from analysis.models import Pair, PinnedModel
from analysis.tensors import Alignment, TensorInfo
from cache.masks import MaskFile
from cache.records import ModelCard
from cache.store import Store

BASE = PinnedModel("hub", "org/base", "b" * 40)
TUNED = PinnedModel("hub", "org/tuned", "c" * 40)
PAIR = Pair(BASE, TUNED)
BASE_CARD = ModelCard("org/base", BASE.commit, {"hidden_size": 16, "rope": {"theta": 1e4}}, "BF16", 1000, 2000)
TUNED_CARD = ModelCard("org/tuned", TUNED.commit, {"hidden_size": 16}, "F32", 1000, 4000)
MASKS = (
    MaskFile("exact", "k/a.exact.mask", 24, 5, 40, "aa"),
    MaskFile("mukherjee", "k/a.mukherjee.mask", 24, 3, 39, "bb"),
)


def tensor(name: str, *shape: int, dtype: str = "BF16", file: str = "model.safetensors") -> TensorInfo:
    return TensorInfo(name, dtype, shape, file, 8, 8 + 2 * int(np.prod(shape)))


def matrices(n: int) -> Alignment:
    """An alignment of n matrices of 6 x 4, called layers.0.w and so on."""
    infos = [tensor(f"layers.{i}.w", 6, 4) for i in range(n)]
    return align(infos, infos)


def register(store: Store, alignment: Alignment, pair: Pair = PAIR) -> str:
    store.register(pair, BASE_CARD, TUNED_CARD, alignment).result()
    return pair.key


def tally(seed: int, rows: int = 6, columns: int = 4) -> Tally:
    """A tally whose amounts are random: nothing here has to add up."""
    random = np.random.default_rng(seed)
    joint = np.zeros((N_BINADES, N_CHANGE_BINS), np.int64)
    joint[20:30, 100:120] = random.integers(0, 3, (10, 20))
    return Tally(
        *(int(n) for n in random.integers(0, 2**40, 7)),
        *(float(x) for x in random.normal(size=8)),
        joint=joint,
        base_binades=random.integers(0, 2**40, N_BINADES),
        mukherjee_binades=random.integers(0, 2**40, N_BINADES),
        bf16_binades=random.integers(0, 2**40, N_BINADES),
        relative=random.integers(0, 2**40, N_RELATIVE_BINS),
        ulps=random.integers(0, 2**40, N_ULP_BINS),
        row_changes=random.integers(0, columns + 1, rows),
        column_changes=random.integers(0, rows + 1, columns),
        density=random.integers(0, 2, (rows, columns)),
    )


def spectrum(seed: int, n_values: int = 4, *, of: str = "update") -> Spectrum:
    values = np.sort(np.random.default_rng(seed).random(n_values, dtype=np.float32))[::-1]
    return Spectrum(of, n_values, n_values, values, 1e-5, n_values, n_values - 1, None, "svd float32")  # type: ignore[arg-type]


def bits(measurement: object) -> dict[str, object]:
    """Every field with its type, shape and bits: equal only where nothing at all was lost on the way."""
    return {field.name: _bits(getattr(measurement, field.name)) for field in dataclasses.fields(measurement)}  # type: ignore[arg-type]


def _bits(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return struct.pack("<d", value) if isinstance(value, float) else (type(value), value)
