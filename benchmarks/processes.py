"""What a command and all the processes that it starts cost: seconds, seconds of the CPU, memory at its highest.

Read from /proc, so on Linux alone. Resident memory has the pages of mapped files in it, and pages that two processes
share twice; anonymous memory is what no file backs, which nobody but the process can give back.
"""

from __future__ import annotations

import resource
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BETWEEN_LOOKS = 0.05  # seconds
_CHILD = "cache.backends."


@dataclass
class Peaks:
    """The most memory seen so far, in MB, by process name; of all at one time; and what of that was anonymous."""

    parent: str = "parent"  # its name
    of_process: dict[str, int] = field(default_factory=dict)
    together: int = 0
    anonymous: int = 0

    def look(self, pid: int) -> None:
        """At a process and all below it."""
        resident = anonymous = 0
        for process in (pid, *descendants(pid)):
            try:
                name, status = _name(process) or self.parent, _status(process)
                now, peak, own = (status[key] for key in ("VmRSS", "VmHWM", "RssAnon"))
            except (OSError, KeyError):
                continue  # it has ended meanwhile
            self.of_process[name] = max(self.of_process.get(name, 0), peak)
            resident, anonymous = resident + now, anonymous + own
        self.together, self.anonymous = max(self.together, resident), max(self.anonymous, anonymous)


@dataclass(frozen=True)
class Cost:
    """What one command took from its start to its end; `work` in seconds of the CPU, of all its processes."""

    seconds: float
    work: float
    peaks: Peaks
    output: str


def run(
    command: Sequence[str], folder: Path, environ: Mapping[str, str], *, also: Callable[[], None] = lambda: None
) -> Cost:
    """Runs it in `folder` to its end. `also` is called at each look at its memory. SystemExit, with what it wrote,
    where the command fails; the seconds of the CPU are right while no other child of this process ends."""
    before, began = _used(), time.monotonic()
    process = subprocess.Popen(
        command, cwd=folder, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    peaks, over = Peaks(), threading.Event()

    def watch() -> None:
        while not over.is_set():
            peaks.look(process.pid)
            also()
            over.wait(BETWEEN_LOOKS)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    output, _ = process.communicate()
    seconds = time.monotonic() - began
    over.set()
    watching.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{output}")
    return Cost(seconds, _used() - before, peaks, output)


def descendants(pid: int) -> list[int]:
    """All processes below this one; one that ends meanwhile is left out, with its own."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        found += [entry for child in children for entry in (child, *descendants(child))]
    return found


def peak_memory(pid: int) -> int:
    """The highest resident memory of one process so far, in MB."""
    return _status(pid)["VmHWM"]


def _name(pid: int) -> str | None:
    """The backend that a child of ours runs."""
    command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return next((part.removeprefix(_CHILD) for part in command if part.startswith(_CHILD)), None)


def _status(pid: int) -> dict[str, int]:
    """Memory by /proc's own names, in MB of 1,000,000 bytes."""
    lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return {words[0].rstrip(":"): int(words[1]) * 1024 // 10**6 for words in lines if words[-1:] == ["kB"]}


def _used() -> float:
    """Seconds of the CPU of all children of this process that have ended, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
