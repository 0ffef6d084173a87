"""Which commit of Subnetscope itself is running: what git says of this folder, or what the image was built with."""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@cache
def commit() -> str:
    """40 hex digits, with '-dirty' behind them where files were changed since; '' where nobody knows."""
    built = os.environ.get("SUBNETSCOPE_COMMIT", "").strip()
    if re.fullmatch(r"[0-9a-f]{40}(-dirty)?", built):
        return built
    if Path(_git("rev-parse", "--show-toplevel") or "/nowhere").resolve() != ROOT:
        return ""  # inside somebody else's repository
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(*words: str) -> str:
    try:
        ended = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return ended.stdout.strip()
