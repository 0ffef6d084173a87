"""Jobs on several devices, and with matrices that go through a device together: the results are those of one by one.

Devices of kind 'cpu' go the same way as GPUs do. Stacks are counted by the kernels for NVIDIA GPUs, in Triton's
interpreter, which a worker uses where TRITON_INTERPRET=1.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from analysis.measurements import Tally
from analysis.plan import Plan
from cache.jobs import Jobs
from cache.masks import read_mask
from cache.settings import Settings
from cache.store import Store
from cache.work import _Feed
from tests.hub.builders import BFloat16, tuned_from, write_model

ROOT = Path(__file__).resolve().parents[2]
N_EXPERTS = 2
OF_ENTRIES = Plan(spectra=False)
Run = Callable[..., tuple[dict[str, Tally], dict, list[str], list[str]]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of two experts and a norm. The interpreter takes its time for each row, hardly for columns."""
    folder = tmp_path_factory.mktemp("devices") / "models"
    random = np.random.default_rng(0)
    shapes = {"gate_proj": (3, 136), "up_proj": (3, 136), "down_proj": (4, 96)}
    base = {
        f"model.layers.0.mlp.experts.{i}.{name}.weight": BFloat16.of(random.normal(0, 0.02, shape))
        for i in range(N_EXPERTS)
        for name, shape in shapes.items()
    }
    base["model.norm.weight"] = BFloat16.of(random.normal(1, 0.02, 16))
    for name, tensors in (("base", base), ("tuned", tuned_from(base, changed_share=0.3)[0])):
        write_model(folder / name, tensors)
    return folder


@contextmanager
def jobs_of(models: Path, data: Path, device: str, threads: int) -> Iterator[Jobs]:
    environ = {"SUBNETSCOPE_LOCAL_ROOTS": str(models), "SUBNETSCOPE_DEMO": "0", "SUBNETSCOPE_THREADS": str(threads)}
    settings = dataclasses.replace(Settings.from_environment(environ, data_dir=data), device=device)
    data.mkdir()
    with Store.open(settings.store_path) as store:
        jobs = Jobs(store, settings)
        jobs.start()
        yield jobs
        jobs.stop()


@pytest.fixture(scope="module")
def run(models: Path) -> Iterator[Run]:
    """Compares the two and returns tallies, bits of masks, the devices and groups that the worker announced, and gaps.
    `planted` is done in the worker before it measures: `name` is how, `here` are the arguments."""
    said: list[dict] = []
    hear = _Feed.on_message
    n_runs = itertools.count()

    def compare(device: str = "cpu", threads: int = 1, *, interpreted: bool = False, planted: str = "") -> tuple:
        said.clear()
        run_of = models.parent / f"run {next(n_runs)}"
        (plant := run_of / "plant").mkdir(parents=True)
        if planted:
            (plant / "sitecustomize.py").write_text(WATCH.format(planted=planted))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cache.backends.child.ROOT", f"{ROOT}{os.pathsep}{plant}")
            if interpreted:
                patch.setenv("TRITON_INTERPRET", "1")
            with jobs_of(models, run_of / "data", device, threads) as jobs:
                preparation = jobs.prepare("./models/base", "./models/tuned")
                assert preparation.pair is not None
                progress = jobs.wait(jobs.submit(preparation, OF_ENTRIES), timeout=200)
                assert (progress.state, progress.error) == ("done", None)
                key = preparation.pair.key
                settings, store = jobs._settings, jobs._store
                masks = {
                    place: b"".join(chunk.tobytes() for chunk in read_mask(settings.masks_dir, mask))
                    for place, mask in store.masks(key).items()
                }
                gaps = [name for _, name in store.gaps(key)]
                words = [word for message in said for word in words_of(message)]
                return store.tallies(key), masks, words, gaps

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUBNETSCOPE_LOCAL_ROOTS", str(models))
        patch.setenv("SUBNETSCOPE_DEMO", "0")
        patch.setattr(_Feed, "on_message", lambda feed, message: (said.append(message), hear(feed, message)))
        yield compare


@pytest.fixture(scope="module")
def by_itself(run: Run) -> tuple[dict[str, Tally], dict, list[str]]:
    """Tallies, bits of masks and what was announced where one CPU takes one matrix after another."""
    return run()[:3]


def words_of(message: dict) -> list[str]:
    """What tells a message of the worker: a device, how many matrices were begun and which, or the kind of event."""
    if message["event"] == "begin":
        return [f"{len(message['holes'])} begun", *(hole.name for hole in message["holes"])]
    return [message.get("device", message["event"])]


WATCH = """
import inspect, sys
if "cache.backends.measure" in sys.orig_argv:
    from cache.backends import filling
    def watched(function):
        def around(*args, **named):
            name, here = function.__name__, inspect.signature(function).bind(*args, **named).arguments
            {planted}
            return function(*args, **named)
        return around
    for name in ("measure_tally", "measure_tallies", "_measured"):
        setattr(filling, name, watched(getattr(filling, name)))
"""


