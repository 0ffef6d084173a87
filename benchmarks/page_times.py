"""Every page of the real app over a large pair, in a real Chromium: first paint, choices, bytes sent, memory.

    python benchmarks/page_times.py [--size 8b|moe] [--models 3] [--visits 5] [--folder FOLDER]

Fills a store (see synthetic_store.py; a FOLDER that has one is used as it is), starts the server on it, and opens each
page: once as the first session of a fresh server, then `--visits` times in a fresh browser, which fetches Streamlit's
scripts anew, and as often in a browser that has been there. A page's first useful paint is the first frame that shows
its main figure or table, counted from the start of the navigation. A choice is timed from the key or click to the first
frame that shows its numbers. Prints markdown.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import synthetic_store  # noqa: E402
from analysis.links import to_link, view_of  # noqa: E402
from cache.store import Store  # noqa: E402
from two_gigabytes import CHROMIUM, peak_megabytes, ready, server, wait_for  # noqa: E402

_CHART = "document.querySelector('.js-plotly-plot .nsewdrag')"
_TABLE = "document.querySelector('[data-testid=stDataFrame] canvas')"
_TITLE = "document.querySelector('h2')"
_METRICS = "[...document.querySelectorAll('[data-testid=stMetric]')].map(it => it.innerText).join()"
_FIGURES = "figures()"
_PATIENCE = 120_000  # milliseconds
_HEADING = """{machine}; seconds, median (range)

| page | first session of the server | fresh browser | whole page | browser that was there | sent |
|---|---|---|---|---|---|"""

# Runs before the page's own scripts. `drawn`: when the main figure was first there, `whole`: when the page's script had
# ended as well, in milliseconds from the navigation's start. `watch`: from the next key or click until `read` changes.
_PROBE = """
window.idle = () => document.querySelector('[data-test-script-state=notRunning]') !== null;
window.figures = () => [...document.querySelectorAll('.js-plotly-plot')].map(plot =>
    (plot._fullData || []).map(trace => [trace.z, trace.y].map(values => values ?
        Array.from(values).flatMap(it => it?.length ? Array.from(it) : it).reduce((sum, it) => sum + (+it || 0), 0)
        : 0)).join()).join(';');
window.watch = (read) => {
    const before = read();
    let began;
    const note = () => { began ??= performance.now(); };
    for (const kind of ['keydown', 'pointerdown']) addEventListener(kind, note, {capture: true, once: true});
    window.seen = new Promise(done => {
        const look = () => {
            const now = read();
            if (began !== undefined && now && now !== before) done(performance.now() - began);
            else requestAnimationFrame(look);
        };
        look();
    });
};
window.until = (test) => new Promise(done => {
    const look = () => { if (test()) done(performance.now()); else requestAnimationFrame(look); };
    look();
});
window.drawn = until(() => %s);
window.whole = drawn.then(() => until(idle));
"""


@dataclass(frozen=True)
class Case:
    """One page as it is opened: its address, and what has to be drawn."""

    page: str
    link: str
    drawn: str


@dataclass
class Visits:
    """What opening one page cost; seconds, and kilobytes through the page's socket."""

    first: float = 0.0
    fresh: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    kilobytes: float = 0.0

    def row(self, page: str) -> str:
        timed = " | ".join(map(spread, (self.fresh, self.whole, self.again)))
        return f"| {page} | {self.first:.2f} | {timed} | {self.kilobytes:,.0f} kB |"


def cases(size: str, n_models: int) -> list[Case]:
    known = synthetic_store.family(size)
    base, tuned = synthetic_store.models(known, n_models)
    name = next(name for name in reversed(known.shapes) if "layers.20." in name and name.endswith("up_proj.weight"))
    of_pair = {page: view_of(page, base, tuned[0]) for page in ("pair", "layers", "spectra")}
    views = of_pair | {
        "matrix": view_of("matrix", base, tuned[0], name=name),
        "overlap": view_of("overlap", base, *tuned),
        "dynamics": view_of("dynamics", base, *tuned),
    }
    others = [Case("compare", "compare", _TABLE), Case("library", "library", _TABLE)]
    others += [Case("gallery", "gallery", _TABLE), Case("jobs", "jobs", _TITLE)]
    return [*(Case(page, to_link(view), _CHART) for page, view in views.items()), *others]


@dataclass(frozen=True)
class Opened:
    """A page once it is whole: seconds from the navigation's start, and what the server sent it."""

    page: Page
    drawn: float
    whole: float
    kilobytes: float


def opened(context: BrowserContext, address: str, case: Case) -> Opened:
    page, sent = context.new_page(), [0]
    page.set_default_timeout(_PATIENCE)
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: sent.append(len(frame))))
    page.add_init_script(_PROBE % case.drawn)
    page.goto(f"{address}/{case.link}", wait_until="commit")
    whole, drawn = page.evaluate("whole") / 1000, page.evaluate("drawn") / 1000
    page.wait_for_timeout(300)  # late frames
    return Opened(page, drawn, whole, sum(sent) / 1000)


def visit(browser: Browser, address: str, case: Case, found: Visits) -> None:
    """One visit in a fresh browser, and a second one there."""
    with fresh(browser) as context:
        one = opened(context, address, case)
        one.page.close()
        found.fresh.append(one.drawn)
        found.whole.append(one.whole)
        found.kilobytes = one.kilobytes
        found.again.append(opened(context, address, case).drawn)


