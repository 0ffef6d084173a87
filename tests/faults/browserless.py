"""A real server, and a visitor without a browser: opens a page over the websocket and reads what it shows."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Seen:
    """What one visit showed: the texts of its messages (errors, warnings, notes) without the marks that escape
    them, and of a failed script."""

    messages: tuple[str, ...]
    exceptions: tuple[str, ...]


@dataclass(frozen=True)
class Server:
    """A running app."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def answers(self) -> bool:
        """Whether /healthz does, at once, from the process that was started."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=2) as response:
            return response.status == 200 and self.process.poll() is None

    def visit(self, **query: str) -> Seen:
        """The Compare page with this query, once it is drawn."""
        ask = BackMsg()
        ask.rerun_script.query_string = urlencode(query)
        messages: list[str] = []
        exceptions: list[str] = []
        address = f"ws://127.0.0.1:{self.port}/_stcore/stream"
        with connect(address, subprotocols=["streamlit"], max_size=2**27, open_timeout=20) as stream:  # type: ignore[list-item]
            stream.send(ask.SerializeToString())
            while True:
                told = ForwardMsg.FromString(stream.recv(timeout=60))
                if told.WhichOneof("type") == "script_finished":
                    return Seen(tuple(messages), tuple(exceptions))
                element = told.delta.new_element
                if element.HasField("alert"):
                    messages.append(re.sub(r"\\(.)", r"\1", element.alert.body))
                if element.HasField("exception"):
                    exceptions.append(element.exception.message)


@contextmanager
def running(folder: Path, roots: Path, endpoint: str) -> Iterator[Server]:
    """The app as `streamlit run app.py` starts it, on a free port, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "SUBNETSCOPE_DATA": str(folder / "data"),
        "SUBNETSCOPE_LOCAL_ROOTS": str(roots),
        "SUBNETSCOPE_DEMO": "0",
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder / "hf"),
    }
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=out, stderr=out)
        try:
            server = Server(port, process, log)
            _wait_for(server, seconds=90)
            yield server
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_for(server: Server, *, seconds: float) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            assert server.answers()
            return
        except OSError:
            if time.monotonic() > until or server.process.poll() is not None:
                raise
            time.sleep(0.2)
