"""Tensors, pairs of tensors and alignments: what they are. Which belongs to which is `analysis.alignment`'s."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

# Bytes of one entry. Types below 8 bits, complex and integer types are recognised, listed, and not compared.
BYTES_OF_DTYPE = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
}  # fmt: skip
NO_PARAMETER = "not a parameter"  # how the reason ends where what is listed is none
BUFFER = f"a buffer, {NO_PARAMETER}"
Side = Literal["base", "tuned", "both"]
SIDES: tuple[Literal["base", "tuned"], Literal["base", "tuned"]] = ("base", "tuned")

# How a pair was found. The order is that of trust: what names and shapes say alone comes first.
Match = Literal["exact", "renamed", "rows", "experts", "fused", "tied", "adapter", "untouched"]
TITLE_OF_MATCH: dict[Match, str] = {
    "exact": "same name",
    "renamed": "same name but for a wrapper's prefix",
    "rows": "common rows of a table that grew or shrank",
    "experts": "one expert of a stack with that expert's own tensor",
    "fused": "rows of a fused projection with one of its parts",
    "tied": "output head with the embedding it is tied to",
    "adapter": "the adapter's own tensors, merged into the base's",
    "untouched": "not touched by the adapter, so the same by construction",
}
MergeKind = Literal["lora", "dora", "adalora", "lokr", "loha", "ia3", "bias", "full"]


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as a header describes it: `file` is relative to the model's folder, `begin` and `end` are byte
    offsets in that file. `dtype` is safetensors' name, e.g. 'BF16'.

    A *view* is a stretch of another tensor's rows, which lie together: it has the stored tensor's name, a shape and
    offsets of its own, and the stored tensor's shape in `stored`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    begin: int
    end: int
    stored: tuple[int, ...] | None = None
    scales: Scales | None = None  # what its codes are multiplied by
    unread: str = ""  # why its values are not read: a format that we know by name only
    aside: str = ""  # why it is no parameter: scales of another tensor, for example

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)

    @property
    def parts(self) -> tuple[TensorInfo, ...]:
        """What lies in files, as headers describe it: the tensor alone, and its scales where it has some."""
        if self.scales is None:
            return (self,)
        return dataclasses.replace(self, scales=None), self.scales.info

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part.file for part in self.parts))

    def rows(self, first: int, last: int, shape: tuple[int, ...] | None = None) -> TensorInfo:
        """A view of the slices `first` up to but without `last` of the leading axis; all of them are the tensor itself.
        `shape` is the view's where it is not (last - first, ...): one slice of a stack is a matrix."""
        if (first, last) == (0, self.shape[0]) and shape is None:
            return self
        step = (self.end - self.begin) // self.shape[0]
        return dataclasses.replace(
            self,
            shape=shape or (last - first, *self.shape[1:]),
            begin=self.begin + first * step,
            end=self.begin + last * step,
            stored=self.stored or self.shape,
            scales=self.scales and self.scales.of_rows(first, last, self.shape, slice_only=shape is not None),
        )


@dataclass(frozen=True)
class Scales:
    """The numbers that a tensor's codes are multiplied by: each entry of `info`, read as a matrix, holds for a block of
    `block` = (rows, columns) codes; the last block of a side may be smaller. A single entry holds for all codes. Of a
    tensor with three sides each slice has its own blocks. `first_row` is the row of the scaled tensor at which a view
    begins."""

    info: TensorInfo
    block: tuple[int, int]
    first_row: int = 0

    def of_rows(self, first: int, last: int, shape: tuple[int, ...], *, slice_only: bool) -> Scales:
        """The scales of such a view of a tensor of `shape`; `slice_only`: of one slice, as a matrix."""
        if self.info.parameters == 1:
            return self
        if len(shape) <= 2:
            return dataclasses.replace(self, first_row=self.first_row + first)
        slice_shape = (self.info.shape[1:] or (1,)) if slice_only else None
        return dataclasses.replace(self, info=self.info.rows(first, last, slice_shape))


@dataclass(frozen=True)
class Place:
    """Where in the model a tensor sits. `module` is its name without layer and expert numbers and without the
    trailing '.weight', so that the same matrix of all layers shares one module."""

    layer: int | None
    block: str
    module: str
    expert: int | None = None


