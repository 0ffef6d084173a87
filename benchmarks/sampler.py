"""Looks at every thread of a process 50 times a second: what it does, and the CPU that it has used since.

`plant(folder)` makes a folder which, on PYTHONPATH, has each Python process that starts, and each that those start,
write what it did to that folder when it ends. The CPU's seconds are the kernel's own (/proc, so on Linux alone) and
exact; to what they are put down is the stack at the end of each look. Nothing of the program looked at is changed,
but for the way it starts processes and ends.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

_BETWEEN_LOOKS = 0.02  # seconds
_DEEPEST = 60  # frames of a stack
_NATIVE: tuple[CodeType, ...] = ()  # the stack of a thread that runs no Python

Stack = tuple[CodeType, ...]


def plant(folder: Path) -> str:
    """What PYTHONPATH has to be for that."""
    root = Path(__file__).resolve().parents[1]
    code = f"from benchmarks.sampler import begin\nbegin({str(folder)!r})\n"
    (folder / "sitecustomize.py").write_text(code)
    return f"{root}{os.pathsep}{folder}"


def begin(folder: str) -> None:
    """Starts to look at this process."""
    sampler = _Sampler(Path(folder))
    _have_children_looked_at(os.environ["PYTHONPATH"])
    end = os._exit

    def write_and_end(code: int) -> None:
        sampler.write()
        end(code)

    os._exit = write_and_end  # type: ignore[assignment]
    atexit.register(sampler.write)


def _have_children_looked_at(path: str) -> None:
    start = subprocess.Popen.__init__

    def with_path(self: Any, *arguments: Any, **options: Any) -> None:
        if options.get("env") is not None:
            options["env"] = {**options["env"], "PYTHONPATH": path}
        start(self, *arguments, **options)

    subprocess.Popen.__init__ = with_path  # type: ignore[method-assign]


class _Sampler:
    """For each stack seen: seconds of the CPU, seconds spent waiting for a core, by the clock, and when, from when to
    when by the clock of the machine."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._began = folder, time.time()
        self._spent: dict[Stack, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, float("inf"), 0.0])
        self._seen: dict[int, tuple[float, float]] = {}  # by thread: seconds of the CPU and of waiting for one
        self._last, self._lock, self._written = self._began, threading.Lock(), False
        self._own = 0  # the thread that looks
        threading.Thread(target=self._work, name="sampler", daemon=True).start()

    def _work(self) -> None:
        self._own = threading.get_native_id()
        while not self._written:
            time.sleep(_BETWEEN_LOOKS)
            with self._lock:
                self._look()

    def _look(self) -> None:
        now, frames = time.time(), {}
        for ident, frame in sys._current_frames().items():
            thread = threading._active.get(ident)  # type: ignore[attr-defined]
            if thread is not None and thread.native_id is not None:
                frames[thread.native_id] = frame
        for entry in os.listdir("/proc/self/task"):  # noqa: PTH208 (a path for each costs more than the look)
            if (thread_id := int(entry)) == self._own:
                continue
            try:
                with open(f"/proc/self/task/{entry}/schedstat") as file:  # noqa: PTH123
                    on, ready = (int(word) / 1e9 for word in file.read().split()[:2])
            except OSError:
                continue  # it has ended
            on_before, ready_before = self._seen.get(thread_id, (0.0, 0.0))
            self._seen[thread_id] = on, ready
            stack = _stack(frames[thread_id]) if thread_id in frames else _NATIVE
            spent = self._spent[stack]
            spent[0] += on - on_before
            spent[1] += ready - ready_before
            spent[2] += now - self._last
            if on > on_before:
                spent[3], spent[4] = min(spent[3], self._last), max(spent[4], now)
        self._last = now

    def write(self) -> None:
        """Once, whoever asks first."""
        with self._lock:
            if self._written:
                return
            self._written = True
            self._look()
            stacks = [
                {"stack": [f"{code.co_filename}:{code.co_name}" for code in stack], "spent": spent}
                for stack, spent in self._spent.items()
            ]
            found = {"process": sys.orig_argv, "began": self._began, "ended": time.time(), "stacks": stacks}
            found["cpu"] = time.process_time()
            (self._folder / f"{os.getpid()}.json").write_text(json.dumps(found))


def _stack(frame: FrameType | None) -> Stack:
    """The innermost first."""
    codes: list[CodeType] = []
    while frame is not None and len(codes) < _DEEPEST:
        codes.append(frame.f_code)
        frame = frame.f_back
    return tuple(codes)
