"""Files to take away, asked of the routes as a browser asks: what is in them, and what is refused."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from analysis import links
from analysis.errors import StoreBusy
from analysis.links import View, to_query, view_of
from analysis.metrics import CATALOG
from analysis.models import Pair
from cache import instance
from pages.parts import routes, sources
from tests.analysis.by_hand import measured, small_model
from tests.pages.conftest import HOSTILE, HOSTILE_NAME

MATRIX = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def client(current: instance.Instance) -> Iterator[TestClient]:
    with TestClient(Starlette(routes=routes.routes())) as asking:
        yield asking


def path(view: View, kind: str, rest: str, **more: str) -> str:
    query = urlencode({**to_query(view), **more}, doseq=True)
    return f"/{kind}/{view.page}{rest}?{query}"


def view_for(page: str, pairs: tuple[Pair, ...], **choices: str) -> View:
    """A view of the page: of all pairs where it shows several, of a matrix where it shows one."""
    if page == "matrix":
        choices = {"name": MATRIX} | choices
    tuned = [pair.tuned for pair in pairs]
    return view_of(page, pairs[0].base, *(tuned if page == "overlap" else tuned[:1]), **choices)


# A run of checkpoints has its own test, beside its page's; heads need a config that tells of them, shifts a request.
NEED_MORE = {"heads", "spectral-shifts"}
WITH_ROWS = {name for tables in sources.TABLES_OF_VIEW.values() for name in tables} - NEED_MORE
TABLES = [(page, n) for page, of in sources.TABLES_OF_VIEW.items() if page != "dynamics" for n in of if n in WITH_ROWS]


@pytest.mark.parametrize(("page", "name"), TABLES, ids=lambda part: part)
def test_the_three_formats_hold_the_same_rows(client: TestClient, two_runs: tuple[Pair, Pair], page: str, name: str):
    view = view_for(page, two_runs)
    csv, parquet, text = (client.get(path(view, "take", f"/{name}.{form}")) for form in ("csv", "parquet", "json"))
    document = json.loads(text.content)
    origin, rows = document["provenance"], document["rows"]
    assert [pair["tuned"]["commit"] for pair in origin["pairs"]] == [model.commit for model in view.tuned]
    assert (origin["table"], origin["view"]) == (name, page)
    table = pq.read_table(io.BytesIO(parquet.content))
    assert table.num_rows == len(rows)
    assert json.loads(table.schema.metadata[b"subnetscope"])["pairs"] == origin["pairs"]
    assert f"# pairs.0.base.commit: {view.base.commit}" in csv.text
    if name in ("not-compared", "not-measured", "left-out"):
        assert rows == []  # all of the small model is compared and measured, in both runs
        return
    assert rows
    frame = pd.read_csv(io.BytesIO(csv.content), comment="#")
    assert list(frame.columns) == table.column_names == list(rows[0])
    for column in frame.columns:
        numbers = [row[column] for row in rows if isinstance(row[column], int | float)]
        assert frame[column].dropna().tolist()[: len(numbers)] == numbers or not numbers


@pytest.mark.parametrize(
    ("form", "media"),
    [("csv", "text/csv"), ("parquet", "application/vnd.apache.parquet"), ("json", "application/json")],
)
def test_a_file_is_saved_under_a_name_that_says_what_it_is(client: TestClient, pair: Pair, form: str, media: str):
    answer = client.get(path(view_for("layers", (pair,)), "take", f"/cells.{form}"))
    name = f"subnetscope-tuned-1-1111111-vs-base-aaaaaaa-layers-cells.{form}"
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert answer.headers["content-type"].startswith(media)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"


def test_cells_are_the_heatmaps(client: TestClient, pair: Pair):
    view = view_for("layers", (pair,), metric="unchanged", rule="mukherjee")
    rows = client.get(path(view, "take", "/cells.json")).json()["rows"]
    tallies, _ = measured(small_model())
    assert "unchanged-mukherjee" in CATALOG
    for row in rows:
        where = "" if row["layer"] is None else f"layers.{row['layer']}."
        module = row["module"].removeprefix("model.")
        [tally] = [tally for name, tally in tallies.items() if f"{where}{module}.weight" in name]
        assert row["unchanged-mukherjee"] == tally.unchanged("mukherjee") / tally.entries


def test_singular_values_are_all_there(client: TestClient, pair: Pair):
    view = view_for("spectra", (pair,))
    rows = client.get(path(view, "take", "/singular-values.json")).json()["rows"]
    _, spectra = measured(small_model())
    assert len(rows) == sum(len(one.singular_values) for one in spectra.values())
    own = [row["singular_value"] for row in rows if row["tensor"] == MATRIX]
    np.testing.assert_array_equal(np.float32(own), spectra[MATRIX].singular_values)


def test_one_document_holds_every_table_of_a_view(client: TestClient, pair: Pair):
    document = client.get(path(view_for("matrix", (pair,)), "take", ".json")).json()
    assert list(document["tables"]) == list(sources.TABLES_OF_VIEW["matrix"])
    assert document["provenance"]["missing_tables"] == {}


def test_what_a_vector_has_not_is_named_in_the_document(client: TestClient, pair: Pair):
    view = view_for("matrix", (pair,), name="model.layers.0.input_layernorm.weight")
    document = client.get(path(view, "take", ".json")).json()
    assert "singular-values" not in document["tables"]
    assert "no singular values" in document["provenance"]["missing_tables"]["singular-values"]


def test_pages_about_many_comparisons_have_files_too(client: TestClient, two_runs: tuple[Pair, Pair]):
    rows = client.get("/take/library/comparisons.json").json()["rows"]
    assert {row["pair"] for row in rows} == {pair.key for pair in two_runs}
    assert {row["base commit"] for row in rows} == {two_runs[0].base.commit}
    found = client.get("/take/library/comparisons.json?q=nowhere").json()
    assert (found["rows"], found["provenance"]["choices"]) == ([], {"q": "nowhere"})
    assert len(client.get("/take/gallery/unchanged.json").json()["rows"]) > 5


GOOD = "base=org/base@" + "a" * 40 + "&tuned=org/tuned-1@" + "1" * 40


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (f"/take/layers/cells.csv?{GOOD}&evil=1", 400),
        (f"/take/layers/cells.csv?{GOOD}&metric=nothing", 400),
        ("/take/layers/cells.csv?base=org/base&tuned=org/tuned", 400),
        (f"/take/layers/cells.csv?{GOOD.replace('1' * 40, '9' * 40)}", 404),
        (f"/take/layers/nothing.csv?{GOOD}", 404),
        (f"/take/layers/cells.exe?{GOOD}", 404),
        (f"/take/nowhere/cells.csv?{GOOD}", 404),
        (f"/take/nowhere.json?{GOOD}", 404),
        (f"/take/matrix/rows.csv?{GOOD}&name=nothing", 404),
        (f"/figure/layers/heatmap.gif?{GOOD}", 404),
        (f"/figure/layers/heatmap.svg?{GOOD}&width=9999", 400),
        ("/figure/library/by-layer.svg", 400),
        (f"/take/overlap/cells.csv?{GOOD}&in=5", 400),
        ("/share/library", 404),
        (f"/report/pair.html?{GOOD}&tuned=org/tuned-2@{'2' * 40}", 400),
    ],
)
def test_what_no_page_offers_is_refused_in_plain_words(client: TestClient, pair: Pair, asked: str, status: int):
    answer = client.get(asked)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text.endswith(".")


def test_without_a_store_nothing_is_handed_out(client: TestClient, pair: Pair, monkeypatch: pytest.MonkeyPatch):
    def busy() -> instance.Instance:
        raise StoreBusy("Another process has the store open")

    monkeypatch.setattr(instance, "current", busy)
    for view in (view_for("pair", (pair,)), view_for("layers", (pair,))):
        for asked in (path(view, "take", ".json"), path(view, "share", ""), path(view, "preview", ".png")):
            answer = client.get(asked)
            assert (answer.status_code, "Another process" in answer.text) == (503, True)


class Tags(HTMLParser):
    """The start tags of a page with their attributes, and its title."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def meta(self, name: str) -> str | None:
        found = (attributes for tag, attributes in self.tags if tag == "meta")
        return next((a["content"] for a in found if name in (a.get("property"), a.get("name"))), None)

    def links(self) -> list[str | None]:
        return [attributes.get("href") for tag, attributes in self.tags if tag == "a"]


