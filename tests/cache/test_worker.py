"""What the measuring child says while it waits for files, as its parent hears it: at once, not with the next file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from analysis.alignment import align
from analysis.errors import SubnetscopeError
from analysis.plan import Plan
from cache import catalog
from cache.backends.child import Child
from cache.settings import Settings
from tests.hub.builders import BFloat16, tuned_from, write_model

NAMES = ("model.layers.0.a.weight", "model.layers.1.a.weight")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two models of two matrices, each in a file of its own."""
    random = np.random.default_rng(0)
    base = {name: BFloat16.of(random.normal(0, 0.02, (64, 64))) for name in NAMES}
    write_model(tmp_path / "base", base, shards=2)
    write_model(tmp_path / "tuned", tuned_from(base, changed_share=0.2)[0], shards=2)
    return tmp_path


def listed(folder: Path):
    settings = Settings.from_environment()
    found = catalog.find(catalog.reference(str(folder), any_folder=True), settings, any_folder=True)
    return catalog.list_tensors(found, settings)


def worker(models: Path, masks_dir: Path, threads: int = 2, *, is_ready: bool = True) -> tuple[Child, list[str]]:
    """A worker, told of the first matrix's files, if they are ready, and not that there are no more; and the files."""
    alignment = align(listed(models / "base"), listed(models / "tuned"))
    files = sorted({pair.base.file for pair in alignment.pairs})
    request = {
        "pairs": alignment.pairs,
        "holes": tuple(Plan(spectra=False).wanted(alignment)),
        "alone": (),
        "pair_key": "0" * 32,
        "masks": ("exact",),
        "masks_dir": masks_dir,
        "device": "cpu",
        "lost": (),
        "on_cpu": (),
        "threads": threads,
        "memory_budget": 1 << 28,
        "steps": (),
        "files": (),
        "pipes": {},
    }
    child = Child("cache.backends.measure", request, network=False)
    if is_ready:
        ready(child, models, files[0])
    return child, files


def ready(child: Child, models: Path, file: str) -> None:
    for side in ("base", "tuned"):
        child.tell({"event": "ready", "side": side, "file": file, "folder": models / side})


@pytest.mark.timeout(60)
def test_an_error_is_told_while_the_next_file_is_waited_for(models: Path):
    (models / "no folder").write_text("a file where masks should go")
    child, _ = worker(models, models / "no folder")
    with pytest.raises(SubnetscopeError):
        list(child.messages())  # ends although nothing more was said to the child


@pytest.mark.timeout(60)
def test_idle_is_told_once_the_work_under_way_is_done(models: Path):
    child, files = worker(models, models / "masks")
    said: list[str] = []
    for message in child.messages():
        said.append(message["event"])
        if message["event"] == "idle" and "begin" in said:
            if said.count("begin") == 1:
                ready(child, models, files[1])
            child.tell({"event": "all"})
    assert said[:3] == ["device", "idle", "begin"]
    assert said.count("measured") == 2
    assert said.index("idle", 3) < [at for at, event in enumerate(said) if event == "begin"][1]


@pytest.mark.timeout(60)
def test_an_error_at_one_of_a_handful_leaves_the_others_measured(tmp_path: Path):
    random = np.random.default_rng(0)
    names = [f"model.layers.{i}.a.weight" for i in range(6)]
    base = {name: BFloat16.of(random.normal(0, 0.02, (64, 64))) for name in names}
    write_model(tmp_path / "base", base)
    write_model(tmp_path / "tuned", tuned_from(base, changed_share=0.2)[0])
    child, (file,) = worker(tmp_path, tmp_path / "masks", threads=1, is_ready=False)
    digest = hashlib.sha256(names[0].encode()).hexdigest()[:32]
    (tmp_path / "masks" / ("0" * 32) / f".{digest}.exact.mask.{child.pid}.tmp").mkdir(parents=True)
    ready(child, tmp_path, file)
    measured: list[str] = []

    def hear() -> None:
        for message in child.messages():
            if message["event"] == "measured":
                measured.extend(result["hole"].name for result in message["results"])

    with pytest.raises(SubnetscopeError):
        hear()
    assert measured == names[1:3], "the other two of the three that were announced with it"


def test_work_begins_once_its_libraries_are_loaded():
    """Two threads that import numba at once can each wait for what the other has begun."""
    child = Child("tests.cache.slow_to_load", {}, network=False)
    assert [list(message["loaded"]) for message in child.messages()] == [["all"]]
