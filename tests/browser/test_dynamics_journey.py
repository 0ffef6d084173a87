"""A run of checkpoints, from a pasted list to the link that a colleague opens, in a real browser."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.browser import steps
from tests.browser.conftest import Server

pytestmark = pytest.mark.browser
Visitor = Callable[..., Page]
RUN = ("seed-1", "seed-2", "seed-3")
CHARTS = 5


def test_from_a_pasted_list_to_a_link_that_a_colleague_opens(server: Server, visitor: Visitor):
    page = visitor()
    page.goto(server.url)
    steps.go(page, "Training dynamics")
    expect(
        page.get_by_role("heading", name="Training dynamics")
    ).to_be_visible()  # the first page, too, asks for a base
    page.get_by_label("Base", exact=True).fill("./runs/base")
    page.get_by_role("textbox", name="Checkpoints, in order").fill("./runs/seed-?")
    page.get_by_role("button", name="Look up").click()
    expect(page.get_by_text("3 checkpoints found")).to_be_visible()
    page.get_by_role("button", name="Start").click()

    came_back, never = fates(server)
    expect(page.get_by_text("Changed and came back").first).to_be_visible(timeout=120_000)
    expect(page.get_by_test_id("stProgress")).to_have_count(0, timeout=120_000)
    for part in (came_back, never):
        expect(page.get_by_text(f"{part:,} of {server.n_entries:,}").first).to_be_visible()
    expect(page.locator(".js-plotly-plot")).to_have_count(CHARTS)
    expect(page.get_by_test_id("stException")).to_have_count(0)
    page.get_by_text("range of the data").click()
    page.wait_for_url("**colours=fitted*")
    seen, link = steps.numbers(page), steps.copied_link(page)

    colleague = visitor(stranger=True, color_scheme="dark", width=900)
    colleague.goto(link)
    expect(colleague.locator(".js-plotly-plot")).to_have_count(CHARTS)
    assert steps.numbers(colleague) == seen
    assert "colours=fitted" in colleague.url

    colleague.get_by_text("The checkpoints, and another run").click()
    steps.settled(colleague)
    colleague.get_by_role("button", name="Follow another run").click()
    steps.settled(colleague)
    colleague.get_by_role("button", name="3 checkpoints").click()
    expect(colleague.get_by_text("Changed and came back").first).to_be_visible()
    expect(colleague.locator(".js-plotly-plot")).to_have_count(CHARTS)


def fates(server: Server) -> tuple[int, int]:
    """(changed and came back, never changed) of the planted run."""
    came_back = never = 0
    for name in server.changed[RUN[0]]:
        changed = [server.changed[run][name] for run in RUN]
        ever = np.logical_or.reduce(changed)
        came_back += int((ever & ~changed[-1]).sum())
        never += int((~ever).sum())
    return came_back, never
