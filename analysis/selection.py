"""Which part of a pair is to be measured: layers by their numbers, tensors by patterns; read from text, said in words.

layers    0-3,30-31    every:4    0-15:5,outside      'outside' are the tensors that belong to no layer
modules   q_proj,mlp.*,*.experts.0.*                  of a module, or of a tensor; * ? [] as in a shell
spectra   all    none    every:4                      every:4 are the layers 0, 4, 8, ...
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from analysis.errors import BadSelection
from analysis.labels import shorten
from analysis.tensors import Place, TensorPair

OUTSIDE = "outside"
_STRETCH = re.compile(r"(\d{1,6})(?:\s*-\s*(\d{1,6})(?::(\d{1,6}))?)?")
_EVERY = re.compile(r"every:(\d{1,6})")
_EVERYTHING = ("", "all")
_MOST_TEXT, _MOST_PATTERNS = 2000, 100
_HOW_LAYERS = "Layers by number, as in '0-3,30-31', 'every:4' or '0-15:5', and 'outside' for what is in no layer"
_HOW_SPECTRA = "'all', 'none', or 'every:4' for the layers 0, 4, 8 and so on"


@dataclass(frozen=True)
class Stretch:
    """The layers first, first + step, ... up to last; without a last, to the end."""

    first: int = 0
    last: int | None = None
    step: int = 1

    def __contains__(self, layer: object) -> bool:
        if not isinstance(layer, int) or layer < self.first or (self.last is not None and layer > self.last):
            return False
        return (layer - self.first) % self.step == 0

    def __str__(self) -> str:
        if self.last is None:
            return f"every:{self.step}"
        if self.first == self.last:
            return str(self.first)
        return f"{self.first}-{self.last}" + (f":{self.step}" if self.step > 1 else "")

    def missing_from(self, layers: Collection[int]) -> list[Stretch]:
        """What of this stretch is none of `layers`, which are some; to the end of a model nothing is."""
        if self.last is None:
            return []
        most = max(layers)
        within = range(self.first, min(self.last, most) + 1, self.step)
        lacking = [Stretch(layer, layer) for layer in within if layer not in layers]
        beyond = self.first + max(0, -((self.first - most - 1) // self.step)) * self.step
        return lacking + ([Stretch(beyond, self.last, self.step)] if beyond <= self.last else [])


@dataclass(frozen=True)
class Selection:
    """Tensors of these layers that one of the patterns fits. Without stretches and `outside` of every layer; without
    patterns of every name."""

    layers: tuple[Stretch, ...] = ()
    outside: bool = False
    modules: tuple[str, ...] = ()

    @property
    def is_everything(self) -> bool:
        return not (self.layers or self.outside or self.modules)

    def includes(self, place: Place, *names: str) -> bool:
        """Whether the tensor at this place, called by these names, is selected."""
        if not self._has_layer(place.layer):
            return False
        return not self.modules or any(_fits(pattern, place, names) for pattern in self.modules)

    def _has_layer(self, layer: int | None) -> bool:
        if not self.layers and not self.outside:
            return True
        return self.outside if layer is None else any(layer in stretch for stretch in self.layers)

    def unmet(self, pairs: Collection[TensorPair]) -> list[str]:
        """What was asked for that these pairs do not have, in sentences: layers, and patterns that fit nothing."""
        return [*self._unmet_layers(pairs), *self._unmet_modules(pairs)]

    def _unmet_layers(self, pairs: Collection[TensorPair]) -> list[str]:
        layers = {pair.place.layer for pair in pairs}
        has = sorted(layer for layer in layers if layer is not None)
        found = ["No tensor lies outside the layers."] if self.outside and None not in layers else []
        if self.layers and not has:
            return [*found, "No tensor belongs to a numbered layer."]
        missing = [part for stretch in self.layers for part in stretch.missing_from(has)]
        if not missing:
            return found
        words = shorten(", ".join(map(str, missing)), 200)
        kind = "layer" if words.isdecimal() else "layers"
        return [*found, f"The models have no {kind} {words}: theirs are {has[0]} to {has[-1]}."]

    def _unmet_modules(self, pairs: Iterable[TensorPair]) -> list[str]:
        among = [pair for pair in pairs if self._has_layer(pair.place.layer)]
        where = " in these layers" if self.layers or self.outside else ""
        return [
            f"'{shorten(pattern, 80)}' fits no tensor that both models have{where}.{_meant(pattern, among)}"
            for pattern in self.modules
            if not any(_fits(pattern, pair.place, _names(pair)) for pair in among)
        ]

    def names_nothing(self, pairs: Collection[TensorPair]) -> BadSelection:
        """The error for a pair of models of which nothing is selected."""
        modules = f", modules {', '.join(map(repr, self.modules))}" if self.modules else ""
        generic = "Layers count from 0; modules are called as in 'self_attn.q_proj' or 'mlp.*'"
        return BadSelection(
            f"The selection (layers {self.layers_text}{shorten(modules, 200)}) names no tensor that both models have",
            expected=" ".join(self.unmet(pairs)).rstrip(".") or generic,
            do="Look up the layers and modules on the Compare page, or in the report of 'compare --json'",
        )

    @property
    def layers_text(self) -> str:
        """What `read_layers` reads back: '0-3,30-31', 'all'."""
        parts = [*map(str, self.layers), *([OUTSIDE] if self.outside else [])]
        return ",".join(parts) or "all"


EVERYTHING = Selection()


def _fits(pattern: str, place: Place, names: Iterable[str]) -> bool:
    """A pattern fits a tensor's whole name, a module's, or the end of a module's: 'q_proj' is every q_proj."""
    wanted = (place.module, *names)
    return any(fnmatchcase(name, pattern) for name in wanted) or fnmatchcase(place.module, f"*.{pattern}")


