"""Which rows or columns of an attention matrix belong to which head, and which lines of a matrix are neurons or tokens.

Read from the model's config and the matrix's name, and believed only where the shape agrees to the line: a model that
this page does not know has no heads here, never guessed ones. Knows nothing about changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from analysis.tensors import Place

Along = Literal["row", "column"]
Kind = Literal["query", "key", "value", "output", "q, k, v of"]
Config = Mapping[str, object]


@dataclass(frozen=True)
class Head:
    """One head's lines of a matrix: `first` up to but without `last`. `group` is the key-value head it uses or is."""

    kind: Kind
    number: int
    first: int
    last: int
    group: int

    @property
    def title(self) -> str:
        return f"{self.kind} head {self.number}"


@dataclass(frozen=True)
class Heads:
    """A matrix's heads in the order of its lines; `shared_by` query heads use one key-value head."""

    along: Along
    heads: tuple[Head, ...]
    shared_by: int = 1

    def at(self, line: int) -> Head | None:
        """The head that this line belongs to."""
        return next((head for head in self.heads if head.first <= line < head.last), None)

    @property
    def words(self) -> str:
        """'4 query heads of 32 rows; 2 of them share a key-value head'."""
        kinds = dict.fromkeys(head.kind for head in self.heads)
        counted = (f"{sum(head.kind == kind for head in self.heads)} {kind} heads" for kind in kinds)
        lines = self.heads[0].last - self.heads[0].first
        shared = f"; each key-value head serves {self.shared_by} query heads" if self.shared_by > 1 else ""
        return f"{', '.join(counted)} of {lines} {self.along}s{shared}"


@dataclass(frozen=True)
class _Attention:
    n_query: int
    n_key_value: int
    head_dim: int


@dataclass(frozen=True)
class _Layout:
    """What a projection's outputs (of an output projection its inputs) consist of, one kind below the other."""

    kinds: tuple[Kind, ...]
    of_inputs: bool = False
    only: frozenset[str] = frozenset()  # kinds of model whose layout this is; empty: every one
    never: frozenset[str] = frozenset()


_CONV1D = frozenset({"gpt2"})  # whose weights lie (in, out)
_INTERLEAVED = frozenset({"gpt_neox", "bloom"})  # query, key and value of a head lie together
_FUSED: tuple[Kind, ...] = ("query", "key", "value")
_LAYOUT_OF_NAME = {
    **dict.fromkeys(("q_proj", "wq", "query", "q_lin"), _Layout(("query",))),
    **dict.fromkeys(("k_proj", "wk", "key", "k_lin"), _Layout(("key",))),
    **dict.fromkeys(("v_proj", "wv", "value", "v_lin"), _Layout(("value",))),
    **dict.fromkeys(("o_proj", "wo", "out_proj", "out_lin", "dense"), _Layout(("output",), of_inputs=True)),
    **dict.fromkeys(("qkv_proj", "W_pack"), _Layout(_FUSED, never=frozenset({"codegen"}))),
    "c_attn": _Layout(_FUSED, only=_CONV1D),
    "c_proj": _Layout(("output",), of_inputs=True, only=_CONV1D),
    "query_key_value": _Layout(("q, k, v of",), only=_INTERLEAVED),
}
_MODULE = re.compile(
    r"(?:self_attn|attn|attention|self_attention)(?:\.(?:self|attention|attn|output))?\.(?P<name>\w+)(?P<bias>\.bias)?"
)


def heads_of(module: str, shape: Sequence[int], config: Config) -> Heads | None:
    """The heads of the matrix (or bias) that `Place.module` names, where the config's sizes account for every line."""
    found, attention = _MODULE.fullmatch(module), _attention(config)
    layout = _LAYOUT_OF_NAME.get(found["name"]) if found else None
    if not found or not attention or not layout or not _fits(layout, config):
        return None
    if found["bias"]:
        if layout.of_inputs or len(shape) != 1:
            return None
        along: Along = "column"  # a vector is one row
    elif len(shape) == 2:
        along = "column" if layout.of_inputs != _lies_in_out(config) else "row"
    else:
        return None
    heads = _laid_out(layout, attention)
    if heads[-1].last != shape[0 if along == "row" else -1]:
        return None
    return Heads(along, heads, attention.n_query // attention.n_key_value)


def names_of_lines(place: Place, config: Config) -> tuple[str, str]:
    """What a row and a column of this matrix are called: neurons of an MLP, tokens of a vocabulary, else themselves."""
    name = place.module.rpartition(".")[2]
    if place.block == "mlp" and name in _NEURONS:
        are_rows = (_NEURONS[name] == "row") != (_lies_in_out(config) and name in ("c_fc", "c_proj"))
        return ("neuron", "column") if are_rows else ("row", "neuron")
    if name in _TABLES:
        return "token", "column"
    return "row", "column"


_NEURONS: dict[str, Along] = {
    **dict.fromkeys(("gate_proj", "up_proj", "w1", "w3", "fc1", "fc_in", "c_fc", "dense_h_to_4h"), "row"),
    **dict.fromkeys(("down_proj", "w2", "fc2", "fc_out", "c_proj", "dense_4h_to_h"), "column"),
}
_TABLES = ("embed_tokens", "wte", "tok_embeddings", "embed_in", "lm_head", "embed_out")


def _fits(layout: _Layout, config: Config) -> bool:
    model_type = str(config.get("model_type", ""))
    return model_type not in layout.never and (not layout.only or model_type in layout.only)


def _lies_in_out(config: Config) -> bool:
    return config.get("model_type") in _CONV1D


def _attention(config: Config) -> _Attention | None:
    n_query = _whole(config, "num_attention_heads", "n_head", "n_heads", "num_heads")
    hidden = _whole(config, "hidden_size", "n_embd", "d_model")
    n_key_value = _whole(config, "num_key_value_heads") or n_query
    if not n_query or not n_key_value or n_query % n_key_value:
        return None
    head_dim = _whole(config, "head_dim") or (hidden // n_query if hidden and hidden % n_query == 0 else 0)
    return _Attention(n_query, n_key_value, head_dim) if head_dim else None


def _whole(config: Config, *names: str) -> int:
    """The first of these values that is a positive whole number; 0 where none is."""
    known = (config.get(name) for name in names)
    return next((value for value in known if isinstance(value, int) and not isinstance(value, bool) and value > 0), 0)


def _laid_out(layout: _Layout, attention: _Attention) -> tuple[Head, ...]:
    heads: list[Head] = []
    for kind in layout.kinds:
        n_heads = attention.n_key_value if kind in ("key", "value") else attention.n_query
        size = attention.head_dim * (3 if kind == "q, k, v of" else 1)
        for number in range(n_heads):
            first = heads[-1].last if heads else 0
            heads.append(Head(kind, number, first, first + size, number * attention.n_key_value // n_heads))
    return tuple(heads)
