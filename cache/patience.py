"""How long the Hub is waited for: every delay of ours in one value, which a test shortens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """Seconds, if not said otherwise. A question is tried once more than there are pauses; bytes that arrive in
    earnest (`progress` of them) start the count anew."""

    pauses: tuple[float, ...]  # after a lost connection, a body that ends early or crawls, and 500 to 504
    busy_pauses: tuple[float, ...]  # after 429 where the Hub names no time
    obeyed: float  # the longest Retry-After that is slept through; for a longer one the job gives its place up
    later: tuple[float, ...] = (60.0, 300.0, 900.0)  # after all tries: when a job is taken up again; then it fails
    silence: float = 10.0  # a connection on which nothing comes for so long is lost
    slow_for: float = 60.0  # one on which less than `slow_bytes` a second come for so long is cut
    slow_bytes: int = 10_000
    progress: int = 65_536  # bytes


BRISK = Patience(pauses=(0.3, 1.0), busy_pauses=(0.3, 1.0), obeyed=5.0)  # somebody waits for the answer
PATIENT = Patience(pauses=(1, 2, 4, 8), busy_pauses=(1, 2, 4, 8, 16, 32, 60), obeyed=300.0)  # jobs
