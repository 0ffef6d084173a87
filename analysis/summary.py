"""Headline and Alignment -> plain sentences: what the numbers say, and no more than they say.

The text is our own; it holds numbers but never a model's or tensor's name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from analysis.alerts import not_related
from analysis.labels import count, counted, percent, scientific, share
from analysis.overlaps import Venn, over
from analysis.own_updates import AdapterSummary
from analysis.own_updates import sentences as adapter_sentences
from analysis.rollup import Headline
from analysis.tensors import Alignment

_LOW_RANK, _NEARLY_FULL = 0.1, 0.95
_NAME_OF_COARSE = {"BF16": "bfloat16", "F16": "float16"}  # types whose steps are wide beside an update


def summarize(headline: Headline, alignment: Alignment, adapter: AdapterSummary | None = None) -> list[str]:
    """The overview in sentences, the most important first. Says so where numbers are of a part only. Of two models
    that do not come from one another it says that, and does not speak of an update; where too little was compared it
    gives the reasons alone. Of an adapter it says first what it is, and what merging leaves of it."""
    if not headline.entries:
        return ["Nothing of this pair is measured yet."]
    if unrelated := not_related(headline):
        sentences = [unrelated, *_selection(headline), *_coverage(headline, alignment), *_nonfinite(headline)]
        return [_held_together(sentence) for sentence in sentences]
    if headline.withheld:
        sentences = [*_selection(headline), *headline.reasons_withheld, *_nonfinite(headline)]
        return [_held_together(sentence) for sentence in sentences]
    sentences = [
        *_selection(headline),
        *(adapter_sentences(adapter) if adapter else ()),
        _unchanged(headline),
        *_published_rules(headline),
        _where(headline),
        *_size(headline),
        *_rank(headline),
        *_coverage(headline, alignment),
        *_nonfinite(headline),
    ]
    return [_held_together(sentence) for sentence in sentences]


def summarize_overlap(venn: Venn, names: Sequence[str], stored: str = "") -> list[str]:
    """What the overlap of several models' updates says, beside both chance levels; `names` as the page may show them,
    `stored` the type of the models' weights where they have one. Of more than three models only two pairs are put into
    words: those that lie most and least above chance."""
    k, union = venn.n_models, venn.union
    if not union:
        return ["None of the models changed anything in what was counted."]
    every, whom = venn.changed(*range(k)), "both" if k == 2 else f"all {k}"
    sentences = [
        f"Together they changed {count(union)} of {count(venn.entries)} parameters; {whom} changed "
        f"{count(every)} of these, {percent(every, union)}.",
        *_agreement(venn),
        *(_shared(venn, names, i, j) for i, j in _telling_pairs(venn)),
    ]
    if not math.isnan(venn.matched_chance(0, 1)):
        sentences.append(
            f"Magnitude-matched chance is the fairer level{_why_magnitude(venn.rule, stored)}. What lies above it is "
            "not explained by magnitude alone."
        )
    return [_held_together(sentence) for sentence in sentences]


def _why_magnitude(rule: str, stored: str) -> str:
    """Why unrelated updates share some entries, where that is by the rule or by the steps of a 16-bit type."""
    if step := "bfloat16" if rule == "mukherjee" else _NAME_OF_COARSE.get(stored):
        reason = f"small weights cross a step of {step} more easily"
    elif rule == "bf16":
        reason = "small weights move by a thousandth of themselves more easily"
    else:
        return ""
    return f": {reason}, so even unrelated updates share some"


def _agreement(venn: Venn) -> Iterator[str]:
    """What one run alone and what all of more than two runs changed, beside chance."""
    k = venn.n_models
    if k < 3:
        return
    lone, every = int(venn.by_runs[1]), int(venn.by_runs[k])
    sentence = f"{percent(lone, venn.union, 2)} of what was changed at all was changed by one run alone"
    matched = float(venn.matched_by_runs[k])
    if not math.isnan(matched) and every:
        times = f"{over(every, matched):.3g}"
        sentence += (
            f"; all {k} agree on {'' if times == '1' else f'{times} times '}as many parameters as magnitude-matched "
            "chance gives"
            if matched >= 1
            else f"; magnitude-matched chance would not have all {k} agree on a single parameter"
        )
    yield sentence + "."


def _telling_pairs(venn: Venn) -> list[tuple[int, int]]:
    """Pairs of models to put into words, each with the smaller update first, since its overlap can reach 100 %."""
    k = venn.n_models
    pairs = [(i, j) if venn.changed(i) <= venn.changed(j) else (j, i) for i in range(k) for j in range(i + 1, k)]
    pairs = [pair for pair in pairs if venn.changed(pair[0])]
    known = not math.isnan(venn.matched_chance(0, 1))
    ranked = sorted(pairs, key=lambda pair: -(venn.over_matched if known else venn.one_sided)(*pair))
    return ranked if len(ranked) <= 3 else [ranked[0], ranked[-1]]


def _shared(venn: Venn, names: Sequence[str], of: int, other: int) -> str:
    overlap, chance, matched = (f(of, other) for f in (venn.one_sided, venn.chance, venn.matched_chance))
    by_chance = f"by chance it would be {share(chance)}"
    if not math.isnan(matched):
        by_chance += f", by magnitude-matched chance {share(matched)}"
        times = f"{over(overlap, matched):.3g}"
        if times not in ("1", "nan"):
            by_chance += f" ({times} times that)"
    return f"Of what {names[of]} changed, {names[other]} changed {share(overlap)} too; {by_chance}."


def _selection(headline: Headline) -> Iterator[str]:
    if headline.chosen:
        yield f"All of this is of what was selected: {headline.chosen.words}."


def _unchanged(headline: Headline) -> str:
    exact = headline.unchanged["exact"]
    all_of_it = "selected parameters" if headline.chosen else "compared parameters"
    which = all_of_it if _complete(headline) else "parameters measured so far"
    whole = f"the {count(exact.whole)} {which}"
    if exact.part == exact.whole:
        return f"Each of {whole} has exactly the value it had before: the two models are the same there."
    if exact.part == 0:
        return f"Not one of {whole} kept exactly the value it had."
    return (
        f"{percent(exact.part, exact.whole)} of {whole} have exactly the value they had before; "
        f"{count(exact.whole - exact.part)} changed."
    )


def _published_rules(headline: Headline) -> Iterator[str]:
    exact, mukherjee, bf16 = (headline.unchanged[rule] for rule in ("exact", "mukherjee", "bf16"))
    if exact.part == exact.whole:
        return
    yield (
        f"By the papers' rules {percent(mukherjee.part, mukherjee.whole)} are unchanged under Mukherjee's rule (within "
        f"1e-5 after rounding to bfloat16) and {percent(bf16.part, bf16.whole)} under the bf16 rule (Zhu: within a "
        "thousandth of the weight itself)."
    )


def _where(headline: Headline) -> str:
    touched, matrices = headline.matrices_touched, headline.matrices_measured
    others = headline.tensors_touched - touched
    other_tensors = headline.tensors_measured - matrices
    if not headline.tensors_touched:
        return "No tensor was touched."
    spread = [f"{count(touched)} of {counted(matrices, 'matrix')}"] if matrices else []
    if other_tensors:
        spread.append(f"{count(others)} of {counted(other_tensors, 'vector')} (norms, biases)")
    return f"Changes lie in {' and '.join(spread)}."


def _size(headline: Headline) -> Iterator[str]:
    if headline.relative_update > 0:
        yield (
            f"As a whole the update is {scientific(headline.relative_update)} times the size of the base weights "
            "(ratio of Frobenius norms)."
        )


def _rank(headline: Headline) -> Iterator[str]:
    rank, effective = headline.mean_rank_share, headline.mean_effective_rank_share
    if math.isnan(rank):
        return
    if rank >= _NEARLY_FULL:
        word = "nearly full-rank" if rank < 1 else "full-rank"
        verdict = f"The updates of the matrices are {word}: on average {share(rank)} of the largest rank possible"
    elif rank <= _LOW_RANK:
        verdict = f"The updates of the matrices are low-rank: on average {share(rank)} of the largest rank possible"
    else:
        verdict = f"The updates of the matrices have on average {share(rank)} of the largest rank possible"
    if not math.isnan(effective):
        verdict += f", with an effective rank of {share(effective)} of it"
    yield verdict + "."
    if rank >= _NEARLY_FULL and headline.unchanged["exact"].value > 0.5:
        yield (
            "A sparse update of unrelated entries would be full-rank too; how fast the singular values fall says more."
        )


def _coverage(headline: Headline, alignment: Alignment) -> Iterator[str]:
    n = sum(entry.is_parameter for entry in alignment.not_compared)
    if not n:
        return
    of_base, of_tuned = alignment.compared_of("base"), alignment.compared_of("tuned")
    selected = "selected " if headline.chosen else ""
    left_out = counted(n, f"{selected}tensor was", f"{selected}tensors were")
    yield (
        f"{left_out} not compared; what was compared is "
        f"{percent(of_base, alignment.base_parameters, 2)} of the base's {selected}parameters and "
        f"{percent(of_tuned, alignment.tuned_parameters, 2)} of the tuned model's."
    )


def _nonfinite(headline: Headline) -> Iterator[str]:
    if headline.nonfinite:
        yield (
            f"Entries that are not finite on at least one side: {count(headline.nonfinite)}. They count as unchanged "
            "only where both sides hold the same bits."
        )


def _held_together(sentence: str) -> str:
    """No line break between a number and its percent sign."""
    return sentence.replace(" %", "\u00a0%")


def _complete(headline: Headline) -> bool:
    return headline.tensors_measured >= headline.tensors_planned
