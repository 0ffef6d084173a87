"""An adapter's tensors and its base's -> Alignment: every tensor of the base with itself as merging would leave it.

    name -> (module, role) -> the base's tensor -> Merge, checked against its shape

Works on names, shapes and the recipe alone. A tensor of the adapter whose target the base does not have is listed; a
target that cannot be merged is not compared at all, since calling it untouched would be wrong.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from analysis.adapter_config import MERGE_IT, Recipe
from analysis.alignment import align
from analysis.errors import BadWeights, NoWeights
from analysis.labels import visible
from analysis.naming import EMBEDDINGS, HEADS, canonical
from analysis.places import place_of, reading_order
from analysis.tensors import BYTES_OF_DTYPE, Alignment, Merge, MergeKind, NotCompared, TensorInfo, TensorPair

_ROLES = {
    "lora_A": "A", "lora_B": "B", "lora_E": "E", "lora_embedding_A": "embedding_A", "lora_embedding_B": "embedding_B",
    "lora_magnitude_vector": "magnitude", "ia3_l": "scale",
    **{f"lokr_{part}": part for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    **{f"hada_{part}": part for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
}  # fmt: skip
_OWN = re.compile(rf"(?P<module>.+)\.(?P<role>{'|'.join(_ROLES)})(?:\.default)?(?:\.(?P<part>weight|bias))?")
_WRAPPED = re.compile(r"(?<=\.)(?:base_layer|modules_to_save(?:\.default)?)\.")
_COPY = re.compile(r"(?<=\.)original_module\.")

# The sets of roles that make an update, by the adapter's kind.
_COMPLETE: dict[str, tuple[frozenset[str], ...]] = {
    "lora": (frozenset({"A", "B"}), frozenset({"embedding_A", "embedding_B"})),
    "adalora": (frozenset({"A", "B", "E"}),),
    "lokr": tuple(
        frozenset(one) | frozenset(other)
        for one in (("w1",), ("w1_a", "w1_b"))
        for other in (("w2",), ("w2_a", "w2_b"))
    ),
    "loha": (frozenset({"w1_a", "w1_b", "w2_a", "w2_b"}),),
    "ia3": (frozenset({"scale"}),),
}
_DO = "Choose another revision, or save the adapter again"


def align_adapter(
    base: Iterable[TensorInfo], adapter: Iterable[TensorInfo], recipe: Recipe, *, base_tied: bool | None = None
) -> Alignment:
    """All tensors of the base, each with what the adapter makes of it. `base_tied` is what the base's config says of
    tie_word_embeddings. Raises BadWeights where the adapter contradicts itself, and NoWeights where it asks for what
    is not done here."""
    base, adapter = tuple(base), tuple(adapter)
    skeleton = align(base, base)
    work = _Work(recipe, base_tied, {p.name: p for p in skeleton.pairs}, list(skeleton.not_compared))
    for target in _targets(adapter, work):
        work.find(target)
    orientations = work.orientations()
    for found in work.found:
        work.merge(*found, orientations)
    pairs = [
        pair if pair.merge else dataclasses.replace(pair, match="untouched") for pair in work.pair_of_name.values()
    ]
    return Alignment(
        tuple(sorted(pairs, key=reading_order)),
        tuple(sorted(work.listed, key=lambda entry: (-entry.parameters, entry.name))),
        skeleton.base_parameters,
        sum(tensor.parameters for tensor in adapter),
    )


@dataclass
class _Target:
    """What the adapter holds for one tensor of the base, by role."""

    name: str  # of the base's tensor, as the adapter calls it
    module: str
    factors: dict[str, TensorInfo] = field(default_factory=dict)

    @property
    def product(self) -> frozenset[str]:
        return frozenset(self.factors) - {"weight", "magnitude"}


@dataclass
class _Work:
    """An alignment in the making."""

    recipe: Recipe
    base_tied: bool | None
    pair_of_name: dict[str, TensorPair]
    listed: list[NotCompared]
    found: list[tuple[_Target, TensorPair, str]] = field(default_factory=list)  # with the name of the merged pair

    def __post_init__(self) -> None:
        whole = {pair.base.name: pair for pair in self.pair_of_name.values() if pair.base.stored is None}
        count = Counter(canonical(name) for name in whole)
        self._by_key = {key: pair for name, pair in whole.items() if count[key := canonical(name)] == 1}
        self._by_name = whole

    def list(self, tensors: Iterable[TensorInfo], reason: str) -> None:
        self.listed += [NotCompared(one.name, "tuned", reason, one.parameters) for one in tensors]

    def find(self, target: _Target) -> None:
        """The base's tensor that the target means, for `merge`; listed where there is none."""
        pair = self._by_name.get(target.name) or self._by_key.get(canonical(target.name))
        if pair is not None:
            self._take(target, pair, pair.name)
            if self.recipe.kind == "ia3" and target.product and _is_of_rows(target, pair):
                self._scale_bias(target)
            return
        table = self._tied_table(target.name)
        if table is None:
            self.list(target.factors.values(), "the base has no tensor that it could belong to")
        elif target.product:
            self._take(target, table, table.name)  # the head is the embedding: what changes one changes both
        else:
            self._take(target, table, target.name)  # a head of its own from now on

    def _take(self, target: _Target, pair: TensorPair, name: str) -> None:
        if any(taken == name for _, _, taken in self.found):
            raise NoWeights(
                f"The adapter changes '{visible(name[:120])}' twice, under two names", do=MERGE_IT
            )  # an embedding and the head tied to it, or names made to clash
        self.found.append((target, pair, name))

    def _tied_table(self, name: str) -> TensorPair | None:
        if self.base_tied is False or canonical(name) not in HEADS:
            return None
        return next((self._by_key[key] for key in EMBEDDINGS if key in self._by_key), None)

    def _scale_bias(self, target: _Target) -> None:
        name = f"{target.module}.bias"
        pair = self._by_name.get(name) or self._by_key.get(canonical(name))
        if pair is not None:
            self._take(_Target(name, target.module, dict(target.factors)), pair, pair.name)

    def merge(self, target: _Target, pair: TensorPair, name: str, orientations: set[bool]) -> None:
        """The pair as the adapter leaves it; not compared where that cannot be told."""
        reason = next(
            (f"values of type {one.dtype} are not compared" for one in target.factors.values()
             if one.dtype not in BYTES_OF_DTYPE), ""
        )  # fmt: skip
        merge = None if reason else _merge(target, pair, self.recipe, orientations)
        if isinstance(merge, Merge):
            new = dataclasses.replace(pair, place=place_of(name), match="adapter", merge=merge)
            self.pair_of_name[name] = dataclasses.replace(new, named="" if name == pair.base.name else name)
            return
        self.list(target.factors.values(), reason or str(merge))
        if self.pair_of_name.pop(name, None):
            self.listed.append(
                NotCompared(name, "base", f"the adapter's tensors for it: {reason or merge}", pair.entries)
            )

    def orientations(self) -> set[bool]:
        """Which way round the products lie in those matrices whose sides tell, True for transposed."""
        seen = set()
        for target, pair, _ in self.found:
            left, right = target.factors.get("B"), target.factors.get("A")
            shape = left and right and (*left.shape[:1], *right.shape[1:])
            if shape and len(shape) == 2 and shape[0] != shape[1] and pair.shape in (shape, shape[::-1]):
                seen.add(pair.shape != shape)
        return seen


