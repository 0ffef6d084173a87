"""Whoever reads in another way: words with contrast enough, pages by keyboard, figures in words, nothing that jumps."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser import steps
from tests.browser.conftest import Server

pytestmark = pytest.mark.browser
Visitor = Callable[..., Page]

# Words that are seen, with the contrast of their ink to the ground beneath (WCAG 2.2, criterion 1.4.3). Numbers on the
# cells of a figure have a ground of their own, which tests/analysis/test_ink.py looks at.
PALE_WORDS = """() => {
    const ICON = '[data-testid=stIconMaterial]';  // a sign, for which 3 is enough
    const ELSEWHERE = `style, script, canvas, .heatmaplayer, .hm, [disabled], [aria-disabled=true], ${ICON}`;
    const part = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
    const numbers = text => (text.match(/[\\d.]+/g) || []).map(Number);
    const over = ([r, g, b, a = 1], under) => [r, g, b].map((c, i) => a * c + (1 - a) * under[i]);
    const ground = node => {
        const layers = [];
        for (let at = node; at; at = at.parentElement) layers.push(numbers(getComputedStyle(at).backgroundColor));
        return layers.reverse().reduce((under, layer) => layer.length ? over(layer, under) : under, [255, 255, 255]);
    };
    const opacity = node => node ? Number(getComputedStyle(node).opacity) * opacity(node.parentElement) : 1;
    const found = [];
    const walk = document.createTreeWalker(document.querySelector('[data-testid=stApp]'), NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const node = walk.currentNode.parentElement, text = walk.currentNode.data.trim();
        const box = node.getBoundingClientRect(), style = getComputedStyle(node);
        if (!text || !box.width || style.visibility === 'hidden' || node.closest(ELSEWHERE)) continue;
        const below = ground(node), own = numbers(node.closest('svg') ? style.fill : style.color);
        const ink = over([...own.slice(0, 3), (own[3] ?? 1) * opacity(node)], below);
        const [high, low] = [light(ink), light(below)].sort((a, b) => b - a);
        const contrast = (high + 0.05) / (low + 0.05);
        const within = node.closest('[data-testid]').dataset.testid;
        if (contrast < 4.5) found.push(`${text.slice(0, 40)}: ${contrast.toFixed(2)} in ${within}`);
    }
    return found;
}"""


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_words_are_not_pale(server: Server, visitor: Visitor, color_scheme: str):
    page = visitor(color_scheme=color_scheme)
    steps.open_compared(page, server, "./runs/base", "./runs/seed-1")
    for view in ("Overview", "Layers", "Spectra", "Compare"):
        steps.go(page, view)
        if view != "Compare":
            steps.chart(page)
        for _ in range(20):  # a page that runs again is faded meanwhile
            page.wait_for_timeout(500)
            if not (pale := page.evaluate(PALE_WORDS)):
                break
        assert pale == [], view


def test_two_models_are_compared_by_keyboard_alone(server: Server, visitor: Visitor):
    page = visitor()
    page.goto(server.url)
    expect(page.get_by_label("Base", exact=True)).to_be_visible()
    tab_to(page, "Base")
    page.keyboard.type("./runs/base")
    tab_to(page, "Fine-tuned")
    page.keyboard.type("./runs/seed-1")
    tab_to(page, "Look up")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Start").or_(page.get_by_role("link", name="Open it"))).to_be_visible()
    expect(page.get_by_text(re.compile("39 tensors|tensors have a partner"))).to_be_visible()


def tab_to(page: Page, name: str) -> None:
    """Presses Tab until what is called `name` has the focus, and looks whether that can be seen."""
    passed = []
    for _ in range(30):
        page.keyboard.press("Tab")
        passed.append(page.evaluate(FOCUSED)[0])
        if passed[-1] == name:
            page.wait_for_timeout(300)  # a border takes its colour slowly
            assert page.evaluate(FOCUSED)[1], f"the focus on {name} cannot be seen"
            return
    raise AssertionError(f"Tab does not lead to {name!r}: {passed}")


FOCUSED = """() => {
    const at = document.activeElement, marks = [];
    for (let node = at, up = 0; node && up < 4; node = node.parentElement, up++) {
        const style = getComputedStyle(node);
        marks.push(style.outlineStyle !== 'none' && style.outlineWidth !== '0px', style.boxShadow !== 'none');
        marks.push(style.borderColor.includes('23, 105, 168'));
    }
    return [at.getAttribute('aria-label') || at.innerText || at.tagName, marks.some(Boolean)];
}"""


def test_every_figure_is_said_in_words_and_has_its_numbers_in_a_table(server: Server, visitor: Visitor):
    page = visitor()
    steps.open_compared(page, server, "./runs/base", "./runs/seed-1")
    for view in ("Overview", "Layers", "Spectra"):
        steps.go(page, view)
        steps.chart(page)
        figures = page.get_by_test_id("stPlotlyChart").all()
        names = [figure.evaluate(NAME) for figure in figures]
        assert names
        assert all(len(name) > 5 for name in names), names
        page.get_by_text("Share, download, cite").click()
        expect(page.locator("a[href^='take/']").first).to_be_visible()


NAME = """node => {
    const named = node.matches('[aria-label], [alt]') ? node : node.querySelector('[aria-label]');
    return named ? named.getAttribute('aria-label') || named.getAttribute('alt') : '';
}"""


def test_nothing_jumps_while_results_arrive(server: Server, visitor: Visitor):
    page = visitor()
    steps.look_up(page, server, "./runs/slow-base", "./runs/slow-tuned")
    begin, again = page.get_by_role("button", name="Start"), page.get_by_role("link", name="Open it")
    expect(begin.or_(again)).to_be_visible()
    (again if again.is_visible() else begin).click()
    page.wait_for_url("**/pair?*")
    steps.go(page, "Layers")
    steps.chart(page)
    page.wait_for_timeout(1000)
    before = place_of_chart(page)
    page.evaluate(WATCH_SHIFTS)
    page.wait_for_timeout(5000)
    assert page.evaluate("window.shifts.reduce((sum, one) => sum + one, 0)") < 0.05  # 0.1 is what is called good
    assert place_of_chart(page) == before


WATCH_SHIFTS = """() => {
    window.shifts = [];
    new PerformanceObserver(list => list.getEntries().forEach(e => window.shifts.push(e.value)))
        .observe({type: 'layout-shift', buffered: false});
}"""


def place_of_chart(page: Page) -> tuple[float, float]:
    """Once it has one: while results arrive, it is drawn anew for a moment."""
    chart = page.locator(".js-plotly-plot").first
    for _ in range(100):
        if box := chart.bounding_box():
            return box["y"], box["height"]
        page.wait_for_timeout(50)
    raise AssertionError("there is no chart")