@contextmanager
def fresh(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    try:
        yield context
    finally:
        context.close()


def _nothing(page: Page, _: int) -> None:
    pass


@dataclass(frozen=True)
class Choice:
    """Something chosen on a page again and again: `act(page, i)` does it, `read` is what shows its numbers."""

    page: str
    what: str
    read: str
    act: Callable[[Page, int], None]
    query: str = ""  # behind the page's link
    prepare: Callable[[Page, int], None] = _nothing


def _slide(page: Page, _: int) -> None:
    page.get_by_role("slider").press("ArrowRight")


def _segment(*names: str) -> Callable[[Page, int], None]:
    return lambda page, i: page.get_by_role("radio", name=names[i % len(names)]).click()


def _typed(label: str, *names: str) -> Callable[[Page, int], None]:
    """Types a choice into a selectbox; Enter takes it."""

    def prepare(page: Page, i: int) -> None:
        box = page.get_by_role("combobox", name=label, exact=True)
        box.click()
        box.fill(names[i % len(names)])
        page.get_by_role("option", name=names[i % len(names)], exact=True).wait_for()

    return prepare


def _enter(page: Page, _: int) -> None:
    page.keyboard.press("Enter")


_BY_TOLERANCE = "&rule=tolerance&tolerance=1e-06"
_RULES = _segment("bf16 rule", "Mukherjee's rule", "Exact")
_METRICS_OF_LAYERS = _typed("Metric", "Relative size of the update", "Unchanged share", "Sign flips")
_METRICS_OF_SPECTRA = _typed("Metric", "Stable rank of the update", "Numerical rank of the update")
_MEASURES = _typed("Measure", "Jaccard index", "One-sided overlap")
_OVER_STEPS = _typed("Show", "Changed, but outside the final subnetwork", "Changed at this checkpoint or before")
CHOICES = (
    Choice("pair", "tolerance slider", _METRICS, _slide, _BY_TOLERANCE),
    Choice("pair", "rule", _METRICS, _RULES),
    Choice("layers", "tolerance slider", _FIGURES, _slide, _BY_TOLERANCE),
    Choice("layers", "rule", _FIGURES, _RULES),
    Choice("layers", "metric", _FIGURES, _enter, prepare=_METRICS_OF_LAYERS),
    Choice("matrix", "tolerance slider", _METRICS, _slide, _BY_TOLERANCE),
    Choice("spectra", "metric", _FIGURES, _enter, prepare=_METRICS_OF_SPECTRA),
    Choice("overlap", "measure", _FIGURES, _enter, prepare=_MEASURES),
    Choice("dynamics", "heatmap", _FIGURES, _enter, prepare=_OVER_STEPS),
)


def choose(browser: Browser, address: str, case: Case, choice: Choice, times: int) -> list[float]:
    """Seconds of each of so many choices, each awaited until the page rests."""
    link = case.link.replace("&rule=exact", "").replace("&tolerance=1e-05", "") if choice.query else case.link
    with fresh(browser) as context:
        page = opened(context, address, Case(case.page, link + choice.query, case.drawn)).page
        seconds = []
        for i in range(times):
            choice.prepare(page, i)
            page.evaluate(f"watch(() => {choice.read})")
            choice.act(page, i)
            seconds.append(page.evaluate("seen") / 1000)
            page.evaluate("until(idle)")
            page.wait_for_timeout(500)
        return seconds


def spread(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


def fill(folder: Path, size: str, n_models: int) -> None:
    began = time.monotonic()
    with Store.open(folder / "store.duckdb") as store:
        n = synthetic_store.write(store, size, n_models)
    seconds, megabytes = time.monotonic() - began, (folder / "store.duckdb").stat().st_size / 1e6
    print(f"Filled: {n:,} measurements in {seconds:.0f} s, {n / seconds:.0f} a second; {megabytes:,.0f} MB of DuckDB\n")


def measure(folder: Path, options: argparse.Namespace) -> None:
    asked = [case for case in cases(options.size, options.models) if not options.pages or case.page in options.pages]
    found = {case.page: Visits() for case in asked}
    with server(folder, folder) as (pid, address), sync_playwright() as playwright:
        wait_for(lambda: "pairs" in ready(address), 60)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
        for case in asked:
            with fresh(browser) as context:
                found[case.page].first = opened(context, address, case).drawn
        print(_HEADING.format(machine=machine()))
        for case in asked:
            for _ in range(options.visits):
                visit(browser, address, case, found[case.page])
            print(found[case.page].row(case.page), flush=True)
        print("\n| page | choice | until it shows |\n|---|---|---|", flush=True)
        for choice, case in ((choice, case) for choice in CHOICES for case in asked if choice.page == case.page):
            seconds = choose(browser, address, case, choice, options.choices)
            print(f"| {choice.page} | {choice.what} | {spread(seconds)} |", flush=True)
        browser.close()
        _, megabytes = peak_megabytes(pid)
    print(f"\nPeak memory of the web process: {megabytes} MB")


def machine() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("8b", "moe"), default="8b")
    parser.add_argument("--models", type=int, default=3)
    parser.add_argument("--visits", type=int, default=5)
    parser.add_argument("--choices", type=int, default=9)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--pages", nargs="*", help="only these")
    options = parser.parse_args()
    os.environ["SUBNETSCOPE_DEMO"] = "0"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the server ends with it
    folder = options.folder or Path(tempfile.mkdtemp(prefix="subnetscope-"))
    try:
        if not (folder / "store.duckdb").exists():
            fill(folder, options.size, options.models)
        measure(folder, options)
    finally:
        if not options.folder:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
