"""What pages look up, remembered by (ids, generation): the store's counter says when a pair has something new.

Light reads only, so that a pair of 50,000 tensors fits; one matrix is read whole when its page asks for it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np

from analysis import published, rollup, tables
from analysis.alerts import Alert
from analysis.alerts import alerts as alerts_of
from analysis.coverage import part_of
from analysis.links import EDGE_OF_TOLERANCE
from analysis.measurements import Preview, Spectrum, Tally
from analysis.metrics import CATALOG, Metric, Parts, at_tolerance, of_max_rank
from analysis.models import Pair, PinnedModel
from analysis.own_updates import AdapterSummary, OwnUpdates, summarize_adapter
from analysis.plan import Plan
from analysis.rollup import Curve, Grid, Headline, Share
from analysis.tables import Row
from analysis.tensors import Alignment, TensorPair
from cache.bases import alerts_about_bases
from cache.progress import Progress
from cache.records import StoredPair
from cache.remembered import remembered
from cache.store import Of
from pages.parts import handles, permission

_MOST_CHOICES = 2000
_AT_A_TIME = 4096  # tensors whose singular values are read together
_NO_TOLERANCE = "1e-05"  # for metrics that have none
_MOST_TENSORS = 100_000  # whose measurements are kept in memory, over all pairs
_REST = 4.0  # while a job runs, a read is repeated after this many times what it took
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


def pairs(base: PinnedModel | None = None) -> list[StoredPair]:
    """The stored pairs that may be shown, of one base or of all, the last active first."""
    return permission.shown([known for known in handles.store().pairs() if base in (None, known.pair.base)])


def stored(pair: Pair) -> StoredPair | None:
    return _stored(pair.key, handles.store().generation(pair.key))


def base_config(key: str) -> Mapping[str, object]:
    """The part of the base's config.json that is kept; nothing of a pair that is not known."""
    known = _stored(key, handles.store().generation(key))
    return known.base.config if known else {}


def alignment(key: str) -> Alignment:
    return handles.store().alignment(key)


def tallies(key: str) -> Mapping[str, Tally]:
    """Tallies by tensor name, without their rows, columns and maps."""
    return _tallies(key, generation(key))


def spectra(key: str) -> Mapping[str, Spectrum]:
    """Spectra by tensor name, without their singular values."""
    return _spectra(key, generation(key))


def measured_spectra(key: str) -> Mapping[str, Spectrum]:
    """Those of `spectra` that have values."""
    return _measured_spectra(key, generation(key))


def gaps(key: str) -> Mapping[tuple[str, str], str]:
    """Why a measurement is missing, by (kind, tensor name)."""
    return _gaps(key, generation(key))


def n_failed(key: str) -> int:
    """Measurements of the pair that could not be taken; masks that an overlap missed are its own affair."""
    return sum(kind != "overlap" for kind, _ in gaps(key)) + len(handles.store().gaps(key, "adapter"))


def headline(key: str) -> Headline:
    return _headline(key, generation(key))


def ours(key: str) -> published.Ours:
    """What stands beside a published number of this pair."""
    return published.ours(headline(key), alignment(key), gaps(key))


def adapter(key: str) -> AdapterSummary | None:
    """Both updates of the pair's adapter in numbers; None where the tuned side is a whole model."""
    return _adapter(key, generation(key))


def own_updates(key: str) -> OwnUpdates:
    """What the pair's adapter itself adds, by tensor; nothing for a whole model."""
    return _own_updates(key, generation(key))


def own_tally(key: str, name: str) -> Tally | None:
    """One tensor's tally of the adapter's own update, with all its arrays."""
    return handles.store().tally(key, name, "adapter")


def alerts(key: str) -> list[Alert]:
    """What to know before believing the pair's numbers."""
    store = handles.store()
    others = store.pairs_of_same_tuned(key)
    hidden = permission.hidden(others)
    shown = tuple(other for other in others if other not in hidden)
    return _alerts(key, generation(key), shown, tuple(map(store.generation, shown)))


def asked(key: str) -> tuple[Plan, ...]:
    """What was asked for of this pair; everything, or a selection."""
    return _asked(key, generation(key))


def part(key: str) -> Alignment:
    """The part of the pair that was asked for or is measured; the pair's alignment where that is all of it."""
    return _part(key, generation(key))


def unfinished(key: str) -> tuple[int, tuple[Plan, ...]]:
    """(measurements that were asked for and are not stored, the plans that want them)."""
    return _unfinished(key, generation(key))


def measured_share(known: StoredPair) -> float:
    """Of the measurements that were asked for, the share that was made or has failed."""
    key = known.pair.key
    plans = [plan for plan in asked(key) if not (plan.sides or plan.maps)]
    if all(plan.selection.is_everything and plan.spectra_every == 1 for plan in plans):
        with_spectra = any(plan.spectra for plan in plans)
        made = known.n_tallies + known.n_gaps + (known.n_spectra if with_spectra else 0)
        return min(made / max(known.n_tensors + (known.n_matrices if with_spectra else 0), 1), 1.0)
    wanted = {hole for plan in plans for hole in replace(plan, previews=False).wanted(alignment(key))}
    return 1 - unfinished(key)[0] / max(len(wanted), 1)


