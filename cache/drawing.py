"""Pictures for paper: a page of ours, drawn by the machine's own Chromium in a child process of its own.

One at a time, within a time limit, in an empty folder that is removed with everything in it, without the environment's
secrets, and without a network.
"""

from __future__ import annotations

import base64
import contextlib
import html
import logging
import os
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
import zlib
from pathlib import Path
from urllib.parse import unquote

from analysis.errors import NoChromium, ResourceError
from analysis.figures.printed import DPI

log = logging.getLogger(__name__)

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 60.0  # for one picture; a busy machine needs ten
SECONDS_WAITED = 60.0  # for the pictures before it

_FLAGS = (
    "--headless",
    "--no-sandbox",  # containers have no user namespaces; what is drawn is our own page, with the network off
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-breakpad",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--virtual-time-budget=20000",
    "--run-all-compositor-stages-before-draw",
    "--no-pdf-header-footer",
)
_OUT = re.compile(r'<pre id="out">(.*?)</pre>', re.DOTALL)
_one_at_a_time = threading.Lock()


def found(setting: str) -> Path | None:
    """The Chromium to draw with: the one that the setting names, or the first on the path; None where there is none or
    the setting is 'off'."""
    if setting == "off":
        return None
    paths = (shutil.which(name) for name in ([setting] if setting else NAMES))
    return next((Path(path) for path in paths if path), None)


def draw(
    page: str, form: str, chromium: Path | None, *, inches: float = 3.5, about: str = "", seconds: float = SECONDS
) -> bytes:
    """The page's figure, of this width, as 'pdf', 'png' or 'svg'; `about` goes into PNG and SVG as text.
    Raises NoChromium, or ResourceError where none can draw it in time."""
    if chromium is None:
        raise NoChromium("This server has no Chromium to draw figures with", do=_INSTALL)
    if not _one_at_a_time.acquire(timeout=SECONDS_WAITED):
        raise ResourceError("Other figures are being drawn", do="Try again in a minute")
    try:
        with tempfile.TemporaryDirectory(prefix="subnetscope-figure-", ignore_cleanup_errors=True) as folder:
            return _drawn(page, form, chromium, Path(folder), inches, about, seconds)
    finally:
        _one_at_a_time.release()


_INSTALL = "Install chromium, or name one with SUBNETSCOPE_CHROMIUM; the camera above each chart saves SVG without it"


def _drawn(page: str, form: str, chromium: Path, folder: Path, inches: float, about: str, seconds: float) -> bytes:
    source, target = folder / "figure.html", folder / "figure.pdf"
    source.write_text(page, encoding="utf-8")
    what = f"--print-to-pdf={target}" if form == "pdf" else "--dump-dom"
    command = [str(chromium), *_FLAGS, f"--user-data-dir={folder / 'profile'}", what, source.as_uri()]
    said = _run(command, folder, seconds)
    if form == "pdf":
        if not target.is_file():
            raise _failed()
        return target.read_bytes()
    written = _OUT.search(said.decode("utf-8", "replace"))
    address = html.unescape(written[1]) if written else ""
    head, _, body = address.partition(",")
    if not head.startswith(f"data:image/{form}"):
        log.error("a figure was not drawn: %s", address[:300])
        raise _failed()
    return _png(base64.b64decode(body), about) if form == "png" else _svg(unquote(body), inches, about)


def _run(command: list[str], folder: Path, seconds: float) -> bytes:
    environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8"}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired as error:
        raise ResourceError(f"The figure was not drawn within {seconds:.0f} seconds", do="Try again") from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its helpers too
        process.communicate()


def _failed() -> ResourceError:
    return ResourceError("Chromium ended without the figure", do="Try again; the server's log has more")


def _png(data: bytes, about: str) -> bytes:
    """With its resolution, so that it comes out at its width in inches, and `about` as its description."""
    per_metre = round(DPI / 0.0254)
    text = b"Description\0\0\0\0\0" + about.encode()
    chunks = _chunk(b"pHYs", struct.pack(">IIB", per_metre, per_metre, 1)) + _chunk(b"iTXt", text)
    after_header = 8 + 25  # signature, IHDR
    return data[:after_header] + chunks + data[after_header:]


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _svg(text: str, inches: float, about: str) -> bytes:
    """With its size in inches, and `about` as its metadata."""
    sized = re.sub(
        r'(<svg[^>]*?)width="(\d+)" height="(\d+)"',
        lambda m: f'{m[1]}width="{inches}in" height="{int(m[3]) * inches / int(m[2]):.4f}in"',
        text,
        count=1,
    )
    head, mark, rest = sized.partition(">")
    return f"{head}{mark}<metadata>{html.escape(about)}</metadata>{rest}".encode()
