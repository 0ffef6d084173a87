"""Opening a file that somebody else may have put there: a regular file, below an allowed folder, or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from analysis.errors import BadWeights, PathNotAllowed


def open_regular(path: Path, below: Path) -> int:
    """A descriptor of the regular file behind `path`, which may be a link to a place below the real folder `below`.

    Raises PathNotAllowed (one text for "not there" and "not allowed"), or BadWeights for a pipe, a device or a
    folder, which are never waited for. The place is looked at again after opening, lest it was swapped meanwhile.
    """
    real = real_below(path, below)
    try:
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise not_allowed(path.name) from error
    try:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode):
            raise BadWeights(f"'{path.name}' is not a regular file", do="Replace it by the weight file itself")
        if real_below(path, below) != real or not os.path.samestat(seen, real.stat()):
            raise not_allowed(path.name)
    except OSError as error:
        os.close(descriptor)
        raise not_allowed(path.name) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def real_below(path: Path, below: Path) -> Path:
    """`path` with all links followed, of which the system allows some 40 in a row. Raises PathNotAllowed if it is not
    there, or not below `below`."""
    try:
        path.stat()
        real = Path(os.path.realpath(path, strict=True))
    except (OSError, ValueError) as error:
        raise not_allowed(path.name) from error
    if not real.is_relative_to(below):
        raise not_allowed(path.name)
    return real


def read_range(path: Path, below: Path, begin: int, end: int) -> bytes:
    """Bytes `begin` up to but without `end`, or fewer where the file ends. Raises like `open_regular`."""
    descriptor = open_regular(path, below)
    try:
        with os.fdopen(os.dup(descriptor), "rb") as file:
            file.seek(begin)
            return file.read(end - begin)
    except OSError as error:
        raise not_allowed(path.name) from error
    finally:
        os.close(descriptor)


def not_allowed(name: str) -> PathNotAllowed:
    return PathNotAllowed(
        f"'{name[:200]}' is not there, or may not be read",
        do="Name a folder below one of the allowed roots, without links that lead out of it",
    )
