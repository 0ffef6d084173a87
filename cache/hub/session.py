"""Asking the Hub: one client, one token, one rule for trying again.

The library's own waiting has no limit (it obeys 'Retry-After: 86400'); here nothing waits longer than five seconds,
and the message says when to come back.
"""

from __future__ import annotations

import email.utils
import ipaddress
import os
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.utils._http import default_client_factory  # not public: requirements.txt pins the version

from analysis.errors import HubUnreachable
from cache.hub.translation import translate

TIMEOUT = 10.0
TRIES = 3
LONGEST_WAIT = 5.0

_PAUSES = (0.3, 1.0)  # seconds before the second and the third try
_STATUS_TO_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_Answer = TypeVar("_Answer")
_endpoint_of_client = ""


def connect(endpoint: str) -> None:
    """Make the library's client ours: no redirect into the local network, no long waits. Idempotent."""
    global _endpoint_of_client
    if endpoint != _endpoint_of_client:
        huggingface_hub.set_client_factory(lambda: _client(endpoint))
        _endpoint_of_client = endpoint


def token() -> str | Literal[False]:
    """HF_TOKEN of this process, or False: a token that somebody stored on this machine is not used."""
    return os.environ.get("HF_TOKEN") or False


def ask(question: Callable[[], _Answer], *, model: str, revision: str = "") -> _Answer:
    """The answer to `question`, asked at most three times. Foreign errors come back as ours, which name `model` and
    `revision`: ModelError, or BadWeights for a file that is listed and not there."""
    for pause in (*_PAUSES, None):
        try:
            return question()
        except (HTTPError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if pause is None or not _is_passing(error):
                raise translate(error, model, revision) from error
            time.sleep(max(pause, _seconds_asked(error)))
    raise AssertionError("unreachable")


def _is_passing(error: Exception) -> bool:
    """Whether trying again may help: a lost connection or a busy server, not a refusal."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _STATUS_TO_TRY_AGAIN
    return isinstance(error, HTTPError)


def _seconds_asked(error: Exception) -> float:
    return min(LONGEST_WAIT, seconds_to_wait(error.response.headers)) if isinstance(error, HfHubHTTPError) else 0.0


def seconds_to_wait(headers: Any) -> float:
    """How long a busy server asks to be left alone: Retry-After as seconds or as a date, else 0."""
    asked = str(headers.get("Retry-After", "")).strip()
    if asked.isdigit():
        return float(asked)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def _client(endpoint: str) -> Any:
    client = default_client_factory()
    hooks = client.event_hooks
    host = urlsplit(endpoint).hostname or ""
    hooks["request"].append(lambda request: _refuse_private_host(request.url.host, host))
    hooks["response"].append(_refuse_long_wait)
    hooks["response"].append(_refuse_path_in_etag)
    client.event_hooks = hooks
    return client


def _refuse_private_host(host: str, endpoint_host: str) -> None:
    """A redirect must not lead to this machine or its neighbours, unless the operator's own Hub is there."""
    if host != endpoint_host and (host == "localhost" or _is_private_address(host)):
        raise HubUnreachable("The Hub sent us to an address inside this network, which is not followed")


def _is_private_address(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host.strip("[]")).is_global
    except ValueError:
        return False


def _refuse_long_wait(response: Any) -> None:
    if response.status_code in (429, 503) and (seconds := seconds_to_wait(response.headers)) > LONGEST_WAIT:
        raise HubUnreachable(
            f"The Hub asks us to come back in {_duration(seconds)}",
            do="Try again then; with a token in HF_TOKEN the Hub allows more requests",
        )


def _refuse_path_in_etag(response: Any) -> None:
    """The library names files by this header."""
    if any("/" in response.headers.get(name, "").removeprefix("W/") for name in ("ETag", "X-Linked-Etag")):
        raise HubUnreachable("The Hub's answer names a file in a way that is not accepted")


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{-int(-seconds // size)} {unit}"
    return f"{int(seconds) + 1} seconds"
