"""Settings: what the operator decided, read once from the environment.

A value that cannot be meant is refused by the variable's name, never replaced by a default in silence.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from analysis.errors import BadSetting
from cache.patience import BRISK, Patience

DEMO_FOLDER = Path(__file__).resolve().parent.parent / "demo"
_DEVICE = re.compile(r"auto|cpu|cuda|cuda:\d{1,2}(,cuda:\d{1,2})*")
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b)?", re.IGNORECASE)
_ENDPOINT = re.compile(r"https?://[^\s/@?#]+(?:/[^\s@?#]*)?")


@dataclass(frozen=True)
class Settings:
    """Where things lie, how much they may take, and which folders a visitor may name."""

    data_dir: Path
    mask_quota: int  # bytes
    local_roots: tuple[Path, ...]  # the demo folder is the last of them where `demo` is on
    demo: bool
    pickles: bool  # PyTorch's .bin files are read where a model has no safetensors; nothing in them is run
    device: str  # "auto", "cpu", "cuda" (all GPUs), or some of several: "cuda:1", "cuda:0,cuda:2"
    memory_budget: int  # bytes a worker may use for blocks of tensors
    endpoint: str  # without a trailing '/'
    threads: int
    memory_limit: int | None = None  # bytes that a worker may take in all; None: what the machine has
    spare_disk: int = 1_000_000_000  # bytes that a comparison leaves free
    chromium: str = ""  # to draw figures with: a path or a name, 'off', or '' for the first on the path
    store_file: Path | None = None  # where the store is not the data folder's own
    patience: Patience = BRISK  # with the Hub; jobs have more of it
    stream: bool = False  # no job keeps the files of Hub models
    hide_restricted: bool = True  # results of private and gated models are shown only while the Hub lets us read them

    @property
    def store_path(self) -> Path:
        return self.store_file or self.data_dir / "store.duckdb"

    @property
    def masks_dir(self) -> Path:
        """Beside the store, under its name: two stores never share masks, and nothing else is in it."""
        return self.store_path.with_suffix(".masks")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ, *, data_dir: Path | None = None) -> Settings:
        """The settings that `environ` holds; an unset or empty variable means its default, and `data_dir` wins over
        SUBNETSCOPE_DATA. Raises BadSetting, which names the variable. Creates nothing."""
        demo = _switch(environ, "SUBNETSCOPE_DEMO", default=True)
        return cls(
            data_dir=_absolute(data_dir or Path(_text(environ, "SUBNETSCOPE_DATA", "~/.cache/subnetscope"))),
            mask_quota=_size(environ, "SUBNETSCOPE_MASK_QUOTA", "50GB"),
            local_roots=_roots(environ, "SUBNETSCOPE_LOCAL_ROOTS", demo),
            demo=demo,
            pickles=_switch(environ, "SUBNETSCOPE_PICKLES", default=False),
            device=_device(environ, "SUBNETSCOPE_DEVICE"),
            memory_budget=_size(environ, "SUBNETSCOPE_MEMORY", "1GB", smallest=16_000_000),
            endpoint=_endpoint(environ, "HF_ENDPOINT", "https://huggingface.co"),
            threads=_threads(environ, "SUBNETSCOPE_THREADS"),
            stream=_switch(environ, "SUBNETSCOPE_STREAM", default=False),
            hide_restricted=_switch(environ, "SUBNETSCOPE_HIDE_RESTRICTED", default=True),
            memory_limit=_size(environ, "SUBNETSCOPE_MEMORY_LIMIT", "0") or None,
            spare_disk=_size(environ, "SUBNETSCOPE_SPARE_DISK", "1GB"),
            chromium=_chromium(environ, "SUBNETSCOPE_CHROMIUM"),
        )


def _text(environ: Mapping[str, str], variable: str, default: str = "") -> str:
    return environ.get(variable, "").strip() or default


def _absolute(path: Path) -> Path:
    """Links are not followed: a root keeps the name that it was given, since links to models carry it."""
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100


def _switch(environ: Mapping[str, str], variable: str, *, default: bool) -> bool:
    text = _text(environ, variable).lower()
    if text not in ("", *_YES, *_NO):
        raise _bad(variable, text, "Either 1 or 0")
    return default if not text else text in _YES


def _size(environ: Mapping[str, str], variable: str, default: str, *, smallest: int = 0) -> int:
    """Bytes: '20GB' and '20G' are 20 * 1000**3, '20GiB' is 20 * 1024**3, a bare number is bytes."""
    text = _text(environ, variable, default)
    match = _SIZE.fullmatch(text)
    if not match:
        raise _bad(variable, text, "A number of bytes, with a suffix if wanted: 500MB, 20GB, 20GiB")
    amount, prefix, binary = match.groups()
    power = "kmgt".index(prefix.lower()) + 1 if prefix else 0
    size = round(float(amount) * (1024 if binary else 1000) ** power)
    if size < smallest:
        raise _bad(variable, text, f"At least {smallest // 1_000_000}MB")
    return size


def _roots(environ: Mapping[str, str], variable: str, demo: bool) -> tuple[Path, ...]:
    """The allowed roots, real directories whose last parts differ, since './<last part>/...' names a model in them."""
    typed = [part.strip() for part in _text(environ, variable).split(os.pathsep) if part.strip()]
    roots = [_absolute(Path(part)) for part in typed]
    for root in roots:
        if not root.is_dir():
            raise _bad(variable, str(root), f"Directories that exist, separated by '{os.pathsep}'")
    if demo and DEMO_FOLDER.is_dir() and DEMO_FOLDER not in roots:
        roots.append(DEMO_FOLDER)
    names = [root.name for root in roots]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _bad(variable, twice, "Directories whose last parts differ (the demo folder counts as one of them)")
    return tuple(roots)


def _device(environ: Mapping[str, str], variable: str) -> str:
    text = _text(environ, variable, "auto").lower()
    if not _DEVICE.fullmatch(text):
        raise _bad(variable, text, "One of auto, cpu, cuda, or GPUs by number, such as cuda:1 or cuda:0,cuda:2")
    return text


def _endpoint(environ: Mapping[str, str], variable: str, default: str) -> str:
    text = _text(environ, variable, default).rstrip("/")
    if not _ENDPOINT.fullmatch(text):
        raise _bad(
            variable,
            text.rpartition("@")[2],
            "An address such as https://hub.example.org, without a password",
        )
    return text


def _threads(environ: Mapping[str, str], variable: str) -> int:
    """The cores that this process may use, unless the variable asks for another number."""
    text = _text(environ, variable, str(_usable_cores()))
    if not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise _bad(variable, text, "A whole number from 1 to 9999")
    return int(text)


def _chromium(environ: Mapping[str, str], variable: str) -> str:
    text = _text(environ, variable)
    if text not in ("", "off") and shutil.which(text) is None:
        raise _bad(variable, text, "The path of a Chromium that can be run, or 'off'")
    return text


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bad(variable: str, value: str, expected: str) -> BadSetting:
    return BadSetting(
        f"{variable} is set to '{value[:200]}'",
        expected=expected,
        do="Correct it, or unset it for the default",
    )