def n_holes(key: str) -> int:
    """Measurements of the whole pair that the store has not."""
    return _n_holes(key, generation(key))


def tensor_rows(key: str) -> Iterator[Row]:
    """One row a measured tensor, to take away, made some thousand at a time."""
    whole, current = alignment(key), generation(key)
    for at in range(0, len(whole.pairs), _AT_A_TIME):
        some = replace(whole, pairs=whole.pairs[at : at + _AT_A_TIME])
        spectra = handles.store().spectra(key, names=[pair.name for pair in some.pairs])
        yield from tables.tensor_rows(some, _tallies(key, current), spectra)


def metric_at(metric: str, tolerance: str) -> Metric:
    """The metric, at the slider's tolerance where it has one."""
    return at_tolerance(EDGE_OF_TOLERANCE[tolerance]) if metric == "unchanged-tolerance" else CATALOG[metric]


def unchanged(key: str, metric: str, tolerance: str) -> Share:
    """The share that the metric's rule calls unchanged, of what was asked for and is measured."""
    return _unchanged(key, generation(key), metric, tolerance)


def grid(key: str, metric: str, tolerance: str) -> Grid:
    return _grid(key, generation(key), metric, tolerance)


def profile(key: str, metric: str, *, own: bool = False) -> list[Curve]:
    """The metric over layers; `own`: of what the adapter itself adds."""
    return _profile(key, generation(key), metric, own)


