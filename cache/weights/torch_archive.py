"""A file of `torch.save`, as a table of tensors and of where their bytes lie in it.

Since PyTorch 1.6 such a file is a zip archive that is not compressed: one entry holds a pickle with names, types,
shapes and storages, each other entry the numbers of one storage. So once the table is known, a tensor is read like one
of a safetensors file. The pickle is not unpickled; see `pickle_table`.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from analysis.errors import BadWeights
from analysis.tensors import NO_PARAMETER, TensorInfo
from cache.weights.pickle_table import PickledTensor, read_table
from cache.weights.safetensors_header import BITS_OF_DTYPE, MAX_HEADER_BYTES, MAX_TENSORS, refuse_other_kinds

_READ_AT_LEAST = 100_000  # a request to the Hub costs as much as these
_MAX_AT_ONCE = 50_000_000
_LOCAL_HEADER = 30  # bytes before an entry's name
_ALIGNMENT = 64
_DESCRIPTORS = (16, 24, 0)  # bytes that may stand between an entry's data and the next entry
ALIAS = f"the same numbers as another tensor of its file; {NO_PARAMETER}"
_DO = "Convert the model to safetensors: load it and save it anew"

ReadRange = Callable[[str, int, int], bytes]


def parse_archive(file: str, size: int, read: ReadRange) -> list[TensorInfo]:
    """The tensors of one file, from its directory and its pickle alone. A tensor that names the same bytes as an
    earlier one is set aside; one whose entries do not lie in order is marked as unread. Raises BadWeights."""
    start = read(file, 0, min(size, 64))
    if not start.startswith(b"PK\x03\x04"):
        if not start.startswith(b"\x80"):
            refuse_other_kinds(start, file)
        raise _bad(file, "it has the form of before PyTorch 1.6, or is none of PyTorch's")
    entries = _Entries(file, size, read)
    pickle = entries.content("data.pkl", limit=MAX_HEADER_BYTES)
    if "byteorder" in entries and entries.content("byteorder", limit=100) != b"little":
        raise _bad(file, "its numbers are stored with the most significant byte first")
    table = read_table(pickle, file)
    if len(table) > MAX_TENSORS:
        raise _bad(file, f"it holds {len(table):,} tensors, more than the {MAX_TENSORS:,} that are read")
    return _without_aliases([_info(name, tensor, entries, file) for name, tensor in table.items()])


def _info(name: str, tensor: PickledTensor, entries: _Entries, file: str) -> TensorInfo:
    bits = BITS_OF_DTYPE.get(tensor.dtype, 128)  # C128 is the only one that safetensors has no name for
    begin, end = entries.bytes_of(f"data/{tensor.storage.key}")
    first, n_bytes = begin + tensor.offset * bits // 8, math.prod(tensor.shape) * bits // 8
    if not _lies_in_order(tensor):
        unread = f"its entries do not lie in order in '{file}' (strides {list(tensor.strides)})"
        return TensorInfo(name, tensor.dtype, tensor.shape, file, begin, end, unread=unread)
    if first + n_bytes > end:
        raise _bad(file, f"{name[:120]!a} reaches beyond its storage")
    return TensorInfo(name, tensor.dtype, tensor.shape, file, first, first + n_bytes)


def _lies_in_order(tensor: PickledTensor) -> bool:
    expected = 1
    for side, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if side != 1 and stride != expected:
            return math.prod(tensor.shape) == 0
        expected *= side
    return True


def _without_aliases(tensors: Sequence[TensorInfo]) -> list[TensorInfo]:
    seen: set[tuple[int, int]] = set()
    kept = []
    for tensor in tensors:
        place = tensor.begin, tensor.end
        is_alias = place in seen and not tensor.unread and tensor.parameters > 0
        seen.add(place)
        kept.append(
            TensorInfo(tensor.name, tensor.dtype, tensor.shape, tensor.file, *place, aside=ALIAS)
            if is_alias
            else tensor
        )
    return kept


class _Entries:
    """The archive's entries by the name inside its one folder, and where their bytes lie."""

    def __init__(self, file: str, size: int, read: ReadRange) -> None:
        self._file, self._size, self._read = file, size, read
        try:
            with zipfile.ZipFile(_Range(file, size, read)) as archive:
                found, end = archive.infolist(), archive.start_dir
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, UnicodeDecodeError) as error:
            raise _bad(file, "its directory is damaged, or it was cut off") from error
        roots = {entry.filename.partition("/")[0] for entry in found}
        if len(roots) != 1 or len({entry.filename for entry in found}) < len(found):
            raise _bad(file, "it is a zip file, and none of PyTorch's")
        found.sort(key=lambda entry: entry.header_offset)
        borders = [*(entry.header_offset for entry in found), end]
        self._next_of: Mapping[str, int] = {
            entry.filename: after for entry, (_, after) in zip(found, pairwise(borders), strict=True)
        }
        self._entry_of = {entry.filename.partition("/")[2]: entry for entry in found}

    def __contains__(self, name: str) -> bool:
        return name in self._entry_of

    def content(self, name: str, *, limit: int) -> bytes:
        begin, end = self.bytes_of(name)
        if end - begin > limit:
            raise _bad(self._file, f"its '{name}' holds {end - begin:,} bytes, more than the {limit:,} that are read")
        return self._read(self._file, begin, end)

    def bytes_of(self, name: str) -> tuple[int, int]:
        """(first byte, one past the last) of an entry's data."""
        entry = self._entry_of.get(name)
        if entry is None:
            raise _bad(self._file, f"'{name[:80]}' is missing in it")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.compress_size != entry.file_size:
            raise _bad(self._file, "it is compressed or encrypted")
        begin = self._begin(entry)
        if begin + entry.file_size > self._next_of[entry.filename]:
            raise _bad(self._file, f"'{name[:80]}' reaches into the next entry")
        return begin, begin + entry.file_size

    def _begin(self, entry: zipfile.ZipInfo) -> int:
        """Where the data begin. The directory does not say; but PyTorch begins them at a multiple of 64, and what
        stands behind them has one of few lengths. Otherwise the entry's own header tells, at the cost of a read."""
        least = entry.header_offset + _LOCAL_HEADER + len(entry.filename.encode())
        ends = [self._next_of[entry.filename] - length for length in _DESCRIPTORS]
        begins = [end - entry.file_size for end in ends]
        fitting = [begin for begin in begins if begin >= least and begin % _ALIGNMENT == 0]
        if len(fitting) == 1:
            return fitting[0]
        header = self._read(self._file, entry.header_offset, entry.header_offset + _LOCAL_HEADER)
        name, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
        return entry.header_offset + _LOCAL_HEADER + name + extra


class _Range(io.RawIOBase):
    """A file that is read by ranges, as `zipfile` wants one; it reads the end and the directory, no more."""

    def __init__(self, file: str, size: int, read: ReadRange) -> None:
        self._file, self._size, self._read, self._at = file, size, read, 0
        self._kept_from = max(0, size - _READ_AT_LEAST)
        self._kept = read(file, self._kept_from, size)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset
        if at < 0:
            raise ValueError("before the file's start")
        self._at = at
        return at

    def read(self, count: int = -1) -> bytes:
        begin = min(self._at, self._size)
        end = self._size if count < 0 else min(begin + count, self._size)
        if end - begin > _MAX_AT_ONCE:
            raise ValueError("a directory that large is not read")
        self._at = end
        if begin >= self._kept_from:
            return self._kept[begin - self._kept_from : end - self._kept_from]
        return self._read(self._file, begin, end)


def _bad(file: str, reason: str) -> BadWeights:
    return BadWeights(f"'{file[:200]}' is not read: {reason}", expected="Only files of torch.save are read", do=_DO)
