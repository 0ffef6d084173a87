"""Packed update masks on disk: one bit an entry, set where the update changed it. Kept outside the database.

    <masks_dir>/<pair key>/<digest of the tensor's name>.<rule>.mask

A file is a row of independent zstandard frames of 4 MiB of bits each, so that it streams in bounded memory; how hard
one is compressed depends on how dense it is, and a reader need not know. Entry i is bit i % 8 of byte i // 8; the last
byte's spare bits are 0. The name is a digest because a tensor's name is a visitor's text, and the same for each
writing, so that a repeated measurement replaces the file and leaves no orphan.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import zstandard
from numpy.typing import NDArray

from analysis.bits import Bits, words
from analysis.errors import DiskFull, MasksMissing, ResourceError
from analysis.measurements import MaskRule

CHUNK_BYTES = 4 * 1024**2  # bits of one frame, before compression
_BLOCK_BYTES = 32 * 1024  # of a mask, while it is counted: what it is held against stays in the cache
_DENSE = 0.19  # share of set bits, from which on the best code of independent entries saves less than 30 %
_LEFTOVER_SECONDS = 3600
_MANY_FILES = 8  # each waits for the disk's journal, if synced by itself
_PAIR_KEY = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class MaskFile:
    """One stored mask. `bytes` is the file's size; `sha256` is of the bits, whatever compressed them."""

    rule: MaskRule
    path: str  # relative to the masks folder
    entries: int
    changed: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Unsettled:
    """A mask that is written whole beside its place, and neither synced nor there yet."""

    mask: MaskFile
    beside: Path
    place: Path


def write_mask(
    masks_dir: Path, pair_key: str, tensor_name: str, rule: MaskRule, packed: Bits, entries: int
) -> MaskFile:
    """The file that now holds `packed`, whole or not at all: `begin_mask` and `settle` in one."""
    begun = begin_mask(masks_dir, pair_key, tensor_name, rule, packed, entries)
    settle([begun])
    return begun.mask


