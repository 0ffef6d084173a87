"""Which tensor of the tuned model is which of the base: from names, shapes and types alone.

    name -> row range or expert -> canonical name -> fused parts -> tied head -> listed

Each step takes what the earlier left over, and takes nothing where two tensors could be meant. `align` never drops a
tensor: what has no partner is listed with its reason and its parameters.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from analysis.naming import EMBEDDINGS, HEADS, canonical, is_table, parts_of_fused, stack_of, why_no_parameter
from analysis.places import place_of, reading_order
from analysis.tensors import BYTES_OF_DTYPE, Alignment, Match, NotCompared, TensorInfo, TensorPair

_ONLY = {"base": "only the base has it", "tuned": "only the tuned model has it"}
_AROUND = "shapes do not say which way round the stack holds it"


def align(
    base: Iterable[TensorInfo],
    tuned: Iterable[TensorInfo],
    *,
    base_tied: bool | None = None,
    tuned_tied: bool | None = None,
) -> Alignment:
    """All tensors of both, paired or listed; pairs ordered by layer as a reader would go through the model.

    `base_tied` and `tuned_tied` are what the configs say of tie_word_embeddings: where one says no, a head that the
    other side writes out is not compared with that side's embedding.
    """
    work = _Work(_Side("base", base_tied), _Side("tuned", tuned_tied))
    work.take_buffers_and_names({t.name: t for t in base}, {t.name: t for t in tuned})
    work.take_canonical_names()
    work.take_fused()
    work.take_canonical_names(square_too=True)
    work.take_fused(square_too=True)
    work.take_tied()
    work.list_what_is_left()
    return Alignment(
        tuple(sorted(work.pairs, key=reading_order)),
        tuple(sorted(work.listed, key=lambda entry: (not entry.is_parameter, -entry.parameters, entry.name))),
        work.base.parameters,
        work.tuned.parameters,
    )


@dataclass(frozen=True)
class _Part:
    """A tensor, or one expert of a stack, that waits for its partner."""

    info: TensorInfo
    key: str
    label: str  # what it is called in a list
    of_stack: bool = False
    is_paired: bool = False  # has a partner already: an embedding that a head is compared with too

    @property
    def is_square_of_stack(self) -> bool:
        return self.of_stack and self.info.shape[0] == self.info.shape[1]


@dataclass
class _Side:
    """One model: what is still without a partner, and what a tied head could be compared with."""

    name: Literal["base", "tuned"]
    is_tied: bool | None
    parameters: int = 0
    left: dict[str, _Part] = field(default_factory=dict)
    ambiguous: list[_Part] = field(default_factory=list)
    table_of_key: dict[str, TensorInfo] = field(default_factory=dict)  # embeddings and heads, paired or not

    def wait(self, tensors: Iterable[TensorInfo]) -> None:
        """Keeps these until their partners are found. Two of one canonical name: neither can be told by it."""
        parts = [part for tensor in tensors for part in _parts(tensor)]
        count = Counter(part.key for part in parts)
        self.left = {part.key: part for part in parts if count[part.key] == 1}
        self.ambiguous = [part for part in parts if count[part.key] > 1]

    def remember_tables(self, tensors: Iterable[TensorInfo]) -> None:
        """Embeddings and heads, as far as their canonical names tell them apart."""
        tables = [(key, t) for t in tensors if (key := canonical(t.name)) in (*HEADS, *EMBEDDINGS)]
        count = Counter(key for key, _ in tables)
        self.table_of_key = {key: t for key, t in tables if count[key] == 1 and len(t.shape) == 2}

    def table(self, keys: Sequence[str]) -> tuple[str, TensorInfo] | None:
        return next(((key, self.table_of_key[key]) for key in keys if key in self.table_of_key), None)


@dataclass
class _Work:
    """An alignment in the making."""

    base: _Side
    tuned: _Side
    pairs: list[TensorPair] = field(default_factory=list)
    listed: list[NotCompared] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)  # names of pairs
    upright: set[str] = field(default_factory=set)  # expert blocks whose stacks hold (out, in) as single tensors do

    def take_buffers_and_names(self, base: dict[str, TensorInfo], tuned: dict[str, TensorInfo]) -> None:
        """Tensors of one name. What isn't paired waits, unless both sides have the name and no rule can help."""
        for side, tensors in ((self.base, base), (self.tuned, tuned)):
            for tensor in list(tensors.values()):
                if reason := why_no_parameter(tensor):
                    self._list_aside(tensor, side.name, reason, tuned)
                    del tensors[tensor.name]
            side.parameters = sum(tensor.parameters for tensor in tensors.values())
            side.remember_tables(tensors.values())
        for name, before in base.items():
            if name in tuned:
                self._same_name(before, tuned[name])
        self.base.wait(tensor for name, tensor in base.items() if name not in tuned)
        self.tuned.wait(tensor for name, tensor in tuned.items() if name not in base)

    def take_canonical_names(self, *, square_too: bool = False) -> None:
        """Tensors whose names differ by wrappers or spelling only, and single experts against stacked ones.

        A square matrix of a stack could lie there transposed: it is taken last, where its block's others stood upright.
        """
        for key in [key for key in self.base.left if key in self.tuned.left]:
            before, after = self.base.left[key], self.tuned.left[key]
            stacked = before.of_stack != after.of_stack
            if stacked and any(part.is_square_of_stack for part in (before, after)):
                if not square_too or _block(key) not in self.upright:
                    continue
            elif stacked and before.info.shape == after.info.shape:
                self.upright.add(_block(key))
            if self._pair(before, after, "experts" if stacked else "renamed"):
                del self.base.left[key], self.tuned.left[key]

    def take_fused(self, *, square_too: bool = False) -> None:
        """Projections that one side holds in one tensor, one below the other, and the other side in several."""
        for whole_side, split_side in ((self.base, self.tuned), (self.tuned, self.base)):
            for key, whole in list(whole_side.left.items()):
                parts = [split_side.left.get(part) for part in parts_of_fused(key)]
                present = [part for part in parts if part is not None]
                if not parts or len(present) < len(parts) or not _are_rows_of(present, whole):
                    continue
                if whole.is_square_of_stack and not (square_too and _block(key) in self.upright):
                    continue
                self.upright.add(_block(key))
                self._pair_fused(whole, present, whole_side)
                for part in present:
                    del split_side.left[part.key]
                del whole_side.left[key]

    def take_tied(self) -> None:
        """An output head that one side writes out, with the embedding that the other side uses in its place (or the
        other way round: some files keep only the head)."""
        for wanted, instead in ((HEADS, EMBEDDINGS), (EMBEDDINGS, HEADS)):
            for side, other in ((self.base, self.tuned), (self.tuned, self.base)):
                part = next((side.left[key] for key in wanted if key in side.left), None)
                counterpart = other.table(instead)
                if part is None or counterpart is None or other.table(wanted) or other.is_tied is False:
                    continue
                key, table = counterpart
                if any(table.name == entry.name for entry in self.listed):
                    continue
                found = _Part(table, key, table.name, is_paired=key not in other.left)
                before, after = (part, found) if side is self.base else (found, part)
                if self._pair(before, after, "tied", named=part.info.name):
                    del side.left[part.key]
                    other.left.pop(key, None)

    def list_what_is_left(self) -> None:
        """Whatever is still without a partner, each with its reason; a stack left as a whole is one entry."""
        for key in [key for key in self.base.left if key in self.tuned.left]:
            before, after = self.base.left.pop(key), self.tuned.left.pop(key)
            reason = f"{_why_not(before.info, after.info) or _AROUND}; the tuned model calls it '{after.label}'"
            self.listed.append(NotCompared(before.label, "both", reason, before.info.parameters))
        for side, other in ((self.base, self.tuned), (self.tuned, self.base)):
            fused_with = {part: whole.label for key, whole in other.left.items() for part in parts_of_fused(key)}
            for part in _joined(side.left.values()):
                reason = _why_left(part, side, other, fused_with)
                self.listed.append(NotCompared(part.label, side.name, reason, part.info.parameters))
            for part in _joined(side.ambiguous):
                reason = f"{_ONLY[side.name]}; without wrappers' prefixes its name is not the only one of its kind"
                self.listed.append(NotCompared(part.label, side.name, reason, part.info.parameters))

    def _list_aside(
        self, tensor: TensorInfo, side: Literal["base", "tuned"], reason: str, tuned: dict[str, TensorInfo]
    ) -> None:
        """Lists what is no parameter, once where both sides have it for the same reason."""
        in_both = side == "base" and tensor.name in tuned and why_no_parameter(tuned[tensor.name]) == reason
        if in_both:
            del tuned[tensor.name]
        self.listed.append(NotCompared(tensor.name, "both" if in_both else side, reason, tensor.parameters))

    def _same_name(self, before: TensorInfo, after: TensorInfo) -> None:
        if stack_of(before) and not _why_not(before, after):
            for expert, (one, other) in enumerate(zip(_experts(before), _experts(after), strict=True)):
                label = f"{before.name}[{expert}]"
                self._pair(_Part(one, label, label), _Part(other, label, label), "exact")
            return
        key = canonical(before.name)
        if not self._pair(_Part(before, key, before.name), _Part(after, key, after.name), "exact"):
            self.listed.append(NotCompared(before.name, "both", _why_not(before, after), before.parameters))

    def _pair(self, before: _Part, after: _Part, match: Match, named: str = "") -> bool:
        """Whether the two are now a pair: of one shape, or tables of words whose common rows are compared."""
        base, tuned = before.info, after.info
        named = named or before.label
        if _differ_in_rows(base, tuned) and is_table(before.key) and is_table(after.key):
            common = min(base.shape[0], tuned.shape[0])
            if not common or _why_not(base.rows(0, common), tuned.rows(0, common)):
                return False
            match = "rows" if match in ("exact", "renamed") else match
            self._list_new_rows(before, after, common)
            base, tuned = base.rows(0, common), tuned.rows(0, common)
        if _why_not(base, tuned):
            return False
        self._add(base, tuned, match, named)
        return True

    def _add(self, base: TensorInfo, tuned: TensorInfo, match: Match, named: str) -> None:
        """Adds the pair under a name of its own: it is the key of its measurements. Only names made to clash do."""
        while named in self.taken:
            named += "'"
        self.taken.add(named)
        self.pairs.append(TensorPair(base, tuned, place_of(named), match, "" if named == base.name else named))

    def _list_new_rows(self, before: _Part, after: _Part, common: int) -> None:
        grown = after.info.shape[0] > common
        longer = after if grown else before
        if longer.is_paired:
            return
        rows = longer.info.shape[0]
        reason = f"new rows: the base has {common:,}" if grown else f"rows that only the base has, beyond {common:,}"
        parameters = longer.info.parameters // rows * (rows - common)
        side: Literal["base", "tuned"] = "tuned" if grown else "base"
        self.listed.append(NotCompared(f"{longer.label}[{common}:{rows}]", side, reason, parameters))

    def _pair_fused(self, whole: _Part, parts: Sequence[_Part], whole_side: _Side) -> None:
        first = 0
        for part in parts:
            last = first + part.info.shape[0]
            piece = whole.info.rows(first, last)
            before, after = (piece, part.info) if whole_side is self.base else (part.info, piece)
            self._add(before, after, "fused", part.label)
            first = last


