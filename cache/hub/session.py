"""Asking the Hub: one client, one token, one rule for trying again (tries.py)."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub.utils._http import default_client_factory  # not public: requirements.txt pins the version

from analysis.errors import HubUnreachable
from cache.hub.tries import FOREIGN, OnWait, Tries
from cache.patience import Patience

_Answer = TypeVar("_Answer")
_endpoint_of_client = ""


def connect(endpoint: str) -> None:
    """Make the library's client ours: no redirect into the local network. Idempotent."""
    global _endpoint_of_client
    if endpoint != _endpoint_of_client:
        huggingface_hub.set_client_factory(lambda: _client(endpoint))
        _endpoint_of_client = endpoint


def token() -> str | Literal[False]:
    """HF_TOKEN of this process, or False: a token that somebody stored on this machine is not used."""
    return os.environ.get("HF_TOKEN") or False


def ask(
    question: Callable[[], _Answer],
    patience: Patience,
    *,
    model: str,
    revision: str = "",
    on_wait: OnWait | None = None,
) -> _Answer:
    """The answer to `question`, asked as often as `patience` allows. Foreign errors come back as ours, which name
    `model` and `revision`: ModelError, or BadWeights for a file that is listed and not there."""
    tries = Tries(patience, on_wait, model=model, revision=revision)
    while True:
        try:
            return question()
        except FOREIGN as error:
            tries.pause_after(error)


def _client(endpoint: str) -> Any:
    client = default_client_factory()
    hooks = client.event_hooks
    host = urlsplit(endpoint).hostname or ""
    hooks["request"].append(lambda request: _refuse_private_host(request.url.host, host))
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
