"""Packed masks of k models -> how many entries each subset of the models, and no other, changed.

Compiled, and each bit is read once. Up to eight masks are intersected, 64 entries in a word, and the intersections
counted by popcount. Of more there would be too many intersections: there each entry's k bits are brought together as
one code, and codes are counted. Knows nothing about files; memory is k chunks and two small blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, no_type_check

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from analysis.bits import Bits, words
from analysis.compiled import compiled
from analysis.measurements import MAX_DENSITY_SIDE, MOST_MODELS

_BY_POPCOUNT = 8  # models; from the next on codes are faster (benchmarks/overlaps.py)
_STRETCH = 512  # words of one intersection; 32 intersections of eight masks fit into the second-level cache
_CODED_BYTES = 4096  # of each mask at a time, spread: eight times that in codes


def count_regions(masks: Sequence[Iterable[Bits]], entries: int) -> NDArray[np.int64]:
    """(2 ** k,): entries by exactly which of the k masks have them set; index s has bit i for mask i.

    Masks arrive as chunks of packed bits, entry i in bit i % 8 of byte i // 8, all cut alike. Raises ValueError where
    they are not `entries` bits, or of different lengths."""
    k = len(masks)
    if not 1 <= k <= MOST_MODELS:
        raise ValueError(f"{k} masks: at least 1 and at most {MOST_MODELS} are counted together")
    counts, n_read = np.zeros(1 << max(k, 3), np.int64), 0
    for chunks in _in_step(masks):
        n_read += len(chunks[0])
        (_count_intersections if k <= _BY_POPCOUNT else _count_codes)(chunks, counts)
    if n_read != -(-entries // 8):
        raise ValueError(f"{n_read} bytes are no mask of {entries} entries")
    if k <= _BY_POPCOUNT:
        counts[1 << k :] = 0
        _take_off_supersets(counts)
    counts[0] = entries - counts[1:].sum()
    return counts[: 1 << k]


def count_blocks(masks: Sequence[Iterable[Bits]], rows: int, columns: int) -> NDArray[np.int64]:
    """(map rows, map columns, k + 1): entries of each block of a (rows, columns) matrix by how many of the k masks have
    them set. Blocks are those of a Tally's density: ceil(rows / 128) x ceil(columns / 128) entries."""
    row_step, column_step = -(-rows // MAX_DENSITY_SIDE), -(-columns // MAX_DENSITY_SIDE)
    found = np.zeros((-(-rows // row_step), -(-columns // column_step), len(masks) + 1), np.int64)
    n_read = 0
    for chunks in _in_step(masks):
        for codes in _coded(chunks):
            _add_blocks(*codes, 8 * n_read, rows * columns, columns, row_step, column_step, found)
            n_read += len(codes[0]) // 8
    if n_read != -(-rows * columns // 8):
        raise ValueError(f"{n_read} bytes are no mask of {rows * columns} entries")
    return found


def _in_step(masks: Sequence[Iterable[Bits]]) -> Iterator[tuple[Bits, ...]]:
    """The same stretch of every mask, one after the other."""
    for chunks in zip(*masks, strict=True):
        if len({len(chunk) for chunk in chunks}) > 1:
            raise ValueError("the masks are of different lengths")
        yield chunks


def _count_intersections(chunks: Sequence[Bits], together: NDArray[np.int64]) -> None:
    """Adds to together[s], for each subset s but the empty one, the bits that all its masks share; what it adds beyond
    the subsets of these masks means nothing."""
    present = [words(chunk) for chunk in chunks]
    absent = [present[0]] * (_BY_POPCOUNT - len(present))
    shared = np.full((len(together) // 8, _STRETCH), -1, np.int64).view(np.uint64)
    _intersect(*present, *absent, shared, together)


def _take_off_supersets(counts: NDArray[np.int64]) -> None:
    """Entries that all masks of a subset share -> those that exactly these masks have, in place."""
    regions = counts.reshape((2,) * (len(counts).bit_length() - 1))
    for axis in range(regions.ndim):
        halves = np.moveaxis(regions, axis, 0)  # without this mask, with it
        halves[0] -= halves[1]


def _count_codes(chunks: Sequence[Bits], counts: NDArray[np.int64]) -> None:
    for codes in _coded(chunks):
        _add_codes(*codes, counts)


def _coded(chunks: Sequence[Bits]) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """(low, high) of each block: the low and the high eight bits of every entry's code. Overwritten by the next."""
    room = np.zeros((2, _CODED_BYTES), np.uint64)
    for start in range(0, len(chunks[0]), _CODED_BYTES):
        blocks = [chunk[start : start + _CODED_BYTES] for chunk in chunks]
        halves = room[0, : len(blocks[0])], room[1, : len(blocks[0])]
        for position, block in enumerate(blocks):
            _spread(block, position % 8, halves[position // 8])
        yield halves[0].view(np.uint8), halves[1].view(np.uint8)


@intrinsic
def _popcount(_context: Any, _word: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@no_type_check
@compiled()
def _intersect(one, two, three, four, five, six, seven, eight, shared, together):
    """The first three masks' seven intersections, within each intersection of the others (`shared`, by subset)."""
    for start in range(0, len(one), _STRETCH):
        n = min(_STRETCH, len(one) - start)
        first, second, third = one[start : start + n], two[start : start + n], three[start : start + n]
        for others in range(len(shared)):
            within = shared[others]
            if others:
                last = others & -others  # the one that is not in `wider`
                mask = four if last == 1 else five if last == 2 else six if last == 4 else seven if last == 8 else eight
                wider, mask = shared[others & (others - 1)], mask[start : start + n]
                for j in range(n):
                    within[j] = wider[j] & mask[j]
            a = b = c = ab = ac = bc = abc = none = np.uint64(0)
            for j in range(n):
                w = within[j]
                x, y, z = first[j] & w, second[j] & w, third[j] & w
                none += _popcount(w)
                a += _popcount(x)
                b += _popcount(y)
                c += _popcount(z)
                ab += _popcount(x & y)
                ac += _popcount(x & z)
                bc += _popcount(y & z)
                abc += _popcount(x & y & z)
            at = others * 8
            together[at] += np.int64(none)
            together[at + 1] += np.int64(a)
            together[at + 2] += np.int64(b)
            together[at + 3] += np.int64(ab)
            together[at + 4] += np.int64(c)
            together[at + 5] += np.int64(ac)
            together[at + 6] += np.int64(bc)
            together[at + 7] += np.int64(abc)


@no_type_check
@compiled()
def _spread(mask, position, codes):
    """Sets bit `position` of the eight codes in each word from the eight bits of each byte of the mask.

    A byte is copied into all eight bytes of a word, each keeps its own bit, and any bit becomes a one. The first mask
    overwrites what was there before."""
    shift = np.uint64(position)
    keep = np.uint64(0xFFFFFFFFFFFFFFFF) if position else np.uint64(0)
    for i in range(len(mask)):
        own = (np.uint64(mask[i]) * np.uint64(0x0101010101010101)) & np.uint64(0x8040201008040201)
        ones = ((own + np.uint64(0x7F7F7F7F7F7F7F7F)) >> np.uint64(7)) & np.uint64(0x0101010101010101)
        codes[i] = (codes[i] & keep) | (ones << shift)


@no_type_check
@compiled()
def _add_codes(low, high, counts):
    """Counts codes. Neighbours go to different tables, since most codes are the same, and adding twice to one place
    waits for the first."""
    tables = np.zeros((4, len(counts)), np.uint32)
    for i in range(0, len(low), 4):
        for j in range(4):
            tables[j, np.int64(low[i + j]) | (np.int64(high[i + j]) << 8)] += np.uint32(1)
    for j in range(4):
        for s in range(len(counts)):
            counts[s] += tables[j, s]


@no_type_check
@compiled()
def _add_blocks(low, high, first, entries, columns, row_step, column_step, found):
    """Counts the entries from `first` on by their block and the number of bits in their code."""
    row, column = first // columns, first % columns
    for i in range(min(len(low), entries - first)):
        n_set = _popcount(np.uint64(low[i]) | (np.uint64(high[i]) << np.uint64(8)))
        found[row // row_step, column // column_step, n_set] += 1
        column += 1
        if column == columns:
            row, column = row + 1, 0
