"""A store; and small models in folders, with a queue over a real store that compares them in real children."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cache.jobs import Jobs
from cache.settings import Settings
from cache.store import Store
from tests.hub.builders import BFloat16, llama, tuned_from, write_model


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A root with a small base, two models tuned from it, and one of another architecture."""
    base = llama(layers=2, hidden=32)
    write_model(tmp_path / "models" / "base", base)
    for seed in (1, 2):
        write_model(tmp_path / "models" / f"tuned{seed}", tuned_from(base, changed_share=0.25, seed=seed)[0], shards=2)
    write_model(tmp_path / "models" / "stranger", {"w": BFloat16.of(np.ones((3, 3)))})
    return tmp_path / "models"


@pytest.fixture
def big(models: Path) -> Path:
    """A pair whose spectra take a while: eight matrices of 1600 x 1600."""
    random = np.random.default_rng(0)
    base = {f"model.layers.{i}.q_proj.weight": BFloat16.of(random.normal(0, 0.02, (1600, 1600))) for i in range(8)}
    write_model(models / "big-base", base)
    write_model(models / "big-tuned", tuned_from(base, changed_share=0.2)[0])
    return models


@pytest.fixture
def jobs(models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    settings = settings_of(models)
    settings.data_dir.mkdir()
    monkeypatch.setenv("SUBNETSCOPE_LOCAL_ROOTS", str(models))
    monkeypatch.setenv("SUBNETSCOPE_DEMO", "0")
    with Store.open(settings.store_path) as store:
        jobs = Jobs(store, settings)
        jobs.start()
        yield jobs
        jobs.stop()


def settings_of(models: Path) -> Settings:
    environ = {"SUBNETSCOPE_LOCAL_ROOTS": str(models), "SUBNETSCOPE_DEMO": "0", "SUBNETSCOPE_DEVICE": "cpu"}
    return Settings.from_environment(environ | {"SUBNETSCOPE_THREADS": "1"}, data_dir=models.parent / "data")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A new one in a file."""
    with Store.open(tmp_path / "store.duckdb") as opened:
        yield opened
