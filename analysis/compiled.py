"""Compiled functions, kept between runs for as long as nothing that they were compiled from has changed.

numba by itself looks at the file of a function alone, and would go on using machine code of functions, instructions and
constants that this file takes from others and that have changed since. So the stamp that it keeps is here a digest of
all files that compiled code can come from; tests/analysis/test_compiled.py holds that there are no others.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from numba import config, njit
from numba.core.caching import InTreeCacheLocator, UserProvidedCacheLocator, UserWideCacheLocator

_HERE = Path(__file__).resolve().parent
_CONSTANTS = ("measurements.py", "lapack.py", "bits.py", "elementwise/block.py")  # what else their files import
_MARK = re.compile(rb"^@compiled|numba", re.MULTILINE)
SUMS = {"reassoc", "contract", "nsz"}  # liberties for sums of floats; no infinity or nan is assumed away


@cache
def stamp() -> bytes:
    """A digest of every file that compiled code can come from."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(path.read_bytes())
    return digest.digest()


def sources() -> list[Path]:
    """The files of `analysis` that compile, and those with the constants of these."""
    compiling = {path for path in _HERE.rglob("*.py") if _MARK.search(path.read_bytes())}
    return sorted(compiling | {_HERE / name for name in _CONSTANTS})


class _Stamped:
    def get_source_stamp(self) -> bytes:
        return stamp()


class WhereAsked(_Stamped, UserProvidedCacheLocator):
    """In NUMBA_CACHE_DIR."""


class BesideSource(_Stamped, InTreeCacheLocator):
    """In __pycache__, where that can be written to."""


class OfUser(_Stamped, UserWideCacheLocator):
    """In the user's cache folder."""


_PLACES = ",".join(f"{__name__}.{where.__name__}" for where in (WhereAsked, BesideSource, OfUser))
vars(config)["CACHE_LOCATOR_CLASSES"] = _PLACES  # as by the variable of this name, which numba has read already

compiled: Callable[..., Any] = partial(njit, cache=True, nogil=True, error_model="numpy")
