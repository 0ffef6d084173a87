"""Looking up, fetching and measuring without processes, for tests of what is measured, not of who measures it.

The children of one comparison spend three seconds of a core on loading libraries that the process of tests has loaded
long since. So threads here do what they do, all of it, and speak with the queue in the very lines that pass between
processes. What becomes of children that crash, hang or are cancelled is for tests with real ones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from queue import SimpleQueue
from typing import Any

import pytest

from analysis.errors import SubnetscopeError, error_from_dict
from cache.backends import child
from cache.backends.child import Child, Send
from cache.backends.wire import from_line, to_line

Work = Callable[[dict[str, Any], Send], None]
_MEASURE = "cache.backends.measure"
_AT_HAND = {
    _MEASURE,
    *(f"cache.backends.{name}" for name in ("checkpoints", "dynamics", "fetch", "overlap", "prepare")),
}
_one_inbox = threading.Lock()  # a process has one, for what its worker hears after its request


class AtHand:
    """What `Child` is, as far as work goes well or ends with an error of ours."""

    def __init__(self, module: str, request: Mapping[str, Any] | None) -> None:
        self.module, self.pid = module, 0
        self._told: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        if request is not None:
            self.tell(request)

    def tell(self, message: Mapping[str, Any]) -> None:
        self._told.put(from_line(to_line(message)))

    def messages(self) -> Generator[dict[str, Any], None, None]:
        self._thread.start()
        while (message := from_line(self._lines.get()))["event"] != "done":
            if message["event"] == "failed":
                raise error_from_dict(message["error"])
            yield message

    def _serve(self) -> None:
        with _one_inbox if self.module == _MEASURE else nullcontext():
            request, inbox = self._told.get(), child._inbox
            if self.module == _MEASURE:
                child._inbox = self._told
            try:
                work: Work = getattr(import_module(self.module), self.module.rpartition(".")[2])
                work(request, self._send)
            except SubnetscopeError as error:
                self._send({"event": "failed", "error": error.as_dict()})
            except Exception as error:
                self._send({"event": "failed", "error": SubnetscopeError(repr(error)).as_dict()})
            else:
                self._send({"event": "done"})
            finally:
                if self.module == _MEASURE:
                    child._inbox = inbox

    def _send(self, message: Mapping[str, Any]) -> None:
        self._lines.put(to_line(message))

    def kill(self) -> None:
        """It ends by itself, with what has arrived."""
        self.tell({"event": "all"})

    def close(self) -> None:
        if self._thread.is_alive():
            self._thread.join(timeout=60)
            assert not self._thread.is_alive()


@contextmanager
def at_hand(modules: Collection[str] = _AT_HAND) -> Iterator[None]:
    """Meanwhile jobs have no process for what these do, but where bytes pass through pipes."""

    def child_of(
        module: str, request: Mapping[str, Any] | None, *, network: bool, pass_fds: Sequence[int] = ()
    ) -> AtHand | Child:
        if module in modules and not pass_fds:
            return AtHand(module, request)
        return Child(module, request, network=network, pass_fds=pass_fds)

    with pytest.MonkeyPatch.context() as patch:
        for user in ("cache.backends.ahead", "cache.jobs", "cache.work"):
            patch.setattr(f"{user}.Child", child_of)
        patch.setattr("os.nice", lambda _: 0)  # this process is to stay as quick as it is
        yield


@pytest.fixture
def children_at_hand(request: pytest.FixtureRequest) -> Iterator[None]:
    """Jobs from files need no further process, but for those of tests that are marked with `processes`."""
    with nullcontext() if request.node.get_closest_marker("processes") else at_hand():
        yield


@pytest.fixture
def worker_at_hand(request: pytest.FixtureRequest) -> Iterator[None]:
    """The same, but only measuring has no process: looking up and fetching do."""
    with nullcontext() if request.node.get_closest_marker("processes") else at_hand({_MEASURE}):
        yield
