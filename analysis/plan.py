"""What is wanted of a pair: the kinds of measurement, tensor by tensor, in the order they should land."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from analysis.measurements import MASK_RULES, MaskRule
from analysis.tensors import Alignment

Kind = Literal["tally", "spectrum"]


@dataclass(frozen=True)
class Hole:
    """One measurement that was asked for and is not stored."""

    kind: Kind
    name: str
    of: Literal["update", "base", "tuned"] = "update"


@dataclass(frozen=True)
class Plan:
    """Which measurements a job is to leave behind. Masks come with the tallies, by `mask_rules`; an overlap counts by
    the same rules. `maps` names the matrices whose consensus map an overlap is to draw, and then those alone."""

    spectra: bool = True
    masks: bool = True
    mask_rules: tuple[MaskRule, ...] = MASK_RULES
    maps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask_rules", tuple(self.mask_rules))  # lists, as they come back from the ledger
        object.__setattr__(self, "maps", tuple(self.maps))

    def wanted(self, alignment: Alignment) -> Iterator[Hole]:
        """All tallies first, since they cost a reading and show nearly everything; then the spectra of matrices."""
        for pair in alignment.pairs:
            if not self.maps or pair.name in self.maps:
                yield Hole("tally", pair.name)
        if self.spectra:
            for pair in alignment.pairs:
                if pair.is_matrix:
                    yield Hole("spectrum", pair.name)
