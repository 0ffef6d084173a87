"""A 2 GB pair through the real server and a real browser: peak memory of each process, and how quick pages stay.

    python -m benchmarks.two_gigabytes [--gigabytes 2.1] [--no-spectra]

Pastes both folders, starts, and while the job runs opens the demo's overview again and again, each time in a fresh
browser session. The same visit is timed before the job, so the figure to read is the ratio. Prints a markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, TimeoutError, sync_playwright

from benchmarks.pair import write_pair
from benchmarks.processes import Peaks
from benchmarks.tables import heading, machine, row, spread

ROOT = Path(__file__).resolve().parents[1]
_DEMO_PAIRS = 8
_BETWEEN_VISITS = 5  # seconds
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


@contextmanager
def server(data: Path, roots: Path) -> Iterator[tuple[int, str]]:
    """(pid, address) of the app as `make run` starts it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = os.environ | {"SUBNETSCOPE_DATA": str(data), "SUBNETSCOPE_LOCAL_ROOTS": str(roots)}
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process.pid, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def wait_for(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("the server did not get ready")
        time.sleep(0.2)


def ready(address: str) -> dict[str, int]:
    """What /readyz says: pairs and active jobs; empty while the server is not up."""
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=10) as answer:
            return json.load(answer)
    except OSError:
        return {}


def visit(browser: Browser, address: str) -> float:
    """Seconds from asking for the page, in a fresh session, until its table of comparisons is drawn."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    began = time.monotonic()
    page.goto(address)
    page.wait_for_selector("[data-testid=stDataFrame]", timeout=60_000)
    seconds = time.monotonic() - began
    context.close()
    return seconds


def wait_or_show(page: Page, button: str) -> None:
    """Waits for a button; what the page says instead, if it doesn't come."""
    try:
        page.get_by_role("button", name=button).wait_for(timeout=120_000)
    except TimeoutError as late:
        raise SystemExit(page.get_by_test_id("stMain").inner_text()) from late


def start_job(browser: Browser, address: str, spectra: bool) -> None:
    page = browser.new_page()
    page.goto(address)
    page.get_by_label("Base", exact=True).fill("./pair/base")
    page.get_by_label("Fine-tuned", exact=True).fill("./pair/tuned")
    page.get_by_role("button", name="Look up").click()
    wait_or_show(page, "Start")
    if not spectra:
        page.get_by_text("Singular values too").click()
        page.wait_for_timeout(500)
    page.get_by_role("button", name="Start").click()
    page.get_by_role("button", name="Cancel").first.wait_for(timeout=60_000)
    page.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.1)
    parser.add_argument("--no-spectra", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="subnetscope-"))
    try:
        write_pair(folder / "pair", options.gigabytes, 2048)
        run(folder, spectra=not options.no_spectra)
    finally:
        shutil.rmtree(folder)


def run(folder: Path, *, spectra: bool) -> None:
    peaks = Peaks("web process")
    with server(folder / "data", folder / "pair") as (pid, address), sync_playwright() as playwright:
        wait_for(lambda: ready(address).get("pairs", 0) >= _DEMO_PAIRS and not ready(address)["active_jobs"], 300)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
        quiet = [visit(browser, address) for _ in range(8)]
        began = time.monotonic()
        start_job(browser, address, spectra)
        busy: list[float] = []
        while ready(address)["active_jobs"]:
            peaks.look(pid)
            busy.append(visit(browser, address))
            time.sleep(_BETWEEN_VISITS)
        seconds = time.monotonic() - began
        peaks.look(pid)
        browser.close()
    print(f"{machine('streamlit')}\n\n{heading('what', 'value')}")
    for name, megabytes in sorted(peaks.of_process.items()):
        print(row(f"peak memory, {name}", f"{megabytes} MB"))
    print(row(f"from paste to the last matrix{'' if spectra else ', no spectra'}", f"{seconds:.0f} s"))
    print(row(f"first page in a fresh session, no job, {len(quiet)} visits", f"{spread(quiet, 2)} s"))
    print(row(f"the same while the job ran, {len(busy)} visits", f"{spread(busy, 2)} s"))
    print(row("ratio of medians", f"{statistics.median(busy) / statistics.median(quiet):.1f}"))


if __name__ == "__main__":
    main()
