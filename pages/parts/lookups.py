"""What pages look up, remembered by (ids, generation): the store's counter says when a pair has something new.

Light reads only, so that a pair of 50,000 tensors fits; one matrix is read whole when its page asks for it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from analysis import rollup
from analysis.alerts import Alert
from analysis.alerts import alerts as alerts_of
from analysis.links import EDGE_OF_TOLERANCE, View, view_of
from analysis.measurements import MaskRule, Regions, Spectrum, Tally
from analysis.metrics import CATALOG, Metric, at_tolerance
from analysis.models import Pair, PinnedModel
from analysis.overlaps import overlap_grid
from analysis.plan import Plan
from analysis.rollup import Curve, Grid, Headline, Venn
from analysis.tensors import Alignment, TensorPair
from cache.progress import Progress
from cache.records import StoredPair
from pages.parts import handles

Families = Mapping[PinnedModel, Sequence[PinnedModel]]

_REST = 4.0  # while a job runs, a read is repeated after this many times what it took
_MOST_FOR_MAGNITUDE = 4000  # tensors whose full histograms are read for the matched chance
_seen: dict[str, tuple[int, float, float]] = {}  # pair key -> (generation, when it was read, seconds it took)


def generation(key: str) -> int:
    """The pair's generation to draw by. While its job runs, an expensive read is not repeated at every landing row."""
    now, current = time.monotonic(), handles.store().generation(key)
    known = _seen.get(key)
    if known and known[0] != current and working(key) and now - known[1] < _REST * known[2]:
        return known[0]
    return current


def working(key: str) -> Progress | None:
    """The job that works for this pair now, if there is one."""
    progress = handles.jobs().of_pair(key)
    return progress if progress and not progress.ended else None


def stored(pair: Pair) -> StoredPair | None:
    return handles.store().find_pair(pair.key)


def families(pairs: Sequence[StoredPair]) -> Families:
    """Models tuned from one base, for every base that has at least two."""
    tuned_of_base: dict[PinnedModel, list[PinnedModel]] = {}
    for known in pairs:
        tuned_of_base.setdefault(known.pair.base, []).append(known.pair.tuned)
    return {base: tuned for base, tuned in tuned_of_base.items() if len(tuned) > 1}


def overlap_view(pair: Pair) -> View:
    """The overlap of this pair's update with those of up to two other models tuned from its base."""
    others = families(handles.store().pairs()).get(pair.base, ())
    return view_of("overlap", pair.base, pair.tuned, *[model for model in others if model != pair.tuned][:2])


def alignment(key: str) -> Alignment:
    return handles.store().alignment(key)


def tallies(key: str) -> Mapping[str, Tally]:
    """Tallies by tensor name, without their rows, columns and maps."""
    return _measured(key, generation(key))[0]


def spectra(key: str) -> Mapping[str, Spectrum]:
    return _measured(key, generation(key))[1]


def gaps(key: str) -> Mapping[tuple[str, str], str]:
    """Why a measurement is missing, by (kind, tensor name)."""
    return _measured(key, generation(key))[2]


def headline(key: str) -> Headline:
    return _headline(key, generation(key))


def alerts(key: str) -> list[Alert]:
    """What to know before believing the pair's numbers."""
    return _alerts(key, generation(key))


def n_holes(key: str) -> int:
    """Measurements that the whole plan wants and the store has not."""
    return _n_holes(key, generation(key))


def metric_at(metric: str, tolerance: str) -> Metric:
    """The metric, at the slider's tolerance where it has one."""
    return at_tolerance(EDGE_OF_TOLERANCE[tolerance]) if metric == "unchanged-tolerance" else CATALOG[metric]


def grid(key: str, metric: str, tolerance: str) -> Grid:
    return _grid(key, generation(key), metric, tolerance)


def profile(key: str, metric: str) -> list[Curve]:
    return _profile(key, generation(key), metric)


def tolerance_curve(key: str) -> Curve:
    return _tolerance_curve(key, generation(key))


def tensor(key: str, name: str) -> TensorPair | None:
    """The compared tensor of this name."""
    return next((pair for pair in alignment(key).pairs if pair.name == name), None)


def tally(key: str, name: str) -> Tally | None:
    """One tensor's tally with its rows, columns and map."""
    return handles.store().tally(key, name)


def spectrum(key: str, name: str) -> Spectrum | None:
    return handles.store().spectrum(key, name)


def same_module(key: str, known: TensorPair) -> dict[str, str]:
    """The same matrix in every layer: layer in words -> tensor name."""
    return {
        _layer_words(pair): pair.name
        for pair in alignment(key).pairs
        if (pair.place.module, pair.place.expert) == (known.place.module, known.place.expert)
    }


def same_layer(key: str, known: TensorPair) -> dict[str, str]:
    """Every matrix of the same layer: module -> tensor name, of the same expert where it has one."""
    found: dict[str, str] = {}
    for pair in alignment(key).pairs:
        if pair.place.layer == known.place.layer and pair.place.expert in (None, known.place.expert or 0):
            found.setdefault(pair.place.module, pair.name)
    return found | {known.place.module: known.name}


