"""Raw bytes of tensors, row by row, from files that are watched for change.

Reads with preadv into buffers of our own and never maps a file: a mapped file that shrinks kills the process, one that
is overwritten changes tensors already read. Knows nothing of numbers; the kernels' side turns bytes into values.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from analysis.errors import BadWeights, FileChanged, PathNotAllowed
from analysis.tensors import TensorInfo
from cache.regular_file import open_regular
from cache.weights import read_header

_DO = "Start the comparison again once nothing writes to that folder any more"


class FileIdentity(NamedTuple):
    """What changes when a file is replaced, cut or written to."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, seen: os.stat_result) -> FileIdentity:
        return cls(seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns)


class WeightFiles:
    """The files of one model, open for reading. Safe to read from several threads at once.

    Opening reads each header again: raises FileChanged where it no longer describes `tensors`, of which some may be
    views of what it describes.
    """

    def __init__(self, folder: Path, tensors: Iterable[TensorInfo]) -> None:
        tensors_of_file: dict[str, list[TensorInfo]] = defaultdict(list)
        for tensor in tensors:
            tensors_of_file[tensor.file].append(tensor)
        self._descriptor_of_file: dict[str, int] = {}
        self._identity_of_file: dict[str, FileIdentity] = {}
        self._folder = folder
        try:
            for file, expected in tensors_of_file.items():
                self._open(file, expected)
        except BaseException:
            self._close_all()
            raise

    def read_rows(
        self, tensor: TensorInfo, first_row: int, last_row: int, into: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """The bytes of rows `first_row` up to but without `last_row`; (bytes,) in the file's (little-endian) order.

        A tensor counts as a matrix of (product of all sides but the last, last side); a vector or a scalar is one
        row. `into`, if given, is filled from its start and the filled part returned: no new memory, which costs ten
        times the reading. Raises FileChanged where the file ends too early.
        """
        row_bytes = bytes_per_row(tensor)
        if not 0 <= first_row <= last_row <= rows(tensor):
            raise IndexError(f"rows {first_row}:{last_row} of {rows(tensor)}")
        n_bytes = (last_row - first_row) * row_bytes
        buffer = np.empty(n_bytes, dtype=np.uint8) if into is None else into[:n_bytes]
        if len(buffer) < n_bytes:
            raise ValueError(f"the buffer holds {len(buffer)} bytes, the rows {n_bytes}")
        self._fill(buffer.data, tensor.file, tensor.begin + first_row * row_bytes)
        return buffer

    def identity(self, file: str) -> FileIdentity:
        """What the file was when it was opened. Two names of one file have one identity."""
        return self._identity_of_file[file]

    def verify(self) -> None:
        """Nothing, or FileChanged if any file was replaced, cut or written to since it was opened."""
        for file, identity in self._identity_of_file.items():
            path = self._folder / file
            try:
                now = {FileIdentity.of(os.fstat(self._descriptor_of_file[file])), FileIdentity.of(path.stat())}
            except OSError as error:
                raise FileChanged(f"'{file}' was removed while it was read", do=_DO) from error
            if now != {identity}:
                raise FileChanged(f"'{file}' was changed while it was read", do=_DO)

    def close(self) -> None:
        """Check once more, then close: raises FileChanged like `verify`, with the files closed all the same."""
        try:
            self.verify()
        finally:
            self._close_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._close_all()

    def _open(self, file: str, expected: Sequence[TensorInfo]) -> None:
        try:
            descriptor = open_regular(self._folder / file, below=Path("/"))
        except PathNotAllowed as error:
            raise FileChanged(f"'{file}' was removed before it was read", do=_DO) from error
        self._descriptor_of_file[file] = descriptor
        identity = FileIdentity.of(os.fstat(descriptor))
        self._identity_of_file[file] = identity
        try:
            found = read_header(file, identity.size, self._read_range)
        except BadWeights as error:
            raise FileChanged(f"'{file}' was changed before it was read", do=_DO) from error
        stored = {tensor.name: tensor for tensor in found}
        if not all(tensor == stored.get(tensor.name) or _is_view(tensor, stored) for tensor in expected):
            raise FileChanged(f"'{file}' was changed before it was read: it holds other tensors now", do=_DO)

    def _read_range(self, file: str, begin: int, end: int) -> bytes:
        buffer = bytearray(end - begin)
        self._fill(memoryview(buffer), file, begin)
        return bytes(buffer)

    def _fill(self, buffer: memoryview, file: str, offset: int) -> None:
        descriptor, done = self._descriptor_of_file[file], 0
        while done < len(buffer):
            count = os.preadv(descriptor, [buffer[done:]], offset + done)
            if count == 0:
                raise FileChanged(f"'{file}' was cut while it was read", do=_DO)
            done += count

    def _close_all(self) -> None:
        while self._descriptor_of_file:
            os.close(self._descriptor_of_file.popitem()[1])
        self._identity_of_file.clear()


def _is_view(view: TensorInfo, stored: Mapping[str, TensorInfo]) -> bool:
    """Whether `view` is a stretch of rows of a tensor that the header holds, of its type and shape, and of one slice
    only where it has fewer sides: no matrix reaches from one expert of a stack into the next."""
    whole = stored.get(view.name)
    if whole is None or (view.stored, view.dtype, view.file) != (whole.shape, whole.dtype, whole.file):
        return False
    n_outer = len(whole.shape) - len(view.shape)
    if n_outer < 0 or not view.parameters or view.shape[1:] != whole.shape[n_outer + 1 :]:
        return False
    rows_of_slice = whole.shape[n_outer]
    n_rows = math.prod(whole.shape[: n_outer + 1])
    step = (whole.end - whole.begin) // n_rows
    first, rest = divmod(view.begin - whole.begin, step)
    inside = 0 <= first < n_rows and first % rows_of_slice + view.shape[0] <= rows_of_slice
    return inside and rest == 0 and view.end == view.begin + view.shape[0] * step


def rows(tensor: TensorInfo) -> int:
    """How many rows `read_rows` sees: the product of all sides but the last."""
    return math.prod(tensor.shape[:-1])


def bytes_per_row(tensor: TensorInfo) -> int:
    """Bytes of one row; 0 for a tensor without entries."""
    n_rows = rows(tensor)
    return (tensor.end - tensor.begin) // n_rows if n_rows else 0
