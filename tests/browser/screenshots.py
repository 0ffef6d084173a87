"""Pictures of every page on the bundled demo, in light and dark, wide and narrow: to be looked at, and for the README.

    python -m tests.browser.screenshots OUT [--only layers,matrix] [--scheme light] [--width 1440] [--data FOLDER]

A kept --data folder saves the minute that the demo's measuring takes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from analysis.links import to_link, view_of
from analysis.models import ModelRef, PinnedModel
from cache import catalog
from cache.settings import Settings
from tests.browser import conftest, steps

ROOT = Path(__file__).resolve().parents[2]
MATRIX = "model.layers.2.mlp.down_proj.weight"
HEIGHT, TALLEST = 1000, 6000  # pixels of a window; of a page's picture


@dataclass(frozen=True)
class Shot:
    """One picture: its name, the address below the app's, and what is done there first."""

    name: str
    path: str
    act: Callable[[Page], None] = lambda _: None


def shots(pin: Callable[[str], PinnedModel]) -> list[Shot]:
    """Every page of the demo, and the states in which a page has nothing or not all to show."""
    base, grpo, second = pin("abacus-base"), pin("abacus-grpo-seed1"), pin("abacus-grpo-seed2")
    dpo, sft, never = pin("abacus-dpo-seed1"), pin("abacus-sft-seed1"), PinnedModel("hub", "org/other", "a" * 40)
    run = (pin("abacus-grpo-seed1/checkpoint-50"), pin("abacus-grpo-seed1/checkpoint-100"), grpo)
    family = (grpo, second, dpo, sft, pin("abacus-dpo-seed2"))

    def of(page: str, *tuned: PinnedModel, **choices: str) -> str:
        return to_link(view_of(page, base, *tuned, **choices))

    course = view_of("dynamics", base, *run).choosing("step", "checkpoint-50", "checkpoint-100", "200")
    return [
        Shot("compare", "compare"),
        Shot("compare-found", "compare?base=./demo/abacus-base&tuned=./demo/abacus-grpo-seed1/checkpoint-50"),
        Shot("compare-failed", "compare?base=./demo/abacus-base&tuned=llama3"),
        Shot("overview", of("pair", grpo)),
        Shot("overview-missing", of("pair", never)),
        Shot("overview-unnamed", "pair"),
        Shot("overview-bad-link", "pair?base=nonsense&tuned=more"),
        Shot("layers", of("layers", sft)),
        Shot("layers-fitted", of("layers", grpo, colours="fitted")),
        Shot("layers-rank", of("layers", grpo, metric="rank")),
        Shot("layers-update", of("layers", grpo, metric="relative-update")),
        Shot("matrix", of("matrix", grpo, name=MATRIX)),
        Shot("matrix-norm", of("matrix", grpo, name="model.norm.weight")),
        Shot("spectra", of("spectra", grpo)),
        Shot("spectra-over-layers", of("spectra", grpo, over="layers")),
        Shot("overlap-2", of("overlap", grpo, second), count_it),
        Shot("overlap-3", of("overlap", grpo, second, dpo), count_it),
        Shot("overlap-4", of("overlap", *family[:4]), count_it),
        Shot("overlap-5", of("overlap", *family), count_it),
        Shot("dynamics", to_link(course)),
        Shot("dynamics-outside", to_link(course.choosing("show", "outside").choosing("colours", "fitted"))),
        Shot("dynamics-unnamed", "dynamics"),
        Shot("library", "library"),
        Shot("library-ticked", "library", tick_sft_and_rl),
        Shot("library-nothing", "library?q=nothing-like-it"),
        Shot("gallery", "gallery"),
        Shot("jobs", "jobs"),
        Shot("share-menu", of("layers", grpo), open_the_menu),
    ]


def count_it(page: Page) -> None:
    button, done = page.get_by_role("button", name="Count it"), page.get_by_text("Run against run")
    button.or_(done).first.wait_for()
    if button.is_visible():
        button.click()
    page.get_by_text("Layer by layer").wait_for()


def tick_sft_and_rl(page: Page) -> None:
    page.get_by_role("button", name="SFT against RL").click()
    page.get_by_text("Sparsity over tolerance").wait_for()


def open_the_menu(page: Page) -> None:
    page.get_by_text("Share, download, cite").click()
    page.get_by_test_id("stCode").first.wait_for()


@contextmanager
def demo(data: Path) -> Iterator[str]:
    """The app with its demo measured."""
    with conftest.running(data, "http://127.0.0.1:9", demo=True) as url:
        steps.wait_for_demo(url)
        yield url


def settled(page: Page) -> None:
    """Waits until the page has run, its charts are drawn and nothing moves."""
    page.get_by_test_id("stMainBlockContainer").wait_for()
    for _ in range(2):
        expect(page.locator("[data-test-script-state=running], [data-testid=stSkeleton]")).to_have_count(0)
        page.wait_for_timeout(400)


def take(browser: Browser, url: str, shot: Shot, scheme: str, width: int, out: Path) -> None:
    """The whole page as one picture; the window is made as tall as the page."""
    context = browser.new_context(viewport={"width": width, "height": HEIGHT}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(conftest.PATIENCE)
    page.goto(f"{url}/{shot.path}")
    settled(page)
    shot.act(page)
    page.mouse.move(width // 2, 1)  # no hint of a button stays open
    settled(page)
    tall = page.get_by_test_id("stMain").evaluate("main => main.scrollHeight")
    page.set_viewport_size({"width": width, "height": min(max(tall, 400), TALLEST)})
    settled(page)
    page.screenshot(path=out / f"{shot.name}-{scheme}-{width}.png")
    context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="", help="names of pictures, or how they begin, with commas between")
    parser.add_argument("--scheme", choices=["light", "dark"], action="append")
    parser.add_argument("--width", type=int, action="append")
    parser.add_argument("--data", type=Path, help="where the server keeps what it measures")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    settings = Settings.from_environment({}, data_dir=ROOT)
    wanted = shots(lambda name: catalog.find(ModelRef("folder", f"./demo/{name}"), settings).pinned)
    names = tuple(filter(None, asked.only.split(",")))
    wanted = [shot for shot in wanted if not names or shot.name.startswith(names)]
    with (
        tempfile.TemporaryDirectory() as scratch,
        demo(asked.data or Path(scratch)) as url,
        sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(executable_path=conftest.chromium_path(), args=conftest.FLAGS)
        for scheme in asked.scheme or ["light", "dark"]:
            for width in asked.width or [1440, 900]:
                for shot in wanted:
                    take(browser, url, shot, scheme, width, asked.out)
                    print(shot.name, scheme, width, flush=True)
        browser.close()


if __name__ == "__main__":
    main()
