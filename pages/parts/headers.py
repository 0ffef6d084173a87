"""Headers on every answer. For security: the browser loads nothing from elsewhere, and runs only Streamlit's own
scripts. For speed: a page that draws charts names Streamlit's largest script at once, which the browser would otherwise
ask for only when it has read the others, opened the socket and got its first chart."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pages.parts import frontend

_PAGES_OF_SCRIPT = {
    frontend.CHARTS: ("pair", "layers", "matrix", "spectra", "overlap", "dynamics"),
    "DataFrame": ("", "compare", "library", "gallery"),
}


class SecurityHeaders:
    """ASGI middleware; leaves websockets and what an inner route has set alone."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _headers().items():
                    headers.setdefault(name, value)
                if headers.get("content-type", "").startswith("text/html"):
                    folder, _, page = scope["path"].rpartition("/")
                    is_page = not folder.endswith("/share")  # what a link shows to those who have no browser
                    for script in _scripts_of_page().get(page, ()) if is_page else ():
                        headers.append("Link", f"<./static/js/{script}>; rel=modulepreload")
            await send(message)

        await self._app(scope, receive, send_with_headers)


@cache
def _scripts_of_page() -> dict[str, list[str]]:
    """The scripts that the installed Streamlit draws a page's charts or tables with; none where it names them anew."""
    found: dict[str, list[str]] = {}
    for name, pages in _PAGES_OF_SCRIPT.items():
        for page in pages:
            found[page] = sorted(path.name for path in (frontend.STATIC / "static" / "js").glob(f"{name}.*.js"))
    return found


@cache
def _headers() -> dict[str, str]:
    return {
        "Content-Security-Policy": "; ".join(
            (
                "default-src 'self'",
                f"script-src 'self' {' '.join(_inline_script_hashes())}",
                "style-src 'self' 'unsafe-inline'",
                "img-src 'self' data: blob:",
                "font-src 'self' data:",
                "connect-src 'self'",
                "worker-src 'self' blob:",
                "object-src 'none'",
                "base-uri 'self'",
                "form-action 'self'",
                "frame-ancestors 'none'",
            )
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    }


def _inline_script_hashes() -> list[str]:
    """CSP sources for the inline scripts of the page: the installed Streamlit's own and the one before it."""
    scripts = re.findall(r"<script(?![^>]*\bsrc=)[^>]*>(.*?)</script>", frontend.html(), flags=re.DOTALL)
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    return [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
