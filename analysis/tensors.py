"""Which tensor of the tuned model is which of the base: names, shapes and places, no values.

`align` never drops a tensor: what has no partner is listed with its reason and its parameters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

# Bytes of one entry. F8 and smaller, complex and integer types are recognised, listed, and not compared.
BYTES_OF_DTYPE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
Side = Literal["base", "tuned", "both"]


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as a header describes it: `file` is relative to the model's folder, `begin` and `end` are byte
    offsets in that file. `dtype` is safetensors' name, e.g. 'BF16'."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    begin: int
    end: int

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Place:
    """Where in the model a tensor sits. `module` is its name without layer and expert numbers and without the
    trailing '.weight', so that the same matrix of all layers shares one module."""

    layer: int | None
    block: str
    module: str
    expert: int | None = None


@dataclass(frozen=True)
class TensorPair:
    """A tensor that both sides hold in one shape."""

    base: TensorInfo
    tuned: TensorInfo
    place: Place

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def entries(self) -> int:
        return self.base.parameters

    @property
    def is_matrix(self) -> bool:
        return len(self.shape) == 2 and min(self.shape) > 1


@dataclass(frozen=True)
class NotCompared:
    name: str
    side: Side
    reason: str
    parameters: int


@dataclass(frozen=True)
class Alignment:
    """All tensors of two models, sorted into compared and not compared."""

    pairs: tuple[TensorPair, ...]
    not_compared: tuple[NotCompared, ...]
    base_parameters: int
    tuned_parameters: int

    @property
    def compared_parameters(self) -> int:
        return sum(pair.entries for pair in self.pairs)


def align(base: Iterable[TensorInfo], tuned: Iterable[TensorInfo]) -> Alignment:
    """Tensors paired by name; pairs ordered by layer as a reader would go through the model."""
    base_of_name, tuned_of_name = {t.name: t for t in base}, {t.name: t for t in tuned}
    pairs: list[TensorPair] = []
    not_compared: list[NotCompared] = []
    for name, before in base_of_name.items():
        after = tuned_of_name.get(name)
        if after is None:
            not_compared.append(NotCompared(name, "base", "only the base has it", before.parameters))
        elif reason := _why_not(before, after):
            not_compared.append(NotCompared(name, "both", reason, before.parameters))
        else:
            pairs.append(TensorPair(before, after, place_of(name)))
    for name, after in tuned_of_name.items():
        if name not in base_of_name:
            not_compared.append(NotCompared(name, "tuned", "only the tuned model has it", after.parameters))
    return Alignment(
        tuple(sorted(pairs, key=_reading_order)),
        tuple(sorted(not_compared, key=lambda entry: (-entry.parameters, entry.name))),
        sum(t.parameters for t in base_of_name.values()),
        sum(t.parameters for t in tuned_of_name.values()),
    )


def _why_not(before: TensorInfo, after: TensorInfo) -> str:
    if before.shape != after.shape:
        return f"shapes differ: base {list(before.shape)}, tuned {list(after.shape)}"
    strange = [t.dtype for t in (before, after) if t.dtype not in BYTES_OF_DTYPE]
    if strange:
        return f"values of type {strange[0]} are not compared"
    return "no entries" if before.parameters == 0 else ""


_LAYER = re.compile(r"(?:^|\.)(?:\w*layers?|h|\w*blocks?)\.(\d{1,6})(?=\.)")
# Stacks whose layers are *the* layers; any other stack (a vision tower, a decoder beside an encoder) keeps its name.
_MAIN_STACKS = {
    "layers", "h", "model.layers", "transformer.h", "gpt_neox.layers", "model.decoder.layers", "bert.encoder.layer",
    "encoder.layer", "roberta.encoder.layer", "model.language_model.layers", "language_model.model.layers",
}  # fmt: skip
_EXPERT = re.compile(r"(?<=experts\.)(\d{1,6})(?=\.)")

# The first pattern found in the module's name names its block; written from the field's common names.
_BLOCK_OF_PATTERN = {
    r"lm_head|output_projection|embed_out": "head",
    r"embed|wte|wpe": "embedding",
    r"norm|ln_|layernorm": "norm",
    r"router|mlp\.gate$|\.gate$": "router",
    r"attn|attention|q_proj|k_proj|v_proj|o_proj": "attention",
    r"mlp|feed_forward|ffn|experts|up_proj|down_proj|gate_proj|fc\d": "mlp",
}
_BLOCK_ORDER = {"embedding": 0, "norm": 1, "attention": 2, "router": 3, "mlp": 4, "other": 5, "head": 6}


def place_of(name: str) -> Place:
    """Layer, block, module and expert read off a tensor's name; what isn't recognised keeps its own name."""
    layer = _LAYER.search(name)
    expert = _EXPERT.search(name)
    module = name
    if expert:
        module = module[: expert.start()] + "*" + module[expert.end() :]
    if layer:
        stack = name[: layer.start(1) - 1]
        module = ("" if stack in _MAIN_STACKS else f"{stack}.") + module[layer.end() + 1 :]
    module = module.removesuffix(".weight")
    block = next((block for pattern, block in _BLOCK_OF_PATTERN.items() if re.search(pattern, module)), "other")
    return Place(int(layer[1]) if layer else None, block, module, int(expert[1]) if expert else None)


def _reading_order(pair: TensorPair) -> tuple[int, int, int, str, int]:
    place = pair.place
    before_layers = place.block == "embedding"
    layer = place.layer if place.layer is not None else (-1 if before_layers else 10**6)
    return (
        layer,
        _BLOCK_ORDER[place.block],
        -1 if place.expert is None else place.expert,
        _module_order(place.module),
        0,
    )


def _module_order(module: str) -> str:
    """Attention's matrices as q, k, v, o and the feed-forward's as gate, up, down, not by the alphabet."""
    rank_of_part = {
        "q_proj": "0",
        "k_proj": "1",
        "v_proj": "2",
        "o_proj": "3",
        "gate_proj": "0",
        "up_proj": "1",
    }
    rank_of_part |= {"down_proj": "2"}
    return next((f"{rank} {module}" for part, rank in rank_of_part.items() if part in module), f"5 {module}")
