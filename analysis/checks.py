"""Assertions about an update, for training pipelines: text -> Assertion -> Verdict.

    unchanged(exact, 'vision_tower.*') == 1        changed(1e-5) > 0.1 %        nonfinite() == 0

The text is read once, by a grammar of its own; nothing of it is run as code. Comparisons are of integers and fractions,
so '== 1' means every entry. What checks nothing is refused: a pattern that names no tensor, a limit that always holds.
What cannot be told, because tensors that were named are not compared or could not be measured, does not hold.
docs/checks.md is the description for people.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Literal

from analysis.errors import BadAssertion
from analysis.labels import count, counted, percent, shorten, visible
from analysis.measurements import RULES, Spectrum, Tally
from analysis.places import place_of
from analysis.tensors import BUFFER, Alignment, NotCompared, TensorPair

_OPERATORS: dict[str, Callable[[Fraction, Fraction], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ARGUMENT = r"""(?:'[^']*'|"[^"]*"|[A-Za-z0-9._+-]+)"""
_NUMBER = r"[0-9]{1,18}(?:\.[0-9]{1,18})?(?:[eE][+-]?[0-9]{1,2})?"
_ASSERTION = re.compile(
    rf"\s*([a-z]+)\s*\(\s*((?:{_ARGUMENT}(?:\s*,\s*{_ARGUMENT})*)?)\s*\)\s*"
    rf"({'|'.join(sorted(_OPERATORS, key=len, reverse=True))})\s*({_NUMBER})\s*(%?)\s*"
)
Kind = Literal["pooled", "mean", "count"]
Thing = Literal["tensor", "matrix"]
_MAX_TEXT = 1000
_READ = "See docs/checks.md"
_EXAMPLE = "\"unchanged(exact, 'vision_tower.*') == 1\""


@dataclass(frozen=True)
class Assertion:
    """One assertion, taken apart. `argument` is the rule or the side where the function has one; a pattern that starts
    with '!' takes away."""

    text: str
    function: str
    argument: str
    patterns: tuple[str, ...]
    comparison: str
    limit: Fraction

    @property
    def needs_spectra(self) -> bool:
        return _FUNCTIONS[self.function].of == "matrix"

    def chooses(self, names: Iterable[str]) -> bool:
        """Whether a tensor of these names (its own on either side, its module) is among those asserted about."""
        names = tuple(names)
        wanted = [pattern for pattern in self.patterns if not pattern.startswith("!")]
        unwanted = [pattern[1:] for pattern in self.patterns if pattern.startswith("!")]
        return (not wanted or _any_match(names, wanted)) and not _any_match(names, unwanted)


@dataclass(frozen=True)
class Amount:
    """What was found, not yet divided, so that nothing is lost: a share pooled over entries, a mean of matrices' shares
    (a sum of fractions over their number), or a count (with a whole of 1)."""

    kind: Kind
    part: Fraction
    whole: int

    @property
    def value(self) -> float:
        return int(self.part) if self.kind == "count" else float(self.part / self.whole)

    @property
    def words(self) -> str:
        if self.kind == "count":
            return count(int(self.part))
        if self.kind == "mean":
            return percent(self.part.numerator, self.part.denominator * self.whole)
        return f"{percent(int(self.part), self.whole)}, {count(int(self.part))} of {count(self.whole)}"


@dataclass(frozen=True)
class Verdict:
    """An assertion with what was found, over how much. `why_not` says why it cannot be told; then it does not hold."""

    assertion: Assertion
    holds: bool
    found: Amount | None
    entries: int
    tensors: int
    why_not: str = ""

    @property
    def words(self) -> str:
        """What was found and over how much, in one line."""
        if self.found is None:
            return f"cannot be told: {self.why_not}"
        over = counted(self.tensors, _FUNCTIONS[self.assertion.function].of)
        if self.found.kind != "pooled":
            over = f"{count(self.entries)} entries of {over}"
        words = f"{self.found.words}, in {over}"
        return f"{words}; cannot be told for all: {self.why_not}" if self.why_not else words


@dataclass(frozen=True)
class _Measured:
    """What a function looks at: the chosen tensors that are measured, and the measurements of all."""

    pairs: Sequence[TensorPair]
    tallies: Mapping[str, Tally]
    spectra: Mapping[str, Spectrum]
    parameters: Mapping[str, int]  # of either side, all its tensors
    argument: str

    def summed(self, amount: Callable[[Tally], int]) -> Fraction:
        return Fraction(sum(amount(self.tallies[pair.name]) for pair in self.pairs))

    @property
    def entries(self) -> int:
        return sum(pair.entries for pair in self.pairs)


