"""View <-> query string: which page, which models at which commits, and every choice, its default written out.

A link is parsed, never trusted: what isn't known is refused with the words of `BadReference`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast
from urllib.parse import quote, urlencode

import numpy as np

from analysis.errors import BadReference
from analysis.measurements import CHANGE_EDGES, MASK_RULES, MOST_MODELS, RULES, MaskRule
from analysis.metrics import CATALOG
from analysis.models import PinnedModel, parse_model
from analysis.series import MOST_CHECKPOINTS

MOST_TUNED = MOST_MODELS
_MAX_VALUE = 512
_COMMIT = re.compile(r"[0-9a-f]{40}|files-[0-9a-f]{40}")

# Tolerances that the slider offers: the histogram's own edges, where a count is exact, from 1e-9 to 1e-1.
EDGE_OF_TOLERANCE: dict[str, int] = {
    f"{edge:.3g}": int(np.flatnonzero(np.float32(edge) == CHANGE_EDGES)[0])
    for edge in CHANGE_EDGES
    if np.float32(1e-9) <= edge <= np.float32(1e-1)
}


Query = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Choice:
    """A choice of a page as its link carries it. Without `allowed` it is free text, such as a tensor's name."""

    default: tuple[str, ...]
    allowed: tuple[str, ...] = ()
    at_most: int = 1


def _one_of(*allowed: str) -> Choice:
    return Choice((allowed[0],), allowed)


_COLOURS = _one_of("full", "fitted")
# What counts as unchanged: a published rule, or a tolerance of one's own. Links between a pair's pages carry it along,
# also those to pages that it does not act on.
_UNCHANGED = {
    "rule": _one_of("exact", "bf16", "mukherjee", "tolerance"),
    "tolerance": Choice(("1e-05",), tuple(EDGE_OF_TOLERANCE)),
}
CARRIED = tuple(_UNCHANGED)
_UNDER_A_RULE = "unchanged-"  # how the metrics begin that are one question under several rules
_LAYER_METRICS = ("unchanged", *(key for key in CATALOG if not key.startswith(_UNDER_A_RULE)))
_SPECTRUM_METRICS = tuple(key for key, metric in CATALOG.items() if metric.needs == "spectrum")

# What each page lets one choose. A page that isn't here has no link of its own beyond its name.
CHOICES_OF_PAGE: dict[str, dict[str, Choice]] = {
    "pair": {**_UNCHANGED},
    "layers": {
        "metric": _one_of(*_LAYER_METRICS),
        **_UNCHANGED,
        "colours": _COLOURS,
        "heads": Choice(("",)),
    },
    "matrix": {
        "name": Choice(("",)),
        **_UNCHANGED,
        "colours": _one_of("fitted", "full"),
        "sizes": _one_of("absolute", "relative", "ulps"),
    },
    "spectra": {
        "metric": Choice(("effective-rank",), _SPECTRUM_METRICS),
        "matrix": Choice((), at_most=8),
        "over": _one_of("matrices", "layers", "models"),
        "update": _one_of("merged", "own"),
        **_UNCHANGED,
    },
    "overlap": {
        "rule": _one_of(*dict.fromkeys((*MASK_RULES, "bf16", *RULES))),
        "drawn": _one_of("circles", "bars"),
        "pairs": _one_of("one-sided", "jaccard", "matched"),
        "agree": _one_of("share", "chance", "matched"),
        "runs": _one_of(*map(str, range(MOST_TUNED, 0, -1))),  # of fewer models: all of them
        "matrix": Choice(("",)),
        "least": _one_of(*map(str, range(MOST_TUNED + 1))),
        "measure": _one_of("one-sided", "jaccard", "chance", "matched"),
        "of": _one_of(*map(str, range(MOST_TUNED))),
        "in": Choice(("1",), tuple(map(str, range(MOST_TUNED)))),
        "colours": _COLOURS,
    },
    "dynamics": {
        "step": Choice((), at_most=MOST_CHECKPOINTS),  # what each checkpoint is called, in their order
        "rule": _one_of(*MASK_RULES),
        "show": _one_of("base", "previous", "outside", "union"),
        "rows": _one_of("layer", "module"),
        "patch": _one_of("previous", "base"),
        "colours": _COLOURS,
    },
}
_MOST_OF_PAGE = {"overlap": MOST_TUNED, "dynamics": MOST_CHECKPOINTS}


_ALL_NAMES = {"base", "tuned"}.union(*CHOICES_OF_PAGE.values())


