"""Every failure a reader of Subnetscope can meet, as one tree.

    SubnetscopeError
    ├── ModelError             the text, or the model behind it
    │   ├── BadReference       the text is not a model id, a path or a revision
    │   ├── ModelNotFound      no such repository, or it is private
    │   ├── RevisionNotFound   the repository has no such revision
    │   ├── AccessDenied       the repository is gated, or the token may not read it
    │   ├── PathNotAllowed     a directory outside the allowed roots, or not there (same text for both)
    │   └── HubUnreachable     no answer from the Hub that can be used
    │       └── HubBusy        trouble that passes: no connection, an error of its own, "come back later"
    ├── WeightsError           the files behind a model
    │   ├── NoWeights          no safetensors weights in it
    │   ├── BadWeights         a header, an index or a file that contradicts itself
    │   │   └── Damaged        a file whose bytes are not those that the Hub lists, twice in a row
    │   └── FileChanged        a file was replaced while it was read
    ├── ComparisonError        the pair
    │   ├── NothingToCompare   no tensor of one side has a partner of its shape on the other
    │   └── MasksMissing       an overlap needs masks that are not (or no longer) stored
    ├── BadAssertion           an assertion of a check that cannot be read, or would check nothing
    ├── BadSelection           layers, modules or spectra to measure that cannot be read, or name nothing
    ├── BadSetting             an environment variable that cannot be meant
    ├── StoreError             the DuckDB file
    │   ├── NotStored          it does not hold what was asked for
    │   ├── StoreBusy          another process has it open
    │   └── StoreNewer         written by a newer version
    └── ResourceError          the machine
        ├── DiskFull           too little disk for what was asked
        ├── TooLarge           more memory than the machine has for what was asked
        ├── NoChromium         figures for paper are drawn by a Chromium, and there is none
        └── WorkerDied         a child process ended without finishing

Each says what was seen, what was expected and what to do; `str(error)` is the whole sentence, safe to show as text:
names of strangers in it stand with their hidden characters spelled out.
"""

from __future__ import annotations

from analysis.labels import visible


class SubnetscopeError(Exception):
    """A failure with words for the reader: `saw`, `expected`, `do` (each a sentence without its full stop)."""

    exit_code = 1

    def __init__(self, saw: str, *, expected: str = "", do: str = "") -> None:
        self.saw, self.expected, self.do = visible(saw), visible(expected), visible(do)
        wanted = f"Expected: {self.expected}" if self.expected else ""
        super().__init__(" ".join(part.rstrip(".") + "." for part in (self.saw, wanted, self.do) if part))

    def as_dict(self) -> dict[str, str]:
        """The error as JSON-ready text, to cross a process boundary; see `error_from_dict`."""
        return {"error": type(self).__name__, "saw": self.saw, "expected": self.expected, "do": self.do}


class ModelError(SubnetscopeError):
    """The text that names a model, or the model behind it."""

    exit_code = 3


class BadReference(ModelError):
    """The text is not a model id, a path or a revision."""

    exit_code = 2


class ModelNotFound(ModelError):
    """No such repository, or it is private: the Hub answers the same for both."""


class RevisionNotFound(ModelError):
    """The repository exists, the revision does not."""


class AccessDenied(ModelError):
    """A gated or disabled repository, or a token without the right to read it."""


class PathNotAllowed(ModelError):
    """A directory that is not below an allowed root, or is not there. One text for both, so that it tells nothing."""


class HubUnreachable(ModelError):
    """The Hub did not answer, or not in a way that can be used."""

    exit_code = 4


class HubBusy(HubUnreachable):
    """Trouble of the Hub, or of the way to it, that passes: a job waits and tries again.

    `until` is when the Hub asks us to come back (seconds since the epoch), 0 if it names no time."""

    def __init__(self, saw: str, *, expected: str = "", do: str = "", until: float = 0.0) -> None:
        super().__init__(saw, expected=expected, do=do)
        self.until = until

    def as_dict(self) -> dict[str, str]:
        return {**super().as_dict(), "until": str(self.until)}


class WeightsError(SubnetscopeError):
    """The files behind a model."""

    exit_code = 5


class NoWeights(WeightsError):
    """No weight file in a format that is read."""


class BadWeights(WeightsError):
    """A header, an index or a file that contradicts itself: truncated, overlapping, not what its name says."""


class Damaged(BadWeights):
    """A file of the Hub that arrived damaged, and damaged again. Its tensors become gaps, the job goes on."""


class FileChanged(WeightsError):
    """A file was replaced or cut while it was read."""


class ComparisonError(SubnetscopeError):
    """The pair of models."""

    exit_code = 6


class NothingToCompare(ComparisonError):
    """No tensor has a partner of its name and shape on the other side."""


class MasksMissing(ComparisonError):
    """An overlap needs update masks that are not stored (any more)."""


class BadAssertion(SubnetscopeError):
    """An assertion of a check that cannot be read, or that would hold or fail whatever the weights are."""

    exit_code = 2


class BadSelection(SubnetscopeError):
    """Layers, modules or spectra to measure that cannot be read, or that name nothing of this pair."""

    exit_code = 2


class BadSetting(SubnetscopeError):
    """An environment variable holds a value that cannot be meant."""

    exit_code = 2


class StoreError(SubnetscopeError):
    """The DuckDB file."""

    exit_code = 7


class NotStored(StoreError):
    """The store is open, and does not hold what was asked for."""


class StoreBusy(StoreError):
    """Another process has the store open; DuckDB lets one in at a time."""


class StoreNewer(StoreError):
    """The store was written by a newer version of Subnetscope."""


class ResourceError(SubnetscopeError):
    """The machine."""

    exit_code = 8


class DiskFull(ResourceError):
    """Too little disk for what was asked."""


class TooLarge(ResourceError):
    """What was asked needs more memory than the machine has."""


class NoChromium(ResourceError):
    """Figures for paper are drawn by a Chromium, and this machine has none that may be used."""


class WorkerDied(ResourceError):
    """A child process ended without finishing its work."""


def _tree(root: type[SubnetscopeError]) -> dict[str, type[SubnetscopeError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


def error_from_dict(fields: dict[str, str]) -> SubnetscopeError:
    """The error that `as_dict` wrote; an unknown name comes back as the root class."""
    kind = _tree(SubnetscopeError).get(fields.get("error", ""), SubnetscopeError)
    error = kind(fields.get("saw", ""), expected=fields.get("expected", ""), do=fields.get("do", ""))
    if isinstance(error, HubBusy):
        error.until = float(fields.get("until", 0))
    return error
