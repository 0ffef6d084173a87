"""Pictures of the states that the demo does not have: an empty store, names of 90 characters, a job at work, refusals.

python -m tests.browser.states OUT [--scheme light] [--width 1440]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser import conftest, steps
from tests.browser.screenshots import Shot, count_it, take
from tests.hub.builders import llama, tuned_from, write_model

PAGES = ("compare", "pair", "layers", "spectra", "overlap", "dynamics", "library", "gallery", "jobs")
LONG = "Some-Research-Laboratory-Reasoning-Model-of-Seven-Billion-Parameters-RLVR-Stage-{}-run-seed-{}-v1.2"


def write_models(runs: Path) -> tuple[str, list[str]]:
    """A base and two tuned models of very long names in `runs`, and a pair that takes a while; their names."""
    base, tuned = LONG.format(0, 0), [LONG.format(2, seed) for seed in (1, 2)]
    weights = llama(layers=3)
    write_model(runs / base, weights)
    for seed, name in enumerate(tuned):
        write_model(runs / name, tuned_from(weights, changed_share=0.2, seed=seed)[0])
    conftest._write_slow_pair(runs)
    return base, tuned


def link(page: str, base: str, *tuned: str) -> str:
    """An address without commits."""
    asked = {"base": f"./runs/{base}", "tuned": [f"./runs/{name}" for name in tuned]}
    return f"{page}?{urlencode(asked, doseq=True)}"


def compare(browser: Browser, url: str, base: str, tuned: str) -> None:
    """Starts a comparison."""
    page: Page = browser.new_page()
    page.goto(f"{url}/{link('compare', base, tuned)}")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/pair?*")
    page.close()


def pictures(browser: Browser, folder: Path, out: Path, looks: Sequence[tuple[str, int]]) -> None:
    base, tuned = write_models(folder / "runs")

    def shoot(shots: Sequence[Shot], url: str) -> None:
        for scheme, width in looks:
            for shot in shots:
                take(browser, url, shot, scheme, width, out)
                print(shot.name, scheme, width, flush=True)

    with conftest.running(folder, "http://127.0.0.1:9") as url:
        shoot([Shot(f"empty-{page}", page) for page in PAGES], url)
        shoot([Shot("refused-one-model", link("compare", base, base))], url)
        shoot([Shot("refused-no-folder", link("compare", base, "nothing-here"))], url)
        shoot([Shot("refused-never-compared", link("layers", base, tuned[0]))], url)
        shoot([Shot("long-found", link("compare", base, tuned[0]))], url)
        for name in tuned:
            compare(browser, url, base, name)
        steps.wait_until_idle(conftest.Server(url, {}))
        views = [Shot(f"long-{page}", link(page, base, tuned[0])) for page in ("pair", "layers", "spectra")]
        lists = [Shot(f"long-{page}", page) for page in ("compare", "library", "jobs")]
        shoot([*views, Shot("long-overlap", link("overlap", base, *tuned), count_it), *lists], url)
        for scheme, width in looks:
            compare(browser, url, "slow-base", "slow-tuned")
            for page in ("pair", "layers", "jobs"):
                take(browser, url, Shot(f"running-{page}", link(page, "slow-base", "slow-tuned")), scheme, width, out)
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--scheme", choices=["light", "dark"], action="append")
    parser.add_argument("--width", type=int, action="append")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    looks = [(scheme, width) for scheme in asked.scheme or ["light", "dark"] for width in asked.width or [1440, 900]]
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=conftest.chromium_path(), args=conftest.FLAGS)
        pictures(browser, Path(scratch), asked.out, looks)
        browser.close()


if __name__ == "__main__":
    main()
