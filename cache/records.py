"""What the store remembers beside measurements: the two models of a pair, how far it is, and the jobs. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from analysis.models import Pair
from analysis.series import Series

JobKind = Literal["compare", "overlap", "dynamics"]


@dataclass(frozen=True)
class ModelCard:
    """One model as its files describe it: `config` is the part of its config.json that pages show, `dtype` a summary
    such as 'BF16', `bytes` the size of its weight files."""

    title: str
    commit: str
    config: Mapping[str, object] = field(default_factory=dict)
    dtype: str = ""
    parameters: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class StoredPair:
    """A registered pair and how much of it is measured. Counts are of the versions in use; times are UTC, naive."""

    pair: Pair
    base: ModelCard
    tuned: ModelCard
    registered_at: datetime
    last_activity: datetime
    n_tensors: int
    n_matrices: int
    entries: int
    n_tallies: int
    n_spectra: int  # of the update
    n_gaps: int


@dataclass(frozen=True)
class StoredSeries:
    """A run of checkpoints that was looked up, and what each is called on an axis."""

    series: Series
    labels: tuple[str, ...]
    registered_at: datetime


@dataclass(frozen=True)
class JobRecord:
    """One job as the ledger holds it. It is unfinished while `ended_at` is None; times are UTC, naive."""

    id: str
    kind: JobKind
    request: str  # JSON text
    state: str
    created_at: datetime
    message: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    measured: int = 0
    planned: int = 0
