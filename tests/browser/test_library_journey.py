"""The table of all comparisons: found, written on, ticked, overlaid, and the link of it all, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser import steps
from tests.browser.conftest import Server

pytestmark = pytest.mark.browser
Visitor = Callable[..., Page]
ROW, HEADER = 34, 34  # pixels


def test_from_a_filter_to_the_overlay_that_a_colleague_opens(server: Server, visitor: Visitor):
    page = visitor()
    for run in ("seed-1", "seed-2"):
        steps.compare(page, server, "./runs/base", f"./runs/{run}")
    steps.go(page, "All comparisons")
    page.get_by_role("textbox", name="Search").fill("runs/seed-")
    page.get_by_role("textbox", name="Search").press("Enter")
    page.wait_for_url("**q=runs*")
    for row, algorithm in enumerate(("GRPO", "SFT")):
        write(page, row, algorithm)
        steps.settled(page)
    page.get_by_role("button", name="SFT against RL").click()
    page.wait_for_url("**pick=*")
    steps.settled(page)
    expect(page.get_by_text("Sparsity over tolerance")).to_be_visible()
    expect(page.locator(".js-plotly-plot")).to_have_count(4)  # over tolerance, over layers, a heatmap each
    names = page.locator(".js-plotly-plot").first.locator(".legendtext").all_text_contents()
    assert sorted(names) == ["seed-1", "seed-2"]

    colleague = visitor(stranger=True, color_scheme="dark", width=900)
    colleague.goto(page.url)
    expect(colleague.locator(".js-plotly-plot")).to_have_count(4)
    expect(colleague.get_by_role("textbox", name="Search")).to_have_value("runs/seed-")
    colleague.get_by_label("Tag or algorithm").click()
    colleague.get_by_role("option", name="GRPO").click()
    colleague.wait_for_url("**tag=GRPO*")
    colleague.get_by_role("link", name=re.compile("Overlap of 2 models tuned from")).click()
    colleague.wait_for_url("**/overlap?*")
    expect(colleague.get_by_role("heading", name="Overlap of runs")).to_be_visible()


def write(page: Page, row: int, algorithm: str) -> None:
    """Writes an algorithm into a row of the table, by keyboard from the model's name on."""
    table = page.get_by_test_id("stDataFrame")
    expect(table).to_be_visible()
    page.wait_for_timeout(1000)
    table.click(position={"x": 120, "y": HEADER + ROW * row + ROW / 2})
    for _ in range(2):  # over the base to the algorithm
        page.keyboard.press("ArrowRight")
    cell = page.get_by_test_id(f"glide-cell-3-{row}")
    expect(cell).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    editor = page.locator(".gdg-input")
    expect(editor).to_be_focused()
    editor.fill(algorithm)
    page.keyboard.press("Enter")
    expect(cell).to_have_text(algorithm)
