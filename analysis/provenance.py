"""Where numbers come from, in one place for every file that leaves: models, commits, choices, versions, coverage.

A document of plain values, ready for JSON. It knows nothing about the format that will carry it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from analysis.coverage import reasons_to_withhold
from analysis.measurements import OVERLAP_VERSION, SPECTRUM_VERSION, TALLY_VERSION
from analysis.models import Pair
from analysis.tensors import Alignment

SCHEMA = 1
VERSION = "0.1.0"  # of Subnetscope; a test holds it to pyproject.toml


@dataclass(frozen=True)
class Basis:
    """One compared pair as far as it is measured; `measured_at` is UTC, naive, of its last measurement."""

    pair: Pair
    alignment: Alignment
    n_measured: int
    measured_at: datetime | None


def document(
    view: str, bases: Sequence[Basis], choices: Mapping[str, Any], *, link: str, code: str, written_at: datetime
) -> dict[str, Any]:
    """The provenance of one view. `code` is the commit that Subnetscope itself runs at, '' where nobody knows it;
    `choices` are the view's own (metric, tolerance, rule ...), defaults included."""
    return {
        "schema": SCHEMA,
        "subnetscope": {"version": VERSION, "commit": code or None},
        "view": view,
        "choices": dict(choices),
        "link": link,
        "pairs": [_pair(basis) for basis in bases],
        "measurement_versions": {"tally": TALLY_VERSION, "spectrum": SPECTRUM_VERSION, "overlap": OVERLAP_VERSION},
        "written_at": _utc(written_at),
    }


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """The document as one level of names and texts: 'pairs.0.base.commit' -> '...'. Empty values are left out."""
    found: dict[str, str] = {}
    for name, value in nested.items():
        match value:
            case Mapping():
                found |= flat(value, f"{prefix}{name}.")
            case list() | tuple():
                found |= flat({str(i): one for i, one in enumerate(value)}, f"{prefix}{name}.")
            case None | "":
                pass
            case _:
                found[f"{prefix}{name}"] = str(value)
    return found


def _pair(basis: Basis) -> dict[str, Any]:
    alignment = basis.alignment
    return {
        "base": {"id": basis.pair.base.title, "commit": basis.pair.base.commit},
        "tuned": {"id": basis.pair.tuned.title, "commit": basis.pair.tuned.commit},
        "coverage": {
            "tensors_measured": basis.n_measured,
            "tensors_compared": len(alignment.pairs),
            "tensors_not_compared": len(alignment.not_compared),
            "base_parameters": alignment.base_parameters,
            "base_parameters_compared": alignment.compared_of("base"),
            "tuned_parameters": alignment.tuned_parameters,
            "tuned_parameters_compared": alignment.compared_of("tuned"),
            "reasons_withheld": list(reasons_to_withhold(alignment)),
        },
        "measured_at": _utc(basis.measured_at) if basis.measured_at else None,
    }


def _utc(moment: datetime) -> str:
    return moment.replace(microsecond=0, tzinfo=None).isoformat() + "Z"
