"""From what somebody typed to what can be a key: text -> ModelRef -> PinnedModel -> Pair.

A `ModelRef` is text, parsed once. A `PinnedModel` is a commit and never changes, so only it may be a key.
Knows nothing about where models lie: the Hub and the disk are `cache.hub` and `cache.folders`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

from analysis.errors import BadReference

Where = Literal["hub", "folder"]

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,95})")
_REVISION = re.compile(r"(?!.*\.\.)(?!.*//)[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_SUBFOLDER = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_FOLDER_START = ("/", "./", "../", "~")
_MAX_TEXT = 1024

HOW_TO_WRITE = (
    "Write it as 'org/name', 'org/name@revision' or 'org/name/subfolder@revision', "
    "or as a directory that starts with '/', './' or '~'"
)


@dataclass(frozen=True)
class ModelRef:
    """What somebody typed, taken apart. `name` is 'org/name' on the Hub, or the path as typed."""

    where: Where
    name: str
    subfolder: str = ""
    revision: str = ""

    def __str__(self) -> str:
        text = f"{self.name}/{self.subfolder}" if self.subfolder else self.name
        return f"{text}@{self.revision}" if self.revision else text


@dataclass(frozen=True)
class PinnedModel:
    """One model at one commit, the only thing that may stand in a key or a link.

    `name` is 'org/name', or './root/path' for a directory (the root's own name, never an absolute path);
    `commit` is the Hub's 40-hex commit, or 'files-' and 40 hex digits: the fingerprint of a directory's weight files.
    """

    where: Where
    name: str
    commit: str
    subfolder: str = ""

    @property
    def key(self) -> str:
        """What measurements are stored under: the commit, and the subfolder within it if there is one."""
        return f"{self.commit}/{self.subfolder}" if self.subfolder else self.commit

    @property
    def title(self) -> str:
        """The model as people call it, without its commit."""
        return f"{self.name}/{self.subfolder}" if self.subfolder else self.name

    @property
    def short_commit(self) -> str:
        """Enough of the commit to recognise it: 7 digits, as git shows it."""
        return self.commit.removeprefix("files-")[:7]

    def __str__(self) -> str:
        """The reference that opens exactly this model again."""
        return f"{self.title}@{self.commit}"


@dataclass(frozen=True)
class Pair:
    """A base and a model tuned from it. The update is tuned - base."""

    base: PinnedModel
    tuned: PinnedModel

    @property
    def key(self) -> str:
        """16 hex digits that name this pair of commits, in this direction."""
        return hashlib.sha256(f"{self.base.key}\n{self.tuned.key}".encode()).hexdigest()[:16]

    @property
    def is_one_model(self) -> bool:
        """Whether both sides are the same commit or, as directories, the same files: nothing can have changed."""
        return self.base.key == self.tuned.key


def parse_model(text: str) -> ModelRef:
    """The model that `text` names. Raises BadReference, which quotes what was typed.

    'org/name[/subfolder][@revision]' is a model on the Hub; a text that starts with '/', './', '../' or '~' is a
    directory, with '@files-...' behind it where it is pinned. A Hub page's address is understood too.
    """
    seen = text.strip()
    if not seen:
        raise BadReference("The model field is empty", do=HOW_TO_WRITE)
    if len(seen) > _MAX_TEXT or not seen.isprintable():
        raise BadReference("The model field holds text that is no model id", do=HOW_TO_WRITE)
    if seen.startswith(_FOLDER_START):
        return _parse_folder(seen)
    return _parse_hub(seen)


def _parse_folder(seen: str) -> ModelRef:
    path, at, commit = seen.rpartition("@files-")
    if at and re.fullmatch(r"[0-9a-f]{40}", commit):
        return ModelRef("folder", path.rstrip("/") or "/", revision=f"files-{commit}")
    return ModelRef("folder", seen.rstrip("/") or "/")


def _parse_hub(seen: str) -> ModelRef:
    text, _, revision = _without_address(seen).partition("@")
    parts = text.rstrip("/").split("/")
    name, subfolder = "/".join(parts[:2]), "/".join(parts[2:])
    if len(parts) < 2 or not all(_is_name(part) for part in parts[:2]):
        raise BadReference(f"'{seen[:120]}' is not a model id", do=HOW_TO_WRITE)
    if subfolder and not _SUBFOLDER.fullmatch(subfolder):
        raise BadReference(f"'{subfolder[:120]}' is not a folder inside a repository", do=HOW_TO_WRITE)
    if "@" in seen and not _REVISION.fullmatch(revision):
        raise BadReference(
            f"'{revision[:120]}' is not a revision",
            expected="A branch, a tag or a commit of letters, digits, '.', '_', '-' and '/'",
            do="Correct what stands behind the '@', or leave it out for the main branch",
        )
    return ModelRef("hub", name, subfolder, revision)


def _is_name(part: str) -> bool:
    return (
        bool(_NAME.fullmatch(part)) and ".." not in part and "--" not in part and not part.endswith((".git", "-", "."))
    )


def _without_address(seen: str) -> str:
    """'https://host/org/name/tree/main/sub' -> 'org/name/sub@main'; anything else as it was."""
    address = re.fullmatch(
        r"https?://[^/]+/([^/]+/[^/?#]+)(?:/(?:tree|blob)/([^/?#]+)(?:/([^?#]+))?)?/?(?:[?#].*)?", seen
    )
    if not address:
        return seen
    name, revision, subfolder = address.groups()
    return name + (f"/{subfolder.strip('/')}" if subfolder else "") + (f"@{revision}" if revision else "")
