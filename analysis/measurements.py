"""What one reading of a tensor pair leaves behind: a Tally, and for a matrix a Spectrum. Numbers only.

Every amount in a Tally adds: over blocks of a tensor, over tensors, over layers. Nothing here is a ratio; division is
`analysis.rollup`'s. The rules of "unchanged" and the bins are defined here, once, for kernels, store and pages alike;
docs/methods.md gives them with their sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

TALLY_VERSION = 5  # 2: base_sum and tuned_sum; 3: bf16_binades; 4: ulps; 5: batches without a normal number
SPECTRUM_VERSION = 2  # 2: columns that nearly vanish no longer spoil float32 reflections
PREVIEW_VERSION = 1
OVERLAP_VERSION = 2  # 2: only the regions that occur
DYNAMICS_VERSION = 1

TOLERANCES = ("1e-8", "1e-7", "1e-6", "1e-5", "1e-4", "1e-3")
RULES = ("exact", *TOLERANCES, "bf16", "mukherjee")
MaskRule = Literal["exact", "1e-8", "1e-7", "1e-6", "1e-5", "1e-4", "1e-3", "bf16", "mukherjee"]
MASK_RULES: tuple[MaskRule, ...] = ("exact", "mukherjee")  # masks of these come with every tally; of others on request

_PER_DECADE = 20


def _log_edges(first_decade: int, last_decade: int) -> list[float]:
    """10 ** (k / 20); at whole decades the literal '1eN', so that a published tolerance is an edge to the last bit."""
    steps = range(first_decade * _PER_DECADE, last_decade * _PER_DECADE + 1)
    return [float(f"1e{k // _PER_DECADE}") if k % _PER_DECADE == 0 else 10 ** (k / _PER_DECADE) for k in steps]


# |after - before|: bin k holds (edge[k-1], edge[k]]; the first is closed below by 0, the last open above.
CHANGE_EDGES: NDArray[np.float32] = np.array(_log_edges(-12, 3), dtype=np.float32)
N_CHANGE_BINS = len(CHANGE_EDGES) + 1

# |after - before| / max(|after|, |before|), in float64: the same shape of bins.
RELATIVE_EDGES: NDArray[np.float64] = np.array([*_log_edges(-7, 0), 2.0], dtype=np.float64)
N_RELATIVE_BINS = len(RELATIVE_EDGES) + 1

# How many steps of the stored type a value moved: bin k holds (edge[k-1], edge[k]], the first four one number each.
ULP_EDGES: NDArray[np.int64] = np.array([1, 2, 3, *(2**k for k in range(2, 32))], dtype=np.int64)
N_ULP_BINS = len(ULP_EDGES)

# |before| by power of two: 0 | (0, 2^-30) | [2^-30, 2^-29) ... [2^14, 2^15) | [2^15, inf)
FIRST_BINADE, LAST_BINADE = -30, 14
N_BINADES = LAST_BINADE - FIRST_BINADE + 4

MAX_DENSITY_SIDE = 128
MOST_MODELS = 12  # whose updates are overlapped: 4,096 regions

MUKHERJEE_ATOL = 1e-5
BF16_ETA = 1e-3


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts and sums of one tensor pair, after one pass over both.

    Sums, histograms and flips run over entries that are finite on both sides. A tensor counts as a matrix of
    shape (product of all sides but the last, last side); a vector is one row.
    """

    entries: int
    nonfinite: int  # not finite on at least one side
    nonfinite_same: int  # of these, the same bits on both sides: unchanged under every rule
    equal: int  # finite and equal in value (-0.0 equals 0.0)
    bf16_unchanged: int  # finite, |after - before| <= 1e-3 max(|after|, |before|)
    mukherjee_unchanged: int  # finite, isclose(bf16(after) - bf16(before), 0, atol=1e-5)
    sign_flips: int  # opposite signs, neither of them 0
    base_square_sum: float
    tuned_square_sum: float
    update_square_sum: float
    update_abs_sum: float
    base_dot_tuned: float
    base_sum: float
    tuned_sum: float
    max_abs_update: float
    joint: NDArray[np.int64]  # (N_BINADES, N_CHANGE_BINS): changed finite entries by |before| and |after - before|
    base_binades: NDArray[np.int64]  # (N_BINADES,): all finite entries by |before|
    mukherjee_binades: NDArray[np.int64]  # (N_BINADES,): finite entries changed under Mukherjee's rule, by |before|
    bf16_binades: NDArray[np.int64]  # (N_BINADES,): finite entries changed under the bf16 rule, by |before|
    relative: NDArray[np.int64]  # (N_RELATIVE_BINS,): changed finite entries by relative change
    # (N_ULP_BINS,): changed finite entries without a sign flip, by units in the last place; all 0 where the two sides'
    # types differ, or are not of 16 or 32 bits
    ulps: NDArray[np.int64]
    row_changes: NDArray[np.int64]  # (rows,): entries not unchanged under the exact rule
    column_changes: NDArray[np.int64]  # (columns,): the same
    density: NDArray[np.int64]  # (<=128, <=128): the same, by block of ceil(rows/128) x ceil(columns/128)

    def unchanged(self, rule: str) -> int:
        """Entries that `rule` calls unchanged. For '1e-N' the histogram is summed up to that edge: exact, no bin is
        split. Raises KeyError for a rule that is none of RULES."""
        if rule == "exact":
            return self.equal + self.nonfinite_same
        if rule == "bf16":
            return self.bf16_unchanged + self.nonfinite_same
        if rule == "mukherjee":
            return self.mukherjee_unchanged + self.nonfinite_same
        return self.equal + self.nonfinite_same + int(self.changes[: _edge_of_tolerance[rule] + 1].sum())

    @property
    def changes(self) -> NDArray[np.int64]:
        """(N_CHANGE_BINS,): changed finite entries by |after - before|."""
        return self.joint[0] if len(self.joint) == 1 else self.joint.sum(axis=0)

    def changed_by_binade(self, rule: MaskRule) -> NDArray[np.int64]:
        """(N_BINADES,): finite entries that the rule calls changed, by |before|."""
        if rule == "mukherjee":
            return self.mukherjee_binades
        return self.bf16_binades if rule == "bf16" else self.joint[:, first_changed_bin(rule) :].sum(axis=1)

    def changed_beyond(self, edge: int) -> NDArray[np.int64]:
        """(N_BINADES,): finite entries that moved by more than CHANGE_EDGES[edge], by |before|."""
        return self.joint[:, edge + 1 :].sum(axis=1)

    def magnitudes(self, rule: MaskRule) -> Magnitudes:
        return Magnitudes(self.base_binades, self.changed_by_binade(rule))


