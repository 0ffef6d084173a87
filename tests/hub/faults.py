"""What can go wrong between us and the Hub, as values that the loopback Hub is told to act out."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass
class Fault:
    """Something that happens to the next `times` requests whose path (and method) match; None is for ever."""

    path: str = ""  # a regular expression, searched in the address's path
    method: str = ""
    times: int | None = None

    def meets(self, method: str, path: str) -> bool:
        """Whether the fault happens now; counts down if it does."""
        if self.times == 0 or (self.method and method != self.method) or not re.search(self.path, path):
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass
class Latency(Fault):
    """The answer comes late."""

    seconds: float = 0.5


@dataclass
class Status(Fault):
    """An error instead of the answer."""

    status: int = 503
    retry_after: str = ""
    text: str = "<img src=x> https://signed.example/?X-Amz-Signature=secret"


@dataclass
class Cut(Fault):
    """The connection is lost after so many bytes of the body."""

    after: int = 100


@dataclass
class Truncated(Fault):
    """The body ends early, and the headers agree with it."""

    by: int = 1


@dataclass
class Withheld(Fault):
    """The last bytes of the file never come, whatever the headers promise; the connection is lost there."""

    last: int = 1


@dataclass
class Stall(Fault):
    """Nothing comes for a while after so many bytes of the body."""

    after: int = 100
    seconds: float = 30.0


@dataclass
class NoRanges(Fault):
    """The whole file comes, whatever range was asked for."""


@dataclass
class FlippedBit(Fault):
    """One bit of the file is wrong, its size is right. `at` counts bytes from the file's start."""

    at: int = -1


@dataclass
class Trickle(Fault):
    """The body comes a byte at a time."""

    seconds: float = 0.05


@dataclass
class Redirect(Fault):
    """The answer lies elsewhere."""

    to: str = "http://127.0.0.2:9/"


@dataclass
class Headers(Fault):
    """Headers of the answer replaced."""

    values: tuple[tuple[str, str], ...] = ()