@dataclass(frozen=True)
class Merge:
    """How an adapter changes one tensor of its base: the adapter's tensors by their role ('A', 'B', 'magnitude', ...)
    and what multiplies their product. `weight` is a role too: a whole tensor that takes the base's place first.

    `transposed`: the product lies the other way round than the base's tensor does. `divisor` divides after `scaling`
    has multiplied (AdaLoRA); `rounded_first`: the update is rounded to the base's type before it is added (embeddings);
    `rounded_factors`: the factors are, before they are multiplied (AdaLoRA that took ranks away).
    """

    kind: MergeKind
    factors: tuple[tuple[str, TensorInfo], ...]
    scaling: float = 1.0
    rank: int = 0  # r, 0 for what has none
    alpha: float = 0.0
    divisor: float | None = None
    transposed: bool = False
    rounded_first: bool = False
    rounded_factors: bool = False

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(info for _, info in self.factors)

    def factor(self, role: str) -> TensorInfo | None:
        return dict(self.factors).get(role)


@dataclass(frozen=True)
class TensorPair:
    """Two tensors, or views of them, of one shape: what is compared. `named` is the pair's name where the base's
    does not tell it from others (an expert of a stack, a head compared with the embedding).

    Of an adapter, `tuned` is what merging would leave: the base's tensor again, changed as `merge` says; where that is
    None too, the adapter leaves it alone (match 'untouched')."""

    base: TensorInfo
    tuned: TensorInfo
    place: Place
    match: Match = "exact"
    named: str = ""
    merge: Merge | None = None

    @property
    def name(self) -> str:
        return self.named or self.base.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def entries(self) -> int:
        return self.base.parameters

    @property
    def is_matrix(self) -> bool:
        return len(self.shape) == 2 and min(self.shape) > 1

    def parts(self, side: Literal["base", "tuned"]) -> tuple[TensorInfo, ...]:
        """The same with their scales, each as a header describes it."""
        return tuple(part for info in self.stored(side) for part in info.parts)

    def files(self, side: Literal["base", "tuned"]) -> tuple[str, ...]:
        """The files of that side that hold them."""
        return tuple(dict.fromkeys(part.file for part in self.parts(side)))

    def stored(self, side: Literal["base", "tuned"]) -> tuple[TensorInfo, ...]:
        """The tensors of that side's own files that the pair is made from; none where an adapter leaves it alone."""
        if side == "base":
            return (self.base,)
        if self.merge is not None:
            return self.merge.tensors
        return () if self.match == "untouched" else (self.tuned,)


@dataclass(frozen=True)
class NotCompared:
    name: str
    side: Side
    reason: str
    parameters: int

    @property
    def is_parameter(self) -> bool:
        """Whether anything is lost by leaving it out; buffers and the scales of a format are no parameters."""
        return not self.reason.endswith(NO_PARAMETER)


@dataclass(frozen=True)
class Alignment:
    """All tensors of two models, sorted into compared and not compared. Parameters are without buffers (masks, rotary
    frequencies), which nothing trains."""

    pairs: tuple[TensorPair, ...]
    not_compared: tuple[NotCompared, ...]
    base_parameters: int
    tuned_parameters: int

    @cached_property
    def is_adapter(self) -> bool:
        """Whether the tuned side is an adapter, compared as if merged into the base."""
        return any(pair.match in ("adapter", "untouched") for pair in self.pairs)

    @cached_property
    def compared_parameters(self) -> int:
        """Entries of all pairs; an embedding that a head is compared with too counts twice."""
        return sum(pair.entries for pair in self.pairs)

    def counted_twice(self, side: Literal["base", "tuned"]) -> int:
        """Of these entries, those that stand for parameters of this side that another pair has too."""
        return 0 if self.is_adapter else self.compared_parameters - self.compared_of(side)

    def covered(self, side: Literal["base", "tuned"], among: Container[str] | None = None) -> dict[Match, int]:
        """Parameters of one side that are compared, by how their pair was found; each counts once, with the first kind
        of TITLE_OF_MATCH. `among` restricts this to the pairs of these names."""
        amounts: dict[Match, int] = dict.fromkeys(TITLE_OF_MATCH, 0)
        seen: set[tuple[str, int]] = set()
        for pair in sorted(self.pairs, key=lambda pair: list(TITLE_OF_MATCH).index(pair.match)):
            for info in pair.stored(side) if among is None or pair.name in among else ():
                if (info.name, info.begin) not in seen:
                    seen.add((info.name, info.begin))
                    amounts[pair.match] += info.parameters
        return {match: amount for match, amount in amounts.items() if amount}

    def compared_of(self, side: Literal["base", "tuned"]) -> int:
        """Parameters of one side that are compared."""
        return self._compared[side]

    @cached_property
    def _compared(self) -> dict[str, int]:
        return {side: sum(self.covered(side).values()) for side in SIDES}
