"""A Hub on 127.0.0.1 that the real huggingface_hub talks to: its API, its headers, its errors, and faults on demand.

with LoopbackHub() as hub:
    commit = hub.add("org/model", {"config.json": b"{}", "model.safetensors": ...})
    hub.fail(Status(path="/api/", status=503, times=2))
    ... HfApi(endpoint=hub.url).model_info("org/model") ...
    hub.requests  # what was asked
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Self, TypeVar
from urllib.parse import unquote

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.hub.faults import (
    Cut,
    Fault,
    FlippedBit,
    Headers,
    Latency,
    NoRanges,
    Redirect,
    Stall,
    Status,
    Trickle,
    Truncated,
    Withheld,
)
from tests.hub.repositories import Blob, Repository

TOKEN = "hf_loopbackReaderToken"  # may read private and gated repositories
_AnyFault = TypeVar("_AnyFault", bound=Fault)


@dataclass(frozen=True)
class Asked:
    """One request, as the Hub saw it."""

    method: str
    path: str
    range: str
    authorization: str
    at: float  # monotonic


class LoopbackHub:
    """The server, in a thread of its own, from `with` to the end of the block or until `stop()`."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Asked] = []
        self.faults: list[Fault] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(_application(self), log_level="critical", lifespan="off", ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def add(
        self,
        name: str,
        files: Mapping[str, bytes],
        *,
        card: str = "",
        branch: str = "main",
        private: bool = False,
        gated: bool = False,
        disabled: bool = False,
    ) -> str:
        """The commit that now holds `files`; a second call for the same name is a further commit. `card` is the YAML
        to stand on top of a README.md."""
        repository = self.repositories.setdefault(name, Repository(name))
        repository.private, repository.gated, repository.disabled = private, gated, disabled
        readme = {"README.md": f"---\n{card}\n---\n# A model\n".encode()} if card else {}
        return repository.commit({**files, **readme}, branch)

    def tag(self, name: str, tag: str, commit: str) -> None:
        self.repositories[name].commit_of_name[tag] = commit
        self.repositories[name].tags.add(tag)

    def fail(self, fault: _AnyFault) -> _AnyFault:
        """From now on this fault happens; several at once do too."""
        self.faults.append(fault)
        return fault

    def heal(self) -> None:
        self.faults.clear()

    def clear(self) -> None:
        """As new: no repositories, no faults, nothing asked."""
        for memory in (self.repositories, self.requests, self.faults):
            memory.clear()

    def asked(self, path: str = "", method: str = "") -> list[Asked]:
        """The requests so far whose path holds this regular expression."""
        return [seen for seen in self.requests if re.search(path, seen.path) and method in ("", seen.method)]

    def start(self) -> Self:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def stop(self) -> None:
        """Unreachable from now on."""
        self._server.force_exit = self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def struck(self, kind: type[_AnyFault], request: Request) -> _AnyFault | None:
        """The fault of this kind that happens to the request, if any."""
        path = request.url.path
        return next((f for f in self.faults if isinstance(f, kind) and f.meets(request.method, path)), None)


_Handler = Callable[["LoopbackHub", Request], Awaitable[Response]]


def _application(hub: LoopbackHub) -> Starlette:
    """Longer addresses first: what stands behind a repository's name looks like a name itself."""

    def route(path: str, handler: _Handler, method: str = "GET") -> Route:
        async def endpoint(request: Request) -> Response:
            return await _answer(hub, request, handler)

        return Route(path, endpoint, methods=[method])

    model = "/api/models/{org}/{name}"
    return Starlette(
        routes=[
            route(model + "/revision/{revision:path}", _info),
            route(model + "/tree/{revision:path}", _tree),
            route(model + "/paths-info/{revision:path}", _paths, "POST"),
            route(model + "/refs", _refs),
            route(model, _info),
            route("/{org}/{name}/resolve/{revision}/{file:path}", _file),
        ]
    )


async def _answer(hub: LoopbackHub, request: Request, handler: _Handler) -> Response:
    asked = Asked(
        request.method,
        request.url.path,
        request.headers.get("range", ""),
        request.headers.get("authorization", ""),
        time.monotonic(),
    )
    hub.requests.append(asked)
    if late := hub.struck(Latency, request):
        await asyncio.sleep(late.seconds)
    if failed := hub.struck(Status, request):
        extra = {"Retry-After": failed.retry_after} if failed.retry_after else {}
        return Response(failed.text, failed.status, {"Content-Type": "text/plain", **extra})
    if moved := hub.struck(Redirect, request):
        return RedirectResponse(moved.to, 307)
    refused = _refusal(hub, request, needs_grant=handler is _file)
    response = refused if refused else await handler(hub, request)
    if changed := hub.struck(Headers, request):
        for name, value in changed.values:
            response.headers[name] = value
    return response


def _error(status: int, code: str, message: str = "<img src=x onerror=alert(1)>") -> Response:
    headers = {"X-Error-Code": code} if code else {}
    return JSONResponse({"error": message}, status, {**headers, "X-Error-Message": message})


def _refusal(hub: LoopbackHub, request: Request, *, needs_grant: bool) -> Response | None:
    """Why the request is not answered, as the Hub says it."""
    repository = hub.repositories.get(_name(request))
    authorization = request.headers.get("authorization", "")
    if authorization not in ("", f"Bearer {TOKEN}"):
        return _error(401, "", "Invalid credentials in Authorization header")
    if repository is None or (repository.private and not authorization):
        return _error(404 if authorization else 401, "RepoNotFound", "Invalid username or password.")
    if repository.disabled:
        return _error(403, "", "Access to this resource is disabled.")
    if repository.gated and needs_grant and not authorization:
        return _error(403, "GatedRepo", "<img src=x> Access to this model is restricted")
    if _commit(hub, request) is None:
        return _error(404, "RevisionNotFound", "Invalid rev id")
    return None


def _name(request: Request) -> str:
    return f"{request.path_params['org']}/{request.path_params['name']}"


def _commit(hub: LoopbackHub, request: Request) -> str | None:
    return hub.repositories[_name(request)].resolve(unquote(request.path_params.get("revision", "main")))


async def _info(hub: LoopbackHub, request: Request) -> Response:
    repository = hub.repositories[_name(request)]
    return JSONResponse(repository.info(str(_commit(hub, request)), blobs="blobs" in request.query_params))


async def _tree(hub: LoopbackHub, request: Request) -> Response:
    return JSONResponse(hub.repositories[_name(request)].tree(str(_commit(hub, request))))


async def _paths(hub: LoopbackHub, request: Request) -> Response:
    body = await request.json()
    entries = hub.repositories[_name(request)].tree(str(_commit(hub, request)))
    return JSONResponse([entry for entry in entries if entry["path"] in body["paths"]])


async def _refs(hub: LoopbackHub, request: Request) -> Response:
    repository = hub.repositories[_name(request)]
    refs: dict[str, list[dict[str, str]]] = {"branches": [], "tags": [], "converts": []}
    for name, commit in repository.commit_of_name.items():
        kind, path = ("tags", "tags") if name in repository.tags else ("branches", "heads")
        refs[kind].append({"name": name, "ref": f"refs/{path}/{name}", "targetCommit": commit})
    return JSONResponse(refs)


async def _file(hub: LoopbackHub, request: Request) -> Response:
    commit = str(_commit(hub, request))
    blob = hub.repositories[_name(request)].files_of_commit[commit].get(request.path_params["file"])
    if blob is None:
        return _error(404, "EntryNotFound", "Entry not found")
    content = _damaged(hub, request, blob)
    asked = "" if hub.struck(NoRanges, request) else request.headers.get("range", "")
    begin, end = _range(asked, len(content))
    headers = {
        "X-Repo-Commit": commit,
        "ETag": f'"{blob.etag}"',
        "Accept-Ranges": "bytes",
        "Content-Length": str(end - begin),
        "Content-Type": "application/octet-stream",
    }
    if blob.is_large:
        headers |= {"X-Linked-Size": str(len(blob.content)), "X-Linked-Etag": f'"{blob.etag}"'}
    if asked:
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(content)}"
    if request.method == "HEAD":
        return Response(headers=headers)
    status = 206 if asked else 200
    return StreamingResponse(_body(hub, request, content[begin:end], len(content) - end), status, headers)


