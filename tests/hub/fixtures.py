"""Fixtures for everything that needs a Hub: the loopback Hub, and settings that point at it and at empty folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.settings import Settings
from tests.hub.loopback import LoopbackHub


@pytest.fixture(scope="session")
def _running_hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture
def hub(_running_hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LoopbackHub:
    """A Hub without repositories. This process and its children are told of it; the Hub cache is a new folder, and no
    token is set (tests.hub.loopback.TOKEN is one that may read private and gated repositories)."""
    _running_hub.clear()
    monkeypatch.setenv("HF_ENDPOINT", _running_hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return _running_hub


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """An allowed root called 'models'."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def hub_settings(hub: LoopbackHub, roots: Path, tmp_path: Path) -> Settings:
    """Settings with the loopback Hub, one allowed root called 'models', an own data folder, and no demo."""
    return Settings.from_environment(
        {"HF_ENDPOINT": hub.url, "SUBNETSCOPE_LOCAL_ROOTS": str(roots), "SUBNETSCOPE_DEMO": "0"},
        data_dir=tmp_path / "data",
    )