def same_place(key: str, known: TensorPair) -> dict[str, str]:
    """The experts that share this tensor's place: 'expert 3' -> tensor name."""
    return {
        f"expert {pair.place.expert}": pair.name
        for pair in alignment(key).pairs
        if (pair.place.layer, pair.place.module) == (known.place.layer, known.place.module)
    }


def middle_layer(key: str, names: Collection[str]) -> list[str]:
    """Up to four of `names` from the middle of the model, to begin with."""
    pairs = [pair for pair in alignment(key).pairs if pair.name in names]
    layers = sorted({pair.place.layer for pair in pairs if pair.place.layer is not None})
    middle = layers[len(layers) // 2] if layers else None
    return [pair.name for pair in pairs if pair.place.layer == middle][:4]


def n_counted(pairs: tuple[Pair, ...], rule: MaskRule) -> int:
    """Tensors whose overlap is counted."""
    base, tuned = _keys(pairs)
    return len(_regions(base, tuned, rule, handles.store().generation(base)))


def n_common(pairs: tuple[Pair, ...]) -> int:
    """Tensors that all the pairs compare, in one size: those an overlap can be counted of."""
    shapes = [{pair.name: pair.shape for pair in alignment(one.key).pairs} for one in pairs]
    return sum(all(other.get(name) == shape for other in shapes) for name, shape in shapes[0].items())


def venn(pairs: tuple[Pair, ...], labels: tuple[str, ...], rule: MaskRule) -> Venn:
    """The overlap of the pairs' updates over all tensors, with both chance levels."""
    return _venn(pairs, labels, rule, _moment(pairs))


def overlap_by_place(pairs: tuple[Pair, ...], measure: str, rule: MaskRule, of: int, other: int) -> Grid:
    return _overlap_by_place(pairs, measure, rule, of, other, _moment(pairs))


def _layer_words(pair: TensorPair) -> str:
    return "outside the layers" if pair.place.layer is None else f"layer {pair.place.layer}"


@lru_cache(maxsize=12)
def _measured(key: str, _: int) -> tuple[dict[str, Tally], dict[str, Spectrum], dict[tuple[str, str], str]]:
    store, started = handles.store(), time.monotonic()
    current = store.generation(key)
    found = store.tallies(key, arrays=False), store.spectra(key), store.gaps(key)
    _seen[key] = current, time.monotonic(), time.monotonic() - started
    return found


@lru_cache(maxsize=200)
def _headline(key: str, current: int) -> Headline:
    found, values, _ = _measured(key, current)
    return rollup.headline(alignment(key), found, values, spectra_planned=True)


@lru_cache(maxsize=200)
def _alerts(key: str, current: int) -> list[Alert]:
    return alerts_of(_headline(key, current), alignment(key), _measured(key, current)[0])


@lru_cache(maxsize=200)
def _n_holes(key: str, _: int) -> int:
    return len(handles.store().holes(key, Plan()))


@lru_cache(maxsize=64)
def _grid(key: str, current: int, metric: str, tolerance: str) -> Grid:
    chosen = metric_at(metric, tolerance)
    found, values, reasons = _measured(key, current)
    failed = [name for kind, name in reasons if kind == chosen.needs]
    failed += [name for name, spectrum in values.items() if spectrum.reason and chosen.needs == "spectrum"]
    return rollup.grid(alignment(key), chosen, found, values, failed)


@lru_cache(maxsize=64)
def _profile(key: str, current: int, metric: str) -> list[Curve]:
    found, values, _ = _measured(key, current)
    return rollup.layer_profile(alignment(key), CATALOG[metric], found, values)


@lru_cache(maxsize=64)
def _tolerance_curve(key: str, current: int) -> Curve:
    return rollup.tolerance_curve(_measured(key, current)[0].values(), "all compared parameters")


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
    return overlap_grid(alignment(pairs[0].key), measure, found, of, other, rule=rule, tallies=by_magnitude)


def _moment(pairs: tuple[Pair, ...]) -> tuple[int, ...]:
    """Generations of the base's regions and of each pair: what an overlap is remembered by."""
    store = handles.store()
    return (store.generation(pairs[0].base.key), *(store.generation(pair.key) for pair in pairs))


def _keys(pairs: tuple[Pair, ...]) -> tuple[str, tuple[str, ...]]:
    return pairs[0].base.key, tuple(pair.tuned.key for pair in pairs)


def _by_magnitude(pairs: tuple[Pair, ...], rule: MaskRule, moment: tuple[int, ...]) -> list[Mapping[str, Tally]]:
    """Each model's tallies with their counts by base magnitude, or none where reading them would take too much."""
    return [_binned(pair.key, rule, current) for pair, current in zip(pairs, moment[1:], strict=True)]


@lru_cache(maxsize=12)
def _binned(key: str, rule: MaskRule, current: int) -> dict[str, Tally]:
    if rule == "mukherjee":
        return _measured(key, current)[0]
    if len(alignment(key).pairs) > _MOST_FOR_MAGNITUDE:
        return {}
    nothing, no_map = np.zeros(0, np.int64), np.zeros((0, 0), np.int64)
    return {
        name: replace(
            tally,
            joint=tally.joint.sum(axis=1, keepdims=True),  # (binades, 1): what `changed_by_binade` asks for
            row_changes=nothing,
            column_changes=nothing,
            density=no_map,
        )
        for name, tally in handles.store().tallies(key).items()
    }
