"""Weights from the loopback Hub through real children: streamed without a file, fetched ahead, fetched once."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from analysis.plan import Plan
from cache.jobs import Jobs, Preparation
from cache.settings import Settings
from cache.store import Store
from tests.cache.digests import digest
from tests.hub.builders import BFloat16, llama, model_files, tuned_from
from tests.hub.loopback import Asked, LoopbackHub

STREAMED = Plan(keep_files=False)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def jobs_of(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[Jobs, Store, Settings]]]:
    """Makes queues with stores of their own, over one Hub; `memory` is SUBNETSCOPE_MEMORY."""
    opened: list[tuple[Jobs, Store]] = []

    def make(name: str, *, memory: str = "") -> tuple[Jobs, Store, Settings]:
        for variable, value in {
            "SUBNETSCOPE_DATA": str(tmp_path / "data"),
            "SUBNETSCOPE_DEMO": "0",
            "SUBNETSCOPE_MEMORY": memory,
            "SUBNETSCOPE_THREADS": "1",
            "SUBNETSCOPE_DEVICE": "cpu",
        }.items():
            monkeypatch.setenv(variable, value)
        settings = dataclasses.replace(Settings.from_environment(), store_file=tmp_path / f"{name}.duckdb")
        settings.data_dir.mkdir(exist_ok=True)
        store = Store.open(settings.store_path)
        jobs = Jobs(store, settings)
        jobs.start()
        opened.append((jobs, store))
        return jobs, store, settings

    yield make
    for jobs, store in opened:
        jobs.stop()
        store.close()


def add_pair(hub: LoopbackHub, base: dict[str, BFloat16], *, tuned_shards: int = 2) -> None:
    hub.add("org/base", model_files(base, shards=2))
    hub.add("org/tuned", model_files(tuned_from(base, changed_share=0.2)[0], shards=tuned_shards))


def gets(hub: LoopbackHub, name: str = "") -> list[Asked]:
    """What was asked of the weights themselves: ranges of headers, which begin at 0 and are short, are not."""
    return [asked for asked in hub.asked(rf"/{name}.*safetensors$", "GET") if span(asked) != 100_000]


def span(asked: Asked) -> int | None:
    match = re.fullmatch(r"bytes=(\d+)-(\d+)", asked.range)
    return int(match[2]) + 1 - int(match[1]) if match else None


def weight_bytes(folder: Path) -> int:
    """Bytes on the disk below the Hub cache."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def ended(jobs: Jobs, preparation: Preparation, plan: Plan | None = None) -> str:
    progress = jobs.wait(jobs.submit(preparation, plan), timeout=240)
    assert progress.error is None, progress.error
    return progress.state


@pytest.mark.parametrize(
    ("memory", "tuned_shards"),
    [pytest.param("1GB", 2, id="each pair in memory"), pytest.param("16MB", 3, id="embeddings as they pass")],
)
def test_streaming_gives_the_same_bits_as_files_in_few_requests_and_leaves_nothing_on_the_disk(
    hub: LoopbackHub, jobs_of, tmp_path: Path, memory: str, tuned_shards: int
):
    add_pair(hub, llama(layers=3, hidden=512, vocabulary=8192), tuned_shards=tuned_shards)
    jobs, store, settings = jobs_of("streamed", memory=memory)
    preparation = jobs.prepare("org/base", "org/tuned")
    hub.requests.clear()
    assert ended(jobs, preparation, STREAMED) == "done"
    spans = [span(asked) or 0 for asked in gets(hub)]
    assert sum(spans) / len(spans) >= (8 << 20 if memory == "1GB" else 4 << 20)
    assert weight_bytes(tmp_path / "hf") < 100_000, "the Hub cache holds no weights"
    assert preparation.pair is not None
    streamed = digest(store, preparation.pair.key, settings)

    jobs, store, settings = jobs_of("files", memory=memory)
    assert ended(jobs, jobs.prepare("org/base", "org/tuned")) == "done"
    assert weight_bytes(tmp_path / "hf") > 60_000_000
    assert digest(store, preparation.pair.key, settings) == streamed
    assert len(store.spectra(preparation.pair.key)) == 23