def assert_same(found: dict[str, Tally], expected: dict[str, Tally]) -> None:
    """The same integers; sums of float64 may be rounded in another order."""
    assert found.keys() == expected.keys()
    for name, tally in expected.items():
        for field, value in vars(tally).items():
            if isinstance(value, float):
                assert getattr(found[name], field) == pytest.approx(value, rel=1e-12, abs=1e-12), (name, field)
            else:
                assert np.array_equal(getattr(found[name], field), value), (name, field)


def test_experts_that_are_counted_together_have_the_counts_and_masks_of_each_by_itself(run: Run, by_itself: tuple):
    pytest.importorskip("triton")
    expected, bits, alone = by_itself
    found, same_bits, together, _ = run(interpreted=True)
    assert_same(found, expected)
    assert same_bits == bits
    assert len(expected) == 3 * N_EXPERTS + 1
    assert f"{2 * N_EXPERTS} begun" in together
    assert f"{2 * N_EXPERTS} begun" not in alone
    assert sorted(runs_of_one_shape(together)) == [1, N_EXPERTS, 2 * N_EXPERTS], "gate and up have one shape"


def runs_of_one_shape(said: list[str]) -> list[int]:
    """How many matrices of one shape were begun after one another."""
    kinds = ["tall" if "gate" in name or "up" in name else name[-12:] for name in said if name.startswith("model.")]
    return [len(list(group)) for _, group in itertools.groupby(kinds)]


def test_an_error_of_the_stack_leaves_each_to_itself(run: Run, by_itself: tuple, caplog: pytest.LogCaptureFixture):
    pytest.importorskip("triton")
    expected, bits, _ = by_itself
    planted = 'if name == "measure_tallies": raise ValueError("planted")'
    found, same_bits, _, gaps = run(interpreted=True, planted=planted)
    assert_same(found, expected)
    assert (same_bits, gaps) == (bits, [])
    assert "4 together failed, so each is measured by itself" in caplog.text


def test_a_crash_in_a_stack_costs_the_one_that_crashes_by_itself_too(run: Run, by_itself: tuple):
    pytest.importorskip("triton")
    expected, _, _ = by_itself
    poisoned = "model.layers.0.mlp.experts.1.up_proj.weight"
    planted = f"""if name == "measure_tallies" and here["shape"].rows == 3 or (
                name == "measure_tally" and here["pair"].name == "{poisoned}"
            ):
                import os
                os.abort()"""
    found, _, _, gaps = run(interpreted=True, planted=planted)
    assert gaps == [poisoned]
    assert_same(found, {name: tally for name, tally in expected.items() if name != poisoned})


def test_a_crash_in_a_handful_costs_the_one_that_crashes_by_itself_too(run: Run, by_itself: tuple):
    expected, _, _ = by_itself
    poisoned = "model.layers.0.mlp.experts.1.up_proj.weight"
    planted = f"""if name == "measure_tally" and here["pair"].name == "{poisoned}":
                import os
                os.abort()"""
    found, _, said, gaps = run(planted=planted)
    assert gaps == [poisoned]
    assert_same(found, {name: tally for name, tally in expected.items() if name != poisoned})
    twice = {name for name in said if name in expected and said.count(name) == 2}
    assert twice > {poisoned}, "with others, then each by itself"
    assert said.index("3 begun") < said.index(poisoned) < said.index("1 begun")


def test_two_devices_fill_the_same_holes_as_one(run: Run, by_itself: tuple):
    expected, bits, one = by_itself
    found, same_bits, two, _ = run("cpu:0,cpu:1", threads=2)
    assert_same(found, expected)
    assert same_bits == bits
    assert (one[0], two[0]) == ("cpu", "2 devices")


def test_a_device_that_fails_is_left_out_and_the_others_go_on(run: Run, by_itself: tuple):
    planted = """if name == "_measured" and here["engine"].device == "cpu:1":
                from cache.backends.devices import DeviceLost
                raise DeviceLost("cpu:1")"""
    expected, bits, _ = by_itself
    found, same_bits, said, gaps = run("cpu:0,cpu:1", threads=2, planted=planted)
    assert_same(found, expected)
    assert (same_bits, gaps) == (bits, [])
    told = [word for word in said if word in ("2 devices", "cpu:0", "cpu:1")]
    assert told == ["2 devices", "cpu:1", "2 devices", "cpu:1", "cpu:0"], "twice, for a matrix may be to blame once"


def test_a_matrix_that_fails_a_device_is_measured_on_the_cpu_and_the_device_goes_on(run: Run, by_itself: tuple):
    poisoned = "model.layers.0.mlp.experts.1.up_proj.weight"
    planted = f"""if name == "_measured" and here["engine"].device != "cpu" and here["pair"].name == "{poisoned}":
                from cache.backends.devices import DeviceLost
                raise DeviceLost(here["engine"].device)"""
    expected, bits, _ = by_itself
    found, same_bits, said, gaps = run("cpu:0,cpu:1", threads=2, planted=planted)
    assert_same(found, expected)
    assert (same_bits, gaps) == (bits, [])
    assert said.count("2 devices") == 2
