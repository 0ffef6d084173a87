"""What is wanted of a pair: the kinds of measurement, tensor by tensor, in the order they should land."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from analysis.measurements import MASK_RULES, MaskRule
from analysis.selection import EVERYTHING, Selection, Stretch
from analysis.tensors import SIDES, Alignment, TensorPair

Kind = Literal["tally", "preview", "spectrum"]

PREVIEW_FROM = 1024  # short side; below it the singular values themselves take less than a tenth of a second


@dataclass(frozen=True)
class Hole:
    """One measurement that was asked for and is not stored. Of an adapter there are two updates: what is left of it in
    the base's type ('update'), and its own ('adapter')."""

    kind: Kind
    name: str
    of: Literal["update", "base", "tuned", "adapter"] = "update"


@dataclass(frozen=True)
class Plan:
    """Which measurements a job is to leave behind. Masks come with the tallies, by `mask_rules`; an overlap counts by
    the same rules. `maps` names the matrices whose consensus map an overlap is to draw, and then those alone.
    `spectra_every` n takes spectra of the layers 0, n, 2n, ... alone, and none outside the layers. `sides` names
    matrices whose own spectra are wanted, of base and of tuned, and then nothing else. `previews` of the spectra come
    before them, where the files are kept: of a stream, both would come at once."""

    spectra: bool = True
    masks: bool = True
    keep_files: bool = True  # of models on the Hub; else their bytes are streamed
    selection: Selection = EVERYTHING
    spectra_every: int = 1
    mask_rules: tuple[MaskRule, ...] = MASK_RULES
    maps: tuple[str, ...] = ()
    sides: tuple[str, ...] = ()
    previews: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask_rules", tuple(self.mask_rules))  # lists, as they come back from the ledger
        object.__setattr__(self, "maps", tuple(self.maps))
        object.__setattr__(self, "sides", tuple(self.sides))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Plan:
        """The plan whose `dataclasses.asdict` went through JSON; what an older version did not write has its default.
        Raises TypeError or ValueError for a plan that this version does not know."""
        known = dict(fields)
        if "selection" in known:
            chosen = known["selection"]
            layers = tuple(Stretch(**stretch) for stretch in chosen["layers"])
            known["selection"] = Selection(**chosen | {"layers": layers, "modules": tuple(chosen["modules"])})
        return cls(**known)

    def wanted(self, alignment: Alignment) -> Iterator[Hole]:
        """All tallies first, since they cost a reading and show nearly everything; then the spectra of matrices, the
        previews of all before the first of them."""
        chosen = [pair for pair in alignment.pairs if self.chooses(pair)]
        if self.sides:
            matrices = [pair for pair in chosen if pair.is_matrix]
            yield from (Hole("spectrum", pair.name, side) for pair in matrices for side in SIDES)
            return
        for pair in chosen:
            yield Hole("tally", pair.name)
            if pair.merge:
                yield Hole("tally", pair.name, "adapter")
        yield from (Hole("preview", pair.name) for pair in chosen if self._wants_preview(pair))
        for pair in chosen:
            if self.wants_spectrum(pair):
                yield Hole("spectrum", pair.name)
                if pair.merge:
                    yield Hole("spectrum", pair.name, "adapter")

    def chooses(self, pair: TensorPair) -> bool:
        """Whether this pair is to be measured at all."""
        if any(named and pair.name not in named for named in (self.maps, self.sides)):
            return False
        return self.selection.includes(pair.place, pair.base.name, pair.tuned.name, pair.name)

    def wants_spectrum(self, pair: TensorPair) -> bool:
        """Whether a chosen pair is to have the singular values of its update."""
        if not self.spectra or self.sides or not pair.is_matrix:
            return False
        layer = pair.place.layer
        return self.spectra_every == 1 or (layer is not None and layer % self.spectra_every == 0)

    def _wants_preview(self, pair: TensorPair) -> bool:
        if not (self.previews and self.keep_files and self.wants_spectrum(pair)):
            return False
        return pair.match != "untouched" and min(pair.shape) >= PREVIEW_FROM

    @property
    def spectra_text(self) -> str:
        """'all', 'none' or 'every:4', as `analysis.selection.read_spectra` reads it."""
        return "none" if not self.spectra else "all" if self.spectra_every == 1 else f"every:{self.spectra_every}"