def _targets(adapter: Iterable[TensorInfo], work: _Work) -> list[_Target]:
    """The adapter's tensors by the base's tensor that they are for. Raises BadWeights for two in one role."""
    of_name: dict[str, _Target] = {}
    for tensor in adapter:
        name = tensor.name.removeprefix("base_model.").removeprefix("model.")
        if _COPY.search(name):
            work.list([tensor], "a copy of what the base holds, which the adapter does not use")
            continue
        own = _OWN.fullmatch(name)
        is_bias = bool(own and own["part"] == "bias")
        role = "weight" if own is None else "bias" if is_bias else _ROLES[own["role"]]
        full_name = _WRAPPED.sub("", name)
        module = own["module"] if own else full_name.rpartition(".")[0]
        key = full_name if own is None else f"{module}.{'bias' if is_bias else 'weight'}"
        target = of_name.setdefault(key, _Target(key, module))
        if role in target.factors:
            raise BadWeights(f"'{visible(tensor.name[:120])}' stands in the adapter twice, under two names", do=_DO)
        target.factors[role] = tensor
    return list(of_name.values())


def _merge(target: _Target, pair: TensorPair, recipe: Recipe, orientations: set[bool]) -> Merge | str:
    """How the target changes the pair, or why that cannot be told. Raises BadWeights where the adapter's tensors do
    not fit together, or its config."""
    weight = target.factors.get("weight")
    if weight is not None and weight.shape != pair.shape:
        return f"shapes differ: base {list(pair.shape)}, adapter {list(weight.shape)}"
    factors = tuple(target.factors.items())
    if not target.product:
        return Merge("full", factors)
    if recipe.kind == "ia3":
        return _scaled(target, pair, recipe)
    scaling, alpha, rank = (
        recipe.scaling_of(target.module),
        recipe.alpha_of(target.module),
        recipe.rank_of(target.module),
    )
    if target.product == {"bias"}:
        if target.factors["bias"].shape != pair.shape:
            return f"shapes differ: base {list(pair.shape)}, adapter {list(target.factors['bias'].shape)}"
        return Merge("bias", factors, scaling, rank, alpha)
    if any(len(one.shape) > 2 for one in target.factors.values()) or len(pair.shape) != 2:
        return "convolutions of an adapter are not merged here"
    _check_complete(target, recipe)
    shape = _product_shape(target, recipe)
    embedding = "embedding_A" in target.product
    transposed = _is_transposed(shape, pair.shape, embedding, recipe, orientations)
    if isinstance(transposed, str):
        return transposed
    kind: MergeKind = "dora" if recipe.magnitudes else recipe.kind
    if recipe.kind == "adalora":
        rank = target.factors["A"].shape[0]  # training takes some away
        scaling = alpha if alpha > 0 else float(rank)
    _check_magnitude(target, pair, transposed)
    return Merge(
        kind,
        factors,
        scaling,
        rank,
        alpha,
        divisor=float(recipe.rank) if recipe.kind == "adalora" else None,
        transposed=transposed,
        rounded_first=embedding and not recipe.magnitudes,
        rounded_factors=target.module in recipe.resized,
    )


