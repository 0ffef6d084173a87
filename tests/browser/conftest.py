"""A real server with small real models, and a real Chromium in front of it.

A page fails its test when it throws, when a dialog opens, or when it asks anything of another host.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.hub.builders import BFloat16, llama, model_files, tuned_from, write_model
from tests.hub.loopback import LoopbackHub

REPOSITORY = Path(__file__).resolve().parents[2]
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "__proto__",
    "![x](http://far.example/p.png)",
    "www.far.example",
    "me@far.example",
)
MANY = 2000  # tensors of the pair with many
PATIENCE = 40_000  # milliseconds: the machine may be busy, and the first page brings 5 MB of scripts
expect.set_options(timeout=PATIENCE)
_CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A journey that fails is gone once more, and the report says so: on busy cores a browser may be slower than any
    patience. What is broken fails twice."""
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.flaky(reruns=1))


@dataclass(frozen=True)
class Server:
    """A running app: its address, the models it may read, and where in each the planted changes are."""

    url: str
    changed: dict[str, dict[str, np.ndarray]]  # run -> tensor -> true at a changed entry
    address_of_pair: dict[tuple[str, str], str] = field(default_factory=dict)  # as typed -> where it was seen measured

    def n_changed(self, *runs: str) -> int:
        """Entries that all these runs changed."""
        first, *others = (self.changed[run] for run in runs)
        return sum(int(np.logical_and.reduce([first[name], *(o[name] for o in others)]).sum()) for name in first)

    @property
    def n_entries(self) -> int:
        return sum(changed.size for changed in next(iter(self.changed.values())).values())


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, np.ndarray]]]:
    """A folder of models (base, seed-1, seed-2, seed-3, slow-base, slow-tuned, hostile-base, hostile-tuned, many-base,
    many-tuned), which nobody writes to, and where each seed differs from the base."""
    runs = tmp_path_factory.mktemp("models") / "runs"
    base, changed = llama(layers=3), {}
    write_model(runs / "base", base)
    for seed in (1, 2, 3):
        tuned, changed[f"seed-{seed}"] = tuned_from(base, changed_share=0.1 * seed, seed=seed)
        write_model(runs / f"seed-{seed}", tuned)
    _write_slow_pair(runs)
    _write_hostile_pair(runs)
    _write_many(runs)
    return runs, changed


@pytest.fixture(scope="module")  # so that what a file of tests finds does not hang on which ran before it
def server(
    tmp_path_factory: pytest.TempPathFactory, models: tuple[Path, dict[str, dict[str, np.ndarray]]]
) -> Iterator[Server]:
    """The app over the folder of models as './runs', and a Hub on which 'team/tuned' names 'team/base' as its base."""
    folder, (runs, changed) = tmp_path_factory.mktemp("browser"), models
    (folder / "runs").symlink_to(runs)
    base = llama(layers=3)
    with LoopbackHub() as hub:
        hub.add("team/base", model_files(base))
        hub.add("team/tuned", {**model_files(tuned_from(base)[0]), "README.md": b"---\nbase_model: team/base\n---\n"})
        with running(folder, hub.url) as url:
            yield Server(url, changed)


def _write_slow_pair(runs: Path) -> None:
    """Matrices whose singular values take some seconds together."""
    random = np.random.default_rng(0)
    names = [f"model.layers.{layer}.mlp.{part}_proj.weight" for layer in range(5) for part in ("up", "down")]
    base = {name: BFloat16.of(random.normal(0, 0.02, (2000, 2000))) for name in names}
    write_model(runs / "slow-base", base)
    write_model(runs / "slow-tuned", tuned_from(base)[0])


def _write_hostile_pair(runs: Path) -> None:
    base = {name: BFloat16.of(np.random.default_rng(0).normal(0, 0.02, (16, 16))) for name in HOSTILE}
    write_model(runs / "hostile-base", base)
    write_model(runs / "hostile-tuned", tuned_from(base)[0])


def _write_many(runs: Path) -> None:
    """So many tensors that a file about them is larger than a megabyte."""
    random = np.random.default_rng(0)
    base = {f"model.layers.{i}.mlp.down_proj.weight": BFloat16.of(random.normal(0, 0.02, (4, 4))) for i in range(MANY)}
    write_model(runs / "many-base", base)
    write_model(runs / "many-tuned", tuned_from(base)[0])


@contextmanager
def running(folder: Path, endpoint: str, *flags: str, demo: bool = False) -> Iterator[str]:
    """The app as `streamlit run app.py` starts it, on a free port, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "SUBNETSCOPE_DATA": str(folder / "data"),
        "SUBNETSCOPE_LOCAL_ROOTS": str(folder / "runs"),
        "SUBNETSCOPE_DEMO": str(int(demo)),
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder / "hf"),
    }
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port), *flags]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
        try:
            url = f"http://localhost:{port}"
            _wait_for(lambda: urllib.request.urlopen(f"{url}/readyz", timeout=5).close(), seconds=60)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=20)


def _wait_for(attempt: Callable[[], None], *, seconds: float) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except (URLError, OSError):
            if time.monotonic() > until:
                raise
            time.sleep(0.3)


def chromium_path() -> str:
    path = next((found for name in _CHROMIUMS if (found := shutil.which(name))), None)
    assert path, "no Chromium: make test installs one where it may"
    return path


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def regulars(chromium: Browser, server: Server) -> Iterator[Callable[..., BrowserContext]]:
    """A function that finds the browser of such a look that has been at this server before, or opens it: with the
    scripts of the pages at hand, which a new one spends a second of a core on."""
    opened: dict[tuple[str, int], BrowserContext] = {}

    def find(color_scheme: str, width: int) -> BrowserContext:
        if (color_scheme, width) not in opened:
            opened[color_scheme, width] = _browser(chromium, color_scheme, width)
        return opened[color_scheme, width]

    yield find
    for context in opened.values():
        context.close()


def _browser(chromium: Browser, color_scheme: str, width: int) -> BrowserContext:
    return chromium.new_context(viewport={"width": width, "height": 1000}, color_scheme=color_scheme)


@pytest.fixture
def visitor(
    chromium: Browser, server: Server, regulars: Callable[..., BrowserContext]
) -> Iterator[Callable[..., Page]]:
    """A function that opens a page: visitor(color_scheme='dark', width=900) -> Page. `stranger`: in a browser that has
    never been here."""
    opened, complaints = [], []

    def visit(*, stranger: bool = False, color_scheme: str = "light", width: int = 1440) -> Page:
        context = _browser(chromium, color_scheme, width) if stranger else regulars(color_scheme, width)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: complaints.append(f"threw {error}"))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: _note_stranger(request.url, server.url, complaints))
        opened.append(context if stranger else page)
        return page

    yield visit
    for each in opened:
        each.close()
    assert not complaints


def _note_stranger(url: str, own: str, complaints: list[str]) -> None:
    asked = urlsplit(url)
    if asked.scheme in ("http", "https", "ws", "wss") and asked.netloc != urlsplit(own).netloc:
        complaints.append(f"asked {url}")
