"""The devices that a worker measures on: which there are, how many pieces of work each takes at once, and how one that
has failed is told from work that went wrong.

CUDA promises nothing to a process in which a device has failed, also not of the other devices. So the worker says which
one it was and ends. A matrix may be to blame (solvers have been seen to fail so), so its successor measures what was
under way there on the CPU; a device that fails again is left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import traceback
from collections.abc import Callable, Set
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import numpy as np
import torch

from analysis.errors import ResourceError
from analysis.footprint import LANES_OF_A_GPU
from analysis.measure import Engine, devices, way_on
from analysis.plan import Hole, Kind
from cache.weights.passing import HasPassed

R = TypeVar("R")

log = logging.getLogger(__name__)

# How errors of a device begin, or name what they come from: torch's own, Triton's, and those of CUDA's libraries.
_OF_A_DEVICE = ("CUDA error", "Triton Error", "CUDA driver error", "NVML")
_OF_A_SOLVER = ("cusolver", "cublas", "magma")
_NO_MEMORY = ("out of memory", "ALLOC_FAILED")


class DeviceLost(Exception):
    """This device fails; whatever was asked of it may be asked of another one."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.device = device
        self.holes: tuple[Hole, ...] = ()  # that it was filling


def engines(request: dict[str, Any]) -> tuple[Engine, ...]:
    """One for each device that the request means and has not lost; the CPU's where 'auto' has none left. Raises
    ResourceError."""
    torch.set_num_threads(request["threads"])
    wanted, lost = request["device"], request["lost"]
    try:
        found = tuple(device for device in devices(wanted) if device not in lost)
    except RuntimeError as error:
        raise _absent(wanted, str(error)) from error
    if not found and wanted != "auto":
        raise _absent(wanted, f"{', '.join(lost)} failed")
    return tuple(Engine(device, request["threads"], request["memory_budget"]) for device in found or ("cpu",))


def warm_up(engine: Engine, kinds: Set[Kind]) -> None:
    """Loads what several threads may not load at once: the kernels, and torch's linear algebra for GPUs, which fails
    in the second of two threads (pytorch issue 90613)."""
    with current(engine):
        way_on(engine.kind)
        if engine.kind == "cuda" and kinds - {"tally"}:
            torch.linalg.eigvalsh(torch.eye(2, dtype=torch.float64, device=engine.device))


def _absent(wanted: str, why: str) -> ResourceError:
    return ResourceError(
        f"The device '{wanted}' was asked for: {why}",
        expected="A CUDA device of that number and a torch build for it",
        do="Choose 'auto' or 'cpu' (SUBNETSCOPE_DEVICE, or --device in the terminal)",
    )


def in_words(every: tuple[Engine, ...]) -> str:
    """'cpu', 'cuda:1' or '4 GPUs'."""
    return every[0].device if len(every) == 1 else f"{len(every)} {'GPUs' if every[0].kind == 'cuda' else 'devices'}"


def lanes(engine: Engine) -> int:
    """Pieces of work at once: as many as threads on a CPU. On a GPU a few: while one's weights are counted, another's
    are read and copied, and a third's masks are compressed."""
    return engine.threads if engine.kind == "cpu" else LANES_OF_A_GPU


def share(engine: Engine, kind: Kind) -> Engine:
    """What one lane has for such a measurement. A tally has its part of the memory; on a CPU one thread."""
    if kind != "tally":
        return engine
    threads = 1 if engine.kind == "cpu" else engine.threads
    return dataclasses.replace(engine, threads=threads, budget=max(engine.budget // lanes(engine), 1))


def current(engine: Engine) -> AbstractContextManager[Any]:
    """A context in which that GPU is this thread's: what names no device is launched and allocated there."""
    return torch.cuda.device(engine.device) if engine.kind == "cuda" else contextlib.nullcontext()


def lacks_memory(error: RuntimeError) -> bool:
    """Whether a device, or the host for what it shares with one, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _NO_MEMORY)


def is_of_solver(error: RuntimeError) -> bool:
    """Whether one of CUDA's libraries refused a matrix, which the CPU's may take."""
    return any(name in str(error).lower() for name in _OF_A_SOLVER)


def is_of_device(error: RuntimeError) -> bool:
    return isinstance(error, torch.AcceleratorError) or any(words in str(error) for words in _OF_A_DEVICE)


def survive(work: Callable[[Engine], R], engine: Engine, in_company: bool = False) -> R | str:
    """What `work` returns; on the CPU where the device's memory does not hold it, or its solver refuses it; the reason
    where that fails too. Raises MemoryError and DeviceLost, the former also where a device is crowded."""
    try:
        return attempt(lambda: work(engine), engine)
    except MemoryError:
        if engine.kind == "cpu" or in_company:
            raise
    except (torch.linalg.LinAlgError, np.linalg.LinAlgError):
        return "the singular value decomposition did not converge"
    except HasPassed:
        return "the device's memory did not hold it, and its bytes had passed: keep the files, or allow more memory"
    except RuntimeError as error:
        if engine.kind == "cpu" or not is_of_solver(error):
            raise
        log.warning("%s refused a matrix, which the CPU takes\n%s", engine.device, traceback.format_exc())
    return survive(work, dataclasses.replace(engine, device="cpu"))  # here, where no error holds the device's memory


def attempt(work: Callable[[], R], engine: Engine) -> R:
    """What `work` returns. Raises MemoryError where the device's memory or the host's does not hold it, and DeviceLost
    where the device fails."""
    try:
        with current(engine):
            return work()
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):
            raise MemoryError from error
        if engine.kind == "cpu":
            raise
        if lacks_memory(error):
            torch.cuda.empty_cache()
            raise MemoryError from error
        if is_of_device(error) and not is_of_solver(error):
            log.error("%s failed", engine.device, exc_info=True)
            raise DeviceLost(engine.device) from error
        raise