@dataclass(frozen=True)
class _Function:
    """`first` are the values its first argument may have. Where it is `about_all`, it can be told only when every
    chosen tensor is measured; the others count what is."""

    kind: Kind
    parts: Callable[[_Measured], tuple[Fraction, int]]
    first: tuple[str, ...] = ()
    patterns: bool = True
    of: Thing = "tensor"
    about_all: bool = True


def _unchanged(seen: _Measured) -> tuple[Fraction, int]:
    return seen.summed(lambda tally: tally.unchanged(seen.argument)), seen.entries


def _changed(seen: _Measured) -> tuple[Fraction, int]:
    return seen.summed(lambda tally: tally.entries - tally.unchanged(seen.argument)), seen.entries


def _nonfinite(seen: _Measured) -> tuple[Fraction, int]:
    return seen.summed(lambda tally: tally.nonfinite), 1


def _entries(seen: _Measured) -> tuple[Fraction, int]:
    return Fraction(seen.entries), 1


def _tensors(seen: _Measured) -> tuple[Fraction, int]:
    return Fraction(len(seen.pairs)), 1


def _touched(seen: _Measured) -> tuple[Fraction, int]:
    return seen.summed(lambda tally: int(tally.unchanged("exact") < tally.entries)), 1


def _rank(seen: _Measured) -> tuple[Fraction, int]:
    ranks = (seen.spectra[pair.name] for pair in seen.pairs)
    return sum((Fraction(s.rank or 0, s.max_rank) for s in ranks), Fraction(0)), len(seen.pairs)


def _coverage(seen: _Measured) -> tuple[Fraction, int]:
    return Fraction(seen.entries), seen.parameters[seen.argument]


_FUNCTIONS: dict[str, _Function] = {
    "unchanged": _Function("pooled", _unchanged, first=RULES),
    "changed": _Function("pooled", _changed, first=RULES),
    "nonfinite": _Function("count", _nonfinite),
    "touched": _Function("count", _touched),
    "rank": _Function("mean", _rank, of="matrix"),
    "entries": _Function("count", _entries, about_all=False),
    "tensors": _Function("count", _tensors, about_all=False),
    "coverage": _Function("pooled", _coverage, first=("base", "tuned"), patterns=False, about_all=False),
}


def read_assertion(text: str) -> Assertion:
    """The assertion that `text` writes. Raises BadAssertion, which quotes it."""
    text = text.strip()
    if len(text) > _MAX_TEXT or not text.isprintable():
        raise BadAssertion("An assertion holds text that is none", expected=f"Something like {_EXAMPLE}", do=_READ)
    matched = _ASSERTION.fullmatch(text)
    if not matched:
        raise _bad(text, f"function(arguments), one of {' '.join(_OPERATORS)}, and a number, as in {_EXAMPLE}")
    name, arguments, comparison, number, percent_sign = matched.groups()
    if name not in _FUNCTIONS:
        raise _bad(text, f"The function is one of {', '.join(_FUNCTIONS)}, not '{shorten(name, 40)}'")
    argument, patterns = _arguments(text, name, re.findall(_ARGUMENT, arguments))
    limit = Fraction(number) / (100 if percent_sign else 1)
    _refuse_limit(text, _FUNCTIONS[name].kind, comparison, limit, bool(percent_sign))
    return Assertion(text, name, argument, patterns, comparison, limit)


def refuse_aimless(assertion: Assertion, alignment: Alignment) -> None:
    """Raises BadAssertion where a pattern names no tensor of either model, or no matrix where a rank is asked for:
    such an assertion would hold whatever happened."""
    names = [_names(pair) for pair in alignment.pairs] + [_names_of(entry.name) for entry in alignment.not_compared]
    for pattern in assertion.patterns:
        if not any(_any_match(of_tensor, [pattern.removeprefix("!")]) for of_tensor in names):
            raise _bad(assertion.text, f"A pattern that names a tensor; '{pattern}' names none", _LOOK)
    if not any(assertion.chooses(of_tensor) for of_tensor in names):
        raise _bad(assertion.text, "Patterns that leave a tensor to look at; these take all away", _LOOK)
    chosen = [pair for pair in alignment.pairs if assertion.chooses(_names(pair))]
    if assertion.needs_spectra and chosen and not any(pair.is_matrix for pair in chosen):
        raise _bad(assertion.text, "A pattern that names a matrix; only matrices have a rank", _LOOK)