def _damaged(hub: LoopbackHub, request: Request, blob: Blob) -> bytes:
    """The content, unless a fault strikes the GET."""
    if request.method != "GET":
        return blob.content
    content = blob.content  # gigabytes, in a benchmark: not copied without need
    if flipped := hub.struck(FlippedBit, request):
        at = flipped.at % len(content)
        content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    if short := hub.struck(Truncated, request):
        content = content[: -short.by]
    return content


def _range(header: str, size: int) -> tuple[int, int]:
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", header)
    if not asked:
        return 0, size
    return int(asked[1]), min(size, int(asked[2]) + 1) if asked[2] else size


async def _body(hub: LoopbackHub, request: Request, content: bytes, after: int) -> AsyncIterator[bytes]:
    """The range's bytes, `after` which the file goes on."""
    if slow := hub.struck(Trickle, request):
        for begin in range(len(content)):
            await asyncio.sleep(slow.seconds)
            yield content[begin : begin + 1]
        return
    if stall := hub.struck(Stall, request):
        yield content[: stall.after]
        await asyncio.sleep(stall.seconds)
        content = content[stall.after :]
    if (withheld := hub.struck(Withheld, request)) and withheld.last > after:
        yield content[: max(0, len(content) + after - withheld.last)]
        raise ConnectionResetError("cut on demand")
    if cut := hub.struck(Cut, request):
        yield content[: cut.after]
        raise ConnectionResetError("cut on demand")
    for begin in range(0, len(content), 1 << 20):
        yield content[begin : begin + (1 << 20)]
