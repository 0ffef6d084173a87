"""The Hub library's errors in our words: never its own text, which may carry signed addresses or a stranger's HTML."""

from __future__ import annotations

import errno

from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from analysis.errors import (
    AccessDenied,
    BadReference,
    BadWeights,
    DiskFull,
    HubBusy,
    HubUnreachable,
    ModelNotFound,
    ResourceError,
    RevisionNotFound,
    SubnetscopeError,
)

_TRY_AGAIN = "Try again in a minute"


def translate(error: BaseException, model: str, revision: str = "") -> SubnetscopeError:
    """Our error for one of the library's, about `model` at `revision`. The most special class is asked first: the
    library's GatedRepoError is also a RepositoryNotFoundError."""
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, HTTPError):
        return translate(error.__cause__, model, revision)
    for kind, ours in _OURS_OF_KIND.items():
        if isinstance(error, kind):
            return ours(model, revision)
    if isinstance(error, HfHubHTTPError):
        return _of_status(error.response.status_code, model)
    if isinstance(error, HTTPError | LocalEntryNotFoundError):
        return HubBusy(
            f"No answer from the Hub about '{model}'",
            do="Check this machine's connection and HF_ENDPOINT, or compare local folders",
        )
    if isinstance(error, OSError) and error.errno is not None:
        return of_disk(error)
    return HubUnreachable(f"The Hub's answer about '{model}' could not be understood", do=_TRY_AGAIN)


def _gated(model: str, _: str) -> SubnetscopeError:
    return AccessDenied(
        f"'{model}' is gated, and this server may not read it",
        do="Ask its owners for access on its page, then start Subnetscope with that account's token in HF_TOKEN",
    )


def _disabled(model: str, _: str) -> SubnetscopeError:
    return AccessDenied(f"'{model}' has been disabled on the Hub", do="Choose another model")


def _no_revision(model: str, revision: str) -> SubnetscopeError:
    return RevisionNotFound(
        f"'{model}' has no revision '{revision}'", do="Correct what stands behind the '@', or leave it out"
    )


def _no_model(model: str, _: str) -> SubnetscopeError:
    return ModelNotFound(
        f"There is no model '{model}' on the Hub, or it is private",
        do="Check the spelling; for a private model start Subnetscope with a token in HF_TOKEN that may read it",
    )


def _no_file(model: str, _: str) -> SubnetscopeError:
    return BadWeights(f"'{model}' lists a file that is not there", do="Choose another revision")


def _offline(_: str, __: str) -> SubnetscopeError:
    return HubUnreachable(
        "HF_HUB_OFFLINE is set, so the Hub is not asked",
        expected="Models of the Hub are always looked up there first",
        do="Unset it, or compare local folders",
    )


def _bad_id(model: str, _: str) -> SubnetscopeError:
    return BadReference(f"'{model}' is not a model id", do="Write it as 'org/name'")


_OURS_OF_KIND = {
    GatedRepoError: _gated,
    DisabledRepoError: _disabled,
    RevisionNotFoundError: _no_revision,
    RepositoryNotFoundError: _no_model,
    RemoteEntryNotFoundError: _no_file,
    OfflineModeIsEnabled: _offline,
    HFValidationError: _bad_id,
}


def _of_status(status: int, model: str) -> SubnetscopeError:
    if status == 401:
        return AccessDenied("The Hub does not accept the token in HF_TOKEN", do="Correct the token, or unset it")
    if status == 403:
        return AccessDenied(f"The Hub does not let this server read '{model}'", do="Check the rights of HF_TOKEN")
    if status == 404:
        return _no_model(model, "")
    if status == 429:
        return HubBusy("The Hub asks us to slow down", do=_TRY_AGAIN)
    kind = HubBusy if status >= 500 or status == 408 else HubUnreachable
    return kind(f"The Hub answered with error {status}", do=_TRY_AGAIN)


def of_disk(error: OSError, *, missing: int = 0) -> SubnetscopeError:
    """Ours for an error of the cache's disk; `missing` bytes of a file are still to come."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        rest = f", with {missing / 1e9:.1f} GB of the file still to come" if missing else ""
        return DiskFull(
            f"The disk filled up while downloading{rest}",
            do="Make room in the Hub cache (HF_HOME) and start again: what has arrived is kept",
        )
    return ResourceError(f"The Hub cache cannot be written: {error.strerror}", do="Check the rights of HF_HOME")
