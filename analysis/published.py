"""Published pairs beside our own numbers: the data of published.toml, the pair two models are, what agrees.

Numbers are compared under the published definition, exactly, with the digits that the paper prints. `published()` reads
the one file that belongs to `analysis` itself; everything else is arithmetic.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Literal

from analysis.labels import share
from analysis.models import PinnedModel
from analysis.rollup import Headline
from analysis.tables import Row
from analysis.tensors import Alignment

Measure = Literal["unchanged", "rank"]
MEASURES: tuple[Measure, ...] = ("unchanged", "rank")

MIN_COVERAGE = 0.9  # of the base's parameters; below, our number is not that of the whole model
NOT_YET = "not yet computed"
_AGREES = Fraction(5, 100)  # percentage points
_DEFINITION_OF_RULE = {"mukherjee": "Mukherjee's rule", "bf16": "bf16 rule"}
_TOLERANCES = ("1e-8", "1e-7", "1e-6", "1e-5")


@dataclass(frozen=True)
class Source:
    authors: str
    title: str
    arxiv: str
    rule: str  # our name of its definition of unchanged


@dataclass(frozen=True)
class Claim:
    """One published number, in percent with the digits as printed; `at` says where in the source it stands."""

    measure: Measure
    percent: Decimal
    source: Source
    at: str

    @property
    def words(self) -> str:
        return f"{self.percent} % ({self.at})"

    @property
    def half_digit(self) -> Fraction:
        """How far what was printed may be from what was measured: half of its last digit."""
        return Fraction(1, 2 * 10 ** -int(self.percent.as_tuple().exponent))

    def rounds(self, finer: Claim) -> bool:
        """Whether this may be the other number with fewer digits."""
        same = (self.measure, self.source) == (finer.measure, finer.source) and self.half_digit > finer.half_digit
        return same and abs(Fraction(self.percent) - Fraction(finer.percent)) <= self.half_digit


@dataclass(frozen=True)
class PublishedPair:
    """Two models by their ids, and what is published of them. `claims` of one measure contradict each other: where one
    is another's rounding, the finer stands for both."""

    base: str
    tuned: str
    algorithm: str
    setting: str
    source: Source | None
    claims: tuple[Claim, ...]
    by_tolerance: tuple[Decimal, ...]
    note: str

    def claims_of(self, measure: Measure) -> tuple[Claim, ...]:
        return tuple(claim for claim in self.claims if claim.measure == measure)

    def is_of(self, base: PinnedModel, tuned: PinnedModel) -> bool:
        """Whether these two are its models, at whatever commit. The Hub's ids know no upper and lower case."""
        return _is(self.base, base) and _is(self.tuned, tuned)


@dataclass(frozen=True)
class Published:
    """The data file. Overlaps, subnetwork runs and dynamics are rows to look at, percent unless they are scores."""

    pairs: tuple[PublishedPair, ...]
    overlaps: tuple[Row, ...]
    subnetwork_runs: tuple[Row, ...]
    dynamics: tuple[Row, ...]

    def find(self, base: PinnedModel, tuned: PinnedModel) -> PublishedPair | None:
        """The published pair that these two models are, if they are one."""
        return next((pair for pair in self.pairs if pair.is_of(base, tuned)), None)


@dataclass(frozen=True)
class Ours:
    """What we measured of a published pair. `compared` is the share of the base's parameters behind it; a number that
    is not there, or still filling, is None."""

    unchanged: Mapping[str, Fraction] | None
    rank: Fraction | None
    compared: float

    def of(self, claim: Claim) -> Fraction | None:
        """Our number under the claim's definition, in percent."""
        if claim.measure == "rank":
            return self.rank
        return None if self.unchanged is None else self.unchanged[claim.source.rule]


