"""Regions and block maps from packed masks: what counting entry by entry with numpy gives, for two to twelve masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.measurements import MOST_MODELS
from analysis.regions import count_blocks, count_regions
from cache.masks import CHUNK_BYTES, read_mask, write_mask

KEY = "0123456789abcdef"


def random_bits(entries: int, share: float, seed: int = 0) -> np.ndarray:
    """(entries,) booleans, about `share` of them set."""
    return np.random.default_rng(seed).random(entries) < share


def chunks_of(changed: np.ndarray, size: int = CHUNK_BYTES) -> Iterator[np.ndarray]:
    packed = np.packbits(changed, bitorder="little")
    return (packed[start : start + size] for start in range(0, len(packed), size))


def naive_regions(masks: list[np.ndarray]) -> list[int]:
    """Entry by entry: the bits of the masks that have it, read as a number."""
    index = sum(mask.astype(int) << i for i, mask in enumerate(masks))
    return np.bincount(index, minlength=2 ** len(masks)).tolist()


def test_two_masks_of_four_entries_by_hand():
    first, second = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    neither, only_first, only_second, both = count_regions([chunks_of(first), chunks_of(second)], 4)
    assert (neither, only_first, only_second, both) == (1, 1, 1, 1)


@pytest.mark.parametrize("k", range(1, MOST_MODELS + 1))
@pytest.mark.parametrize("entries", [1, 63, 300_001])
def test_regions_are_what_counting_entry_by_entry_gives(k: int, entries: int):
    masks = [random_bits(entries, 0.07 * (i + 1), seed=i) for i in range(k)]
    regions = count_regions([chunks_of(mask) for mask in masks], entries)
    assert regions.tolist() == naive_regions(masks)
    assert regions.dtype == np.int64


masks_of_entries = st.integers(2, MOST_MODELS).flatmap(
    lambda k: st.lists(st.lists(st.booleans(), min_size=k, max_size=k), min_size=1, max_size=200)
)


@settings(max_examples=60, deadline=None)
@given(masks_of_entries, st.sampled_from([1, 2, 5, 64]))
def test_regions_hold_for_any_masks_cut_anyhow(entries_by_mask: list[list[bool]], size: int):
    masks = list(np.array(entries_by_mask).T)
    regions = count_regions([chunks_of(mask, size) for mask in masks], len(entries_by_mask))
    assert regions.tolist() == naive_regions(masks)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, MOST_MODELS), st.randoms())
def test_the_order_of_the_masks_only_moves_bits(k: int, random):
    masks = [random_bits(5000, 0.3, seed=i) for i in range(k)]
    order = random.sample(range(k), k)
    straight = count_regions([chunks_of(mask) for mask in masks], 5000)
    shuffled = count_regions([chunks_of(masks[i]) for i in order], 5000)
    for subset in range(0, 1 << k, max(1, (1 << k) // 64)):
        same = sum(1 << new for new, old in enumerate(order) if subset >> old & 1)
        assert shuffled[same] == straight[subset]


def test_regions_straight_from_files(tmp_path: Path):
    masks = [random_bits(8 * CHUNK_BYTES + 99, share, seed=i) for i, share in enumerate((0.1, 0.4))]
    files = [
        write_mask(tmp_path, KEY, str(i), "exact", np.packbits(mask, bitorder="little"), len(mask))
        for i, mask in enumerate(masks)
    ]
    regions = count_regions([read_mask(tmp_path, file) for file in files], files[0].entries)
    assert regions.tolist() == naive_regions(masks)


@pytest.mark.parametrize("k", [2, 9])
def test_masks_of_other_lengths_are_refused(k: int):
    with pytest.raises(ValueError, match="no mask of 17 entries"):
        count_regions([chunks_of(np.ones(16, bool)) for _ in range(k)], 17)
    short, long = np.ones(8, bool), np.ones(16, bool)
    with pytest.raises(ValueError, match="zip"):
        count_regions([chunks_of(long, size=1), *(chunks_of(short, size=1) for _ in range(k - 1))], 16)
    with pytest.raises(ValueError, match="different lengths"):
        count_regions([chunks_of(long), *(chunks_of(short) for _ in range(k - 1))], 16)


@pytest.mark.parametrize("k", [0, MOST_MODELS + 1])
def test_more_masks_than_can_be_counted_are_refused(k: int):
    with pytest.raises(ValueError, match="at most 12"):
        count_regions([chunks_of(np.ones(8, bool)) for _ in range(k)], 8)


@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (128, 128), (130, 300), (257, 7)], ids=str)
@pytest.mark.parametrize("k", [2, 9])
def test_blocks_are_numpys(rows: int, columns: int, k: int):
    masks = [random_bits(rows * columns, 0.1 * (i + 1), seed=i) for i in range(k)]
    n_set = sum(mask.astype(int) for mask in masks).reshape(rows, columns)
    down, across = -(-rows // 128), -(-columns // 128)

    found = count_blocks([chunks_of(mask, size=100) for mask in masks], rows, columns)

    for row in range(found.shape[0]):
        for column in range(found.shape[1]):
            block = n_set[row * down : (row + 1) * down, column * across : (column + 1) * across]
            assert found[row, column].tolist() == np.bincount(block.ravel(), minlength=k + 1).tolist()
    assert max(found.shape[:2]) <= 128
