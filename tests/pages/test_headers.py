"""Headers that a page's answer carries beside its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import streamlit
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from pages.parts.headers import SecurityHeaders


@pytest.fixture
def asking() -> TestClient:
    async def answer(request: Request) -> Response:
        return JSONResponse({}) if "json" in request.query_params else HTMLResponse("<p>")

    routes = [Route("/{path:path}", answer)]
    return TestClient(Starlette(routes=routes, middleware=[Middleware(SecurityHeaders)]))


@pytest.mark.parametrize(
    ("page", "script"), [("layers", "PlotlyChart"), ("", "DataFrame"), ("team/pair", "PlotlyChart")]
)
def test_a_page_names_the_script_that_draws_it_and_streamlit_has_it(asking: TestClient, page: str, script: str):
    named = asking.get(f"/{page}").headers["link"]
    assert named.startswith(f"<./static/js/{script}.")
    assert named.endswith(">; rel=modulepreload")
    address = named.removeprefix("<./").partition(">")[0]
    assert (Path(streamlit.__file__).parent / "static" / address).is_file()


@pytest.mark.parametrize("path", ["/jobs", "/layers?json", "/share/pair"])
def test_pages_without_drawings_and_data_name_none(asking: TestClient, path: str):
    assert "link" not in asking.get(path).headers


def test_every_answer_has_the_security_headers(asking: TestClient):
    for path in ("/layers", "/layers?json"):
        headers = asking.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in headers["content-security-policy"]
