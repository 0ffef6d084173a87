"""What the store remembers beside measurements: the two models of a pair, how far it is, and the jobs. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from analysis.models import Pair
from analysis.series import Series

JobKind = Literal["compare", "overlap", "dynamics"]


def now() -> datetime:
    """This moment as records hold it: in UTC, without saying so."""
    return datetime.now(UTC).replace(tzinfo=None)


def architecture_of(config: Mapping[str, object]) -> str:
    """'Qwen2ForCausalLM', or 'qwen2', as a config.json says; '' where it does not."""
    named = config.get("architectures")
    first = named[0] if isinstance(named, list | tuple) and named else config.get("model_type")
    return first[:60] if isinstance(first, str) else ""


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
    declared: tuple[str, ...] = ()  # what the model says it was made from, as text that can be compared
    restricted: bool = False  # private or gated on the Hub when it was looked up last


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
class PairNumbers:
    """A pair's headline as amounts, pooled over what is measured of it: enough for a table of many pairs."""

    entries: int
    exact: int  # unchanged under the exact rule
    mukherjee: int
    bf16: int
    update_square_sum: float
    base_square_sum: float
    mean_rank_share: float  # unweighted mean over matrices of rank / min(m, n); nan without spectra
    compared_parameters: int  # each counted once, also an embedding that a tied head is compared with
    base_parameters: int


@dataclass(frozen=True)
class Notes:
    """What the team wrote about a pair. Free text of theirs; empty where nobody wrote."""

    algorithm: str = ""
    data: str = ""
    tags: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class LibraryEntry:
    """One comparison with its numbers, and what was written about it."""

    known: StoredPair
    amounts: PairNumbers | None
    notes: Notes
    published: str

    @property
    def key(self) -> str:
        return self.known.pair.key

    @property
    def text(self) -> str:
        """All that a search looks at."""
        pair, notes = self.known.pair, self.notes
        return " ".join((str(pair.base), str(pair.tuned), notes.algorithm, notes.data, notes.note, *notes.tags)).lower()


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
