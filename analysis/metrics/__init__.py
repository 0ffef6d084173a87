"""CATALOG: every number that can be shown for a tensor, as a pure function of what was stored for it.

A metric yields (part, whole), which are added over the tensors of a cell before `rollup` divides: shares pool over
entries and never average ratios. A metric that is no share yields (value, 1), so a cell of several experts shows their
mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.measurements import Spectrum, Sums, Tally
from analysis.noise import above_noise

Parts = tuple[float, float]
Scale = Literal["share", "log", "linear"]
NOTHING: Parts = (0.0, 0.0)


@dataclass(frozen=True)
class Metric:
    """`scale` says how to draw it: a share has the fixed range 0 to 1, 'log' spans decades."""

    key: str
    title: str
    unit: str
    scale: Scale
    help: str
    needs: Literal["tally", "spectrum"]
    of_tally: Callable[[Tally], Parts] | None = None
    of_spectrum: Callable[[Spectrum, Tally | None], Parts] | None = None

    def parts(self, tally: Tally | None, spectrum: Spectrum | None) -> Parts | None:
        """(part, whole) of one tensor; None where the measurement it needs isn't there."""
        if self.of_tally is not None:
            return None if tally is None else self.of_tally(tally)
        if spectrum is None or spectrum.reason or self.of_spectrum is None:
            return None
        return self.of_spectrum(spectrum, tally)


def unchanged(rule: str) -> Callable[[Tally], Parts]:
    """Entries that `rule` calls unchanged, of all entries."""
    return lambda tally: (tally.unchanged(rule), tally.entries)


def changed(rule: str) -> Callable[[Tally], Parts]:
    return lambda tally: (tally.entries - tally.unchanged(rule), tally.entries)


def relative_update(tally: Tally) -> Parts:
    """||after - before||_F / ||before||_F."""
    return math.sqrt(tally.update_square_sum), math.sqrt(tally.base_square_sum)


def correlation(tally: Tally | Sums) -> Parts:
    """Pearson's correlation of before and after over finite entries, as (covariance, product of deviations)."""
    n = tally.entries - tally.nonfinite
    covariance = n * tally.base_dot_tuned - tally.base_sum * tally.tuned_sum
    of_base = n * tally.base_square_sum - tally.base_sum**2
    of_tuned = n * tally.tuned_square_sum - tally.tuned_sum**2
    return covariance, math.sqrt(max(of_base, 0.0)) * math.sqrt(max(of_tuned, 0.0))


def mean_change(tally: Tally) -> Parts:
    """Mean |after - before| over the entries that changed."""
    return tally.update_abs_sum, float(tally.entries - tally.nonfinite - tally.equal)


def cosine(tally: Tally) -> Parts:
    """1 - cos(before, after), from the update: stable where both nearly coincide.

    1 - cos = (|u|^2 - (|a| - |b|)^2) / (2 |a| |b|), u = after - before.
    """
    before, after = math.sqrt(tally.base_square_sum), math.sqrt(tally.tuned_square_sum)
    return max(tally.update_square_sum - (after - before) ** 2, 0.0), 2 * before * after


def stable_rank(values: np.ndarray) -> float:
    """||A||_F^2 / ||A||_2^2 of singular values, largest first (Rudelson & Vershynin 2007); nan for the zero matrix,
    which has no direction, and where a value is not finite."""
    sigma = _directions(values)
    return math.nan if sigma is None else float(np.square(sigma).sum() / sigma[0] ** 2)


def effective_rank(values: np.ndarray) -> float:
    """exp of the Shannon entropy of the singular values over their sum (Roy & Vetterli 2007); nan as for
    `stable_rank`."""
    sigma = _directions(values)
    if sigma is None:
        return math.nan
    p = sigma[sigma > 0] / sigma.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def energy_rank(values: np.ndarray, share: float) -> float:
    """How many leading directions hold `share` of the squared Frobenius norm; nan as for `stable_rank`."""
    sigma = _directions(values)
    if sigma is None:
        return math.nan
    energy = np.cumsum(np.square(sigma))
    return float(np.searchsorted(energy, share * energy[-1] * (1 - 1e-12)) + 1)


def _directions(values: np.ndarray) -> np.ndarray | None:
    """Singular values in float64; None where all are zero, or one is not finite or negative."""
    sigma = values.astype(np.float64)
    proper = np.isfinite(sigma).all() and (sigma >= 0).all() and (sigma > 0).any()
    return sigma if proper else None


def _of_values(value: Callable[[np.ndarray], float]) -> Callable[[Spectrum, Tally | None], Parts]:
    def parts(spectrum: Spectrum, _: Tally | None) -> Parts:
        found = value(spectrum.singular_values)
        return NOTHING if math.isnan(found) else (found, 1.0)

    return parts


def _over_max_rank(value: Callable[[np.ndarray], float]) -> Callable[[Spectrum, Tally | None], Parts]:
    def parts(spectrum: Spectrum, _: Tally | None) -> Parts:
        return of_max_rank(value(spectrum.singular_values), spectrum)

    return parts