@dataclass(frozen=True)
class Verdict:
    """A claim and our number under its definition, in percent, or the reason why there is none to compare."""

    claim: Claim
    ours: Fraction | None
    why_not: str = ""

    @property
    def difference(self) -> Fraction | None:
        """Ours - published, in percentage points."""
        return None if self.ours is None or self.why_not else self.ours - Fraction(self.claim.percent)

    @property
    def reproduces(self) -> bool:
        """Within 0.05 percentage points, or what the printed digits leave open."""
        return self.difference is not None and abs(self.difference) <= max(_AGREES, self.claim.half_digit)

    @property
    def words(self) -> str:
        if self.difference is None:
            return self.why_not
        return "reproduces" if self.reproduces else f"differs by {_points(self.difference)}"


@cache
def published() -> Published:
    """The numbers that come with the project."""
    return read(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def read(text: str) -> Published:
    """The data of a file like published.toml."""
    data = tomllib.loads(text, parse_float=Decimal)
    fields = ("authors", "title", "arxiv", "rule")
    sources = {key: Source(*(source[field] for field in fields)) for key, source in data["sources"].items()}
    return Published(
        pairs=tuple(_pair(entry, sources, data["sources"]) for entry in data["pair"]),
        overlaps=tuple(_overlap_row(entry) for entry in data["overlap"]),
        subnetwork_runs=tuple(_subnetwork_row(entry) for entry in data["subnetwork_run"]),
        dynamics=tuple(_dynamics_rows(data["dynamics"])),
    )


def _pair(entry: Mapping[str, Any], sources: Mapping[str, Source], places: Mapping[str, Any]) -> PublishedPair:
    key = entry.get("source")
    claims = list(_claims(entry, sources[key], places[key])) if key else []
    return PublishedPair(
        entry["base"],
        entry["tuned"],
        entry["algorithm"],
        entry.get("setting", ""),
        sources[key] if key else None,
        _told_apart(claims),
        tuple(entry.get("by_tolerance", ())),
        entry.get("note", ""),
    )


def _claims(entry: Mapping[str, Any], source: Source, places: Mapping[str, str]) -> Iterator[Claim]:
    if "unchanged" in entry:
        yield Claim("unchanged", entry["unchanged"]["percent"], source, entry["unchanged"]["at"])
    if "by_tolerance" in entry:
        yield Claim("unchanged", entry["by_tolerance"][-1], source, places["by_tolerance"])
    if "rank" in entry:
        yield Claim("rank", entry["rank"], source, places["rank"])


def _told_apart(claims: Sequence[Claim]) -> tuple[Claim, ...]:
    """The claims without those that are the rounding of another, which then names both places."""
    rounded = {coarse: fine for fine in claims for coarse in claims if coarse.rounds(fine)}
    also_at = {fine: coarse.at for coarse, fine in rounded.items()}
    return tuple(
        replace(claim, at=f"{claim.at}, rounded in {also_at[claim]}") if claim in also_at else claim
        for claim in claims
        if claim not in rounded
    )


def ours(found: Headline, alignment: Alignment, failed: Mapping[tuple[str, str], str]) -> Ours:
    """What is measured of a pair; `failed` are the reasons by (kind, tensor name), which nothing will fill any more."""
    n_failed = {kind: sum(of == kind for of, _ in failed) for kind in ("tally", "spectrum")}
    counted = found.tensors_measured and found.tensors_measured + n_failed["tally"] >= found.tensors_planned
    n_matrices = max(
        found.spectra_planned, sum(pair.is_matrix for pair in alignment.pairs)
    )  # of all, not of a selection
    ranked = found.spectra_measured and found.spectra_measured + n_failed["spectrum"] >= n_matrices
    unchanged = {rule: Fraction(100 * known.part, known.whole) for rule, known in found.unchanged.items() if counted}
    has_rank = ranked and not math.isnan(found.mean_rank_share)
    return Ours(
        unchanged=unchanged or None,
        rank=100 * Fraction(found.mean_rank_share) if has_rank else None,
        compared=found.entries / alignment.base_parameters if alignment.base_parameters else 0.0,
    )


def verdicts(pair: PublishedPair, measured: Ours | None, measure: Measure = "unchanged") -> tuple[Verdict, ...]:
    """Every published number of this pair beside ours; `measured` is None for a pair that is not in the store."""
    return tuple(_verdict(claim, measured) for claim in pair.claims_of(measure))


def _verdict(claim: Claim, measured: Ours | None) -> Verdict:
    value = measured.of(claim) if measured else None
    if measured is None or value is None:
        return Verdict(claim, None, NOT_YET)
    if measured.compared < MIN_COVERAGE:
        return Verdict(claim, value, f"only {share(measured.compared)} of the base compared")
    return Verdict(claim, value)


def sentence(found: Verdict) -> str:
    """A published number beside ours, for the overview of its pair."""
    claim = found.claim
    what = "unchanged" if claim.measure == "unchanged" else "of full rank"
    where = f"{definition(claim)}; {claim.source.authors}, {claim.at}"
    if found.ours is None:
        return f"{claim.percent} % {what} ({where}); ours: {found.why_not}."
    return f"{claim.percent} % {what} ({where}); ours: {share(float(found.ours) / 100, 4)}, {found.words}."


def rows(pair: PublishedPair, measured: Ours | None, measure: Measure = "unchanged") -> list[Row]:
    """The pair's lines in the gallery: one for each published number, or one that says there is none."""
    models: Row = {"tuned": pair.tuned, "base": pair.base, "algorithm": pair.algorithm}
    about: Row = {"setting": pair.setting, "note": pair.note}
    return [models | _claim_cells(verdict, measured) | about for verdict in verdicts(pair, measured, measure)] or [
        models | {"published": "–", "ours": None, "verdict": "nothing published"} | about
    ]


def _claim_cells(found: Verdict, measured: Ours | None) -> Row:
    claim, value = found.claim, found.ours
    return {
        "published": f"{claim.percent} %",
        "ours": None if value is None else float(value),
        "verdict": found.words,
        "definition": definition(claim),
        "source": f"{claim.source.authors}, {claim.at}",
        "compared": None if value is None or measured is None else measured.compared,
    }


def definition(claim: Claim) -> str:
    """What the claim counts."""
    if claim.measure == "rank":
        return "mean rank"
    return _DEFINITION_OF_RULE[claim.source.rule]


def tolerance_row(pair: PublishedPair) -> Row:
    """The published sparsity over tolerance. The differences are taken in bfloat16, so our rules 1e-8 to 1e-6 are not
    the same definition, and no number of ours stands beside these."""
    values = dict(zip(_TOLERANCES, map(float, pair.by_tolerance), strict=True))
    return {"tuned": pair.tuned, "base": pair.base, **values}


def _overlap_row(entry: Mapping[str, Any]) -> Row:
    first, second = entry["runs"]
    return {
        "varied": entry["varied"],
        "first run": first,
        "second run": second,
        "o1": float(entry["o1"]),
        "o1 by chance": float(entry["chance_o1"]),
        "o2": float(entry["o2"]),
        "o2 by chance": float(entry["chance_o2"]),
        "first unchanged": float(entry["unchanged"][0]),
        "second unchanged": float(entry["unchanged"][1]),
    }


def _subnetwork_row(entry: Mapping[str, Any]) -> Row:
    return {
        "algorithm": entry["algorithm"],
        "equal within 1e-5": float(entry["equal_within_1e-5"]),
        "equal within 1e-4": float(entry["equal_within_1e-4"]),
        "score, full": float(entry["score_full"]),
        "score, subnetwork": float(entry["score_subnetwork"]),
    }


def _dynamics_rows(entry: Mapping[str, Any]) -> Iterator[Row]:
    words = {
        "never_changed": "never changed",
        "changed_and_back": "changed on the way, and back at the end",
        "changed_in_the_end": "changed in the end",
        "changed_between_neighbours": "changed between two checkpoints in a row",
    }
    for key, meaning in words.items():
        yield {"run": entry["run"], "parameters": meaning, "share": float(entry[key])}


def _points(difference: Fraction) -> str:
    """'+0.43 points'; three digits where two would show next to nothing."""
    digits = 2 if abs(difference) >= Fraction(1, 10) else 3
    return f"{float(difference):+.{digits}f} points".replace("-", "−")


def _is(name: str, model: PinnedModel) -> bool:
    return model.where == "hub" and not model.subfolder and model.name.casefold() == name.casefold()
