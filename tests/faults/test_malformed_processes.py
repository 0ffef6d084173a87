"""The worst of the malformed files through the real processes: a server that is visited, and the child it asks.

The page says what is wrong in our words, the server goes on answering, and it is still the process that was started.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from analysis.errors import BadWeights, PathNotAllowed, SubnetscopeError
from cache.jobs import Jobs
from cache.store import Store
from tests.faults.browserless import Server, running
from tests.faults.refusals import SECONDS, assert_words
from tests.faults.test_malformed_headers import CASES, of
from tests.hub.builders import BFloat16, llama, llama_pair, model_files, tuned_from, write_model
from tests.hub.faults import Status
from tests.hub.loopback import LoopbackHub

pytestmark = pytest.mark.timeout(180)

FILE = "model.safetensors"
MODEL = llama(layers=1)


def weights(name: str) -> Callable[[Path], None]:
    """The weight file of that name in the table of malformed headers."""

    def build(folder: Path) -> None:
        (folder / FILE).write_bytes(CASES[name][0]())

    return build


def pipe(folder: Path) -> None:
    os.mkfifo(folder / FILE)


def endless(folder: Path) -> None:
    (folder / FILE).symlink_to("/dev/zero")


def hostile_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map":{"a":"../../secret.safetensors"}}')


def million_experts(folder: Path) -> None:
    """A megabyte that could be taken apart into a million matrices."""
    n_bytes = 2 * 10**6
    header = {"experts.w": {"dtype": "F16", "shape": [10**6, 1, 1], "data_offsets": [0, n_bytes]}}
    (folder / FILE).write_bytes(of(header, b"\0" * n_bytes))


def no_utf8(folder: Path) -> None:
    path = os.path.join(os.fsencode(folder), b"m\xff.safetensors")  # noqa: PTH118
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


WORST: dict[str, tuple[Callable[[Path], None], str]] = {
    "8 million empty objects": (weights("8 million empty objects"), "8,"),
    "25 million brackets": (weights("25 million brackets"), "more than 300,000 tensors need"),
    "100,000 objects in each other": (weights("100,000 objects in each other"), "nested too deeply"),
    "a name of 20 MB": (weights("a name of 20 MB"), "more than 500"),
    "a pickle": (weights("a pickle"), "a Python pickle"),
    "a web page": (weights("a web page"), "a web page"),
    "a product that wraps round to 2": (weights("a product that wraps round to 2"), "contradict"),
    "a pipe": (pipe, "not a regular file"),
    "a device outside": (endless, "may not be read"),
    "an index that leads out": (hostile_index, "'../../secret.safetensors'"),
    "a million experts": (million_experts, "1,000,000 matrices"),
    "a name that is no UTF-8": (no_utf8, "m\\udcff.safetensors"),
}


HOSTILE_NAMES = (
    "",
    " ",
    "__proto__",
    "constructor",
    "=cmd|' /C calc'!A0",
    "@SUM(1)",
    "-1+1",
    "a\u202egnp.weight",
    "a\u2028b",
    "a\nb\tc",
    "a\0b",
    "\x1b[2J",
    "<script>alert(1)</script>",
    "![x](http://elsewhere.example/p.png)",
    "'; DROP TABLE pairs; --",
    "../../etc/passwd",
    "model.layers.999999.mlp.up_proj.weight",
    "model.layers.99999999999999999999.w",
    "experts.999999.w1[7]",
    "model." * 80,
    "\U0001f600" * 500,
)


def hostile_pair(roots: Path) -> None:
    """A sound pair whose tensors are called anything that a header may hold."""
    base = {name: BFloat16.of(np.ones((4, 4))) for name in HOSTILE_NAMES}
    config = {"architectures": ["<img src=x onerror=alert(1)>"], "hidden_size": float("inf"), "model_type": "\ud800"}
    write_model(roots / "hostile-base", base, config=config)
    write_model(roots / "hostile-tuned", tuned_from(base)[0], config=config)
    (roots / "hostile-tuned" / "README.md").write_text("---\na: &a [x]\nb: *a\n---\n")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root with a folder called by a number for each of the worst, 'base' and 'tuned', which are sound, and a pair
    with hostile names."""
    roots = tmp_path_factory.mktemp("malformed") / "models"
    base, tuned = llama_pair(layers=1)
    write_model(roots / "base", base)
    write_model(roots / "tuned", tuned)
    hostile_pair(roots)
    for number, (build, _) in enumerate(WORST.values()):
        (roots / str(number)).mkdir()
        build(roots / str(number))
    yield roots
    for path in roots.iterdir():
        shutil.rmtree(os.fsencode(path))  # names that are no UTF-8 are left to nobody


