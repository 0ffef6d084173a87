"""What a person does on the pages, in one place, so that journeys read like what happens."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Server


def look_up(page: Page, server: Server, base: str, tuned: str) -> None:
    """Pastes two models and asks for them."""
    page.goto(server.url)
    page.get_by_label("Base", exact=True).fill(base)
    page.get_by_label("Fine-tuned").fill(tuned)
    page.get_by_role("button", name="Look up").click()


def start(page: Page) -> None:
    """Starts what was looked up and stands on the overview of the pair."""
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/pair?*")


def compare(page: Page, server: Server, base: str, tuned: str) -> None:
    """Compares a pair and waits until all of it is measured; opens it where that was done before."""
    look_up(page, server, base, tuned)
    begin = page.get_by_role("button", name="Start")
    again = page.get_by_role("link", name="Open it")
    expect(begin.or_(again)).to_be_visible()
    if again.is_visible():
        again.click()
        page.wait_for_url("**/pair?*")
    else:
        start(page)
    wait_until_idle(server)
    expect(page.get_by_test_id("stProgress")).to_have_count(0)
    expect(page.get_by_text("In words").first).to_be_visible()


def open_compared(page: Page, server: Server, base: str, tuned: str) -> None:
    """Stands on the overview of a pair, by its address where it was compared on this server before."""
    if (base, tuned) in server.address_of_pair:
        page.goto(server.address_of_pair[base, tuned])
        expect(page.get_by_text("In words").first).to_be_visible()
    else:
        compare(page, server, base, tuned)
        server.address_of_pair[base, tuned] = page.url


def wait_until_idle(server: Server, seconds: float = 120) -> None:
    """Waits until no job is queued or at work, as the server itself says."""
    deadline = time.monotonic() + seconds
    while True:
        with urllib.request.urlopen(f"{server.url}/readyz") as answer:
            if json.load(answer)["active_jobs"] == 0:
                return
        assert time.monotonic() < deadline, "the server's jobs have not ended"
        time.sleep(0.3)


DEMO_PAIRS = 12  # eight tuned models; two checkpoints before one's end, against the base and what came before


def wait_for_demo(url: str, seconds: float = 300) -> None:
    """Waits until the demo is measured, its overlap and its run counted."""
    deadline, idle = time.monotonic() + seconds, 0
    while idle < 3:  # between two jobs there may be a moment without any
        with urllib.request.urlopen(f"{url}/readyz") as answer:
            state = json.load(answer)
        idle = idle + 1 if state["pairs"] >= DEMO_PAIRS and state["active_jobs"] == 0 else 0
        assert time.monotonic() < deadline, state
        time.sleep(0.5)


def settled(page: Page) -> None:
    """Waits until the page is drawn to its end and nothing of what stood there before is left."""
    page.wait_for_timeout(200)  # what was just done has to reach the server first
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-connection-state", "CONNECTED")
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    expect(page.locator("[data-stale=true]")).to_have_count(0)


def go(page: Page, where: str) -> None:
    """Another view of the same pair, by the sidebar."""
    page.get_by_test_id("stSidebar").get_by_role("link", name=where, exact=True).click()
    settled(page)


def chart(page: Page) -> Locator:
    """The page's first chart, once it can be pointed at."""
    settled(page)
    found = page.locator(".js-plotly-plot").first
    found.locator(".nsewdrag").first.wait_for()
    return found


def click_cell(page: Page, *, layer: str, module: str) -> None:
    """Clicks a heatmap's cell as a hand would: the mouse goes there first."""
    place = chart(page).evaluate(
        """(plot, [layer, module]) => {
            const {xaxis, yaxis} = plot._fullLayout;
            const at = (axis, text) => axis.tickvals[axis.ticktext.indexOf(text)];
            const box = plot.querySelector('.nsewdrag').getBoundingClientRect();
            return [box.x + xaxis.d2p(at(xaxis, layer)), box.y + yaxis.d2p(at(yaxis, module))];
        }""",
        [layer, module],
    )
    page.mouse.move(*place)
    page.wait_for_timeout(400)
    page.mouse.click(*place)


def copied_link(page: Page) -> str:
    """The link that the page offers to copy."""
    page.get_by_text("Share, download, cite").click()
    return page.get_by_test_id("stCode").first.inner_text().strip()


def models(page: Page) -> tuple[str, str]:
    """The pinned base and tuned model that the address names."""
    named = parse_qs(urlsplit(page.url).query)
    return named["base"][0], named["tuned"][0]


def numbers(page: Page) -> list[str]:
    """The numbers at the top of the page."""
    settled(page)
    expect(page.get_by_test_id("stMetricValue").first).to_be_visible()
    return [re.sub(r"\s+", " ", text) for text in page.get_by_test_id("stMetricValue").all_inner_texts()]
