"""Several models tuned from one base, looked up: who there is, what is counted, how their updates overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from analysis import rollup
from analysis.links import View, view_of
from analysis.measurements import MaskRule, Regions, Tally
from analysis.models import Pair, PinnedModel
from analysis.overlaps import overlap_grid
from analysis.rollup import Grid, Venn
from cache.records import StoredPair
from pages.parts import handles, lookups

Families = Mapping[PinnedModel, Sequence[PinnedModel]]


def begun(pairs: Sequence[StoredPair]) -> list[StoredPair]:
    """Pairs of which something is measured, or being measured; not those that were only looked up."""
    return [pair for pair in pairs if pair.n_tallies or pair.n_gaps or lookups.working(pair.pair.key)]


def families(pairs: Sequence[StoredPair]) -> Families:
    """Models tuned from one base, for every base that has at least two."""
    tuned_of_base: dict[PinnedModel, list[PinnedModel]] = {}
    for known in pairs:
        if not known.n_tallies:
            continue
        tuned_of_base.setdefault(known.pair.base, []).append(known.pair.tuned)
    return {base: tuned for base, tuned in tuned_of_base.items() if len(tuned) > 1}


def overlap_view(pair: Pair) -> View:
    """The overlap of this pair's update with those of up to two other models tuned from its base."""
    tuned = families(handles.store().pairs()).get(pair.base, [pair.tuned])
    return view_of("overlap", pair.base, *to_begin_with(pair.base, tuned, among=pair.tuned))


def to_begin_with(
    base: PinnedModel, tuned: Sequence[PinnedModel], *, among: PinnedModel | None = None
) -> list[PinnedModel]:
    """Up to three of `tuned` to show the overlap of: models whose overlap is counted already, if there are such, else
    the last ones that were active. `among` is to be one of them."""
    model_of_key = {model.key: model for model in tuned}
    for keys in handles.store().counted_overlaps(base.key):
        if set(keys) <= model_of_key.keys() and (among is None or among.key in keys):
            return [model for model in tuned if model.key in keys]
    first = [among] if among else []
    return [*first, *[model for model in tuned if model != among]][:3]


def n_counted(pairs: tuple[Pair, ...], rule: MaskRule) -> int:
    """Tensors whose overlap is counted."""
    base, tuned = _keys(pairs)
    return len(_regions(base, tuned, rule, handles.store().generation(base)))


def n_common(pairs: tuple[Pair, ...]) -> int:
    """Tensors that all the pairs compare, in one size: those an overlap can be counted of."""
    shapes = [{pair.name: pair.shape for pair in lookups.alignment(one.key).pairs} for one in pairs]
    return sum(all(other.get(name) == shape for other in shapes) for name, shape in shapes[0].items())


def venn(pairs: tuple[Pair, ...], labels: tuple[str, ...], rule: MaskRule) -> Venn:
    """The overlap of the pairs' updates over all tensors, with both chance levels."""
    return _venn(pairs, labels, rule, _moment(pairs))


def overlap_by_place(pairs: tuple[Pair, ...], measure: str, rule: MaskRule, of: int, other: int) -> Grid:
    return _overlap_by_place(pairs, measure, rule, of, other, _moment(pairs))


@lru_cache(maxsize=16)
def _regions(base_key: str, tuned_keys: tuple[str, ...], rule: MaskRule, _: int) -> dict[str, Regions]:
    return handles.store().regions(base_key, tuned_keys, rule)


@lru_cache(maxsize=32)
def _venn(pairs: tuple[Pair, ...], labels: tuple[str, ...], rule: MaskRule, moment: tuple[int, ...]) -> Venn:
    base, tuned = _keys(pairs)
    return rollup.venn(rule, labels, _regions(base, tuned, rule, moment[0]), _by_magnitude(pairs, rule, moment))


@lru_cache(maxsize=32)
def _overlap_by_place(
    pairs: tuple[Pair, ...], measure: str, rule: MaskRule, of: int, other: int, moment: tuple[int, ...]
) -> Grid:
    base, tuned = _keys(pairs)
    found = _regions(base, tuned, rule, moment[0])
    by_magnitude = _by_magnitude(pairs, rule, moment)
    return overlap_grid(lookups.alignment(pairs[0].key), measure, found, of, other, rule=rule, tallies=by_magnitude)


def _moment(pairs: tuple[Pair, ...]) -> tuple[int, ...]:
    """Generations of the base's regions and of each pair: what an overlap is remembered by."""
    store = handles.store()
    return (store.generation(pairs[0].base.key), *(store.generation(pair.key) for pair in pairs))


def _keys(pairs: tuple[Pair, ...]) -> tuple[str, tuple[str, ...]]:
    return pairs[0].base.key, tuple(pair.tuned.key for pair in pairs)


def _by_magnitude(pairs: tuple[Pair, ...], rule: MaskRule, moment: tuple[int, ...]) -> list[Mapping[str, Tally]]:
    """Each model's tallies with their counts by base magnitude."""
    return [_binned(pair.key, rule, current) for pair, current in zip(pairs, moment[1:], strict=True)]


@lru_cache(maxsize=12)
def _binned(key: str, rule: MaskRule, current: int) -> dict[str, Tally]:
    if rule == "mukherjee":
        return lookups.light_tallies(key, current)
    return handles.store().tallies_by_binade(key)