def _why_left(part: _Part, side: _Side, other: _Side, fused_with: dict[str, str]) -> str:
    only = _ONLY[side.name]
    if part.key in HEADS and other.table(EMBEDDINGS) and other.is_tied is False:
        return f"{only}, and the other's config says that its head is not its embedding"
    if part.key in fused_with:
        return f"{only} as a tensor of its own: '{fused_with[part.key]}' does not hold it in rows of this shape"
    if any(one in other.left for one in parts_of_fused(part.key)):
        return f"{only} in one tensor, and the other's do not have its shape one below the other"
    return only


def _parts(tensor: TensorInfo) -> Iterator[_Part]:
    stack = stack_of(tensor)
    if stack is None or not tensor.parameters:
        yield _Part(tensor, canonical(tensor.name), tensor.name)
        return
    for expert, info in enumerate(_experts(tensor)):
        yield _Part(info, stack.key(expert), f"{tensor.name}[{expert}]", of_stack=True)


def _experts(stack: TensorInfo) -> list[TensorInfo]:
    return [stack.rows(expert, expert + 1, stack.shape[1:]) for expert in range(stack.shape[0])]


def _joined(parts: Iterable[_Part]) -> list[_Part]:
    """The parts; a stack of which every expert is left is one again."""
    whole: list[_Part] = []
    of_stack: dict[str, list[_Part]] = {}
    for part in parts:
        if part.of_stack:
            of_stack.setdefault(part.info.name, []).append(part)
        else:
            whole.append(part)
    for name, experts in of_stack.items():
        shape = experts[0].info.stored or ()
        if shape and len(experts) == shape[0]:
            info = dataclasses.replace(
                experts[0].info, shape=shape, begin=experts[0].info.begin, end=experts[-1].info.end, stored=None
            )
            whole.append(_Part(info, experts[0].key, name))
        else:
            whole.extend(experts)
    return whole