@dataclass(frozen=True)
class Sums:
    """Of a Tally what a correlation needs, and no more."""

    entries: int
    nonfinite: int
    base_square_sum: float
    tuned_square_sum: float
    base_dot_tuned: float
    base_sum: float
    tuned_sum: float


_edge_of_tolerance = {t: int(np.flatnonzero(np.float32(t) == CHANGE_EDGES)[0]) for t in TOLERANCES}


def first_changed_bin(rule: str) -> int:
    """The first bin of sizes that 'exact' or a tolerance calls changed."""
    return 0 if rule == "exact" else _edge_of_tolerance[rule] + 1


@dataclass(frozen=True, eq=False)
class Magnitudes:
    """One tensor's finite entries by power of two of |before|, and those of them that a rule calls changed: what a
    chance level at equal magnitude is made from."""

    entries: NDArray[np.int64]  # (N_BINADES,)
    changed: NDArray[np.int64]  # (N_BINADES,)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values of one matrix, or the reason why there are none.

    `rank` counts the values above `tolerance` = max(m, n) * eps(float32) * largest, as torch.linalg.matrix_rank does
    in float32; `rank_low` and `rank_high` bound it where the method's own error could move a value across.
    """

    of: Literal["update", "base", "tuned", "adapter"]
    rows: int
    columns: int
    singular_values: NDArray[np.float32]  # (min(rows, columns),), descending; empty where `reason` says why
    tolerance: float
    rank: int | None
    rank_low: int | None
    rank_high: int | None
    method: str  # 'factors float64', 'zero matrix', or one of the ways in analysis.singular
    reason: str = ""

    @property
    def max_rank(self) -> int:
        return min(self.rows, self.columns)


@dataclass(frozen=True, eq=False)
class Preview:
    """An estimate of one matrix's singular values, until they are computed; `analysis.preview` makes it. No numerical
    rank follows from it."""

    of: Literal["update", "base", "tuned", "adapter"]
    rows: int
    columns: int
    positions: NDArray[np.float32]  # directions, ascending from 1; some of them
    values: NDArray[np.float32]  # estimated singular values there, descending
    stable_rank: float  # nan for an update that is 0
    effective_rank: float


@dataclass(frozen=True, eq=False)
class Regions:
    """How often each subset of k models, and no other of them, changed an entry of one tensor, under one rule.

    Only the subsets that occur are kept: `counts[i]` entries were changed by exactly the models whose bits are set in
    `subsets[i]`. The empty subset counts like any other, so the counts sum to the entries.
    """

    rule: MaskRule
    n_models: int
    subsets: NDArray[np.int64]  # (n,), ascending
    counts: NDArray[np.int64]  # (n,), none of them 0

    @staticmethod
    def of(rule: MaskRule, counts: NDArray[np.int64]) -> Regions:
        """The regions whose counts by subset are these, (2 ** k,)."""
        subsets = np.flatnonzero(counts)
        return Regions(rule, len(counts).bit_length() - 1, subsets, np.asarray(counts, np.int64)[subsets])

    @property
    def dense(self) -> NDArray[np.int64]:
        """(2 ** k,): the count of every subset."""
        counts = np.zeros(1 << self.n_models, np.int64)
        counts[self.subsets] = self.counts
        return counts

    def among(self, *models: int) -> Regions:
        """The same entries by these models alone, the first of them at bit 0, whatever the others did."""
        subset = sum((self.subsets >> model & 1) << bit for bit, model in enumerate(models))
        counts = np.zeros(1 << len(models), np.int64)
        np.add.at(counts, subset, self.counts)
        return Regions.of(self.rule, counts)


@dataclass(frozen=True, eq=False)
class Consensus:
    """Where in one matrix runs agree: entries of each block by how many of the models changed them, under one rule."""

    rule: MaskRule
    rows: int
    columns: int
    counts: NDArray[np.int64]  # (<=128, <=128, k + 1), blocks as in a Tally's density


@dataclass(frozen=True, eq=False)
class StepCounts:
    """What happened to one tensor's entries over an ordered run of k checkpoints, under one rule. Position t stands
    for checkpoint t; the *final* subnetwork is what the last checkpoint changed against the base.
    """

    rule: MaskRule
    entries: int
    changed: NDArray[np.int64]  # (k,): changed against the base
    moved: NDArray[np.int64]  # (k,): changed against the checkpoint before; of the first, against the base
    changed_outside: NDArray[np.int64]  # (k,): of `changed`, those outside the final subnetwork
    moved_outside: NDArray[np.int64]  # (k,): of `moved`, those outside the final subnetwork
    union: NDArray[np.int64]  # (k,): changed against the base at this checkpoint or at an earlier one

    @property
    def n_steps(self) -> int:
        return len(self.changed)


@dataclass(frozen=True)
class Gap:
    """A tensor that could not be measured, and why: a result like any other, never an absence."""

    kind: Literal["tally", "preview", "spectrum", "overlap", "dynamics"]
    reason: str
