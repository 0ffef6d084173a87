"""Every download of every page, clicked in a real browser, opened and checked; and the files that open offline."""

from __future__ import annotations

import io
import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import steps
from tests.browser.conftest import HOSTILE, MANY, Server, running

pytestmark = pytest.mark.browser
Visitor = Callable[..., Page]


def links(page: Page, kind: str) -> list[Locator]:
    """The links of one kind in the menu at the page's end, opened."""
    page.get_by_text("Share, download, cite").click()
    menu = page.get_by_test_id("stExpander").filter(has_text="Share, download, cite")
    expect(menu.get_by_role("link").first).to_be_visible()
    steps.settled(page)
    return menu.locator(f"a[href^='{kind}/']").all()


def saved(link: Locator) -> tuple[str, bytes]:
    """(file name, content) of what the browser saves when the link is clicked."""
    link.evaluate("link => link.removeAttribute('target')")  # a download in a tab of its own has no page to ask
    with link.page.expect_download() as download:
        link.click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def checked_rows(name: str, data: bytes) -> list[dict[str, object]]:
    """The rows of a file of numbers, which has to say where it comes from."""
    match Path(name).suffix:
        case ".csv":
            assert re.search(r"^# pairs\.0\.base\.commit: files-[0-9a-f]{40}$", data.decode(), re.MULTILINE)
            is_empty = all(line.startswith(b"#") for line in data.splitlines())
            return [] if is_empty else pd.read_csv(io.BytesIO(data), comment="#").to_dict("records")
        case ".parquet":
            table = pq.read_table(io.BytesIO(data))
            origin, rows = json.loads(table.schema.metadata[b"subnetscope"]), table.to_pylist()
        case _:
            document = json.loads(data)
            origin = document["provenance"]
            rows = document["rows"] if "rows" in document else [r for part in document["tables"].values() for r in part]
    assert origin["pairs"][0]["base"]["commit"].startswith("files-")
    assert origin["measurement_versions"]["tally"] >= 2
    return rows


def check_figure(name: str, data: bytes, inches: float) -> None:
    match Path(name).suffix:
        case ".png":
            picture = Image.open(io.BytesIO(data))
            assert picture.width == inches * 300
            assert "measurement_versions" in picture.info["Description"]
        case ".svg":
            assert f'width="{inches}in"'.encode() in data[:400]
            assert b"measurement_versions" in data
        case ".pdf":
            assert data.startswith(b"%PDF-")
            assert re.search(rb"/MediaBox\s*\[0 0 %d " % round(inches * 72), data)


@pytest.mark.parametrize("view", ["Overview", "Layers", "Matrix", "Spectra", "Overlap"])
def test_every_file_of_numbers_opens_and_holds_the_same_rows(server: Server, visitor: Visitor, view: str):
    page = visitor()
    open_view(page, server, view)
    n_rows: dict[str, set[int]] = {}
    for link in links(page, "take"):
        path = urlsplit(link.get_attribute("href") or "").path
        rows = checked_rows(*saved(link))
        n_rows.setdefault(path.rpartition(".")[0], set()).add(len(rows))
    assert n_rows
    assert all(len(numbers) == 1 for numbers in n_rows.values()), n_rows
    assert max(max(numbers) for numbers in n_rows.values()) > 10


@pytest.mark.parametrize("view", ["Overview", "Layers", "Matrix", "Spectra", "Overlap"])
def test_every_figure_is_drawn_for_paper(server: Server, visitor: Visitor, view: str):
    """Each figure in one format and width, in turn; tests/cache/test_drawing.py looks at the formats themselves."""
    page = visitor()
    open_view(page, server, view)
    found = links(page, "figure")
    figures = {urlsplit(link.get_attribute("href") or "").path.rpartition(".")[0] for link in found}
    for position, link in enumerate(found[::7] if len(figures) > 1 else found[:3]):
        name, data = saved(link)
        [width] = parse_qs(urlsplit(link.get_attribute("href") or "").query)["width"]
        check_figure(name, data, float(width))
        assert len(data) > 3000, position


def open_view(page: Page, server: Server, view: str) -> None:
    """The view of a pair that is measured, drawn."""
    steps.open_compared(page, server, "./runs/base", "./runs/seed-1")
    if view == "Overlap":
        steps.open_compared(page, server, "./runs/base", "./runs/seed-2")
        steps.go(page, "Overlap of runs")
        count = page.get_by_role("button", name="Count it")
        expect(count.or_(page.get_by_role("heading", name="Run against run"))).to_be_visible()
        if count.is_visible():
            count.click()
        expect(page.get_by_text("Layer by layer")).to_be_visible()
    elif view == "Matrix":
        steps.go(page, "Layers")
        steps.click_cell(page, layer="1", module="mlp.down_proj")
        page.wait_for_url("**/matrix?*")
    else:
        steps.go(page, view)
    steps.chart(page)


