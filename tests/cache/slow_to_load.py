"""A child whose libraries take a while: it says whether they were there when its work began."""

from __future__ import annotations

import time

from cache.backends.child import serve

loaded: list[str] = []


def load() -> None:
    time.sleep(0.5)
    loaded.append("all")


if __name__ == "__main__":
    serve(lambda request, send: send({"event": "began", "loaded": list(loaded)}), meanwhile=load)
