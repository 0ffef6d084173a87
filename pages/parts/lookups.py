"""What pages look up, remembered by (ids, generation): the store's counter says when a pair has something new.

Light reads only, so that a pair of 50,000 tensors fits; one matrix is read whole when its page asks for it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from functools import lru_cache

import numpy as np

from analysis import published, rollup, tables
from analysis.alerts import Alert
from analysis.alerts import alerts as alerts_of
from analysis.coverage import part_of
from analysis.links import EDGE_OF_TOLERANCE
from analysis.measurements import Preview, Spectrum, Tally
from analysis.metrics import CATALOG, Metric, at_tolerance
from analysis.models import Pair, PinnedModel
from analysis.own_updates import AdapterSummary, OwnUpdates, summarize_adapter
from analysis.plan import Plan
from analysis.rollup import Curve, Grid, Headline, Share
from analysis.tables import Row
from analysis.tensors import Alignment, TensorPair
from cache.bases import alerts_about_bases
from cache.progress import Progress
from cache.records import StoredPair
from pages.parts import handles, permission

_MOST_CHOICES = 2000
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
    return handles.store().find_pair(pair.key)


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


def n_holes(key: str) -> int:
    """Measurements of the whole pair that the store has not."""
    return _n_holes(key, generation(key))


def tensor_rows(key: str) -> list[Row]:
    """One row a measured tensor, to take away."""
    return _tensor_rows(key, generation(key))


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
    return next((pair for pair in alignment(key).pairs if pair.name == name), None)


def tally(key: str, name: str) -> Tally | None:
    """One tensor's tally with its rows, columns and map."""
    return handles.store().tally(key, name)


def spectrum(key: str, name: str) -> Spectrum | None:
    return handles.store().spectrum(key, name)


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
    pairs = [pair for pair in alignment(key).pairs if pair.name in names]
    layers = sorted({pair.place.layer for pair in pairs if pair.place.layer is not None})
    middle = layers[len(layers) // 2] if layers else None
    return [pair.name for pair in pairs if pair.place.layer == middle][:4]


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
    return rollup.headline_of_part(alignment(key), found, values, _asked(key, current))


@lru_cache(maxsize=12)
def _own_updates(key: str, _: int) -> OwnUpdates:
    if not alignment(key).is_adapter:
        return OwnUpdates()
    store = handles.store()
    return OwnUpdates(store.tallies(key, "adapter", arrays=False), store.spectra(key, "adapter"))


@lru_cache(maxsize=200)
def _adapter(key: str, current: int) -> AdapterSummary | None:
    found, values, _ = _measured(key, current)
    return summarize_adapter(alignment(key), found, values, _own_updates(key, current))


@lru_cache(maxsize=200)
def _alerts(key: str, current: int, others: tuple[str, ...], _: tuple[int, ...]) -> list[Alert]:
    store, found = handles.store(), _measured(key, current)[0]
    known = store.find_pair(key)
    about_bases = alerts_about_bases(store, known, found, others) if known else ()
    return alerts_of(_headline(key, current), _part(key, current), found, about_bases)


@lru_cache(maxsize=200)
def _asked(key: str, _: int) -> tuple[Plan, ...]:
    return handles.store().asked(key)


@lru_cache(maxsize=12)
def _part(key: str, current: int) -> Alignment:
    return part_of(alignment(key), _asked(key, current), _measured(key, current)[0])


@lru_cache(maxsize=200)
def _unfinished(key: str, current: int) -> tuple[int, tuple[Plan, ...]]:
    holes = {plan: handles.store().holes(key, plan) for plan in _asked(key, current)}
    return len({hole for of_plan in holes.values() for hole in of_plan}), tuple(plan for plan in holes if holes[plan])


@lru_cache(maxsize=200)
def _n_holes(key: str, _: int) -> int:
    return len(handles.store().holes(key, Plan()))


@lru_cache(maxsize=12)
def _tensor_rows(key: str, current: int) -> list[Row]:
    found, values, _ = _measured(key, current)
    return tables.tensor_rows(alignment(key), found, values)


@lru_cache(maxsize=64)
def _unchanged(key: str, current: int, metric: str, tolerance: str) -> Share:
    return rollup.pooled(_part(key, current), metric_at(metric, tolerance), _measured(key, current)[0])


@lru_cache(maxsize=64)
def _grid(key: str, current: int, metric: str, tolerance: str) -> Grid:
    chosen = metric_at(metric, tolerance)
    found, values, reasons = _measured(key, current)
    failed = [name for kind, name in reasons if kind == chosen.needs]
    failed += [name for name, spectrum in values.items() if spectrum.reason and chosen.needs == "spectrum"]
    return rollup.grid(alignment(key), chosen, found, values, failed)


@lru_cache(maxsize=64)
def _profile(key: str, current: int, metric: str, own: bool) -> list[Curve]:
    found, values, _ = _measured(key, current)
    if own:
        updates = _own_updates(key, current)
        found, values = dict(updates.tallies), dict(updates.spectra)
    return rollup.layer_profile(alignment(key), CATALOG[metric], found, values)


@lru_cache(maxsize=64)
def _layer_totals(key: str, current: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    found, values, _ = _measured(key, current)
    return rollup.layer_totals(alignment(key), metric_at(metric, "1e-05"), found, values)


@lru_cache(maxsize=64)
def _tolerance_curve(key: str, current: int) -> Curve:
    return rollup.tolerance_curve(_measured(key, current)[0].values(), "all compared parameters")
