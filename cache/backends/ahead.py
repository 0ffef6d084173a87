"""A measuring child that is started before there is anything to ask of it.

Its libraries take longer to load than looking up the models and finding their files, so both happen at once.
"""

from __future__ import annotations

import threading

from cache.backends.child import Child

MEASURE = "cache.backends.measure"


class Ahead:
    """At most one such child. It waits in 200 MB of memory: begun only where a job is as good as certain to follow."""

    def __init__(self) -> None:
        self._child: Child | None = None
        self._lock = threading.Lock()

    def begin(self) -> None:
        with self._lock:
            self._child = self._child or Child(MEASURE, None, network=False)

    def take(self) -> Child | None:
        """The child, if there is one; it is the caller's then."""
        with self._lock:
            child, self._child = self._child, None
            return child

    def end(self) -> None:
        """Ends what nobody took."""
        if child := self.take():
            child.kill()
            child.close()
