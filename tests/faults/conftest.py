"""A pair of models on the loopback Hub, and the real queue, children and store that compare them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from analysis.alignment import align
from analysis.plan import Plan
from analysis.tensors import TensorInfo
from cache.backends.child import Child
from cache.hub.places import cache_dir
from cache.jobs import Jobs
from cache.patience import Patience
from cache.progress import Progress
from cache.store import Store
from tests.hub.builders import llama, model_files, tuned_from
from tests.hub.faults import Fault
from tests.hub.loopback import LoopbackHub

FILE = "model.safetensors"
WEIGHTS = r"/org/tuned/resolve/.*safetensors"
BASE = llama(layers=1, hidden=64)
TUNED = tuned_from(BASE, changed_share=0.25)[0]
BASE_FILES, TUNED_FILES = model_files(BASE), model_files(TUNED)
CONTENT = TUNED_FILES[FILE]
SIZE = len(CONTENT)
HALF = SIZE // 2
DISK = 4 * SIZE // 4096 * 4096  # bytes of the small disk

# As for a real job, with every time shortened; slow is what brings less than 10 kB/s for half a second.
HURRIED = Patience(
    pauses=(0.01, 0.01, 0.01, 0.01),
    busy_pauses=(0.1, 0.2, 0.4, 0.8),
    obeyed=4.0,
    later=(0.5, 0.5, 0.5),
    silence=1.0,
    slow_for=0.5,
    progress=1000,
)


@dataclass
class Bench:
    """What a test works with: the Hub, whose weights of the tuned model are hit by faults, and the queue."""

    hub: LoopbackHub
    jobs: Jobs
    store: Store
    commit: str  # of org/tuned

    def start(self, *faults: Fault, base: str = "org/base", tuned: str = "org/tuned") -> str:
        """The id of a comparison of both models. The faults begin when both have been looked up."""
        preparation = self.jobs.prepare(base, tuned)
        self.hub.requests.clear()
        for fault in faults:
            self.hub.fail(fault)
        return self.jobs.submit(preparation, Plan(spectra=False))

    def end(self, job_id: str) -> Progress:
        return self.jobs.wait(job_id, timeout=90)

    def run(self, *faults: Fault, base: str = "org/base", tuned: str = "org/tuned") -> Progress:
        return self.end(self.start(*faults, base=base, tuned=tuned))

    def wait_until_waiting(self, job_id: str) -> Progress:
        return self.wait_for(job_id, lambda progress: progress.state == "waiting")

    def wait_for(self, job_id: str, holds: Callable[[Progress], bool]) -> Progress:
        """The job's progress as soon as `holds` says so of it."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            progress = self.jobs.progress(job_id)
            assert progress is not None
            if holds(progress):
                return progress
            assert not progress.ended, progress
            time.sleep(0.01)
        raise AssertionError(f"it did not come to that: {progress}")

    def fetching_pid(self, job_id: str) -> int:
        [child] = [each for each in self.jobs._job_of_id[job_id].children if each.module == "cache.backends.fetch"]
        return child.pid

    def ranges(self) -> list[int]:
        """The first bytes that the weights of the tuned model were asked for, in order."""
        return [int(asked.range.removeprefix("bytes=").split("-")[0]) for asked in self.hub.asked(WEIGHTS, "GET")]


@pytest.fixture
def bench(hub, hub_settings, worker_at_hand: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("SUBNETSCOPE_DATA", str(hub_settings.data_dir))
    monkeypatch.setenv("SUBNETSCOPE_DEVICE", "cpu")
    hub_settings.data_dir.mkdir()
    hub.add("org/base", BASE_FILES)
    commit = hub.add("org/tuned", TUNED_FILES)
    with Store.open(hub_settings.store_path) as store:
        jobs = Jobs(store, hub_settings, patience=HURRIED)
        jobs.start()
        yield Bench(hub, jobs, store, commit)
        jobs.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An own file system of DISK bytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fetch_child(bench: Bench) -> Child:
    """A process that fetches both models' weights."""
    commit = bench.hub.repositories["org/base"].commit_of_name["main"]
    norm = TensorInfo("norm", "BF16", (64,), FILE, 0, 128)
    request = {
        "base": f"org/base@{commit}",
        "tuned": f"org/tuned@{bench.commit}",
        "any_folder": False,
        "patience": HURRIED,
        "pairs": align([norm], [norm]).pairs,
    }
    return Child("cache.backends.fetch", request, network=True)


def content_here() -> bytes:
    """The tuned model's weights as the cache on this machine has them."""
    return blob().read_bytes()


def blob() -> Path:
    return cache_dir() / "models--org--tuned" / "blobs" / hashlib.sha256(CONTENT).hexdigest()


def partial_files() -> list[Path]:
    return list(cache_dir().rglob("*.incomplete"))


def partial_size() -> int:
    return sum(path.stat().st_size for path in partial_files())
