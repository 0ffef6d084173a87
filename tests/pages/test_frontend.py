"""Streamlit's page and scripts as the app sends them: what Streamlit has, compressed, and two lines more."""

from __future__ import annotations

import gzip

import pytest
import zstandard
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from pages.parts import frontend
from pages.parts.headers import SecurityHeaders

SCRIPTS = frontend.STATIC / "static" / "js"
[CHARTS] = SCRIPTS.glob(f"{frontend.CHARTS}.*.js")
OTHER = min(SCRIPTS.glob("index.*.js"))


@pytest.fixture
def asking() -> TestClient:
    async def of_the_app(_: Request) -> Response:
        return PlainTextResponse("the app's own")

    routes = [*frontend.routes(("", "layers"), "team"), Route("/{path:path}", of_the_app)]
    middleware = [Middleware(SecurityHeaders), Middleware(frontend.scripts)]
    return TestClient(Starlette(routes=routes, middleware=middleware))


@pytest.mark.parametrize(
    ("accepted", "coding", "read"),
    [
        ("gzip, deflate, br, zstd", "zstd", lambda data: zstandard.ZstdDecompressor().decompress(data)),
        ("gzip;q=1, deflate", "gzip", gzip.decompress),
        ("identity", None, bytes),
    ],
    ids=["zstd", "gzip", "plain"],
)
def test_a_script_is_streamlits_own_in_what_the_browser_takes(asking: TestClient, accepted: str, coding, read):
    with asking.stream("GET", f"/team/static/js/{OTHER.name}", headers={"Accept-Encoding": accepted}) as answer:
        sent = b"".join(answer.iter_raw())
    assert answer.headers.get("content-encoding") == coding
    assert read(sent) == OTHER.read_bytes()
    assert answer.headers["cache-control"] == "public, immutable, max-age=31536000"
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.headers["content-type"].startswith("text/javascript")
    assert "content-security-policy" in answer.headers


def test_the_script_of_the_charts_differs_by_one_comment_in_its_first_line(asking: TestClient):
    first, _, rest = asking.get(f"/static/js/{CHARTS.name}").content.partition(b"\n")
    assert first == b"//# allFunctionsCalledOnLoad"
    assert rest == CHARTS.read_bytes()


@pytest.mark.parametrize("path", ["js/nothing.js", "js/..", "js/../index.html", "media/nothing.woff2", "js/"])
def test_what_is_no_script_of_streamlits_is_left_to_the_app(asking: TestClient, path: str):
    assert asking.get(f"/static/{path}").text == "the app's own"


@pytest.mark.parametrize("page", ["", "layers"])
def test_a_page_is_streamlits_own_and_knows_its_server_before_any_script(asking: TestClient, page: str):
    sent = asking.get(f"/team/{page}").text
    streamlits = (frontend.STATIC / "index.html").read_text(encoding="utf-8")
    added = sent[sent.index("<head>") + len("<head>") : sent.index("</script>") + len("</script>")]
    assert "BACKEND_BASE_URL" in added
    assert sent.replace(added, "", 1) == streamlits
    assert sent.index(added) < sent.index('<script type="module"')


def test_the_pages_inline_scripts_are_allowed_by_its_policy(asking: TestClient):
    policy = asking.get("/team/layers").headers["content-security-policy"]
    assert policy.count("'sha256-") == frontend.html().count("<script>")
