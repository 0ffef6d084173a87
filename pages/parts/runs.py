"""Several models tuned from one base, looked up: who there is, what is counted, how their updates overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from analysis import overlaps, rollup
from analysis.links import View, view_of
from analysis.measurements import Consensus, Magnitudes, MaskRule, Regions
from analysis.models import Pair, PinnedModel
from analysis.overlap_grids import agreement_grid, overlap_grid
from analysis.overlaps import Venn
from analysis.rollup import Grid, Resemblance
from analysis.tables import Row, agreement_by_tensor, left_out_rows
from cache.records import StoredPair
from cache.remembered import remembered
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
    tuned = families(lookups.pairs(pair.base)).get(pair.base, [pair.tuned])
    return view_of("overlap", pair.base, *to_begin_with(pair.base, tuned, among=pair.tuned))


def to_begin_with(
    base: PinnedModel, tuned: Sequence[PinnedModel], *, among: PinnedModel | None = None
) -> list[PinnedModel]:
    """Up to three of `tuned` to show the overlap of: models whose overlap is counted already, if there are such, else
    the last ones that were active. `among` is to be one of them."""
    model_of_key = {model.key: model for model in tuned}
    for keys in handles.store().overlaps.counted(base.key):
        if set(keys) <= model_of_key.keys() and (among is None or among.key in keys):
            return [model for model in tuned if model.key in keys]
    first = [among] if among else []
    return [*first, *[model for model in tuned if model != among]][:3]


def n_counted(pairs: tuple[Pair, ...], rule: MaskRule) -> int:
    """Tensors whose overlap is counted."""
    base, tuned = _keys(pairs)
    return len(_regions(base, tuned, rule, handles.store().generation(base)))


def n_common(pairs: tuple[Pair, ...]) -> int:
    """Tensors that all the pairs compare, in one shape: those an overlap can be counted of."""
    return sum(pair.name not in _left_out(pairs) for pair in lookups.alignment(pairs[0].key).pairs)


def left_out(pairs: tuple[Pair, ...], labels: Sequence[str]) -> list[Row]:
    """One row a tensor that not all the pairs compare in one shape: its shape in each."""
    return left_out_rows(labels, _left_out(pairs))


def venn(pairs: tuple[Pair, ...], labels: tuple[str, ...], rule: MaskRule) -> Venn:
    """The overlap of the pairs' updates over all tensors, with both chance levels."""
    return _venn(pairs, labels, rule, _moment(pairs))


def overlap_by_place(pairs: tuple[Pair, ...], measure: str, rule: MaskRule, of: int, other: int) -> Grid:
    return _overlap_by_place(pairs, measure, rule, of, other, _moment(pairs))


def agreement_by_place(pairs: tuple[Pair, ...], measure: str, rule: MaskRule, n_runs: int) -> Grid:
    return _agreement_by_place(pairs, measure, rule, n_runs, _moment(pairs))


def agreement_rows(pairs: tuple[Pair, ...], rule: MaskRule) -> list[Row]:
    """One row a tensor: how many of its entries exactly 0, 1 ... of the models changed, to take away."""
    base, tuned = _keys(pairs)
    found = _regions(base, tuned, rule, handles.store().generation(base))
    return agreement_by_tensor(lookups.alignment(pairs[0].key), found)


def counted_matrices(pairs: tuple[Pair, ...], rule: MaskRule) -> list[str]:
    """Matrices whose overlap is counted, in reading order; of thousands of experts only the first of each layer."""
    base, tuned = _keys(pairs)
    found = _regions(base, tuned, rule, handles.store().generation(base))
    matrices = {pair.name for pair in lookups.alignment(pairs[0].key).pairs if pair.is_matrix}
    return lookups.names_to_choose(pairs[0].key, matrices & found.keys())


def consensus(pairs: tuple[Pair, ...], name: str, rule: MaskRule) -> Consensus | None:
    """Where in this matrix the runs agree, if it was counted."""
    base, tuned = _keys(pairs)
    return handles.store().overlaps.consensus(base, tuned, name, rule)


@remembered(most=200_000)
def _regions(base_key: str, tuned_keys: tuple[str, ...], rule: MaskRule, _: int) -> dict[str, Regions]:
    return handles.store().overlaps.regions(base_key, tuned_keys, rule)


def resemblance(pair: Pair) -> Resemblance:
    """How much the tuned model's matrices resemble the base's."""
    return _resemblance(pair.key, handles.store().generation(pair.key))


@lru_cache(maxsize=64)
def _resemblance(key: str, _: int) -> Resemblance:
    return rollup.resemblance(lookups.alignment(key), handles.store().sums(key))


@lru_cache(maxsize=8)
def stored_in(pairs: tuple[Pair, ...]) -> str:
    """The type in which the tuned models have their weights, if it is one."""
    return overlaps.stored_in(lookups.alignment(pair.key) for pair in pairs)


@lru_cache(maxsize=8)
def _left_out(pairs: tuple[Pair, ...]) -> Mapping[str, tuple[tuple[int, ...] | None, ...]]:
    return overlaps.left_out([lookups.alignment(pair.key) for pair in pairs])


@lru_cache(maxsize=32)
def _venn(pairs: tuple[Pair, ...], labels: tuple[str, ...], rule: MaskRule, moment: tuple[int, ...]) -> Venn:
    base, tuned = _keys(pairs)
    return overlaps.venn(rule, labels, _regions(base, tuned, rule, moment[0]), _by_magnitude(pairs, rule, moment))


@lru_cache(maxsize=32)
def _overlap_by_place(
    pairs: tuple[Pair, ...], measure: str, rule: MaskRule, of: int, other: int, moment: tuple[int, ...]
) -> Grid:
    base, tuned = _keys(pairs)
    found, magnitudes = _regions(base, tuned, rule, moment[0]), _by_magnitude(pairs, rule, moment)
    alignment = lookups.alignment(pairs[0].key)
    without = _left_out(pairs)
    return overlap_grid(alignment, measure, found, of, other, rule=rule, magnitudes=magnitudes, left_out=without)


@lru_cache(maxsize=32)
def _agreement_by_place(
    pairs: tuple[Pair, ...], measure: str, rule: MaskRule, n_runs: int, moment: tuple[int, ...]
) -> Grid:
    base, tuned = _keys(pairs)
    found, magnitudes = _regions(base, tuned, rule, moment[0]), _by_magnitude(pairs, rule, moment)
    alignment, without = lookups.alignment(pairs[0].key), _left_out(pairs)
    return agreement_grid(alignment, measure, found, n_runs, magnitudes=magnitudes, left_out=without)


def _moment(pairs: tuple[Pair, ...]) -> tuple[int, ...]:
    """Generations of the base's regions and of each pair: what an overlap is remembered by."""
    store = handles.store()
    return (store.generation(pairs[0].base.key), *(store.generation(pair.key) for pair in pairs))


def _keys(pairs: tuple[Pair, ...]) -> tuple[str, tuple[str, ...]]:
    return pairs[0].base.key, tuple(pair.tuned.key for pair in pairs)


def _by_magnitude(pairs: tuple[Pair, ...], rule: MaskRule, moment: tuple[int, ...]) -> list[Mapping[str, Magnitudes]]:
    """Each model's entries and changed ones by base magnitude."""
    return [_magnitudes(pair.key, rule, current) for pair, current in zip(pairs, moment[1:], strict=True)]


@remembered(most=300_000)
def _magnitudes(key: str, rule: MaskRule, _: int) -> dict[str, Magnitudes]:
    return handles.store().magnitudes(key, rule)
