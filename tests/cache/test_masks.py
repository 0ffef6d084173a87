"""Masks on disk: bits come back as written or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import zstandard

from analysis.errors import MasksMissing, ResourceError
from cache.masks import CHUNK_BYTES, MaskFile, begin_mask, enforce_quota, n_bytes, read_mask, settle, write_mask

KEY = "0123456789abcdef"


def random_bits(entries: int, share: float, seed: int = 0) -> np.ndarray:
    """(entries,) booleans, about `share` of them set."""
    return np.random.default_rng(seed).random(entries) < share


def write(masks_dir: Path, changed: np.ndarray, name: str = "w", key: str = KEY) -> MaskFile:
    return write_mask(masks_dir, key, name, "exact", np.packbits(changed, bitorder="little"), len(changed))


def read(masks_dir: Path, mask: MaskFile) -> np.ndarray:
    packed = np.concatenate(list(read_mask(masks_dir, mask)))
    return np.unpackbits(packed, count=mask.entries, bitorder="little").astype(bool)


def test_nine_entries_take_two_bytes_the_first_entry_in_the_lowest_bit(tmp_path: Path):
    mask = write_mask(tmp_path, KEY, "layers.0.w", "exact", np.array([0b00000101, 0b1], np.uint8), 9)
    assert (mask.entries, mask.changed, mask.rule) == (9, 3, "exact")
    assert read(tmp_path, mask).nonzero()[0].tolist() == [0, 2, 8]
    assert mask.bytes == (tmp_path / mask.path).stat().st_size


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("entries", [1, 8, 1001, 8 * CHUNK_BYTES + 13])
def test_bits_come_back_as_they_were(tmp_path: Path, entries: int, share: float):
    changed = random_bits(entries, share)
    mask = write(tmp_path, changed)
    assert mask.changed == changed.sum()
    np.testing.assert_array_equal(read(tmp_path, mask), changed)


def frozen_in_part(entries: int) -> np.ndarray:
    """Half of the rows of 2,048 entries untouched, half of the others' entries changed."""
    changed = random_bits(entries, 0.5)
    changed.reshape(-1, 2048)[::2] = False
    return changed


@pytest.mark.parametrize(
    ("changed", "least", "most"),
    [
        (random_bits(1 << 20, 0.01), 0.08, 0.15),  # entropy 0.081
        (random_bits(1 << 20, 0.1), 0.46, 0.50),  # 0.469
        (random_bits(1 << 20, 0.2), 1.0, 1.001),  # 0.722: not coded, which is what makes it fast
        (frozen_in_part(1 << 20), 0.50, 0.55),  # a quarter set, too dense to be coded, but half of it repeats
        (np.zeros(1 << 20, bool), 0, 0.001),
    ],
    ids=["one in a hundred", "a tenth", "a fifth", "half of the rows", "none"],
)
def test_what_a_mask_takes_on_disk_per_entry(tmp_path: Path, changed: np.ndarray, least: float, most: float):
    mask = write(tmp_path, changed)
    assert least <= 8 * mask.bytes / mask.entries <= most
    np.testing.assert_array_equal(read(tmp_path, mask), changed)


@pytest.mark.parametrize("level", [1, 9, -5])
def test_a_mask_compressed_in_another_way_is_read_as_well(tmp_path: Path, level: int):
    """As those are that older versions stored, all at level 1."""
    changed = random_bits(100_000, 0.3)
    mask = write(tmp_path, changed)
    packed = np.packbits(changed, bitorder="little")
    (tmp_path / mask.path).write_bytes(zstandard.ZstdCompressor(level=level, write_checksum=True).compress(packed.data))
    np.testing.assert_array_equal(read(tmp_path, mask), changed)


def test_reading_takes_chunks_of_a_fixed_size(tmp_path: Path):
    mask = write(tmp_path, np.zeros(8 * (2 * CHUNK_BYTES + 5), bool))
    assert [len(chunk) for chunk in read_mask(tmp_path, mask)] == [CHUNK_BYTES, CHUNK_BYTES, 5]


def test_writing_again_replaces_and_leaves_one_file(tmp_path: Path):
    write(tmp_path, random_bits(100, 0.5, seed=1))
    mask = write(tmp_path, random_bits(100, 0.5, seed=2))
    assert [path.name for path in (tmp_path / KEY).iterdir()] == [Path(mask.path).name]
    np.testing.assert_array_equal(read(tmp_path, mask), random_bits(100, 0.5, seed=2))


@pytest.mark.parametrize("name", ["../../escape", "a/b", ".", "w" * 5000, "é\ud800", ""])
def test_a_tensor_name_never_becomes_a_path(tmp_path: Path, name: str):
    mask = write(tmp_path / "masks", np.ones(3, bool), name)
    assert (tmp_path / "masks" / KEY).resolve() == (tmp_path / "masks" / mask.path).resolve().parent
    assert [path.name for path in tmp_path.iterdir()] == ["masks"]


