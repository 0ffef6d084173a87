"""A store with measured pairs in it, opened as the process-wide one, for pages to read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from streamlit.components.v2 import manifest_scanner

from analysis.measurements import MASK_RULES, Gap, Regions
from analysis.models import Pair, PinnedModel
from analysis.tensors import Alignment
from cache import instance
from cache.records import ModelCard
from cache.settings import Settings
from cache.store import Store
from pages.parts import courses, lookups, runs
from tests.analysis.by_hand import measured, small_model

BASE = PinnedModel("hub", "org/base", "a" * 40)
SEEDS = tuple(PinnedModel("hub", f"org/tuned-{i}", str(i) * 40) for i in (1, 2))
HOSTILE_NAME = "![x](http://elsewhere.example/p.png)<img src=x>"
HOSTILE = PinnedModel("folder", "./runs/*bold* [x](http://elsewhere.example)", "files-" + "c" * 40)


@pytest.fixture(scope="session", autouse=True)
def _packages_are_scanned_once() -> Iterator[None]:
    """Each AppTest would look through all installed packages for components, a quarter of a second of a core."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_scanner, "scan_component_manifests", cache(manifest_scanner.scan_component_manifests))
        yield


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a store without rows: copied, it need not be built step by step for each test."""
    path = tmp_path_factory.mktemp("empty") / "store.duckdb"
    Store.open(path).close()
    return path


@pytest.fixture
def current(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[instance.Instance]:
    """The process-wide instance over an empty store in a new folder, without the demo."""
    shutil.copy(empty_store, Settings.from_environment({}, data_dir=tmp_path).store_path)
    monkeypatch.setenv("SUBNETSCOPE_DATA", str(tmp_path))
    monkeypatch.setenv("SUBNETSCOPE_DEMO", "0")
    instance.close()
    for remembered in (*vars(lookups).values(), *vars(runs).values(), *vars(courses).values()):
        if hasattr(remembered, "cache_clear"):
            remembered.cache_clear()  # generations count from the start again in a new store
    yield instance.current()
    instance.close()


@pytest.fixture
def pair(current: instance.Instance) -> Pair:
    """A pair that is measured from end to end."""
    return put_pair(current, Pair(BASE, SEEDS[0]), small_model())


@pytest.fixture
def half_measured(current: instance.Instance) -> Pair:
    """A pair of which the first tensor is measured, the second has failed, the rest is missing."""
    alignment = small_model()
    pair = Pair(BASE, SEEDS[0])
    register(current, pair, alignment)
    first, second, *_ = [entry.name for entry in alignment.pairs]
    current.store.put(pair.key, first, measured(alignment)[0][first]).result()
    current.store.put(pair.key, second, Gap("tally", "the file ends *early*")).result()
    return pair


@pytest.fixture
def two_runs(current: instance.Instance) -> tuple[Pair, Pair]:
    """Two pairs of one base, and how their updates overlap."""
    pairs = tuple(put_pair(current, Pair(BASE, tuned), small_model(), seed=i) for i, tuned in enumerate(SEEDS))
    writing = []
    for entry in small_model().pairs:
        quarter = entry.entries // 4
        counts = np.array([entry.entries - 3 * quarter, quarter, quarter, quarter])
        for rule in MASK_RULES:
            regions = Regions.of(rule, counts)
            writing.append(
                current.store.overlaps.put_regions(BASE.key, [model.key for model in SEEDS], entry.name, regions)
            )
    for written in writing:
        written.result()
    return pairs[0], pairs[1]


@pytest.fixture
def hostile(current: instance.Instance) -> Pair:
    """A measured pair whose models and tensors have names that try to be markup."""
    return put_pair(current, Pair(BASE, HOSTILE), small_model(1, strange=HOSTILE_NAME))


CONFIG = {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}  # of `small_model`


def register(current: instance.Instance, pair: Pair, alignment: Alignment) -> None:
    base, tuned = (ModelCard(model.title, model.commit, CONFIG, "F32", 1000, 4000) for model in (pair.base, pair.tuned))
    current.store.register(pair, base, tuned, alignment).result()


def put_pair(current: instance.Instance, pair: Pair, alignment: Alignment, *, seed: int = 0) -> Pair:
    register(current, pair, alignment)
    tallies, spectra = measured(alignment, seed=seed)
    measurements = [*tallies.items(), *spectra.items()]
    for written in [current.store.put(pair.key, name, measurement) for name, measurement in measurements]:
        written.result()
    return pair
