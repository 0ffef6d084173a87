"""Fixtures that every test may ask for, and the order of the tests."""

from pathlib import Path

import pytest

from tests.at_hand import children_at_hand, worker_at_hand
from tests.comparing import family, terminal
from tests.hub.fixtures import _running_hub, hub, hub_settings, roots

__all__ = ["_running_hub", "children_at_hand", "family", "hub", "hub_settings", "roots", "terminal", "worker_at_hand"]

_LONG = ("browser", "faults", "cache", "series")  # folders whose files take up to two minutes each


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: workers are handed one file after another, and none shall be alone with a long one at last."""
    items.sort(key=lambda item: _rank(item.path))


def _rank(path: Path) -> int:
    folder = path.parent.name
    return _LONG.index(folder) if folder in _LONG else len(_LONG) + (folder == "analysis")
