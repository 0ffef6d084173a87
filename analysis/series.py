"""An ordered run of checkpoints: from what somebody typed to pinned models, and the steps that their names tell.

A line names one model, with its step in front if its name does not tell it, or, with a pattern, several at once:

    200 ./runs/final                 one model, at step 200
    org/name@step_*                  branches and tags of one repository
    org/name/checkpoint-*@main       subfolders of one repository
    ./runs/checkpoint-*              folders below one folder
"""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from analysis.errors import BadReference
from analysis.models import Pair, PinnedModel

MOST_CHECKPOINTS = 64
MOST_TYPED = 16_384  # characters
_WILD = re.compile(r"[*?]")
_STEP_IN_FRONT = re.compile(r"(\d{1,12})\s+(?=\S)")
_NUMBER = re.compile(r"\d+")
_HOW = (
    "Name one model a line, or several by a pattern: 'org/name@step_*' for revisions, 'org/name/checkpoint-*' or "
    "'./folder/checkpoint-*' for folders"
)

Kind = Literal["model", "revisions", "folders"]


@dataclass(frozen=True)
class Asked:
    """One line: a model, or those whose revision or subfolder matches `pattern`. `text` is the model without it."""

    kind: Kind
    text: str
    pattern: str = ""
    revision: str = ""  # of the repository whose folders are meant
    step: str = ""  # as written in front of the line

    def matches(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that the pattern means, in natural order: checkpoint-50 before checkpoint-100."""
        return sorted({name for name in names if fnmatch.fnmatchcase(name, self.pattern)}, key=natural_order)


@dataclass(frozen=True)
class Series:
    """A base and an ordered run of checkpoints trained from it."""

    base: PinnedModel
    checkpoints: tuple[PinnedModel, ...]

    @property
    def key(self) -> str:
        """16 hex digits that name this base and these checkpoints in this order."""
        keys = [self.base.key, *(model.key for model in self.checkpoints)]
        return hashlib.sha256("\n".join(["series", *keys]).encode()).hexdigest()[:16]

    @property
    def from_base(self) -> tuple[Pair, ...]:
        """Each checkpoint against the base."""
        return tuple(Pair(self.base, model) for model in self.checkpoints)

    @property
    def from_previous(self) -> tuple[Pair, ...]:
        """Each checkpoint against the one before it, the first against the base."""
        before = (self.base, *self.checkpoints[:-1])
        return tuple(Pair(one, other) for one, other in zip(before, self.checkpoints, strict=True))

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Every pair that is to be measured: k against the base, then k - 1 against the one before."""
        return (*self.from_base, *self.from_previous[1:])

    @classmethod
    def of_pairs(cls, pairs: Sequence[Pair]) -> Series:
        """The series whose `pairs` these are."""
        return cls(pairs[0].base, tuple(pair.tuned for pair in pairs[: (len(pairs) + 1) // 2]))


@dataclass(frozen=True)
class Axis:
    """Where the checkpoints stand: at their steps, where every name tells one and they rise; else at 1, 2, 3, ..."""

    title: str
    positions: tuple[int, ...]
    labels: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What the checkpoints are called wherever they are spoken of: 'step 50', or their labels where these tell no
        steps."""
        return tuple(f"step {at:,}" for at in self.positions) if self.title == "step" else self.labels


def series_of(base: PinnedModel, checkpoints: Sequence[PinnedModel]) -> Series:
    """The series. Raises BadReference where it has no checkpoint, too many, or one twice."""
    if not checkpoints:
        raise BadReference("No checkpoint was named", do=_HOW)
    if len(checkpoints) > MOST_CHECKPOINTS:
        raise too_many(len(checkpoints))
    keys = [model.key for model in checkpoints]
    twice = next((model for model in checkpoints if keys.count(model.key) > 1 or model.key == base.key), None)
    if twice is not None:
        raise BadReference(
            f"'{twice.title}' at commit {twice.short_commit} stands in the series twice, or is its base",
            do="Name each checkpoint once",
        )
    return Series(base, tuple(checkpoints))


def read_lines(text: str) -> tuple[Asked, ...]:
    """What a pasted list asks for, line by line. Raises BadReference."""
    if len(text) > MOST_TYPED:
        raise BadReference(f"The list is {len(text):,} characters long", expected=f"At most {MOST_TYPED:,}")
    lines = [line.strip() for line in text.splitlines()]
    asked = tuple(read_line(line) for line in lines if line)
    if not asked:
        raise BadReference("No checkpoint was named", do=_HOW)
    if len(asked) > MOST_CHECKPOINTS:
        raise too_many(len(asked))
    return asked


def read_line(line: str) -> Asked:
    """What one line asks for. Raises BadReference for a pattern that stands where none can be meant."""
    in_front = _STEP_IN_FRONT.match(line)
    step, text = (in_front[1], line[in_front.end() :]) if in_front else ("", line)
    if not _WILD.search(text):
        return Asked("model", text, step=step)
    if step:
        raise BadReference(f"'{line[:120]}' gives one step to several models", do="Leave the number in front out")
    path, at, revision = text.partition("@") if not text.startswith((".", "/", "~")) else (text, "", "")
    parent, _, last = path.rpartition("/")
    if at and _WILD.search(revision) and not _WILD.search(path):
        return Asked("revisions", path, revision)
    if _WILD.search(last) and parent and not _WILD.search(parent) and not _WILD.search(revision):
        return Asked("folders", parent, last, revision)
    raise BadReference(f"'{text[:120]}' has a '*' or '?' where none can be meant", do=_HOW)


def natural_order(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts names as people count: step_50 before step_100."""
    parts = re.split(r"(\d+)", name)
    return tuple((1, int(part), part) if part.isdecimal() else (0, 0, part) for part in parts)


def axis(labels: Sequence[str]) -> Axis:
    """Where checkpoints of these labels stand; see `Axis`. The step is the last whole number of a label."""
    found = [_NUMBER.findall(label) for label in labels]
    steps = [int(numbers[-1]) for numbers in found if numbers]
    rising = all(before < after for before, after in itertools.pairwise(steps))
    if len(steps) == len(labels) and rising and max(steps, default=0) < 10**12:
        return Axis("step", tuple(steps), tuple(labels))
    return Axis("checkpoint", tuple(range(1, len(labels) + 1)), tuple(labels))


def label_of(model: PinnedModel) -> str:
    """What a checkpoint is called where nobody said: the last part of its path."""
    return model.title.rpartition("/")[2]


def too_many(n: int) -> BadReference:
    """The refusal of a list that is longer than a link can carry."""
    return BadReference(
        f"The list names {n} checkpoints",
        expected=f"At most {MOST_CHECKPOINTS}",
        do="Narrow the pattern, such as 'step_*00', or leave some out",
    )
