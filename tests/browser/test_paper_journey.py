"""Every link of docs/paper.md, opened on the demo as a reader would: it draws what its row names, and nothing fails."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import steps
from tests.browser.conftest import PATIENCE, running
from tests.test_paper import LINKS

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

SHOWN = {  # where a link leads -> what stands there once it is drawn
    "pair": "Unchanged share over tolerance",
    "layers": "Click a cell to open its matrix.",
    "overlap": "How many runs agree",
    "dynamics": "What became of the entries",
    "library": "Tick comparisons to see them side by side.",
    "gallery": "Experiments of the paper, for reference",
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app with its demo, measured."""
    folder = tmp_path_factory.mktemp("demo")
    with running(folder, "http://127.0.0.1:9", demo=True) as url:
        steps.wait_for_demo(url)
        yield url


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    opened = chromium.new_page(viewport={"width": 1440, "height": 1000})
    opened.set_default_timeout(PATIENCE)
    yield opened
    opened.close()


@pytest.mark.parametrize("link", LINKS, ids=lambda link: urlsplit(link).path + str(LINKS.index(link)))
def test_a_link_shows_what_its_row_names(demo: str, page: Page, link: str):
    where = urlsplit(link)
    page.goto(demo + where._replace(scheme="", netloc="").geturl())
    expect(page.get_by_text(SHOWN[where.path.strip("/")]).first).to_be_visible()
    if "tuned=" in where.query:
        steps.chart(page)
    for failure in ("stException", "stAlert"):
        expect(page.get_by_test_id(failure).filter(has_not_text="The map of this matrix")).to_have_count(0)
