"""Regions by tensor -> Venn: how the updates of several models of one base overlap, beside both chance levels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis import chance
from analysis.measurements import Magnitudes, Regions
from analysis.tensors import Alignment

Amounts = NDArray[np.int64] | NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Venn:
    """Region counts of k models over some tensors of one base, with what chance would give.

    `counts[s]`: entries changed by exactly the models in bit set s; `expected[s]`: the same if the models were
    independent within each tensor, `matched[s]`: within bins of base magnitude, nan where these are unknown.
    """

    rule: str
    labels: tuple[str, ...]
    counts: NDArray[np.int64]  # (2 ** k,)
    expected: NDArray[np.float64]  # (2 ** k,)
    matched: NDArray[np.float64]  # (2 ** k,)
    tensors: int

    @property
    def n_models(self) -> int:
        return len(self.labels)

    @property
    def entries(self) -> int:
        return int(self.counts.sum())

    @property
    def union(self) -> int:
        """Entries that any model changed."""
        return int(self.counts[1:].sum())

    def changed(self, *models: int) -> int:
        """Entries that all of `models` changed, whatever the others did."""
        return int(_together(self.counts, models))

    def one_sided(self, of: int, other: int) -> float:
        """|I_of and I_other| / |I_of|: Mukherjee's o1 for (1, 2), o2 for (2, 1)."""
        return over(self.changed(of, other), self.changed(of))

    def jaccard(self, one: int, other: int) -> float:
        both = self.changed(one, other)
        return over(both, self.changed(one) + self.changed(other) - both)

    def chance(self, of: int, other: int) -> float:
        """What one_sided would be if the two were independent within each tensor."""
        return over(_together(self.expected, (of, other)), self.changed(of))

    def matched_chance(self, of: int, other: int) -> float:
        """What one_sided would be if the two were independent within bins of base magnitude; nan if unknown."""
        return over(_together(self.matched, (of, other)), self.changed(of))

    def over_matched(self, one: int, other: int) -> float:
        """Entries that both changed over those that magnitude-matched chance gives; the same both ways."""
        return over(self.changed(one, other), _together(self.matched, (one, other)))

    @property
    def by_runs(self) -> NDArray[np.int64]:
        """(k + 1,): entries that exactly 0 ... k of the models changed."""
        return _by_runs(self.counts).astype(np.int64)

    @property
    def expected_by_runs(self) -> NDArray[np.float64]:
        return _by_runs(self.expected)

    @property
    def matched_by_runs(self) -> NDArray[np.float64]:
        return _by_runs(self.matched)


def venn(
    rule: str,
    labels: Sequence[str],
    regions: Mapping[str, Regions],
    magnitudes: Sequence[Mapping[str, Magnitudes]] = (),
) -> Venn:
    """Region counts summed over `regions`' tensors, with both chance levels.

    `magnitudes[i]` are model i's under the same rule, by tensor name; without them the matched chance is nan.
    """
    counts, nothing = np.zeros(1 << len(labels), np.int64), np.zeros(1 << len(labels))
    if not regions:
        return Venn(rule, tuple(labels), counts, nothing, nothing, 0)
    of_tensors = list(regions.values())
    subsets, of_subset, _ = chance.laid_out(of_tensors)
    np.add.at(counts, subsets, of_subset)
    bins = matched_bins(regions, magnitudes)
    matched = chance.expected_regions(bins) if bins else nothing + math.nan
    expected = chance.expected_regions(chance.within_tensors(of_tensors))
    return Venn(rule, tuple(labels), counts, expected, matched, len(regions))


def left_out(alignments: Sequence[Alignment]) -> dict[str, tuple[tuple[int, ...] | None, ...]]:
    """Tensors that not all pairs of one base compare in one shape, each with its shape in every pair; None where a pair
    does not compare it at all. An overlap is counted of the others."""
    if all(alignment is alignments[0] for alignment in alignments):
        return {}
    of_pairs = [{pair.name: pair.shape for pair in alignment.pairs} for alignment in alignments]
    names = dict.fromkeys(name for shapes in of_pairs for name in shapes)
    found = {name: tuple(shapes.get(name) for shapes in of_pairs) for name in names}
    return {name: shapes for name, shapes in found.items() if len(set(shapes)) > 1}


def stored_in(alignments: Iterable[Alignment]) -> str:
    """The type in which every one of the tuned models has most of its compared parameters; '' where they differ."""
    main: set[str] = set()
    for alignment in {id(one): one for one in alignments}.values():
        amounts: Counter[str] = Counter()
        for pair in alignment.pairs:
            amounts[pair.tuned.dtype] += pair.entries
        main.update(dtype for dtype, _ in amounts.most_common(1))
    return main.pop() if len(main) == 1 else ""


def matched_bins(names: Iterable[str], magnitudes: Sequence[Mapping[str, Magnitudes]]) -> chance.Bins | None:
    """These tensors' bins of base magnitude, where every model's are known of all of them."""
    names = list(names)
    return chance.at_equal_magnitude([[of_model.get(name) for name in names] for of_model in magnitudes])


def over(part: float, whole: float) -> float:
    """nan where there is nothing to be a part of."""
    return float(part) / float(whole) if whole else math.nan


def _together(amounts: Amounts, models: Sequence[int]) -> float:
    """The sum over all subsets that hold these models."""
    wanted = sum(1 << model for model in models)
    subsets = np.arange(len(amounts))
    return amounts[subsets & wanted == wanted].sum()


def _by_runs(amounts: Amounts) -> NDArray[np.float64]:
    """The sums over subsets of 0 ... k models."""
    n_runs = np.bitwise_count(np.arange(len(amounts)))
    return np.asarray(np.bincount(n_runs, weights=amounts), np.float64)  # exact for counts below 2 ** 53
