"""An adapter's own update beside what is left of it once it is merged and rounded to the base's type."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from analysis.labels import count, counted, percent, scientific, share
from analysis.measurements import Spectrum, Tally
from analysis.metrics import effective_rank
from analysis.rollup import Share
from analysis.tensors import Alignment, Merge, TensorPair

Row = dict[str, object]
_TITLE_OF_KIND = {
    "lora": "LoRA", "dora": "DoRA", "adalora": "AdaLoRA", "lokr": "LoKr", "loha": "LoHa", "ia3": "IA3",
    "bias": "LoRA of biases",
}  # fmt: skip
_NAME_OF_DTYPE = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class OwnUpdates:
    """Measurements of the adapter's own updates by tensor; empty for a whole model."""

    tallies: Mapping[str, Tally] = field(default_factory=dict)
    spectra: Mapping[str, Spectrum] = field(default_factory=dict)


@dataclass(frozen=True)
class Side:
    """One of the two updates over all tensors that the adapter touches, as far as both are measured."""

    changed: Share  # entries that it moves at all
    norm: float  # Frobenius
    ranks: tuple[int, ...]  # numerical, by matrix
    mean_rank_share: float  # of full rank, over the same matrices; nan without any
    mean_effective_rank: float


@dataclass(frozen=True)
class AdapterSummary:
    """The adapter in words and numbers: `own` before, `merged` after rounding to `dtype`."""

    words: str  # 'LoRA, r 8, α 16, on 24 matrices'
    dtype: str
    tensors: int
    tensors_measured: int
    own: Side
    merged: Side

    @property
    def lost(self) -> Share:
        """Of the entries that the adapter's own update moves, those that merging leaves as they were."""
        return Share(max(self.own.changed.part - self.merged.changed.part, 0), self.own.changed.part)


def summarize_adapter(
    alignment: Alignment, tallies: Mapping[str, Tally], spectra: Mapping[str, Spectrum], own: OwnUpdates
) -> AdapterSummary | None:
    """What the pair's adapter does, both ways; None where the tuned side is a whole model."""
    if not alignment.is_adapter:
        return None
    touched = [pair for pair in alignment.pairs if pair.merge is not None]
    both = [pair.name for pair in touched if pair.name in tallies and pair.name in own.tallies]
    decomposed = [name for name in both if _usable(spectra.get(name)) and _usable(own.spectra.get(name))]
    return AdapterSummary(
        words=words(alignment),
        dtype=" and ".join(dict.fromkeys(_NAME_OF_DTYPE.get(pair.base.dtype, pair.base.dtype) for pair in touched)),
        tensors=len(touched),
        tensors_measured=len(both),
        own=_side([own.tallies[name] for name in both], [own.spectra[name] for name in decomposed]),
        merged=_side([tallies[name] for name in both], [spectra[name] for name in decomposed]),
    )


def words(alignment: Alignment) -> str:
    """'LoRA, r 8, α 16, on 24 matrices; 2 whole tensors'."""
    touched = [pair for pair in alignment.pairs if pair.merge is not None]
    kinds = Counter(_kind(pair.merge) for pair in touched if pair.merge and pair.merge.kind != "full")
    parts = [f"{kind}, on {counted(n, _noun(kind, touched))}" for kind, n in kinds.items()]
    whole = sum(pair.merge is not None and pair.merge.kind == "full" for pair in touched)
    parts += [counted(whole, "whole tensor")] if whole else []
    return "; ".join(parts) or "an adapter that touches none of the base's tensors"


def both_rows(found: AdapterSummary) -> list[Row]:
    """One row a number: the adapter's own update, and what is left of it."""
    of: tuple[tuple[str, Callable[[Side], str]], ...] = (
        ("entries moved", lambda side: f"{count(side.changed.part)} of {count(side.changed.whole)}"),
        ("share moved", lambda side: percent(side.changed.part, side.changed.whole)),
        ("Frobenius norm", lambda side: scientific(side.norm, 5)),
        ("numerical rank", _ranks),
        ("rank of full, mean", lambda side: share(side.mean_rank_share)),
        ("effective rank, mean", lambda side: scientific(side.mean_effective_rank)),
    )
    merged = f"merged, in {found.dtype}"
    return [{"": name, "own update": value(found.own), merged: value(found.merged)} for name, value in of]


def _kind(merge: Merge) -> str:
    title = _TITLE_OF_KIND[merge.kind]
    if not merge.rank:
        return title
    of_root = merge.kind in ("lora", "dora") and merge.rank > 1 and merge.alpha != 0
    if of_root and math.isclose(merge.scaling, merge.alpha / math.sqrt(merge.rank)):
        title = "rsLoRA" if merge.kind == "lora" else "DoRA with rsLoRA's scale"
    return f"{title}, r {merge.rank}, α {merge.alpha:g}"


def _noun(kind: str, touched: Iterable[TensorPair]) -> str:
    of_kind = [pair for pair in touched if pair.merge and pair.merge.kind != "full" and _kind(pair.merge) == kind]
    return "matrix" if all(pair.is_matrix for pair in of_kind) else "tensor"


def _usable(spectrum: Spectrum | None) -> bool:
    return spectrum is not None and not spectrum.reason


def _side(tallies: list[Tally], spectra: list[Spectrum]) -> Side:
    entries = sum(tally.entries for tally in tallies)
    shares = [(one.rank or 0) / one.max_rank for one in spectra]
    effective = [value for one in spectra if not math.isnan(value := effective_rank(one.singular_values))]
    return Side(
        changed=Share(entries - sum(tally.unchanged("exact") for tally in tallies), entries),
        norm=math.sqrt(sum(tally.update_square_sum for tally in tallies)),
        ranks=tuple(one.rank or 0 for one in spectra),
        mean_rank_share=sum(shares) / len(shares) if shares else math.nan,
        mean_effective_rank=sum(effective) / len(effective) if effective else math.nan,
    )


def _ranks(side: Side) -> str:
    if not side.ranks:
        return "–"
    low, high = min(side.ranks), max(side.ranks)
    return count(low) if low == high else f"{count(low)} to {count(high)}"


def sentences(found: AdapterSummary) -> list[str]:
    """What the adapter is and what merging leaves of it, for the overview and the terminal."""
    first = f"The tuned side is an adapter ({found.words}); the numbers are those of the base with it merged in" + (
        f", in {found.dtype}." if found.dtype else "."
    )
    own, merged = found.own, found.merged
    if not own.changed.whole:
        return [first]
    moved, left = (percent(side.changed.part, side.changed.whole) for side in (own, merged))
    second = (
        f"By itself it moves {moved} of the {count(own.changed.whole)} entries that it touches, by a norm of "
        f"{scientific(own.norm)}; merged, {left} of them changed, by a norm of {scientific(merged.norm)}"
    )
    lost = found.lost
    second += f": {percent(lost.part, lost.whole)} of what it moves is lost in rounding." if lost.part else "."
    if not own.ranks:
        return [first, second]
    third = f"Its own updates have rank {_ranks(own)}, those that are left have rank {_ranks(merged)}"
    return [first, second, f"{third} (numerical, over {counted(len(own.ranks), 'matrix')})."]
