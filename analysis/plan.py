"""What is wanted of a pair: the kinds of measurement, tensor by tensor, in the order they should land."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from analysis.tensors import Alignment

Kind = Literal["tally", "spectrum"]


@dataclass(frozen=True)
class Hole:
    """One measurement that was asked for and is not stored. Of an adapter there are two updates: what is left of it in
    the base's type ('update'), and its own ('adapter')."""

    kind: Kind
    name: str
    of: Literal["update", "base", "tuned", "adapter"] = "update"


@dataclass(frozen=True)
class Plan:
    """Which measurements a job is to leave behind. Masks come with the tallies."""

    spectra: bool = True
    masks: bool = True

    def wanted(self, alignment: Alignment) -> Iterator[Hole]:
        """All tallies first, since they cost a reading and show nearly everything; then the spectra of matrices."""
        for pair in alignment.pairs:
            yield Hole("tally", pair.name)
            if pair.merge:
                yield Hole("tally", pair.name, "adapter")
        if self.spectra:
            for pair in alignment.pairs:
                if pair.is_matrix:
                    yield Hole("spectrum", pair.name)
                    if pair.merge:
                        yield Hole("spectrum", pair.name, "adapter")
