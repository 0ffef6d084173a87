"""What somebody comes for, from the first paste to the link that a colleague opens, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Page, expect

from tests.browser import steps
from tests.browser.conftest import HOSTILE, Server

pytestmark = pytest.mark.browser
SHOTS = Path(__file__).parent / "shots"
Visitor = Callable[..., Page]


def test_from_two_pasted_models_to_a_link_that_a_colleague_opens(server: Server, visitor: Visitor):
    page = visitor()
    steps.compare(page, server, "./runs/base", "./runs/seed-1")
    unchanged = server.n_entries - server.n_changed("seed-1")
    expect(page.get_by_text(f"{unchanged:,} of {server.n_entries:,}").first).to_be_visible()

    steps.go(page, "Layers")
    steps.click_cell(page, layer="1", module="mlp.down_proj")
    page.wait_for_url("**/matrix?*")
    expect(page.get_by_role("heading", name="model.layers.1.mlp.down_proj.weight")).to_be_visible()
    seen, link = steps.numbers(page), steps.copied_link(page)
    page.wait_for_url(lambda url: url.replace("%2F", "/").replace("%40", "@") == link)

    colleague = visitor(stranger=True)
    colleague.goto(link)
    expect(colleague.get_by_role("heading", name="model.layers.1.mlp.down_proj.weight")).to_be_visible()
    assert steps.numbers(colleague) == seen


def test_back_from_a_matrix_leads_to_the_heatmap_and_stays_there(server: Server, visitor: Visitor):
    page = visitor()
    steps.open_compared(page, server, "./runs/base", "./runs/seed-1")
    steps.go(page, "Layers")
    for module in ("mlp.down_proj", "self_attn.q_proj"):
        steps.click_cell(page, layer="1", module=module)
        page.wait_for_url("**/matrix?*")
        expect(page.get_by_role("heading", name=f"model.layers.1.{module}.weight")).to_be_visible()
        page.go_back()
        expect(page.get_by_role("heading", name="Layers and matrices")).to_be_visible()
        page.wait_for_timeout(1500)
        assert "/layers?" in page.url


def test_a_click_on_a_stored_comparison_opens_it(server: Server, visitor: Visitor):
    page = visitor()
    steps.compare(page, server, "./runs/base", "./runs/seed-1")
    steps.go(page, "Compare")
    table = page.get_by_test_id("stDataFrame")
    expect(table).to_be_visible()
    page.wait_for_timeout(1000)
    table.click(position={"x": 60, "y": 50})
    page.wait_for_url("**/pair?*")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()


def test_the_tuned_models_card_offers_its_base(server: Server, visitor: Visitor):
    page = visitor()
    steps.look_up(page, server, "", "team/tuned")
    page.get_by_role("button", name="Use it as base").click()
    expect(page.get_by_role("button", name="Start")).to_be_visible()
    expect(page.get_by_label("Base", exact=True)).to_have_value("team/base")
    expect(page.get_by_text(re.compile("commit [0-9a-f]{7}"))).to_have_count(2)


def test_a_choice_stays_in_the_address(server: Server, visitor: Visitor):
    page = visitor()
    steps.open_compared(page, server, "./runs/base", "./runs/seed-1")
    steps.go(page, "Layers")
    steps.chart(page)
    page.get_by_label("Metric").click()
    page.get_by_role("option", name="Effective rank of the update").click()
    page.wait_for_url("**metric=effective-rank*")
    page.reload()
    expect(page.get_by_text("exp(entropy of the normalised singular values)")).to_be_visible()


def test_overlap_counts_what_was_planted(server: Server, visitor: Visitor):
    page = visitor()
    tuned = []
    for run in ("seed-1", "seed-2"):
        steps.compare(page, server, "./runs/base", f"./runs/{run}")
        base, model = steps.models(page)
        tuned.append(model)
    page.goto(f"{server.url}/overlap?{urlencode({'base': base, 'tuned': tuned}, doseq=True)}")
    page.get_by_role("button", name="Count it").click()
    both = server.n_changed("seed-1", "seed-2")
    expect(page.get_by_text(f"both changed {both:,} of these")).to_be_visible()
    drawn = steps.chart(page).locator(".annotation-text").all_text_contents()
    assert f"{both:,}" in drawn


def test_a_running_job_fills_the_page_and_is_cancelled_at_once(server: Server, visitor: Visitor):
    page = visitor()
    steps.look_up(page, server, "./runs/slow-base", "./runs/slow-tuned")
    steps.start(page)
    expect(page.get_by_text(re.compile("parameters measured so far|compared parameters")).first).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("button", name="Measure the rest")).to_be_visible(timeout=4_000)
    assert "%" in steps.numbers(page)[0]


@pytest.mark.parametrize(
    ("base", "tuned", "words"),
    [
        ("./runs/base", "llama3", "is not a model id"),
        ("team/base", "team/nothing", "team/nothing"),
        ("team/base@nope", "team/tuned", "nope"),
        ("./runs/base", "./runs/nowhere", "./runs/nowhere"),
        ("./runs/base", "./runs/hostile-base", "nothing to compare"),
    ],
    ids=["no id", "no repository", "no revision", "no folder", "unrelated"],
)
def test_what_cannot_be_compared_is_said_in_words(server: Server, visitor: Visitor, base: str, tuned: str, words: str):
    page = visitor()
    steps.look_up(page, server, base, tuned)
    expect(page.get_by_test_id("stAlert").filter(has_text=words)).to_be_visible()
    expect(page.get_by_text("Compare two models")).to_be_visible()


def test_hostile_names_are_only_text(server: Server, visitor: Visitor):
    page = visitor()
    steps.compare(page, server, "./runs/hostile-base", "./runs/hostile-tuned")
    steps.go(page, "Layers")
    ticks = steps.chart(page).locator(".ytick").all_text_contents()
    assert set(ticks) == set(HOSTILE)
    for name in ("www.far.example", "me@far.example"):
        steps.click_cell(page, layer="outside", module=name)
        page.wait_for_url("**/matrix?*")
        expect(page.get_by_role("heading").filter(has_text="far.example")).to_be_visible()
        assert page.locator("a[href*='//'], a[href^=mailto], img[src*='far.example'], img[src=x]").count() == 0
        page.go_back()
    steps.go(page, "Spectra")
    steps.chart(page)


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 900])
def test_every_view_draws_in_both_themes(server: Server, visitor: Visitor, color_scheme: str, width: int):
    """Leaves a picture of each view in tests/browser/shots/, to be looked at."""
    page = visitor(color_scheme=color_scheme, width=width)
    steps.open_compared(page, server, "./runs/base", "./runs/seed-1")
    SHOTS.mkdir(exist_ok=True)
    for view in ("Overview", "Layers", "Spectra"):
        steps.go(page, view)
        steps.chart(page)
        expect(page.get_by_test_id("stException")).to_have_count(0)
        page.screenshot(path=SHOTS / f"{view.lower()}-{color_scheme}-{width}.png")
