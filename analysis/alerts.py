"""What somebody should know before believing the numbers: each a kind, a sentence, and what it is about.

The sentences hold no name of a model or tensor; whoever shows `tensors` and `models` escapes them. What other bases
there are to compare with is `analysis.bases`'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from analysis.labels import count, counted
from analysis.measurements import Tally
from analysis.rollup import Headline, Resemblance
from analysis.tensors import SIDES, TITLE_OF_MATCH, Alignment, Match

AlertKind = Literal[
    "not_related", "declared_base", "nearer_base", "nothing_changed", "only_embeddings", "dtypes", "scales",
    "nonfinite", "matched_by_rule",
]  # fmt: skip

_NAME_OF_DTYPE = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8 (e4m3)", "F8_E5M2": "float8 (e5m2)",
    "F8_E4M3FNUZ": "float8 (e4m3fnuz)", "F8_E5M2FNUZ": "float8 (e5m2fnuz)",
}  # fmt: skip


@dataclass(frozen=True)
class Alert:
    kind: AlertKind
    sentence: str
    tensors: tuple[str, ...] = ()
    models: tuple[str, ...] = ()  # as `analysis.models.parse_model` reads them


def alerts(
    found: Headline, alignment: Alignment, tallies: Mapping[str, Tally], about_bases: Iterable[Alert] = ()
) -> list[Alert]:
    """The alerts of a pair, or of the part of it that `found` and `alignment` are of, as far as it is measured; the
    gravest first."""
    return [
        *_not_related(found, tallies),
        *about_bases,
        *_extent(found, alignment, tallies),
        *_dtypes(alignment),
        *_scales(alignment),
        *_nonfinite(found, tallies),
        *_matched_by_rule(alignment),
    ]


def not_related(found: Headline) -> str:
    """That the two do not come from one another, with what they share, if the matrices say so; else ''."""
    if not found.is_unrelated:
        return ""
    sentence = _do_not_come("These two models", found.matrices_correlated, found.median_correlation)
    if not found.same_of_block:
        return f"{sentence} No tensor has the same values in both."
    n, entries = (sum(amounts) for amounts in zip(*found.same_of_block.values(), strict=True))
    blocks = ", ".join(f"{block} {count(tensors)}" for block, (tensors, _) in found.same_of_block.items())
    share = f"{counted(n, 'tensor')} of {count(entries)} parameters ({blocks})"
    return f"{sentence} What they share, value for value: {share}."


def not_tuned_from(found: Resemblance) -> str:
    """The same of one of several models and their base, put behind its name: what it 'changed' is no update."""
    if not found.is_unrelated:
        return ""
    sentence = _do_not_come("and the base", found.matrices, found.median_correlation)
    return f"{sentence} So what differs is no update, and its overlaps say nothing of training."


def _do_not_come(who: str, n_matrices: int, median: float) -> str:
    return (
        f"{who} do not come from one another: over {count(n_matrices)} matrices the median correlation of the weights "
        f"is {round(median, 3) + 0.0:.3f} (a tuned model's is near 1)."
    )


def _not_related(found: Headline, tallies: Mapping[str, Tally]) -> Iterator[Alert]:
    if sentence := not_related(found):
        yield Alert("not_related", sentence, tuple(n for n, t in tallies.items() if t.unchanged("exact") == t.entries))


def _extent(found: Headline, alignment: Alignment, tallies: Mapping[str, Tally]) -> Iterator[Alert]:
    if not found.entries or found.tensors_measured < found.tensors_planned:
        return
    which = "selected" if found.chosen else "compared"
    touched = [p for p in alignment.pairs if tallies[p.name].unchanged("exact") < tallies[p.name].entries]
    if not touched:
        yield Alert("nothing_changed", f"Nothing changed: every {which} value is the same in both models.")
    elif {pair.place.block for pair in touched} <= {"embedding", "head"} and len(touched) < len(alignment.pairs):
        sentence = f"Only embeddings or the output head changed: every other {which} value is the same in both models."
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


def _scales(alignment: Alignment) -> Iterator[Alert]:
    scaled = [pair for pair in alignment.pairs if pair.base.scales or pair.tuned.scales]
    if scaled:
        yield Alert(
            "scales",
            f"{_tensors(len(scaled))} stored as 8-bit codes with scales on at least one side. Values are codes times "
            "scales, in float32: where only a scale moved, every entry that it is for has changed.",
            tuple(pair.name for pair in scaled),
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
        f"({kinds}).{_counted_twice(alignment)}",
        tuple(pair.name for pair in by_rule),
    )


def _counted_twice(alignment: Alignment) -> str:
    """How many parameters every total has twice, since one side's embedding is compared with two tensors."""
    for side in SIDES:
        if n := alignment.counted_twice(side):
            whose = "the base's" if side == "base" else "the tuned model's"
            return (
                f" {count(n)} of {whose} parameters are compared as embedding and as output head, so totals count them "
                "twice."
            )
    return ""


def _tensors(n: int) -> str:
    return counted(n, "tensor is", "tensors are")
