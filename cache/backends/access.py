"""The child that asks the Hub whether models may still be read. Run as `python -m cache.backends.access`.

Has the network and the token; reads no weights and keeps nothing.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from analysis.errors import SubnetscopeError
from analysis.models import parse_model
from cache import catalog
from cache.backends.child import Send, serve
from cache.settings import Settings

_AT_ONCE = 8


def ask(request: dict[str, Any], send: Send) -> None:
    """Sends 'answered' for each of the models, as the answers come: its text, and the error or None."""
    settings = Settings.from_environment()

    def answer(model: str) -> None:
        send({"event": "answered", "model": model, "error": _refusal(model, settings)})

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(answer, request["models"]))


def _refusal(model: str, settings: Settings) -> dict[str, str] | None:
    try:
        catalog.confirm_access(parse_model(model), settings)
    except SubnetscopeError as error:
        return error.as_dict()
    return None


if __name__ == "__main__":
    serve(ask)
