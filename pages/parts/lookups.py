"""What pages look up, remembered by (ids, generation): the store's counter says when a pair has something new.

Light reads only, so that a pair of 50,000 tensors fits; one matrix is read whole when its page asks for it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from functools import lru_cache

from analysis import published, rollup, tables
from analysis.alerts import Alert
from analysis.alerts import alerts as alerts_of
from analysis.links import EDGE_OF_TOLERANCE
from analysis.measurements import Spectrum, Tally
from analysis.metrics import CATALOG, Metric, at_tolerance
from analysis.models import Pair
from analysis.plan import Plan
from analysis.rollup import Curve, Grid, Headline
from analysis.tables import Row
from analysis.tensors import Alignment, TensorPair
from cache.progress import Progress
from cache.records import StoredPair
from pages.parts import handles

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


def headline(key: str) -> Headline:
    return _headline(key, generation(key))


def ours(key: str) -> published.Ours:
    """What stands beside a published number of this pair."""
    return published.ours(headline(key), alignment(key), gaps(key))


def alerts(key: str) -> list[Alert]:
    """What to know before believing the pair's numbers."""
    return _alerts(key, generation(key))


def n_holes(key: str) -> int:
    """Measurements that the whole plan wants and the store has not."""
    return _n_holes(key, generation(key))


def tensor_rows(key: str) -> list[Row]:
    """One row a measured tensor, to take away."""
    return _tensor_rows(key, generation(key))


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
    return rollup.headline(alignment(key), found, values, spectra_planned=True)


@lru_cache(maxsize=200)
def _alerts(key: str, current: int) -> list[Alert]:
    return alerts_of(_headline(key, current), alignment(key), _measured(key, current)[0])


@lru_cache(maxsize=200)
def _n_holes(key: str, _: int) -> int:
    return len(handles.store().holes(key, Plan()))


@lru_cache(maxsize=12)
def _tensor_rows(key: str, current: int) -> list[Row]:
    found, values, _ = _measured(key, current)
    return tables.tensor_rows(alignment(key), found, values)


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
