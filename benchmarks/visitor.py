"""A Chromium that is not watched while a page loads, for times as a person has them.

Playwright turns on the inspector's Runtime for every page. Chromium then wants the line of every call that it notes,
and for that parses a script's enclosing functions again, once for each: those of Plotly are its whole 4.7 MB, which
adds 0.3 to 0.4 s to a page that draws a chart. So here is as much of the DevTools protocol as opening pages takes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

_WINDOW = "--window-size=1440,1000"


@dataclass
class Browser:
    """One running Chromium, spoken to through its socket; `answer` of `ask` is awaited at once."""

    socket: ClientConnection
    patience: float
    _asked: int = field(default=0, init=False)

    def ask(self, method: str, session: str | None = None, /, **parameters: object) -> dict[str, Any]:
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": parameters}
        self.socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        while True:
            answer = json.loads(self.socket.recv(timeout=self.patience))
            if answer.get("id") == self._asked:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """A profile of its own that has seen nothing, by its id."""
        profile = self.ask("Target.createBrowserContext")["browserContextId"]
        yield profile
        self.ask("Target.disposeBrowserContext", browserContextId=profile)

    def times(self, profile: str, address: str, probe: str, wanted: str) -> Any:
        """What the expression `wanted` says of the page at this address, once it has a value, in a new tab that ran
        `probe` before the page's own scripts."""
        target = self.ask("Target.createTarget", url="about:blank", browserContextId=profile)["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.ask("Page.enable", session)
        self.ask("Page.addScriptToEvaluateOnNewDocument", session, source=probe)
        self.ask("Page.navigate", session, url=address)
        answer = self.ask("Runtime.evaluate", session, expression=wanted, awaitPromise=True, returnByValue=True)
        self.ask("Target.closeTarget", targetId=target)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"the page did not answer: {answer['exceptionDetails'].get('text')}")
        return answer["result"]["value"]


@contextmanager
def browser(flags: Sequence[str], patience: float = 120) -> Iterator[Browser]:
    """A headless Chromium with a profile folder that goes with it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = shutil.which("chromium")
        assert path, "no Chromium found"
        command = [path, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={folder}", _WINDOW, *flags]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with connect(_address(Path(folder) / "DevToolsActivePort"), max_size=None) as socket:
                yield Browser(socket, patience)
        finally:
            process.terminate()
            process.wait()


def _address(port_file: Path, seconds: float = 30) -> str:
    """Where the browser listens, as it says in its profile folder."""
    deadline = time.monotonic() + seconds
    while not port_file.exists() or port_file.read_text().count("\n") < 1:
        if time.monotonic() > deadline:
            raise RuntimeError("Chromium did not start")
        time.sleep(0.1)
    port, path = port_file.read_text().splitlines()[:2]
    return f"ws://127.0.0.1:{port}{path}"