def of_max_rank(value: float, spectrum: Spectrum) -> Parts:
    """A number of directions of this spectrum, over as many as its matrix could have."""
    return NOTHING if math.isnan(value) else (value / spectrum.max_rank, 1.0)


_ALL = (
    Metric(
        "unchanged-exact",
        "Unchanged, exact",
        "unchanged share",
        "share",
        "Share of entries that are equal in value before and after.",
        "tally",
        unchanged("exact"),
    ),
    Metric(
        "unchanged-mukherjee",
        "Unchanged, Mukherjee's rule",
        "unchanged share",
        "share",
        "Share of entries whose difference is within 1e-5 of zero, both sides cast to bfloat16 and subtracted in "
        "bfloat16: the rule behind the published update sparsity (Mukherjee, arXiv 2505.11711).",
        "tally",
        unchanged("mukherjee"),
    ),
    Metric(
        "unchanged-bf16",
        "Unchanged, bf16 rule",
        "unchanged share",
        "share",
        "Share of entries with |after − before| at most 0.001 of the larger of the two (Zhu, definition 2.1, "
        "arXiv 2511.08567).",
        "tally",
        unchanged("bf16"),
    ),
    Metric(
        "unchanged-tolerance",
        "Unchanged, at the chosen tolerance",
        "unchanged share",
        "share",
        "Share of entries with |after − before| at most the chosen tolerance.",
        "tally",
        unchanged("1e-5"),
    ),
    Metric(
        "relative-update",
        "Relative size of the update",
        "‖update‖ / ‖base‖",
        "log",
        "Frobenius norm of the update over that of the base matrix.",
        "tally",
        relative_update,
    ),
    Metric(
        "mean-change",
        "Mean size of a change",
        "|after − before|",
        "log",
        "Mean absolute change over the entries that changed at all.",
        "tally",
        mean_change,
    ),
    Metric(
        "largest-change",
        "Largest change",
        "|after − before|",
        "log",
        "The largest absolute change of any entry.",
        "tally",
        lambda tally: (tally.max_abs_update, 1.0),
    ),
    Metric(
        "turn",
        "Turn of the weights",
        "1 − cosine",
        "log",
        "1 minus the cosine between the matrix before and after, both seen as vectors.",
        "tally",
        cosine,
    ),
    Metric(
        "sign-flips",
        "Sign flips",
        "share of entries",
        "log",
        "Entries whose sign turned round; zeros do not count.",
        "tally",
        lambda tally: (tally.sign_flips, tally.entries),
    ),
    Metric(
        "rank",
        "Numerical rank of the update",
        "share of full rank",
        "share",
        "Singular values above max(m, n) · eps(float32) · largest, as torch.linalg.matrix_rank counts them, over "
        "min(m, n). Sparse random noise is full-rank too: read it beside the effective rank.",
        "spectrum",
        None,
        lambda spectrum, _: (float(spectrum.rank or 0) / spectrum.max_rank, 1.0),
    ),
    Metric(
        "effective-rank",
        "Effective rank of the update",
        "share of full rank",
        "share",
        "exp(entropy of the normalised singular values) over min(m, n) (Roy & Vetterli 2007).",
        "spectrum",
        None,
        _over_max_rank(effective_rank),
    ),
    Metric(
        "stable-rank",
        "Stable rank of the update",
        "directions",
        "log",
        "Squared Frobenius norm over squared largest singular value.",
        "spectrum",
        None,
        _of_values(stable_rank),
    ),
    Metric(
        "energy-rank-90",
        "Directions for 90 % of the energy",
        "share of full rank",
        "share",
        "Leading singular directions that hold 90 % of the squared Frobenius norm, over min(m, n).",
        "spectrum",
        None,
        _over_max_rank(lambda values: energy_rank(values, 0.90)),
    ),
    Metric(
        "directions-above-noise",
        "Directions above noise",
        "directions",
        "log",
        "Singular values larger than unstructured noise of the update's size and shape would have: the update's common "
        "directions. None of them: its entries changed as if independently of each other.",
        "spectrum",
        None,
        lambda spectrum, tally: (float(above_noise(spectrum, tally)[0]), 1.0),
    ),
    Metric(
        "energy-above-noise",
        "Energy above noise",
        "share of the squared norm",
        "share",
        "Share of the squared Frobenius norm that lies in the directions above noise.",
        "spectrum",
        None,
        lambda spectrum, tally: above_noise(spectrum, tally)[1:],
    ),
    Metric(
        "largest-singular-value",
        "Largest singular value of the update",
        "‖update‖₂",
        "log",
        "Spectral norm of the update.",
        "spectrum",
        None,
        _of_values(lambda values: float(values[0])),
    ),
)

CATALOG: dict[str, Metric] = {metric.key: metric for metric in _ALL}


def at_tolerance(edge: int) -> Metric:
    """The metric 'unchanged at CHANGE_EDGES[edge]': exact, since the edge is a bin's border."""
    from dataclasses import replace

    def parts(tally: Tally) -> Parts:
        return tally.equal + tally.nonfinite_same + int(tally.changes[: edge + 1].sum()), tally.entries

    return replace(CATALOG["unchanged-tolerance"], of_tally=parts)
