"""docs/paper.md: its links are views of the demo as it lies here."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from analysis.links import CHOICES_OF_PAGE, from_query
from analysis.models import ModelRef
from cache import catalog
from cache.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
LINKS = re.findall(r"\((http://localhost:8501/[^)]*)\)", (ROOT / "docs" / "paper.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings.from_environment({}, data_dir=ROOT)


@pytest.mark.parametrize("link", LINKS, ids=lambda link: urlsplit(link).path)
def test_a_link_is_a_view_of_the_demo_as_it_is(link: str, settings: Settings):
    place = urlsplit(link)
    page = place.path.removeprefix("/")
    assert (ROOT / "pages" / f"{page}.py").is_file()
    if page not in CHOICES_OF_PAGE:
        return
    view = from_query(page, parse_qs(place.query))
    for model in view.models:
        found = catalog.find(ModelRef("folder", model.name), settings)
        assert found.pinned.commit == model.commit, model.name


def test_every_figure_and_table_that_was_asked_for_has_a_row():
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    assert all(f"| {what} " in text for what in ("table 1", "table 2", "table 4", "table 6", "figure 2", "figure 3"))
    assert "figures 5, 6, 7" in text
    assert len(LINKS) >= 10
