"""A child process that does one piece of work: a request goes in on its standard input, messages come out, one a line.

The same file holds both ends. The parent may say more while the child works: further lines on the standard input,
which the child reads with `heard`. A child dies with its parent: the kernel is asked to see to it where it can, and
everywhere the end of the standard input, which the parent holds open, is the signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.errors import SubnetscopeError, WorkerDied, error_from_dict
from cache.backends.wire import from_line, to_line

ROOT = Path(__file__).resolve().parents[2]

Send = Callable[[Mapping[str, Any]], None]
Work = Callable[[dict[str, Any], Send], None]

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_KEPT_OF_ERRORS = 8_000  # bytes
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")


class Child:
    """A running child. Iterate over `messages()`; `kill()` ends it at once, from any thread. `request` None: it loads
    its libraries, and waits for what it is told first. `pass_fds`: descriptors that it gets beside its standard ones,
    under the same numbers."""

    def __init__(
        self, module: str, request: Mapping[str, Any] | None, *, network: bool, pass_fds: Sequence[int] = ()
    ) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the child)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_environment(network),
            start_new_session=True,
            pass_fds=pass_fds,
        )
        self.module = module
        self._to_say = [to_line(request)] if request is not None else []
        self._is_heard, self._saying = False, threading.Lock()

    def messages(self) -> Generator[dict[str, Any], None, None]:
        """What the child says, until it is done. Raises its error where it reports one, WorkerDied where it ends
        without a word."""
        assert self._process.stdout is not None
        finished = False
        try:
            self._say()
            for line in self._process.stdout:
                if not line.endswith(b"\n"):
                    break  # cut off in the middle of a message
                message = from_line(line)
                if message.get("event") == "failed":
                    raise error_from_dict(message["error"])
                if message.get("event") == "done":
                    finished = True
                    break
                yield message
        except BrokenPipeError:
            pass
        finally:
            self.close()
        if not finished:
            raise _died(self.module, self._process.returncode)

    def tell(self, message: Mapping[str, Any]) -> None:
        """Says something more, from any thread; before `messages()` it waits for its turn. A child that is gone does
        not hear it."""
        with self._saying:
            self._to_say.append(to_line(message))
        if self._is_heard:
            with contextlib.suppress(BrokenPipeError):
                self._say()

    def _say(self) -> None:
        with self._saying:
            self._is_heard = True
            stdin = self._process.stdin
            if stdin is None or stdin.closed:
                return
            while self._to_say:
                stdin.write(self._to_say.pop(0))
            stdin.flush()

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """Ends the child, which has nothing left to say, and waits for it."""
        with self._saying:
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log_errors()

    def _log_errors(self) -> None:
        """What the child wrote to its standard error, at its end, if there was a fault."""
        if self._errors.closed:
            return
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - _KEPT_OF_ERRORS))
        said = self._errors.read().decode(errors="replace").strip()
        self._errors.close()
        if said and ("Traceback" in said or self._process.returncode not in (0, -signal.SIGKILL)):
            log.error("%s (exit code %s) said:\n%s", self.module, self._process.returncode, said)

    @property
    def pid(self) -> int:
        return self._process.pid


def serve(work: Work, *, meanwhile: Callable[[], None] | None = None) -> None:
    """The child's side: reads the request, does `work`, reports 'done' or 'failed'. Ends the process. `meanwhile` is
    begun in a thread before there is a request, and ends before `work` begins: what nearly every request will need."""
    _die_with_parent()
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not break the protocol
    lock = threading.Lock()

    def send(message: Mapping[str, Any]) -> None:
        with lock:
            out.write(to_line(message))
            out.flush()

    loading = threading.Thread(target=meanwhile or (lambda: None), name="meanwhile", daemon=True)
    loading.start()
    request = from_line(sys.stdin.buffer.readline())
    threading.Thread(target=_hear_until_end_of_input, daemon=True).start()
    loading.join()  # two threads that import one library (numba) can each wait for a module that the other has begun
    try:
        work(request, send)
    except SubnetscopeError as error:
        send({"event": "failed", "error": error.as_dict()})
    except Exception as error:
        # Our own fault: the log gets all of it, the reader its kind. Not its text, which may hold an address.
        traceback.print_exc()
        saw = f"Something unforeseen went wrong ({type(error).__name__})"
        send({"event": "failed", "error": SubnetscopeError(saw, do="The log has the details").as_dict()})
    else:
        send({"event": "done"})
    sys.stderr.flush()
    os._exit(0)  # nothing is left to say, and the thread above still waits


_inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()


def heard(*, wait: bool) -> dict[str, Any] | None:
    """The child's side: what the parent said after its request, line by line; None where it has said nothing more."""
    try:
        return _inbox.get(block=wait)
    except queue.Empty:
        return None


def nudge() -> None:
    """Has whoever waits in `heard` get a message of our own, {"event": "nudge"}; from any thread."""
    _inbox.put({"event": "nudge"})


def _hear_until_end_of_input() -> None:
    while (line := sys.stdin.buffer.readline()).endswith(b"\n"):
        _inbox.put(from_line(line))
    os._exit(0)  # the parent is gone, or has heard enough


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _environment(network: bool) -> dict[str, str]:
    """The parent's environment; without the Hub's token for a child that has no business on the network. Products of
    matrices take one thread each, where it says nothing else: matrices are measured side by side, and threads of one
    product that wait for each other on busy cores take ten times as long."""
    kept = {name: value for name, value in os.environ.items() if network or name not in _SECRETS}
    return {"OPENBLAS_NUM_THREADS": "1"} | kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def _died(module: str, code: int | None) -> WorkerDied:
    cause = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    do = "Start the job again: what was measured is kept"
    if code == -signal.SIGKILL:
        do += ". If it happens again, the machine may be short of memory: lower SUBNETSCOPE_MEMORY"
    return WorkerDied(f"The process {module.rpartition('.')[2]} ended before its work was done ({cause})", do=do)