@dataclass(frozen=True)
class View:
    """One page as somebody sees it. `choices` holds every choice of the page, those not made at their default."""

    page: str
    base: PinnedModel
    tuned: tuple[PinnedModel, ...]
    choices: Mapping[str, tuple[str, ...]]

    @property
    def models(self) -> tuple[PinnedModel, ...]:
        """The base, then what was tuned from it."""
        return self.base, *self.tuned

    @property
    def mask_rule(self) -> MaskRule:
        """Which entries count as changed, on a page that has this choice."""
        return cast(MaskRule, self.one("rule"))

    def one(self, name: str) -> str:
        """The value of a choice that has one."""
        return self.choices[name][0]

    def many(self, name: str) -> tuple[str, ...]:
        return self.choices[name]

    @property
    def metric(self) -> str:
        """The key of the metric shown, in CATALOG: 'unchanged' is under the rule chosen."""
        return self.unchanged_metric if self.one("metric") == "unchanged" else self.one("metric")

    @property
    def unchanged_metric(self) -> str:
        """The key of the unchanged share under the rule chosen."""
        return _UNDER_A_RULE + self.one("rule")

    def choosing(self, name: str, *values: str) -> View:
        """The same view with another choice."""
        return replace(self, choices={**self.choices, name: values})


def view_of(page: str, base: PinnedModel, *tuned: PinnedModel, **choices: str) -> View:
    """A page's view of these models, what isn't chosen at its default."""
    defaults = {name: choice.default for name, choice in CHOICES_OF_PAGE[page].items()}
    return View(page, base, tuned, defaults | {name: (value,) for name, value in choices.items()})


def beside(page: str, base: PinnedModel, tuned: PinnedModel, choices: Query, **more: str) -> View:
    """Another page's view of a pair, under the same rule and tolerance where `choices` (a view's, or an address's) name
    such as the page knows."""
    named = {name: choices[name][0] for name in _UNCHANGED if choices.get(name)}
    known = CHOICES_OF_PAGE[page]
    carried = {name: value for name, value in named.items() if name in known and value in known[name].allowed}
    return view_of(page, base, tuned, **(carried | more))


def to_query(view: View) -> dict[str, list[str]]:
    """The view as query parameters, all of them, in a fixed order."""
    models = {"base": [str(view.base)], "tuned": [str(model) for model in view.tuned]}
    return models | {name: list(view.choices[name]) for name in CHOICES_OF_PAGE[view.page]}


def to_link(view: View) -> str:
    """The view as a relative address: 'layers?base=org/name@...&tuned=...&metric=...'."""
    return f"{view.page}?{urlencode(to_query(view), doseq=True, safe='/@:', quote_via=quote)}"


def from_query(page: str, query: Query) -> View:
    """The view that a query string names; choices of other pages are passed over. Raises BadReference for a model
    without a commit, a value that isn't among the allowed ones, or a name that no page knows."""
    choices, query = CHOICES_OF_PAGE[page], _as_meant_today(page, query)
    unknown = [name for name in query if name not in _ALL_NAMES]
    if unknown:
        raise _bad(f"the link's '{unknown[0][:60]}' is no choice of any page")
    base, tuned = [pinned(text) for text in query.get("base", ())], [pinned(text) for text in query.get("tuned", ())]
    if len(base) != 1 or not 1 <= len(tuned) <= _MOST_OF_PAGE.get(page, 1):
        raise _bad(f"the link names {len(base)} base and {len(tuned)} tuned models")
    chosen = {name: _parsed(name, choice, tuple(query.get(name, choice.default))) for name, choice in choices.items()}
    return View(page, base[0], tuple(tuned), chosen)


def _as_meant_today(page: str, query: Query) -> Query:
    """The query with what older links meant by it: rules were metrics, and the overview had a tolerance alone."""
    metric = query.get("metric", ())
    if page == "layers" and len(metric) == 1 and metric[0].startswith(_UNDER_A_RULE):
        return {"rule": [metric[0].removeprefix(_UNDER_A_RULE)], **query, "metric": ["unchanged"]}
    return {"rule": ["tolerance"], **query} if page == "pair" and "tolerance" in query else query


def pinned(text: str) -> PinnedModel:
    """The model at the commit that `text` names, written 'org/name[/subfolder]@commit' or './root/path@files-...'.
    Raises BadReference where it names no commit."""
    ref = parse_model(text)
    if not _COMMIT.fullmatch(ref.revision) or (ref.where == "folder") != ref.revision.startswith("files-"):
        raise BadReference(
            f"'{text[:160]}' names no commit",
            expected="A link carries each model with its commit",
            do="Open the comparison from the Compare page and copy its link there",
        )
    return PinnedModel(ref.where, ref.name, ref.revision, ref.subfolder)


def _parsed(name: str, choice: Choice, values: tuple[str, ...]) -> tuple[str, ...]:
    if len(values) > choice.at_most:
        raise _bad(f"the link gives '{name}' {len(values)} times, {choice.at_most} at most")
    for value in values:
        if choice.allowed and value not in choice.allowed:
            raise _bad(f"'{value[:60]}' is no value of '{name}'")
        if len(value) > _MAX_VALUE:
            raise _bad(f"the link's '{name}' is {len(value)} characters long")
    return values


def _bad(saw: str) -> BadReference:
    return BadReference(
        saw[0].upper() + saw[1:],
        expected="A link as the page's 'Share, download, cite' gives it",
        do="Ask for the link again, or open the comparison from the Compare page",
    )
