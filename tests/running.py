"""What tests ask of jobs at work and of processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from cache.jobs import Jobs


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def child_of(jobs: Jobs, job_id: str, module: str = "measure") -> int | None:
    """The process id of the job's child that runs this backend."""
    children = jobs._job_of_id[job_id].children
    return next((child.pid for child in children if child.module == f"cache.backends.{module}"), None)


def children_of(pid: int) -> list[str]:
    """Of all its threads."""
    return [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
