"""When to ask the Hub again, and when to give up: the one rule for every question, small or of many gigabytes.

The library's own waiting has no limit (it obeys 'Retry-After: 86400') and no listener; here both are said.
"""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.utils._http import parse_ratelimit_headers  # not public: requirements.txt pins the version

from analysis.errors import HubBusy
from cache.hub.translation import translate
from cache.patience import Patience

OnWait = Callable[[str, float], None]

# What the library raises.
FOREIGN = (HTTPError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)

_STATUS_TO_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_JITTER = 0.25  # at most so much of a pause is added to it, so that many servers do not come back at one moment


class Tries:
    """The tries of one question about `model` at `revision`. `on_wait` hears the reason and the end (seconds since
    the epoch) of each pause before it begins."""

    def __init__(self, patience: Patience, on_wait: OnWait | None = None, *, model: str, revision: str = "") -> None:
        self._patience, self._on_wait = patience, on_wait
        self._model, self._revision = model, revision
        self._failed = 0

    def progressed(self) -> None:
        """Something came of it: all tries are open again."""
        self._failed = 0

    def pause_after(self, error: Exception) -> None:
        """Returns when it is time to try again. Raises ours in place of `error` where that cannot help, HubBusy where
        it has not helped, or where the Hub asks to be left alone for longer than is waited for here."""
        if not _is_passing(error):
            raise translate(error, self._model, self._revision) from error
        asked = _seconds_asked(error)
        if asked > self._patience.obeyed:
            raise _told_to_wait(asked) from error
        pauses = self._patience.busy_pauses if _status(error) == 429 else self._patience.pauses
        if self._failed >= len(pauses):
            raise translate(error, self._model, self._revision) from error
        pause = max(asked, pauses[self._failed])
        self._failed += 1
        self._sleep(pause + min(1.0, pause * _JITTER) * random.random(), error)

    def _sleep(self, seconds: float, error: Exception) -> None:
        if self._on_wait:
            self._on_wait(translate(error, self._model, self._revision).saw, time.time() + seconds)
        time.sleep(seconds)


def _status(error: Exception) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _is_passing(error: Exception) -> bool:
    """Whether trying again may help: a lost connection or a busy server, not a refusal. One of another host than the
    Hub itself, to which it sent us with a signed address, says only that the address has expired."""
    if not isinstance(error, HfHubHTTPError):
        return isinstance(error, HTTPError)
    if error.response.status_code == 403 and error.response.history:
        first, last = error.response.history[0].request.url, error.response.request.url
        return urlsplit(str(first)).netloc != urlsplit(str(last)).netloc
    return error.response.status_code in _STATUS_TO_TRY_AGAIN


def _seconds_asked(error: Exception) -> float:
    return seconds_to_wait(error.response.headers) if isinstance(error, HfHubHTTPError) else 0.0


def seconds_to_wait(headers: Any) -> float:
    """How long a busy server asks to be left alone: Retry-After as seconds or as a date, else what the Hub's own
    RateLimit header says, else 0."""
    asked = str(headers.get("Retry-After", "")).strip()
    if asked.isdigit():
        return float(asked[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        limit = parse_ratelimit_headers(headers)
        return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else 0.0


def _told_to_wait(seconds: float) -> HubBusy:
    return HubBusy(
        f"The Hub asks us to come back in {_duration(seconds)}",
        do="Try again then; with a token in HF_TOKEN the Hub allows more requests",
        until=time.time() + seconds,
    )


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{-int(-seconds // size)} {unit}"
    return f"{int(seconds) + 1} seconds"