def judge(
    assertion: Assertion,
    alignment: Alignment,
    tallies: Mapping[str, Tally],
    spectra: Mapping[str, Spectrum],
    gaps: Mapping[tuple[str, str], str],
) -> Verdict:
    """Whether the assertion holds. `gaps` says why a measurement is missing, by (kind, tensor name)."""
    function = _FUNCTIONS[assertion.function]
    chosen = [pair for pair in alignment.pairs if assertion.chooses(_names(pair))]
    if function.of == "matrix":
        chosen = [pair for pair in chosen if pair.is_matrix]
        there = {name for name, spectrum in spectra.items() if not spectrum.reason}
    else:
        there = set(tallies)
    pairs = [pair for pair in chosen if pair.name in there]
    parameters = {"base": alignment.base_parameters, "tuned": alignment.tuned_parameters}
    seen = _Measured(pairs, tallies, spectra, parameters, assertion.argument)
    why_not = _why_not(assertion, alignment, chosen, there, gaps) if function.about_all else ""
    part, whole = function.parts(seen)
    found = Amount(function.kind, part, whole) if whole and (pairs or not function.about_all) else None
    return Verdict(
        assertion,
        holds=found is not None and not why_not and _holds(assertion, found),
        found=found,
        entries=seen.entries,
        tensors=len(pairs),
        why_not=why_not or ("" if found else "nothing is measured"),
    )


def _holds(assertion: Assertion, found: Amount) -> bool:
    return _OPERATORS[assertion.comparison](found.part, assertion.limit * found.whole)


def _why_not(
    assertion: Assertion,
    alignment: Alignment,
    chosen: Sequence[TensorPair],
    there: set[str],
    gaps: Mapping[tuple[str, str], str],
) -> str:
    """Why the assertion cannot be told. Without a pattern it is about what is compared, and coverage() is a check of
    its own; a pattern stands for every tensor that it names."""
    kind = "spectrum" if assertion.needs_spectra else "tally"
    missing = [(pair.name, gaps.get((kind, pair.name), "not measured")) for pair in chosen if pair.name not in there]
    left_out = [
        (entry.name, entry.reason)
        for entry in alignment.not_compared
        if assertion.patterns and _could_be_meant(entry) and assertion.chooses(_names_of(entry.name))
    ]
    words = []
    for found, what in ((left_out, "not compared"), (missing, "without a measurement")):
        if found:
            name, reason = found[0]
            words.append(f"{count(len(found))} {what}, first '{visible(name)}': {visible(reason)}")
    return "; ".join(words)


def _could_be_meant(entry: NotCompared) -> bool:
    """Whether a pattern that names it is about it: scales are looked at with their weights, a file holds no values."""
    return entry.parameters > 0 and (entry.is_parameter or entry.reason == BUFFER)


def _arguments(text: str, function: str, given: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The function's own argument, and the patterns without their quotes."""
    known, patterns, argument = _FUNCTIONS[function], list(given), ""
    if known.first:
        if not patterns or patterns[0] not in known.first:
            raise _bad(text, f"{function}() begins with one of {', '.join(known.first)}")
        argument = patterns.pop(0)
    if patterns and not known.patterns:
        raise _bad(text, f"{function}() takes no pattern")
    for pattern in patterns:
        if pattern[0] not in "'\"":
            raise _bad(text, f"A pattern stands in quotes; {pattern} has none")
        if len(pattern.strip("'\"").removeprefix("!")) == 0:
            raise _bad(text, "A pattern is not empty")
    return argument, tuple(pattern[1:-1] for pattern in patterns)


def _refuse_limit(text: str, kind: Kind, comparison: str, limit: Fraction, is_percent: bool) -> None:
    """Raises BadAssertion for a limit that cannot be meant."""
    if kind == "count" and (is_percent or limit.denominator != 1):
        raise _bad(text, "A count is compared with a whole number")
    if kind != "count" and limit > 1:
        raise _bad(text, "A share runs from 0 to 1, or from 0 % to 100 %")
    if (comparison == ">=" and limit == 0) or (kind != "count" and comparison == "<=" and limit == 1):
        raise _bad(text, "A limit that could fail; this one holds for any two models")
    if (comparison == "<" and limit == 0) or (kind != "count" and comparison == ">" and limit == 1):
        raise _bad(text, "A limit that could hold; this one fails for any two models")


def _any_match(names: Iterable[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _names(pair: TensorPair) -> tuple[str, ...]:
    """What a pattern may name a compared tensor by."""
    return pair.base.name, pair.tuned.name, pair.place.module


def _names_of(name: str) -> tuple[str, ...]:
    return name, place_of(name).module


_LOOK = "Look up the names in the report of 'compare', or under 'Share, download, cite' of a page"


def _bad(text: str, expected: str, do: str = _READ) -> BadAssertion:
    return BadAssertion(f'The assertion "{shorten(text, 200)}" cannot be used', expected=expected, do=do)
