"""Every page of the real app over a large pair, in a real Chromium: first paint, choices, bytes sent, memory.

    python -m benchmarks.page_times [--size 8b|moe] [--models 3] [--visits 5] [--folder FOLDER]

Fills a store (see synthetic_store.py; a FOLDER that has one is used as it is), starts the server on it, and opens each
page: once as the first session of a fresh server, then `--visits` times in a fresh browser, which fetches Streamlit's
scripts anew, and as often in a browser that has been there. A page's first useful paint is the first frame that shows
its headline numbers, where it has some, and its first figure or table, counted from the start of the navigation; that
the numbers alone can be read is timed too. A choice is timed from the key or click to the first frame that shows its
numbers. Pages are opened without Playwright, which slows them (see visitor.py); choices are made with it. Prints
markdown.
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

from analysis.links import to_link, view_of
from benchmarks import synthetic_store, visitor
from benchmarks.processes import peak_memory
from benchmarks.two_gigabytes import CHROMIUM, ready, server, wait_for
from cache.store import Store

_CHART = "document.querySelector('.js-plotly-plot .nsewdrag')"
_TABLE = "document.querySelector('[data-testid=stDataFrame] canvas')"
_TITLE = "document.querySelector('h2')"
_NUMBER = "document.querySelector('[data-testid=stMetricValue]')?.innerText.match(/[0-9]/)"
_METRICS = "[...document.querySelectorAll('[data-testid=stMetric]')].map(it => it.innerText).join()"
_FIGURES = "figures()"
_PATIENCE = 120_000  # milliseconds
_HEADING = """{machine}; seconds, median (range)

| page | first session of the server | fresh browser | of it, headline numbers | browser that was there | sent |
|---|---|---|---|---|---|"""

# Runs before the page's own scripts. `numbers`: when the headline could be read, `drawn`: when the first figure was
# there too, in milliseconds from the navigation's start. `watch`: from the next key or click until `read` changes.
_PROBE = """
window.received = 0;
window.WebSocket = class extends WebSocket {
    constructor(...given) {
        super(...given);
        this.addEventListener('message', it => { received += it.data.size ?? it.data.byteLength ?? it.data.length; });
    }
};
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
window.numbers = until(() => %s);
window.drawn = Promise.all([numbers, until(() => %s)]).then(times => Math.max(...times));
"""
_TIMES = """Promise.all([numbers, drawn]).then(async found => {
    await until(idle);
    await new Promise(done => setTimeout(done, 300));  // late frames
    return [...found, received];
})"""


@dataclass(frozen=True)
class Case:
    """One page as it is opened: its address, what has to be drawn, and where it begins with numbers, these."""

    page: str
    link: str
    drawn: str
    numbers: str = ""

    @property
    def probe(self) -> str:
        return _PROBE % (self.numbers or "true", self.drawn)


@dataclass
class Visits:
    """What opening one page cost; seconds, and kilobytes through the page's socket."""

    first: float = 0.0
    fresh: list[float] = field(default_factory=list)
    numbers: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    kilobytes: float = 0.0

    def row(self, case: Case) -> str:
        numbers = spread(self.numbers) if case.numbers else ""
        timed = f"{self.first:.2f} | {spread(self.fresh)} | {numbers} | {spread(self.again)}"
        return f"| {case.page} | {timed} | {self.kilobytes:,.0f} kB |"


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
    begin = dict.fromkeys(("pair", "matrix", "dynamics"), _NUMBER)
    return [*(Case(page, to_link(view), _CHART, begin.get(page, "")) for page, view in views.items()), *others]


def opened(browser: visitor.Browser, profile: str, address: str, case: Case) -> tuple[float, float, float]:
    """(seconds until the headline, until the first useful paint, kilobytes through the page's socket) of one visit."""
    numbers, drawn, received = browser.times(profile, f"{address}/{case.link}", case.probe, _TIMES)
    return numbers / 1000, drawn / 1000, received / 1000


def visit(browser: visitor.Browser, address: str, case: Case, found: Visits) -> None:
    """One visit in a fresh browser, and a second one there."""
    with browser.fresh() as profile:
        numbers, drawn, found.kilobytes = opened(browser, profile, address, case)
        found.numbers.append(numbers)
        found.fresh.append(drawn)
        found.again.append(opened(browser, profile, address, case)[1])


def watched(context: BrowserContext, address: str, case: Case) -> Page:
    """The page in a browser that keys can be pressed in, once it rests."""
    page = context.new_page()
    page.set_default_timeout(_PATIENCE)
    page.add_init_script(case.probe)
    page.goto(f"{address}/{case.link}", wait_until="commit")
    page.evaluate(_TIMES)
    return page


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
_OVER_STEPS = _typed("Show", "Changed, outside the final subnetwork", "Changed at this checkpoint or before")
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
        page = watched(context, address, Case(case.page, link + choice.query, case.drawn))
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
    with server(folder, folder) as (pid, address):
        wait_for(lambda: "pairs" in ready(address), 60)
        with visitor.browser(CHROMIUM) as browser:
            for case in asked:
                with browser.fresh() as profile:
                    found[case.page].first = opened(browser, profile, address, case)[1]
            print(_HEADING.format(machine=machine()))
            for case in asked:
                for _ in range(options.visits):
                    visit(browser, address, case, found[case.page])
                print(found[case.page].row(case), flush=True)
        if options.choices:
            measure_choices(address, asked, options.choices)
        megabytes = peak_memory(pid)
    print(f"\nPeak memory of the web process: {megabytes} MB")


def measure_choices(address: str, asked: Sequence[Case], times: int) -> None:
    print("\n| page | choice | until it shows |\n|---|---|---|", flush=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
        for choice, case in ((choice, case) for choice in CHOICES for case in asked if choice.page == case.page):
            seconds = choose(browser, address, case, choice, times)
            print(f"| {choice.page} | {choice.what} | {spread(seconds)} |", flush=True)
        browser.close()


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
