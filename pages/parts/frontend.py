"""Streamlit's own page and scripts, as this app sends them: sooner, smaller, and compiled beside the main thread.

Streamlit sends its files as they are, 10 MB for a page with charts, and leaves making them smaller to a proxy. Here
each is compressed once and kept (3 MB for all that are asked for). What is sent is what the installed Streamlit has,
but for two lines before it: one makes the page open its socket at once, where it would ask the server three things
first; the other tells Chromium to compile the script of the charts whole, off the main thread (to others, a comment).
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import streamlit
import zstandard
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

STATIC = Path(streamlit.__file__).parent / "static"
CHARTS = "PlotlyChart"  # what Streamlit calls the script that draws them
_MEDIA = {".js": "text/javascript", ".css": "text/css"}
_FOR_EVER = "public, immutable, max-age=31536000"  # as Streamlit says of them: a file's name holds its content's hash
_ASKED = re.compile(r"/static/((?:js|css)/[\w.-]+)$")
_COMPILED_WHOLE = b"//# allFunctionsCalledOnLoad\n"

# What Streamlit's page asks `_stcore/host-config` for: where the server is, and which pages may embed this one (none
# may, see `headers`; the list must name one). It still asks in the background, for what is left open here.
_BOOT = (
    "window.__streamlit={BACKEND_BASE_URL:new URL('.',location.href).href,"
    "HOST_CONFIG:{allowedOrigins:[location.origin],useExternalAuthToken:false}}"
)
_CODINGS: dict[str, Callable[[bytes], bytes]] = {  # the first that the browser takes
    "zstd": lambda data: zstandard.ZstdCompressor(level=6).compress(data),
    "gzip": lambda data: gzip.compress(data, 6),
    "": lambda data: data,
}


@cache
def html() -> str:
    """Streamlit's page, its socket opened at once."""
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    return page.replace("<head>", f"<head><script>{_BOOT}</script>", 1)


def routes(pages: tuple[str, ...], base: str = "") -> list[Route]:
    """The pages' own addresses, under the path that the server itself is under."""
    root = f"/{base.strip('/')}" if base.strip("/") else ""
    return [Route(f"{root}/{page}", _page) for page in pages]


async def _page(_: Request) -> HTMLResponse:
    return HTMLResponse(html(), headers={"Cache-Control": "no-cache"})


def scripts(app: ASGIApp) -> ASGIApp:
    """ASGI middleware that answers for the scripts and styles of the installed Streamlit; all else is the app's."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        found = _answer(scope) if scope["type"] == "http" and scope["method"] == "GET" else None
        await (found or app)(scope, receive, send)

    return answer


def _answer(scope: Scope) -> Response | None:
    asked = _ASKED.search(scope["path"])
    path = STATIC / "static" / asked[1] if asked else None
    if path is None or path.suffix not in _MEDIA or not path.is_file():
        return None
    accepted = {part.partition(";")[0].strip() for part in Headers(scope=scope).get("accept-encoding", "").split(",")}
    coding = next(name for name in _CODINGS if not name or name in accepted)
    headers = {"Cache-Control": _FOR_EVER, "Vary": "Accept-Encoding"}
    if coding:
        headers["Content-Encoding"] = coding
    return Response(_body(path, coding), media_type=_MEDIA[path.suffix], headers=headers)


@cache
def _body(path: Path, coding: str) -> bytes:
    data = path.read_bytes()
    if path.name.startswith(f"{CHARTS}."):
        data = _COMPILED_WHOLE + data
    return _CODINGS[coding](data)
