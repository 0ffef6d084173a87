"""Each page's link, with choices that are not the default, shows a stranger's browser what was seen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from analysis.links import pinned, to_link, view_of
from tests.browser import steps
from tests.browser.conftest import Server

pytestmark = pytest.mark.browser
Visitor = Callable[..., Page]

CHOICES = {
    "pair": {"rule": "tolerance", "tolerance": "0.001"},
    "layers": {"metric": "relative-update", "colours": "fitted"},
    "matrix": {"name": "model.layers.1.mlp.down_proj.weight", "rule": "mukherjee", "sizes": "ulps"},
    "spectra": {"metric": "stable-rank", "over": "layers"},
}
SEEN = """() => {
    const main = document.querySelector('[data-testid=stMain]');
    const figures = [...main.querySelectorAll('.js-plotly-plot text')].map(text => text.textContent);
    const choices = [...main.querySelectorAll('[aria-checked=true], [aria-pressed=true], [role=combobox]')];
    return [main.innerText, figures, choices.map(one => one.innerText || one.value)];
}"""


@pytest.mark.parametrize("page_name", CHOICES)
def test_a_link_shows_the_same_in_a_new_browser(server: Server, visitor: Visitor, page_name: str):
    page = visitor()
    steps.open_compared(page, server, "./runs/base", "./runs/seed-1")
    base, tuned = map(pinned, steps.models(page))
    page.goto(f"{server.url}/{to_link(view_of(page_name, base, tuned, **CHOICES[page_name]))}")
    seen = looked_at(page)
    stranger = visitor(stranger=True)
    stranger.goto(page.url)
    assert looked_at(stranger) == seen
    for value in CHOICES[page_name].values():
        assert value in stranger.url


def looked_at(page: Page) -> list[object]:
    steps.chart(page)
    expect(page.get_by_text("Share, download, cite")).to_be_visible()
    page.wait_for_timeout(1500)
    return page.evaluate(SEEN)


def test_back_to_the_layers_keeps_the_metric(server: Server, visitor: Visitor):
    page = visitor()
    steps.open_compared(page, server, "./runs/base", "./runs/seed-1")
    base, tuned = map(pinned, steps.models(page))
    page.goto(f"{server.url}/{to_link(view_of('layers', base, tuned, metric='relative-update'))}")
    for way_back in (lambda: steps.go(page, "Layers"), page.go_back):
        steps.click_cell(page, layer="1", module="mlp.down_proj")
        page.wait_for_url("**/matrix?*")
        expect(page.get_by_role("heading", name="model.layers.1.mlp.down_proj.weight")).to_be_visible()
        way_back()
        page.wait_for_url("**/layers?*")
        expect(page.get_by_text("Frobenius norm of the update over that of the base matrix.")).to_be_visible()


def test_the_first_page_has_its_own_name_too(server: Server, visitor: Visitor):
    page = visitor()
    page.goto(f"{server.url}/compare?base=./runs/base&tuned=llama3")
    expect(page.get_by_test_id("stAlert").filter(has_text="is not a model id")).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)