def texts(name: str) -> tuple[str, str]:
    """The base and the tuned model to type. A million experts are aligned only with as many."""
    tuned = f"./models/{list(WORST).index(name)}"
    return (tuned if name == "a million experts" else "./models/base"), tuned


# Through the child


@pytest.fixture
def jobs(hub_settings, strangers, monkeypatch) -> Iterator[Jobs]:
    """Jobs over a new store; their children read the roots from the environment."""
    monkeypatch.setenv("SUBNETSCOPE_LOCAL_ROOTS", str(strangers))
    monkeypatch.setenv("SUBNETSCOPE_DEMO", "0")
    with Store.open(":memory:") as store:
        yield Jobs(store, dataclasses.replace(hub_settings, local_roots=(strangers,)))


@pytest.mark.parametrize("name", list(WORST)[1::4])
def test_a_child_says_what_is_wrong_with_the_file(jobs, name):
    with pytest.raises(SubnetscopeError) as caught:
        jobs.prepare(*texts(name))
    assert type(caught.value) in (BadWeights, PathNotAllowed)
    assert_words(caught.value, WORST[name][1])


def test_names_of_all_kinds_come_through_child_and_store_as_they_are(jobs):
    found = jobs.prepare("./models/hostile-base", "./models/hostile-tuned")
    assert sorted(pair.name for pair in found.alignment.pairs) == sorted(HOSTILE_NAMES)
    assert jobs._store.alignment(found.pair.key) == found.alignment
    assert found.base.config == {"architectures": ["<img src=x onerror=alert(1)>"], "model_type": "\\ud800"}
    assert found.notes[-1] == "./models/hostile-tuned: 'README.md' is not read: its front matter holds YAML aliases."


# Through a server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, strangers: Path) -> Iterator[Server]:
    with LoopbackHub() as hub:
        hub.add("org/base", model_files(MODEL))
        hub.add("org/stranger", {FILE: CASES["a pickle"][0]()})
        hub.fail(Status(path="/api/models/org/page", status=500, text="<img src=x onerror=alert(1)>"))
        with running(tmp_path_factory.mktemp("server"), strangers, hub.url) as server:
            yield server


@pytest.fixture(scope="module")
def usual_seconds(server: Server) -> float:
    """How long the page takes here for a pair that is sound: a child has to start."""
    begun = time.monotonic()
    seen = server.visit(base="./models/base", tuned="./models/tuned")
    assert not seen.exceptions
    return time.monotonic() - begun


@contextmanager
def watched(server: Server) -> Iterator[list[float]]:
    """Asks /healthz ten times a second while the block runs; the seconds that each answer took, or infinity."""
    taken: list[float] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.1):
            begun = time.monotonic()
            try:
                answered = server.answers()
            except OSError:
                answered = False
            taken.append(time.monotonic() - begun if answered else float("inf"))

    watcher = threading.Thread(target=ask)
    watcher.start()
    try:
        yield taken
    finally:
        over.set()
        watcher.join()


@pytest.mark.parametrize("name", WORST)
def test_a_server_says_what_is_wrong_and_goes_on(server, usual_seconds, name):
    base, tuned = texts(name)
    begun = time.monotonic()
    with watched(server) as taken:
        seen = server.visit(base=base, tuned=tuned)
    assert time.monotonic() - begun < SECONDS + usual_seconds
    assert not seen.exceptions
    assert any(WORST[name][1] in message for message in seen.messages), seen
    assert taken
    assert max(taken) < SECONDS


@pytest.mark.parametrize(
    ("tuned", "words"),
    [
        pytest.param("org/stranger", "a Python pickle", id="a pickle on the Hub"),
        pytest.param("org/page", "The Hub answered with error 500", id="a page instead of an answer"),
    ],
)
def test_a_server_says_what_is_wrong_on_the_hub(server, tuned, words):
    seen = server.visit(base="org/base", tuned=tuned)
    assert not seen.exceptions
    assert any(words in message for message in seen.messages), seen
    assert not any("onerror" in message for message in seen.messages)


def test_a_server_shows_a_pair_with_names_of_all_kinds(server):
    seen = server.visit(base="./models/hostile-base", tuned="./models/hostile-tuned")
    assert not seen.exceptions
    assert any("'README.md' is not read" in message for message in seen.messages), seen


def test_the_server_is_still_the_process_that_was_started_and_logged_no_fault_of_its_own(server):
    assert server.answers()
    assert b"Traceback" not in server.log.read_bytes()
