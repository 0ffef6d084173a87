"""How far an update moved a matrix's own singular values: base and tuned side by side, as Zhu's paper does."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from analysis.measurements import Spectrum, Tally
from analysis.metrics import relative_update
from analysis.tables import Row


def normalized_spectral_shift(base: Spectrum, tuned: Spectrum) -> float:
    """||sigma(tuned) - sigma(base)|| / ||sigma(base)|| over all singular values in their order (Zhu, arXiv 2511.08567);
    nan where the base is zero. Never above ||update|| / ||base|| (Mirsky 1960), which it reaches where the update only
    stretches and turns nothing."""
    before, after = _values(base), _values(tuned)
    norm = float(np.linalg.norm(before))
    return float(np.linalg.norm(after - before)) / norm if norm else math.nan


def relative_shifts(base: Spectrum, tuned: Spectrum) -> NDArray[np.float64]:
    """(min(m, n),): |sigma_i(tuned) - sigma_i(base)| / sigma_i(base), nan where that is 0."""
    before, after = _values(base), _values(tuned)
    return np.abs(after - before) / np.where(before > 0, before, np.nan)


def shift_row(name: str, base: Spectrum, tuned: Spectrum, tally: Tally | None) -> Row:
    """One matrix's shift, beside the size of its update, which bounds it."""
    part, whole = relative_update(tally) if tally else (math.nan, math.nan)
    shift = normalized_spectral_shift(base, tuned)
    bound = part / whole if whole else math.nan
    return {
        "tensor": name,
        "normalized spectral shift": shift,
        "update / base": bound,
        "shift / update": shift / bound if bound else math.nan,
        "largest of base": _first(base),
        "largest of tuned": _first(tuned),
    }


def _first(spectrum: Spectrum) -> float:
    return float(spectrum.singular_values[0]) if len(spectrum.singular_values) else math.nan


def _values(spectrum: Spectrum) -> NDArray[np.float64]:
    return spectrum.singular_values.astype(np.float64)