def layer_totals(key: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """(layers, the metric pooled over each layer's tensors)."""
    return _layer_totals(key, generation(key), metric)


def tolerance_curve(key: str) -> Curve:
    return _tolerance_curve(key, generation(key))


def tensor(key: str, name: str) -> TensorPair | None:
    """The compared tensor of this name."""
    return _by_name(key, generation(key)).get(name)


def tally(key: str, name: str) -> Tally | None:
    """One tensor's tally with its rows, columns and map."""
    return _tally(key, name, handles.store().generation(key))


def each_spectrum(key: str) -> Iterator[tuple[str, Spectrum]]:
    """(tensor name, spectrum with its singular values) of all that have them."""
    return ((name, one) for name, one in handles.store().each_spectrum(key) if not one.reason)


def spectrum(key: str, name: str, of: Of = "update") -> Spectrum | None:
    """One matrix's spectrum with its singular values."""
    return _spectrum(key, name, of, handles.store().generation(key))


def preview(key: str, name: str) -> Preview | None:
    """An estimate of the update's singular values, until they are there."""
    return handles.store().preview(key, name)


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


def names_to_choose(key: str, measured: Collection[str]) -> list[str]:
    """Names of measured tensors for a list to choose from; of thousands of experts only the first of each layer."""
    pairs = [pair for pair in alignment(key).pairs if pair.name in measured]
    few = len(pairs) <= _MOST_CHOICES
    return [pair.name for pair in pairs if few or pair.place.expert in (None, 0)]


def middle_layer(key: str, names: Collection[str]) -> list[str]:
    """Up to four of `names` from the middle of the model, to begin with."""
    among = set(names)
    pairs = [pair for pair in alignment(key).pairs if pair.name in among]
    layers = sorted({pair.place.layer for pair in pairs if pair.place.layer is not None})
    middle = layers[len(layers) // 2] if layers else None
    return [pair.name for pair in pairs if pair.place.layer == middle][:4]


def _layer_words(pair: TensorPair) -> str:
    return "outside the layers" if pair.place.layer is None else f"layer {pair.place.layer}"


@lru_cache(maxsize=200)
def _stored(key: str, _: int) -> StoredPair | None:
    return handles.store().find_pair(key)


@remembered(most=_MOST_TENSORS)
def _by_name(key: str, _: int) -> dict[str, TensorPair]:
    return {pair.name: pair for pair in alignment(key).pairs}


@lru_cache(maxsize=16)
def _tally(key: str, name: str, _: int) -> Tally | None:
    return handles.store().tally(key, name)


@lru_cache(maxsize=32)
def _spectrum(key: str, name: str, of: Of, _: int) -> Spectrum | None:
    return handles.store().spectrum(key, name, of)


@remembered(most=_MOST_TENSORS)
def _tallies(key: str, _: int) -> dict[str, Tally]:
    store, started = handles.store(), time.monotonic()
    current = store.generation(key)
    found = store.tallies(key, arrays=False)
    _seen[key] = current, time.monotonic(), time.monotonic() - started
    return found


@remembered(most=_MOST_TENSORS)
def _spectra(key: str, _: int) -> dict[str, Spectrum]:
    return handles.store().spectra(key, arrays=False)


@remembered(most=_MOST_TENSORS)
def _measured_spectra(key: str, current: int) -> dict[str, Spectrum]:
    return {name: one for name, one in _spectra(key, current).items() if not one.reason}


@remembered(most=_MOST_TENSORS)
def _gaps(key: str, _: int) -> dict[tuple[str, str], str]:
    return handles.store().gaps(key)


@remembered(most=2 * _MOST_TENSORS)
def _parts(key: str, current: int, metric: str, tolerance: str) -> dict[str, Parts]:
    """The metric's parts by tensor. Singular values are read for it and let go: all of a large pair's are too many."""
    chosen, tallies = metric_at(metric, tolerance), _tallies(key, current)
    if chosen.needs == "tally":
        return rollup.parts_by_name(chosen, alignment(key), tallies, {})
    if metric == "effective-rank":
        known, spectra_of = handles.store().effective_ranks(key), _spectra(key, current)
        return {name: of_max_rank(value, spectra_of[name]) for name, value in known.items() if name in spectra_of}
    found = ((name, chosen.parts(tallies.get(name), one)) for name, one in handles.store().each_spectrum(key))
    return {name: parts for name, parts in found if parts is not None}


@lru_cache(maxsize=200)
def _headline(key: str, current: int) -> Headline:
    ranks, plans = _parts(key, current, "effective-rank", _NO_TOLERANCE), _asked(key, current)
    tallies, spectra = _tallies(key, current), _spectra(key, current)
    return rollup.headline_of_part(alignment(key), tallies, spectra, plans, ranks)


@lru_cache(maxsize=4)
def _own_updates(key: str, _: int) -> OwnUpdates:
    if not alignment(key).is_adapter:
        return OwnUpdates()
    store = handles.store()
    return OwnUpdates(store.tallies(key, "adapter", arrays=False), store.spectra(key, "adapter"))


@lru_cache(maxsize=200)
def _adapter(key: str, current: int) -> AdapterSummary | None:
    if not alignment(key).is_adapter:
        return None
    merged = dict(handles.store().each_spectrum(key))
    return summarize_adapter(alignment(key), _tallies(key, current), merged, _own_updates(key, current))


@lru_cache(maxsize=200)
def _alerts(key: str, current: int, others: tuple[str, ...], _: tuple[int, ...]) -> list[Alert]:
    store, found = handles.store(), _tallies(key, current)
    known = store.find_pair(key)
    about_bases = alerts_about_bases(store, known, found, others) if known else ()
    return alerts_of(_headline(key, current), _part(key, current), found, about_bases)


@lru_cache(maxsize=200)
def _asked(key: str, _: int) -> tuple[Plan, ...]:
    return handles.store().asked(key)


@lru_cache(maxsize=4)
def _part(key: str, current: int) -> Alignment:
    return part_of(alignment(key), _asked(key, current), _tallies(key, current))


@lru_cache(maxsize=200)
def _unfinished(key: str, current: int) -> tuple[int, tuple[Plan, ...]]:
    holes = {plan: handles.store().holes(key, replace(plan, previews=False)) for plan in _asked(key, current)}
    return len({hole for of_plan in holes.values() for hole in of_plan}), tuple(plan for plan in holes if holes[plan])


@lru_cache(maxsize=200)
def _n_holes(key: str, _: int) -> int:
    return len(handles.store().holes(key, Plan(previews=False)))


@lru_cache(maxsize=64)
def _unchanged(key: str, current: int, metric: str, tolerance: str) -> Share:
    parts, part = _parts(key, current, metric, tolerance), _part(key, current)
    if len(part.pairs) < len(alignment(key).pairs):
        parts = {pair.name: parts[pair.name] for pair in part.pairs if pair.name in parts}
    return rollup.pooled_parts(parts.values())


@lru_cache(maxsize=64)
def _grid(key: str, current: int, metric: str, tolerance: str) -> Grid:
    chosen = metric_at(metric, tolerance)
    failed = [name for kind, name in _gaps(key, current) if kind == chosen.needs]
    failed += [name for name, one in _spectra(key, current).items() if one.reason and chosen.needs == "spectrum"]
    return rollup.grid_of_parts(alignment(key), chosen, _parts(key, current, metric, tolerance), failed)


@lru_cache(maxsize=64)
def _profile(key: str, current: int, metric: str, own: bool) -> list[Curve]:
    if own:
        updates = _own_updates(key, current)
        return rollup.layer_profile(alignment(key), CATALOG[metric], updates.tallies, updates.spectra)
    return rollup.profile_of_grid(_grid(key, current, metric, _NO_TOLERANCE))


@lru_cache(maxsize=64)
def _layer_totals(key: str, current: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    return rollup.totals_of_parts(alignment(key), _parts(key, current, metric, _NO_TOLERANCE))


@lru_cache(maxsize=64)
def _tolerance_curve(key: str, current: int) -> Curve:
    return rollup.tolerance_curve(_tallies(key, current).values(), "all compared parameters")
