"""What somebody should know before believing the numbers: each a kind, a sentence, and the tensors it is about.

The sentences hold no name of a model or tensor; whoever shows `tensors` escapes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from analysis.labels import count
from analysis.measurements import Tally
from analysis.rollup import Headline
from analysis.tensors import TITLE_OF_MATCH, Alignment, Match

AlertKind = Literal["not_related", "nothing_changed", "only_embeddings", "dtypes", "nonfinite", "matched_by_rule"]

_NAME_OF_DTYPE = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Alert:
    kind: AlertKind
    sentence: str
    tensors: tuple[str, ...] = ()


def alerts(found: Headline, alignment: Alignment, tallies: Mapping[str, Tally]) -> list[Alert]:
    """The alerts of a pair as far as it is measured, the gravest first."""
    return [
        *_not_related(found, tallies),
        *_extent(found, alignment, tallies),
        *_dtypes(alignment),
        *_nonfinite(found, tallies),
        *_matched_by_rule(alignment),
    ]


def not_related(found: Headline) -> str:
    """That the two do not come from one another, with what they share, if the matrices say so; else ''."""
    if not found.is_unrelated:
        return ""
    sentence = (
        f"These two models do not come from one another: over {count(found.matrices_correlated)} matrices the median "
        f"correlation of the weights is {found.median_correlation:.3f} (a tuned model's is near 1)."
    )
    if not found.same_of_block:
        return f"{sentence} No tensor has the same values in both."
    n, entries = (sum(amounts) for amounts in zip(*found.same_of_block.values(), strict=True))
    blocks = ", ".join(f"{block} {count(tensors)}" for block, (tensors, _) in found.same_of_block.items())
    share = f"{count(n)} {'tensor' if n == 1 else 'tensors'} of {count(entries)} parameters ({blocks})"
    return f"{sentence} What they share, value for value: {share}."


def _not_related(found: Headline, tallies: Mapping[str, Tally]) -> Iterator[Alert]:
    if sentence := not_related(found):
        yield Alert("not_related", sentence, tuple(n for n, t in tallies.items() if t.unchanged("exact") == t.entries))


def _extent(found: Headline, alignment: Alignment, tallies: Mapping[str, Tally]) -> Iterator[Alert]:
    if not found.entries or found.tensors_measured < found.tensors_planned:
        return
    touched = [p for p in alignment.pairs if tallies[p.name].unchanged("exact") < tallies[p.name].entries]
    if not touched:
        yield Alert("nothing_changed", "Nothing changed: every compared value is the same in both models.")
    elif {pair.place.block for pair in touched} <= {"embedding", "head"} and len(touched) < len(alignment.pairs):
        sentence = "Only embeddings or the output head changed: every other compared value is the same in both models."
        yield Alert("only_embeddings", sentence, tuple(pair.name for pair in touched))


def _dtypes(alignment: Alignment) -> Iterator[Alert]:
    differing = [pair for pair in alignment.pairs if pair.base.dtype != pair.tuned.dtype]
    for (before, after), n in Counter((pair.base.dtype, pair.tuned.dtype) for pair in differing).items():
        yield Alert(
            "dtypes",
            f"{_tensors(n)} stored as {_NAME_OF_DTYPE.get(before, before)} in the base and as "
            f"{_NAME_OF_DTYPE.get(after, after)} in the tuned model. Values are compared after an exact upcast, so "
            "rounding by the narrower type counts as change.",
            tuple(pair.name for pair in differing if (pair.base.dtype, pair.tuned.dtype) == (before, after)),
        )


def _nonfinite(found: Headline, tallies: Mapping[str, Tally]) -> Iterator[Alert]:
    if found.nonfinite:
        names = tuple(name for name, tally in tallies.items() if tally.nonfinite)
        sentence = f"{count(found.nonfinite)} entries are not finite (NaN or infinite) on at least one side"
        yield Alert("nonfinite", f"{sentence}, in {count(len(names))} of the tensors.", names)


def _matched_by_rule(alignment: Alignment) -> Iterator[Alert]:
    by_rule = [pair for pair in alignment.pairs if pair.match not in ("exact", "adapter", "untouched")]
    if not by_rule:
        return
    n_of: Counter[Match] = Counter(pair.match for pair in by_rule)
    kinds = "; ".join(f"{TITLE_OF_MATCH[match]}: {count(n)}" for match, n in n_of.items())
    yield Alert(
        "matched_by_rule",
        f"{count(len(by_rule))} of {count(len(alignment.pairs))} pairs were not found by their whole names alone "
        f"({kinds}).",
        tuple(pair.name for pair in by_rule),
    )


def _tensors(n: int) -> str:
    return "1 tensor is" if n == 1 else f"{count(n)} tensors are"