def begin_mask(
    masks_dir: Path, pair_key: str, tensor_name: str, rule: MaskRule, packed: Bits, entries: int
) -> Unsettled:
    """`packed` compressed and written beside its place; it counts for nothing until `settle`.

    Raises DiskFull, or ResourceError where the folder can't be written; ValueError where `packed` is not `entries`
    bits or has spare bits set."""
    bits = np.ascontiguousarray(packed, dtype=np.uint8).reshape(-1)
    if len(bits) != n_bytes(entries) or (entries % 8 and bits[-1] >> entries % 8):
        raise ValueError(f"{len(bits)} bytes are no mask of {entries} entries")
    digest = hashlib.sha256(tensor_name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    path = f"{pair_key}/{digest}.{rule}.mask"
    place = masks_dir / path
    beside = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    with _disk_faults(len(bits)):
        size, changed, sha256 = _write_whole(beside, bits)
    return Unsettled(MaskFile(rule, path, entries, changed, size, sha256), beside, place)


def settle(begun: Sequence[Unsettled]) -> None:
    """Syncs these files, many of them in one go, then moves each to its place. Raises as `begin_mask` does; what had
    not moved by then is removed.

    The folder itself is not synced: a name lost with the power is found missing when the mask is read, and measured
    again."""
    try:
        with _disk_faults(sum(each.mask.bytes for each in begun)):
            _sync([each.beside for each in begun])
            for each in begun:
                each.beside.replace(each.place)
    finally:
        for each in begun:
            each.beside.unlink(missing_ok=True)


@contextmanager
def _disk_faults(needed: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else ResourceError
        raise kind(
            f"An update mask could not be written ({error.strerror})",
            expected=f"Room for {needed:,} bytes at most, in a folder that may be written",
            do="Free some disk, or lower SUBNETSCOPE_MASK_QUOTA, and start the job again",
        ) from error


def read_mask(masks_dir: Path, mask: MaskFile) -> Iterator[Bits]:
    """The mask's bits in chunks of CHUNK_BYTES, the last one shorter; marks the pair's masks as used.

    Raises MasksMissing where the file is gone or damaged. Damage within a frame shows at that frame, a file that is
    whole but another one only after the last chunk: use no result before the iterator has ended."""
    path = masks_dir / mask.path
    try:
        with path.open("rb") as file:
            os.utime(path.parent)
            yield from _checked_chunks(file, mask)
    except (OSError, zstandard.ZstdError) as error:
        raise _missing("is gone" if isinstance(error, FileNotFoundError) else "is damaged", mask) from error


def count_steps(
    from_base: Sequence[Iterable[Bits]], moved: Sequence[Iterable[Bits]], last: Iterable[Bits], entries: int
) -> NDArray[np.int64]:
    """(5, k): changed, moved, changed outside the last, moved outside the last, union so far, by checkpoint.

    `from_base[t]` is checkpoint t's mask against the base, `moved[t]` against the one before; `last` is from_base[-1]
    once more. One mask is read at a time, so memory is two bits an entry however many there are."""
    whole, union = _read_whole(last, entries), np.zeros(n_bytes(entries), np.uint8)
    counts = np.zeros((5, len(from_base)), np.int64)
    for step, (changed, stepped) in enumerate(zip(from_base, moved, strict=True)):
        for begin, chunk in _blocks(changed, entries):
            seen = union[begin : begin + len(chunk)]
            seen |= chunk
            counts[0, step] += _count_block(chunk)
            counts[2, step] += _count_block(chunk & ~whole[begin : begin + len(chunk)])
            counts[4, step] += _count_block(seen)
        for begin, chunk in _blocks(stepped, entries):
            counts[1, step] += _count_block(chunk)
            counts[3, step] += _count_block(chunk & ~whole[begin : begin + len(chunk)])
    return counts


def enforce_quota(masks_dir: Path, quota: int, in_use: Iterable[str] = ()) -> list[str]:
    """Keys of the pairs whose masks were removed, least recently used first, until at most `quota` bytes are left.

    Pairs `in_use` stay whatever they take. The caller then has the store forget the removed pairs' masks."""
    if not masks_dir.is_dir():
        return []
    _sweep_leftovers(masks_dir)
    folders = [folder for folder in masks_dir.iterdir() if _is_ours(folder)]
    bytes_of_folder = {folder: sum(_size_and_age(file)[0] for file in folder.iterdir()) for folder in folders}
    total, removed = sum(bytes_of_folder.values()), []
    for folder in sorted(
        set(folders) - {masks_dir / key for key in in_use}, key=lambda folder: folder.stat().st_mtime_ns
    ):
        if total <= quota:
            break
        _remove_whole(folder)
        total -= bytes_of_folder[folder]
        removed.append(folder.name)
    return removed


def _is_ours(folder: Path) -> bool:
    """A pair's folder that holds masks and nothing else: whatever somebody else put here is never removed."""
    return bool(_PAIR_KEY.fullmatch(folder.name)) and folder.is_dir() and all(map(_is_mask, folder.iterdir()))


def _is_mask(file: Path) -> bool:
    return file.is_file() and (file.suffix == ".mask" or file.name.endswith(".tmp"))


def n_bytes(entries: int) -> int:
    """Bytes of a packed mask of so many entries."""
    return -(-entries // 8)


def _write_whole(beside: Path, bits: Bits) -> tuple[int, int, str]:
    """The size of the file, how many bits are set, and their SHA-256; nothing is left of the file where it could not be
    written."""
    changed, digest = 0, hashlib.sha256()
    try:
        with _created(beside) as file:
            for start in range(0, len(bits), CHUNK_BYTES):
                chunk = bits[start : start + CHUNK_BYTES]
                n_set = _count_block(chunk)
                changed += n_set
                digest.update(chunk.data)
                file.write(_compressor.of_share(n_set / (8 * len(chunk))).compress(chunk.data))
            return file.tell(), changed, digest.hexdigest()
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _created(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")


class _Compressors(threading.local):
    """Each thread's own: a new one costs more than compressing a small mask."""

    def __init__(self) -> None:
        # Bits of independent entries repeat nothing that a search could find, so nearly all is won by coding bytes:
        # a small table for the search is faster, and loses nothing.
        coding = zstandard.ZstdCompressionParameters(
            strategy=zstandard.STRATEGY_FAST, window_log=17, hash_log=6, min_match=7, write_checksum=True
        )
        self._coding = zstandard.ZstdCompressor(compression_params=coding)
        self._repeating = zstandard.ZstdCompressor(level=-1, write_checksum=True)

    def of_share(self, share: float) -> zstandard.ZstdCompressor:
        """For bits of which this share is set: where coding would hardly pay, what is left out is repetition alone."""
        return self._repeating if _DENSE <= share <= 1 - _DENSE else self._coding


_compressor = _Compressors()


def _sync(files: Sequence[Path]) -> None:
    """On the disk: one file after the other, or many at the cost of one, by having the file system write out all it
    holds (where the system has a call for that)."""
    if len(files) >= _MANY_FILES and _sync_whole_disk(files[0].parent):
        return
    for path in files:
        _at_descriptor(path, os.fsync)


def _sync_whole_disk(folder: Path) -> bool:
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        return False

    def sync(descriptor: int) -> None:
        if syncfs(descriptor):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    _at_descriptor(folder, sync)
    return True


def _at_descriptor(path: Path, act: Callable[[int], None]) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        act(descriptor)
    finally:
        os.close(descriptor)


def _checked_chunks(file: BinaryIO, mask: MaskFile) -> Iterator[Bits]:
    left, digest = n_bytes(mask.entries), hashlib.sha256()
    with zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as stream:
        while left:
            chunk = np.empty(min(left, CHUNK_BYTES), dtype=np.uint8)
            _fill(stream, chunk, mask)
            digest.update(chunk.data)
            left -= len(chunk)
            yield chunk
        if stream.read(1) or digest.hexdigest() != mask.sha256:
            raise _missing("holds other bits than were recorded", mask)


def _fill(stream: zstandard.ZstdDecompressionReader, chunk: Bits, mask: MaskFile) -> None:
    filled = 0
    while filled < len(chunk):
        n_read = stream.readinto(chunk[filled:].data)
        if not n_read:
            raise _missing("is cut short", mask)
        filled += n_read


def _missing(what: str, mask: MaskFile) -> MasksMissing:
    return MasksMissing(
        f"A stored update mask {what} ({mask.path})",
        do="Measure the pair again; its masks are written anew",
    )


def _read_whole(mask: Iterable[Bits], entries: int) -> Bits:
    whole = np.zeros(n_bytes(entries), np.uint8)
    for begin, block in _blocks(mask, entries):
        whole[begin : begin + len(block)] = block
    return whole


def _blocks(mask: Iterable[Bits], entries: int) -> Iterator[tuple[int, Bits]]:
    """The mask in blocks that stay in the cache, each with the byte that it begins at. Raises ValueError where it has
    another length than a mask of `entries`."""
    begin = 0
    for chunk in mask:
        for start in range(0, len(chunk), _BLOCK_BYTES):
            if begin + start + len(chunk[start : start + _BLOCK_BYTES]) > n_bytes(entries):
                raise ValueError(f"more bytes than a mask of {entries} entries has")
            yield begin + start, chunk[start : start + _BLOCK_BYTES]
        begin += len(chunk)
    if begin != n_bytes(entries):
        raise ValueError(f"{begin} bytes are no mask of {entries} entries")


def _count_block(bits: Bits) -> int:
    return int(np.bitwise_count(words(bits)).sum(dtype=np.int64))


def _remove_whole(folder: Path) -> None:
    """Renamed first: a pair's masks are all there or all gone, also when this process is killed half way."""
    leaving = folder.with_name(f".{folder.name}.{os.getpid()}.leaving")
    folder.rename(leaving)
    shutil.rmtree(leaving, ignore_errors=True)


def _sweep_leftovers(masks_dir: Path) -> None:
    """Removes what killed processes left: folders on their way out, and unfinished files nobody writes any more."""
    for leaving in masks_dir.glob(".*.leaving"):
        shutil.rmtree(leaving, ignore_errors=True)
    for unfinished in masks_dir.glob(f"{'[0-9a-f]' * 16}/.*.mask.*.tmp"):
        if _size_and_age(unfinished)[1] > _LEFTOVER_SECONDS:
            unfinished.unlink(missing_ok=True)


def _size_and_age(file: Path) -> tuple[int, float]:
    """Bytes, and seconds since it was written; of a file that a writer renamed just now, (0, 0)."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return 0, 0.0
    return status.st_size, time.time() - status.st_mtime