def test_a_shared_link_says_whom_and_how_much(client: TestClient, pair: Pair):
    view = view_for("layers", (pair,))
    page = Tags(client.get(path(view, "share", "")).text)
    tallies, _ = measured(small_model())
    unchanged = sum(t.unchanged("exact") for t in tallies.values()) / sum(t.entries for t in tallies.values())
    assert page.meta("og:title") == f"org/tuned-1 against org/base: {100 * unchanged:.2f} % of parameters unchanged"
    assert "noindex" in (page.meta("robots") or "")
    assert page.links() == [f"../{links.to_link(view)}"]
    picture = Image.open(io.BytesIO(client.get(page.meta("og:image") or "").content))
    assert picture.size == (1200, 630)


def test_strangers_names_are_text_in_every_file(client: TestClient, hostile: Pair):
    view = view_for("pair", (hostile,))
    share = Tags(client.get(path(view, "share", "")).text)
    assert share.links() == [f"../{links.to_link(view)}"]
    report = client.get(path(view, "report", ".html")).text
    report = report.replace(
        max(re.findall(r"<script>(.*?)</script>", report, flags=re.DOTALL), key=len), ""
    )  # plotly's
    assert Tags(report).links() == []
    for found in (share, Tags(report)):
        assert not {"img", "iframe", "object", "embed", "link"} & {tag for tag, _ in found.tags}
    assert HOSTILE_NAME not in report
    answer = client.get(path(view, "take", "/tensors.csv"))
    assert re.fullmatch(r'attachment; filename="[A-Za-z0-9._-]+"', answer.headers["content-disposition"])
    assert HOSTILE_NAME in pd.read_csv(io.BytesIO(answer.content), comment="#")["name"].tolist()
    origin = client.get(path(view, "take", "/tensors.json")).json()["provenance"]
    assert origin["pairs"][0]["tuned"]["id"] == HOSTILE.title