def _names(pair: TensorPair) -> tuple[str, ...]:
    return pair.base.name, pair.tuned.name, pair.name


def _meant(pattern: str, pairs: Iterable[TensorPair]) -> str:
    """' Is 'mlp.up_proj' meant?' where a module is called nearly so."""
    modules = {pair.place.module for pair in pairs}
    near = get_close_matches(pattern, sorted(modules | {module.rpartition(".")[2] for module in modules}), n=1)
    return f" Is '{shorten(near[0], 80)}' meant?" if near else ""


def select(layers: str = "", modules: str | Iterable[str] = "") -> Selection:
    """The selection that somebody typed. Raises BadSelection, which quotes what was not understood."""
    stretches, outside = _read_layers(layers.strip().lower())
    return Selection(stretches, outside, _read_modules(modules))


def read_spectra(text: str) -> tuple[bool, int]:
    """(whether there are to be spectra, of each how-manieth layer) for 'all', 'none' and 'every:4'.
    Raises BadSelection."""
    plain = text.strip().lower()
    if plain in ("all", "none"):
        return plain == "all", 1
    if (every := _EVERY.fullmatch(plain)) and int(every[1]):
        return True, int(every[1])
    raise BadSelection(f"'{shorten(text, 60)}' does not say which spectra are wanted", expected=_HOW_SPECTRA)


def _read_layers(text: str) -> tuple[tuple[Stretch, ...], bool]:
    if text in _EVERYTHING:
        return (), False
    if len(text) > _MOST_TEXT:
        raise _bad_layers(text, "Layers are named in text that is too long")
    parts = [part.strip() for part in text.split(",")]
    stretches = [_stretch(part) for part in parts if part != OUTSIDE]
    return tuple(dict.fromkeys(stretches)), OUTSIDE in parts


def _stretch(text: str) -> Stretch:
    if every := _EVERY.fullmatch(text):
        found = Stretch(0, None, int(every[1]))
    elif stretch := _STRETCH.fullmatch(text):
        first, last, step = stretch.groups()
        found = Stretch(int(first), int(last or first), int(step or 1))
    else:
        raise _bad_layers(text, f"'{shorten(text, 60)}' names no layers")
    if not found.step:
        raise _bad_layers(text, f"'{shorten(text, 60)}' has steps of 0")
    if found.last is not None and found.last < found.first:
        raise _bad_layers(text, f"'{shorten(text, 60)}' ends before it begins")
    return found


def _read_modules(given: str | Iterable[str]) -> tuple[str, ...]:
    patterns = given.split(",") if isinstance(given, str) else list(given)
    patterns = [pattern.strip() for pattern in patterns if pattern.strip()]
    if len(patterns) > _MOST_PATTERNS or any(len(p) > _MOST_TEXT or not p.isprintable() for p in patterns):
        raise BadSelection(
            "The modules hold text that names none",
            expected=f"At most {_MOST_PATTERNS} patterns such as 'q_proj', 'mlp.*' or '*.experts.0.*'",
        )
    return tuple(dict.fromkeys(patterns))


def _bad_layers(text: str, saw: str) -> BadSelection:
    return BadSelection(saw, expected=_HOW_LAYERS, do="Write numbers from 0 on, with commas between" if text else "")