@pytest.mark.parametrize(
    ("packed", "entries"), [([0, 0], 8), ([0], 9), ([0b10000000], 7)], ids=["too long", "too short", "spare bit set"]
)
def test_bits_that_are_no_mask_of_so_many_entries_are_refused(tmp_path: Path, packed: list[int], entries: int):
    with pytest.raises(ValueError, match="no mask of"):
        write_mask(tmp_path, KEY, "w", "exact", np.array(packed, np.uint8), entries)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [cut, flip, lambda _: b"", lambda content: content + content, lambda content: b"<html>" + content],
    ids=["cut", "bit flipped", "empty", "twice", "something before"],
)
def test_damage_is_found(tmp_path: Path, damage):
    mask = write(tmp_path, random_bits(100_000, 0.3))
    path = tmp_path / mask.path
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(MasksMissing, match="update mask"):
        read(tmp_path, mask)


def test_a_whole_file_with_other_bits_is_found_too(tmp_path: Path):
    recorded = write(tmp_path, random_bits(1000, 0.3, seed=1))
    write(tmp_path, random_bits(1000, 0.3, seed=2))
    with pytest.raises(MasksMissing, match="other bits than were recorded"):
        read(tmp_path, recorded)


def test_a_mask_that_is_gone_says_what_to_do(tmp_path: Path):
    mask = write(tmp_path, np.ones(8, bool))
    (tmp_path / mask.path).unlink()
    with pytest.raises(MasksMissing, match=r"is gone.*Measure the pair again"):
        read(tmp_path, mask)


def test_a_folder_that_cannot_be_written_is_an_error_with_words(tmp_path: Path):
    (tmp_path / "masks").write_text("a file where the folder should be")
    with pytest.raises(ResourceError, match="could not be written"):
        write(tmp_path / "masks", np.ones(8, bool))


# Quota

OLDER, OLD, NEW = (digit * 16 for digit in "cba")


def pair_of_age(masks_dir: Path, key: str, age: int) -> int:
    """Writes one incompressible mask for the pair, last used `age` seconds ago; returns its size."""
    mask = write(masks_dir, random_bits(80_000, 0.5), key=key)
    now = (masks_dir / key).stat().st_mtime
    os.utime(masks_dir / key, (now - age, now - age))
    return mask.bytes


def test_whole_pairs_go_least_recently_used_first(tmp_path: Path):
    size = pair_of_age(tmp_path, OLD, 300)
    pair_of_age(tmp_path, OLDER, 400)
    pair_of_age(tmp_path, NEW, 100)
    assert enforce_quota(tmp_path, quota=2 * size) == [OLDER]
    assert enforce_quota(tmp_path, quota=2 * size) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [NEW, OLD]


def test_reading_counts_as_use(tmp_path: Path):
    size = pair_of_age(tmp_path, OLD, 300)
    pair_of_age(tmp_path, NEW, 200)
    read(tmp_path, write(tmp_path, random_bits(80_000, 0.5), key=OLD))
    assert enforce_quota(tmp_path, quota=size) == [NEW]


def test_pairs_in_use_stay(tmp_path: Path):
    pair_of_age(tmp_path, OLD, 300)
    pair_of_age(tmp_path, NEW, 100)
    assert enforce_quota(tmp_path, quota=0, in_use={OLD}) == [NEW]


def test_no_folder_yet_is_nothing_to_remove(tmp_path: Path):
    assert enforce_quota(tmp_path / "masks", quota=0) == []


def test_what_killed_processes_left_is_swept(tmp_path: Path):
    pair_of_age(tmp_path, KEY, 100)
    (tmp_path / ".gone.17.leaving").mkdir()
    old, young = tmp_path / KEY / ".x.exact.mask.17.tmp", tmp_path / KEY / ".y.exact.mask.18.tmp"
    for unfinished in (old, young):
        unfinished.write_bytes(b"half a mask")
    os.utime(old, (0, 0))
    enforce_quota(tmp_path, quota=10**9)
    assert [path.name for path in tmp_path.iterdir()] == [KEY]
    assert not old.exists()
    assert young.exists()


@pytest.mark.parametrize(("entries", "size"), [(0, 0), (1, 1), (8, 1), (9, 2)])
def test_a_mask_takes_a_bit_an_entry(entries: int, size: int):
    assert n_bytes(entries) == size


@pytest.mark.parametrize("n", [1, 40], ids=["one by one", "as a group"])
def test_masks_are_in_their_places_once_settled_and_not_before(tmp_path: Path, n: int):
    bits = np.arange(5, dtype=np.uint8)
    begun = [begin_mask(tmp_path, KEY, f"w{k}", "exact", bits, 40) for k in range(n)]
    assert not list(tmp_path.rglob("*.mask"))
    settle(begun)
    for each in begun:
        assert np.array_equal(np.concatenate(list(read_mask(tmp_path, each.mask))), bits)
    assert len(list((tmp_path / KEY).iterdir())) == n


def test_nothing_unsettled_is_left_behind_where_settling_fails(tmp_path: Path):
    begun = [begin_mask(tmp_path, KEY, name, "exact", np.zeros(5, np.uint8), 40) for name in ("a", "b")]
    begun[0].place.mkdir()
    (begun[0].place / "in the way").touch()
    with pytest.raises(ResourceError):
        settle(begun)
    assert not list((tmp_path / KEY).glob(".*"))
