"""Runs of checkpoints, looked up: what is measured of each pair, what is counted along the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import cast

from analysis import course_report, dynamics
from analysis.dynamics import Against, Course, StepGrid, Unchanged, unchanged_shares
from analysis.measurements import MaskRule
from analysis.models import Pair
from analysis.patches import PatchSize
from analysis.rollup import Share
from analysis.series import Series
from analysis.tensors import Alignment
from cache.following import followed
from cache.records import StoredPair, StoredSeries
from cache.remembered import remembered
from cache.series_counts import SERIES
from pages.parts import handles, lookups


def known() -> list[StoredSeries]:
    """Every series that was looked up here, the last first."""
    return _known(handles.store().generation(SERIES))


def find(series: Series) -> StoredSeries | None:
    return next((one for one in known() if one.series.key == series.key), None)


def without_steps(stored: Sequence[StoredPair]) -> list[StoredPair]:
    """`stored` without what was only measured as a step of a run, from one checkpoint to the next."""
    steps = {pair.key for one in known() for pair in one.series.from_previous[1:]}
    return [one for one in stored if one.pair.key not in steps or one.n_spectra]


def pairs(series: Series, against: str) -> tuple[Pair, ...]:
    """The pairs behind the checkpoints."""
    return series.from_base if against == "base" else series.from_previous


def landed(series: Series, against: str) -> list[Mapping[str, Unchanged]]:
    """What is measured of each of these pairs, by tensor."""
    return [_unchanged(pair.key, lookups.generation(pair.key)) for pair in pairs(series, against)]


def alignments(series: Series, against: str) -> list[Alignment]:
    return [_alignment(pair.key) for pair in pairs(series, against)]


def sparsity(series: Series, rule: MaskRule) -> list[tuple[str, list[Share]]]:
    """Unchanged shares by checkpoint, against the base and against the one before."""
    return _sparsity(series, rule, _moment(series))


def course(series: Series, rule: MaskRule) -> Course | None:
    """The counts along the run over the tensors that are counted; None while there are none."""
    return _course(series, rule, handles.store().generation(series.key))


def grid(series: Series, rule: MaskRule, what: str, rows: str) -> StepGrid:
    """The heatmap over the steps."""
    return _grid(series, rule, what, rows, _moment(series))


def patches(series: Series, against: str) -> Sequence[PatchSize | None]:
    return _patches(series, against, _moment(series))


def n_to_follow(series: Series) -> int:
    """Tensors that can be followed through the whole run."""
    return len(names_followed(series))


def names_followed(series: Series) -> frozenset[str]:
    return _followed(series)


def n_missing(series: Series) -> int:
    """Tensors of all pairs that are not measured, and have not failed."""
    return _n_missing(series, _moment(series))


def _moment(series: Series) -> tuple[int, ...]:
    """Generations of the run and of each of its pairs: what its numbers are remembered by."""
    return (handles.store().generation(series.key), *(lookups.generation(pair.key) for pair in series.pairs))


@lru_cache(maxsize=8)
def _n_missing(series: Series, _: tuple[int, ...]) -> int:
    missing = 0
    for pair in series.pairs:
        gaps = {name for kind, name in handles.store().gaps(pair.key) if kind == "tally"}
        done = _unchanged(pair.key, lookups.generation(pair.key)).keys() | gaps
        missing += sum(entry.name not in done for entry in _alignment(pair.key).pairs)
    return missing


@lru_cache(maxsize=16)
def _sparsity(series: Series, rule: MaskRule, _: tuple[int, ...]) -> list[tuple[str, list[Share]]]:
    names = {"base": "against the base", "previous": "against the checkpoint before"}
    return [(name, unchanged_shares(landed(series, against), rule)) for against, name in names.items()]


@lru_cache(maxsize=32)
def _grid(series: Series, rule: MaskRule, what: str, rows: str, moment: tuple[int, ...]) -> StepGrid:
    if what in ("outside", "union"):
        counts, n_steps = _steps(series.key, rule, moment[0]), len(series.checkpoints)
        return dynamics.grid_of_counts(_alignment(series.from_base[0].key), counts, what, n_steps, rows)
    against = cast(Against, what)
    return dynamics.grid_of_landed(alignments(series, what), landed(series, what), rule, against, rows)


@lru_cache(maxsize=16)
def _patches(series: Series, against: str, _: tuple[int, ...]) -> Sequence[PatchSize | None]:
    return course_report.patches(alignments(series, against), landed(series, against))


@lru_cache(maxsize=2)
def _known(_: int) -> list[StoredSeries]:
    return handles.store().series.known()


@remembered(most=600_000)
def _unchanged(key: str, _: int) -> dict[str, Unchanged]:
    return handles.store().unchanged(key)


def _alignment(key: str) -> Alignment:
    """The store keeps the last ones, one for all checkpoints of a layout."""
    return handles.store().alignment(key)


@lru_cache(maxsize=8)
def _followed(series: Series) -> frozenset[str]:
    return frozenset(followed(series, handles.store()))


@remembered(most=200_000)
def _steps(key: str, rule: MaskRule, _: int) -> dict[str, dynamics.StepCounts]:
    return handles.store().series.steps(key, rule)


@lru_cache(maxsize=16)
def _course(series: Series, rule: MaskRule, current: int) -> Course | None:
    counts = _steps(series.key, rule, current)
    return dynamics.course(rule, counts, len(series.checkpoints)) if counts else None