def _is_transposed(
    shape: tuple[int, int], of_base: tuple[int, ...], embedding: bool, recipe: Recipe, orientations: set[bool]
) -> bool | str:
    """Whether the product lies the other way round than the base's tensor. A square one lies as the others do; where
    there are none, as the config says."""
    may_turn = embedding or recipe.kind in ("lora", "adalora")
    if of_base not in ((shape, shape[::-1]) if may_turn else (shape,)) or (embedding and of_base != shape[::-1]):
        return f"shapes differ: base {list(of_base)}, adapter's product {list(shape)}"
    if embedding or shape[0] != shape[1]:
        return embedding or of_base != shape
    if not may_turn:
        return False
    if len(orientations) > 1:
        return "shapes do not say which way round it lies"
    return next(iter(orientations), recipe.transposed)


def _scaled(target: _Target, pair: TensorPair, recipe: Recipe) -> Merge | str:
    scale = target.factors["scale"]
    if target.product != {"scale"} or len(scale.shape) != 2 or min(scale.shape) != 1:
        return "convolutions of an adapter are not merged here"
    long = scale.parameters
    if len(pair.shape) == 1:
        fits, transposed = long == pair.shape[0], False
    else:
        ways = [way for way in (False, True) if _scales(scale.shape[::-1] if way else scale.shape, pair.shape)]
        fits, transposed = bool(ways), recipe.transposed if len(ways) == 2 else ways == [True]
    if not fits:
        return f"shapes differ: base {list(pair.shape)}, adapter {list(scale.shape)}"
    return Merge("ia3", tuple(target.factors.items()), transposed=transposed)


