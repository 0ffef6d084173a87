"""Files to take away, by addresses of their own: numbers, figures, the report, the page that a pasted link unfolds to.

    /take/<page>/<table>.<csv|parquet|json>?<the view's own query>      one table
    /take/<page>.json?...                                               every table of the view
    /figure/<page>/<figure>.<svg|png|pdf>?...&width=<3.5|7>
    /report/pair.html?...
    /share/<page>?...   and its picture   /preview/<page>.png?...

A query is parsed as the page parses it, never trusted; the rest of the address is looked up in `sources`. Work is done
off the event loop, nothing is kept behind an answer. Who may open the pages may ask these: the gate is the same.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from analysis import encoding, links
from analysis.errors import (
    BadReference,
    HubUnreachable,
    ModelError,
    NoChromium,
    NotStored,
    ResourceError,
    StoreError,
    SubnetscopeError,
)
from analysis.figures.printed import WIDTHS, printed, to_html
from analysis.models import PinnedModel
from cache import drawing
from pages.parts import handles, papers, sharing, sources

log = logging.getLogger(__name__)

_MEDIA_OF_FIGURE = {"svg": "image/svg+xml", "png": "image/png", "pdf": "application/pdf"}
# What a refusal is to HTTP; the first class that fits.
_STATUS: tuple[tuple[type[SubnetscopeError], int], ...] = (
    (BadReference, 400),
    (NotStored, 404),
    (HubUnreachable, 503),
    (ModelError, 403),
    (NoChromium, 501),
    (StoreError, 503),
    (ResourceError, 503),
)
_OWN = {"Cache-Control": "no-store", "X-Robots-Tag": "noindex"}

Answer = Callable[[Request], Response]


def routes(base: str = "") -> list[Route]:
    """The routes, under the path that the server itself is under."""
    root = f"/{base.strip('/')}" if base.strip("/") else ""
    answers: dict[str, Answer] = {
        "/take/{page}.json": everything,
        "/take/{page}/{name}.{form}": table,
        "/figure/{page}/{name}.{form}": figure,
        "/report/pair.html": report,
        "/share/{page}": share,
        "/preview/{page}.png": preview,
    }
    files = [Route(root + path, _endpoint(answer)) for path, answer in answers.items()]
    return [Route(f"{root}/compare", compare), *files]


async def compare(request: Request) -> Response:
    """To the first page, which Streamlit knows without a name alone."""
    query = request.url.query
    return RedirectResponse(f"./?{query}" if query else "./")


def table(request: Request) -> Response:
    """One table of a view, whole, in the format asked for."""
    page, name, form = _asked(request)
    if form not in encoding.ENCODERS:
        raise NotStored(f"'{form[:20]}' is none of {', '.join(encoding.ENCODERS)}")
    query = _query(request)
    rows = _named(sources.tables_of(page, query), name)()
    media, encode = encoding.ENCODERS[form]
    origin = sources.origin(page, query, _link(request, page)) | {"table": name}
    return _file(encode(rows, origin), _file_name(request, page, name, form), media)


def everything(request: Request) -> Response:
    """Every table of a view in one JSON document; one that the view does not have is left out, with the reason."""
    page, query = request.path_params["page"], _query(request)
    found, missing = {}, {}
    for name, look_up in _known(sources.tables_of(page, query)).items():
        try:
            rows = look_up()
        except NotStored as error:
            missing[name] = str(error)
        else:
            found[name] = lambda rows=rows: rows
    origin = sources.origin(page, query, _link(request, page)) | {"missing_tables": missing}
    return _file(encoding.json_tables(found, origin), _file_name(request, page, "", "json"), "application/json")


def figure(request: Request) -> Response:
    """One figure at publication size."""
    page, name, form = _asked(request)
    if form not in _MEDIA_OF_FIGURE:
        raise NotStored(f"'{form[:20]}' is none of {', '.join(_MEDIA_OF_FIGURE)}")
    query = _query(request)
    width = query.pop("width", ["3.5"])
    if len(width) != 1 or width[0] not in WIDTHS:
        raise BadReference("The figure's width is not offered", expected=f"One of {', '.join(WIDTHS)} inches")
    chromium = drawing.found(handles.settings().chromium)
    inches = WIDTHS[width[0]]
    drawn = printed(_named(sources.figures_of(page, query), name)(), inches)
    text = to_html(drawn, form, papers.title(page, query), inches)
    origin = sources.origin(page, query, _link(request, page)) | {"figure": name}
    data = drawing.draw(text, form, chromium, inches=inches, about=encoding.json_of(origin))
    return _file(iter([data]), _file_name(request, page, f"{name}-{width[0]}in", form), _MEDIA_OF_FIGURE[form])


def report(request: Request) -> Response:
    """A pair as one file that opens without a network."""
    query = _query(request)
    text = papers.report(query, sources.origin("pair", query, _link(request, "pair")))
    return _file(iter([text.encode()]), _file_name(request, "pair", "report", "html"), "text/html; charset=utf-8")


def share(request: Request) -> Response:
    """The page that says what is behind a link, to people and to programs that show a preview of it."""
    page, query = request.path_params["page"], _query(request)
    address = str(request.url.replace(path=request.url.path.replace("/share/", "/preview/") + ".png"))
    text = sharing.html_of(page, query, picture=address, own=str(request.url))
    return Response(text, media_type="text/html; charset=utf-8", headers={**_OWN, "Cache-Control": "no-cache"})


def preview(request: Request) -> Response:
    """The picture of a share page."""
    data = sharing.picture_of(request.path_params["page"], _query(request))
    return Response(data, media_type="image/png", headers={**_OWN, "Cache-Control": "private, max-age=300"})


def _endpoint(answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    """The answer, found in a thread; a refusal becomes plain text."""

    async def endpoint(request: Request) -> Response:
        try:
            return await run_in_threadpool(answer, request)
        except SubnetscopeError as error:
            status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
            return PlainTextResponse(str(error), status, headers=_OWN)
        except Exception:
            log.exception("%s failed", request.url.path)
            return PlainTextResponse("Something unforeseen went wrong; the server's log has it.", 500, headers=_OWN)

    return endpoint


def _query(request: Request) -> dict[str, list[str]]:
    return {name: request.query_params.getlist(name) for name in request.query_params}


def _asked(request: Request) -> tuple[str, str, str]:
    return request.path_params["page"], request.path_params["name"], request.path_params["form"]


def _named(functions: dict[str, Any], name: str) -> Any:
    found = _known(functions).get(name)
    if found is None:
        raise NotStored(f"'{name[:60]}' is none of {', '.join(functions)}")
    return found


def _known(functions: dict[str, Any]) -> dict[str, Any]:
    if not functions:
        raise NotStored("This page has nothing of this kind to take away")
    return functions


def _file(pieces: Iterator[bytes], name: str, media: str) -> Response:
    headers = {**_OWN, "Content-Disposition": f'attachment; filename="{name}"', "X-Content-Type-Options": "nosniff"}
    return StreamingResponse(pieces, media_type=media, headers=headers)


def _file_name(request: Request, page: str, name: str, form: str) -> str:
    """'subnetscope-tuned-vs-base-layers-cells.csv', of letters that any file system takes."""
    query = _query(request)
    models = [_short(text) for side in ("tuned", "base") for text in query.get(side, ())]
    whom = f"{'-'.join(models[:-1])}-vs-{models[-1]}" if len(models) > 1 else ""
    words = "-".join(filter(None, ("subnetscope", whom[:120], page, name)))
    return re.sub(r"[^A-Za-z0-9._-]+", "_", f"{words}.{form}")


def _short(text: str) -> str:
    pinned: PinnedModel = links.pinned(text)
    return f"{pinned.title.rpartition('/')[2]}@{pinned.short_commit}".replace("@", "-")


def _link(request: Request, page: str) -> str:
    """The address of the view itself, as its page has it."""
    query = {name: values for name, values in _query(request).items() if name != "width"}
    root = re.split(r"/(?:take|figure|report|share|preview)/", request.url.path)[0]
    asked = "&".join(f"{quote(n)}={quote(v, safe='/@:')}" for n, values in query.items() for v in values)
    return f"{request.url.scheme}://{request.url.netloc}{root}/{page}" + (f"?{asked}" if asked else "")