def _why_not(before: TensorInfo, after: TensorInfo) -> str:
    if before.unread or after.unread:
        return before.unread or after.unread
    if before.shape != after.shape:
        return f"shapes differ: base {list(before.shape)}, tuned {list(after.shape)}"
    strange = [t.dtype for t in (before, after) if t.dtype not in BYTES_OF_DTYPE]
    if strange:
        return f"values of type {strange[0]} are not compared"
    return "no entries" if before.parameters == 0 else ""


def _differ_in_rows(base: TensorInfo, tuned: TensorInfo) -> bool:
    return (
        bool(base.shape)
        and base.shape[1:] == tuned.shape[1:]
        and len(base.shape) == len(tuned.shape)
        and (base.shape[0] != tuned.shape[0])
    )


def _are_rows_of(parts: Sequence[_Part], whole: _Part) -> bool:
    """Whether the parts, one below the other, have the whole's shape, and all can be compared."""
    shapes = [part.info.shape for part in parts]
    if not whole.info.shape or any(len(shape) != len(whole.info.shape) for shape in shapes):
        return False
    return (
        sum(shape[0] for shape in shapes) == whole.info.shape[0]
        and all(shape[1:] == whole.info.shape[1:] and shape[0] for shape in shapes)
        and whole.info.parameters > 0
        and all(part.info.dtype in BYTES_OF_DTYPE and not part.info.unread for part in (*parts, whole))
    )


_EXPERT_OF_KEY = re.compile(r"(.*experts)\.\d+\.")


def _block(key: str) -> str:
    """The experts that a matrix belongs to: their stacks all lie one way round."""
    found = _EXPERT_OF_KEY.match(key)
    return found[1] if found else ""