def _scales(scale: tuple[int, ...], matrix: tuple[int, ...]) -> bool:
    return len(matrix) == 2 and all(one in (1, side) for one, side in zip(scale, matrix, strict=True))


def _is_of_rows(target: _Target, pair: TensorPair) -> bool:
    """Whether an IA3 vector scales outputs, and so the bias with them."""
    scale = target.factors.get("scale")
    return scale is not None and scale.shape[-1:] == (1,) and pair.name.endswith(".weight")


def _check_complete(target: _Target, recipe: Recipe) -> None:
    if not any(target.product == complete for complete in _COMPLETE[recipe.kind]):
        raise BadWeights(
            f"For '{visible(target.module[:120])}' the adapter holds {', '.join(sorted(target.product))}",
            expected=f"One of: {'; '.join(', '.join(sorted(one)) for one in _COMPLETE[recipe.kind])}",
            do=_DO,
        )
    if recipe.magnitudes != ("magnitude" in target.factors):
        has, wants = ("no", "True") if recipe.magnitudes else ("a", "False")
        raise BadWeights(
            f"For '{visible(target.module[:120])}' the adapter holds {has} magnitude vector, and its config says "
            f"use_dora {wants}",
            do=_DO,
        )


def _check_magnitude(target: _Target, pair: TensorPair, transposed: bool) -> None:
    magnitude = target.factors.get("magnitude")
    if magnitude is not None and magnitude.parameters != pair.shape[1 if transposed else 0]:
        raise _contradiction(target, "magnitude")


def _product_shape(target: _Target, recipe: Recipe) -> tuple[int, int]:
    """(out, in) of the product. Raises BadWeights where the factors do not fit together, or not the config's rank."""
    shape = {role: one.shape for role, one in target.factors.items()}
    if any(len(shape[role]) != 2 for role in target.product):
        raise _contradiction(target, *target.product)
    if recipe.kind == "lokr":
        (a, b), (c, d) = (_of_pair(target, shape, part) for part in ("w1", "w2"))
        return a * c, b * d
    if recipe.kind == "loha":
        one, other = (_of_pair(target, shape, part) for part in ("w1", "w2"))
        if one != other:
            raise _contradiction(target, *target.product)
        return one
    prefix = "embedding_" if "embedding_A" in shape else ""
    (rank, inner), (outer, columns) = shape[f"{prefix}A"], shape[f"{prefix}B"]
    if rank != columns or ("E" in shape and shape["E"] != (rank, 1)):
        raise _contradiction(target, *target.product)
    expected = recipe.rank_of(target.module)
    if rank != expected and not (recipe.kind == "adalora" and rank < expected):
        raise BadWeights(
            f"'{visible(target.module[:120])}' has rank {rank} in the adapter's file, and {expected} by its config",
            do=_DO,
        )
    return outer, inner


def _of_pair(target: _Target, shape: Mapping[str, tuple[int, ...]], part: str) -> tuple[int, int]:
    if part in shape:
        return shape[part][0], shape[part][1]
    left, right = shape[f"{part}_a"], shape[f"{part}_b"]
    if left[1] != right[0]:
        raise _contradiction(target, f"{part}_a", f"{part}_b")
    return left[0], right[1]


def _contradiction(target: _Target, *roles: str) -> BadWeights:
    shapes = ", ".join(f"{role} {list(target.factors[role].shape)}" for role in sorted(roles))
    return BadWeights(f"The adapter's tensors for '{visible(target.module[:120])}' do not fit: {shapes}", do=_DO)