def test_more_than_a_megabyte_comes_whole(server: Server, visitor: Visitor):
    page = visitor()
    steps.compare(page, server, "./runs/many-base", "./runs/many-tuned")
    expect(page.get_by_text(f"{MANY:,} of {MANY:,} tensors measured")).to_be_visible(timeout=120_000)
    for link in links(page, "take")[:3]:
        name, data = saved(link)
        assert len({row["name"] for row in checked_rows(name, data)}) == MANY
        if name.endswith(".json"):
            assert len(data) > 1_000_000


def test_the_report_opens_offline_and_asks_nobody(server: Server, visitor: Visitor, chromium: Browser, tmp_path: Path):
    page = visitor()
    steps.open_compared(page, server, "./runs/hostile-base", "./runs/hostile-tuned")
    [link] = links(page, "report")
    name, data = saved(link)
    file = tmp_path / name
    file.write_bytes(data)
    with offline(chromium) as (reader, complaints):
        reader.goto(file.as_uri())
        reader.locator(".js-plotly-plot .nsewdrag").first.wait_for()
        expect(reader.get_by_role("heading", name="What fine-tuning changed")).to_be_visible()
        expect(reader.get_by_text(re.compile("parameters have exactly the value they had before"))).to_be_visible()
        reader.get_by_text(f"{len(HOSTILE)} tensors", exact=True).click()
        for text in HOSTILE:
            expect(reader.get_by_role("cell", name=text, exact=True).first).to_be_visible()
        assert reader.locator(".js-plotly-plot .main-svg").count() >= 3
        assert reader.locator("a[href], img[src*='far.example'], img[src=x]").count() == 0
        reader.screenshot(path=Path(__file__).parent / "shots" / "report.png", full_page=True)
    assert complaints == []


class offline:
    """A page of a browser without a network, and what it complains of."""

    def __init__(self, chromium: Browser) -> None:
        self._context = chromium.new_context(offline=True, viewport={"width": 1200, "height": 1000})

    def __enter__(self) -> tuple[Page, list[str]]:
        page, complaints = self._context.new_page(), []
        page.on("pageerror", lambda error: complaints.append(f"threw {error}"))
        page.on("dialog", lambda dialog: (complaints.append("dialog"), dialog.dismiss()))
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("request", lambda asked: complaints.append(asked.url) if not asked.url.startswith("file:") else None)
        return page, complaints

    def __exit__(self, *_: object) -> None:
        self._context.close()


def test_a_shared_link_leads_people_to_the_view(server: Server, visitor: Visitor):
    page = visitor()
    open_view(page, server, "Layers")
    links(page, "take")
    share = page.get_by_test_id("stCode").nth(1).inner_text().strip()
    text = urllib.request.urlopen(share).read().decode()
    unchanged = 1 - server.n_changed("seed-1") / server.n_entries
    assert f"{100 * unchanged:.2f} % of parameters unchanged" in text
    [picture] = re.findall(r'property="og:image" content="([^"]+)"', text)
    assert Image.open(urllib.request.urlopen(picture.replace("&amp;", "&"))).size == (1200, 630)
    colleague = visitor(stranger=True)
    colleague.goto(share)
    colleague.wait_for_url(re.compile(r"/layers\?"))
    expect(colleague.get_by_role("heading", name="Layers and matrices")).to_be_visible()


@pytest.fixture
def under_a_path(tmp_path: Path, server: Server) -> Iterator[str]:
    """A second server, under a path of its own as behind a proxy, without anything in it."""
    (tmp_path / "runs").mkdir()
    with running(tmp_path, "http://127.0.0.1:9", "--server.baseUrlPath", "team/scope") as url:
        yield f"{url}/team/scope"


def test_downloads_work_under_a_path(under_a_path: str, chromium: Browser):
    page = chromium.new_page()
    page.goto(f"{under_a_path}/gallery")
    expect(page.get_by_role("heading", name="Published pairs")).to_be_visible()
    name, data = saved(links(page, "take")[0])
    assert name == "subnetscope-gallery-unchanged.csv"
    assert f"# link: {under_a_path}/gallery".encode() in data
    assert len(pd.read_csv(io.BytesIO(data), comment="#")) > 5
    page.close()
