"""What comes out of the store is what went in, to the last bit, also after a checkpoint compressed it."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from analysis.errors import StoreError
from analysis.measurements import (
    N_BINADES,
    N_CHANGE_BINS,
    N_RELATIVE_BINS,
    N_ULP_BINS,
    RULES,
    Consensus,
    Regions,
    Spectrum,
    Tally,
)
from cache.rows import moved, spread_over_binades
from cache.store import Store
from tests.cache.samples import PAIR, bits, matrices, register, spectrum, tally

ROOT = Path(__file__).resolve().parents[2]

counts = st.integers(0, 2**62)
small_counts = st.integers(0, 2**32 - 1)
reals = st.floats(allow_nan=False)  # a sum may be infinite or -0.0; NaN has its own test
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def longs(length: int, elements: st.SearchStrategy[int] = counts) -> st.SearchStrategy[np.ndarray]:
    return arrays.arrays(np.int64, length, elements=elements, fill=st.just(0))


@st.composite
def tally_like(draw: st.DrawFn) -> Tally:
    """Any amounts in any small shape: the store must not care whether they add up."""
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    filled = draw(st.dictionaries(st.integers(0, N_BINADES * N_CHANGE_BINS - 1), st.integers(1, 2**50), max_size=5))
    joint = np.zeros(N_BINADES * N_CHANGE_BINS, np.int64)
    joint[list(filled)] = list(filled.values())
    return Tally(
        *draw(st.tuples(*[counts] * 7)),
        *draw(st.tuples(*[reals] * 8)),
        joint=joint.reshape(N_BINADES, N_CHANGE_BINS),
        base_binades=draw(longs(N_BINADES)),
        mukherjee_binades=draw(longs(N_BINADES)),
        bf16_binades=draw(longs(N_BINADES)),
        ulps=draw(longs(N_ULP_BINS)),
        relative=draw(longs(N_RELATIVE_BINS)),
        row_changes=draw(longs(rows, small_counts)),
        column_changes=draw(longs(columns, small_counts)),
        density=draw(longs(rows * columns, small_counts)).reshape(rows, columns),
    )


spectrum_like = st.builds(
    Spectrum,
    of=st.just("update"),
    rows=st.integers(1, 2**40),
    columns=st.integers(1, 2**40),
    singular_values=arrays.arrays(np.float32, st.integers(0, 30), elements=st.floats(width=32, allow_nan=False)),
    tolerance=reals,
    rank=st.none() | counts,
    rank_low=st.none() | counts,
    rank_high=st.none() | counts,
    method=names,
    reason=st.text(st.characters(exclude_categories=["Cs"])),
)


def stored_and_read(measurement_of_name: dict[str, Any], read: str) -> dict[str, Any]:
    """The measurements after a trip through a file that was closed (checkpointed) and opened again."""
    with TemporaryDirectory() as folder:
        with Store.open(Path(folder) / "store.duckdb") as store:
            for name, measurement in measurement_of_name.items():
                store.put(PAIR.key, name, measurement)
        with Store.open(Path(folder) / "store.duckdb") as store:
            return getattr(store, read)(PAIR.key)


@settings(max_examples=10, deadline=None)
@given(st.dictionaries(names, tally_like(), min_size=1, max_size=5))
def test_tallies_come_back_bit_for_bit(tally_of_name: dict[str, Tally]):
    found = stored_and_read(tally_of_name, "tallies")
    assert {name: bits(one) for name, one in found.items()} == {name: bits(one) for name, one in tally_of_name.items()}


@settings(max_examples=10, deadline=None)
@given(st.dictionaries(names, spectrum_like, min_size=1, max_size=5))
def test_spectra_come_back_bit_for_bit(spectrum_of_name: dict[str, Spectrum]):
    found = stored_and_read(spectrum_of_name, "spectra")
    assert {n: bits(one) for n, one in found.items()} == {n: bits(one) for n, one in spectrum_of_name.items()}


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 5).flatmap(lambda k: st.tuples(st.permutations(range(k)), longs(2**k))), st.randoms())
def test_regions_come_back_bit_for_bit(order_and_counts: tuple[list[int], np.ndarray], random: Any):
    order, stored = order_and_counts
    keys = [f"model {i}" for i in order]
    with Store.open(":memory:") as store:
        store.overlaps.put_regions("base", keys, "w", Regions.of("exact", stored)).result()
        assert bits(store.overlaps.regions("base", keys, "exact")["w"]) == bits(Regions.of("exact", stored))
        shuffled = random.sample(keys, len(keys))
        found = store.overlaps.regions("base", shuffled, "exact")["w"].dense
    for subset in range(len(stored)):
        in_subset = {key for bit, key in enumerate(keys) if subset >> bit & 1}
        same_subset = sum(1 << bit for bit, key in enumerate(shuffled) if key in in_subset)
        assert found[same_subset] == stored[subset]


def test_moved_says_which_old_bit_each_new_bit_was():
    none_first_second_both = np.array([0b00, 0b01, 0b10, 0b11])
    assert moved(none_first_second_both, [0, 1]).tolist() == [0b00, 0b01, 0b10, 0b11]
    assert moved(none_first_second_both, [1, 0]).tolist() == [0b00, 0b10, 0b01, 0b11]


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3).flatmap(lambda k: st.tuples(st.integers(1, 4), st.integers(1, 4), longs(k + 1))))
def test_a_consensus_map_comes_back_bit_for_bit(made: tuple[int, int, np.ndarray]):
    rows, columns, counts = made
    tiled = np.tile(counts % 2**32, (rows, columns, 1))
    found = Consensus("bf16", rows * 7, columns * 3, tiled)
    with Store.open(":memory:") as store:
        store.overlaps.put_consensus("base", ["b", "a"], "w", found).result()
        assert bits(store.overlaps.consensus("base", ["a", "b"], "w", "bf16")) == bits(found)
        assert store.overlaps.consensus("base", ["a", "b"], "w", "exact") is None
        assert store.overlaps.consensus("base", ["a", "b"], "v", "bf16") is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 1e-45])
def test_odd_floats_survive(value: float):
    odd = spectrum(0)
    odd = Spectrum("update", 2, 2, np.array([value, 1], np.float32), value, None, None, None, "svd float32", "odd")
    with Store.open(":memory:") as store:
        store.put("key", "w", odd).result()
        assert bits(store.spectrum("key", "w")) == bits(odd)


def test_a_light_read_says_the_same_of_every_rule_and_carries_no_large_array():
    with Store.open(":memory:") as store:
        for seed in range(5):
            store.put("key", f"w{seed}", tally(seed))
        store.put("key", "last", tally(9)).result()
        light, full = store.tallies("key", arrays=False), store.tallies("key")
        by_magnitude = {rule: store.magnitudes("key", rule) for rule in RULES}
    assert light.keys() == full.keys()
    for name, one in light.items():
        assert one.joint.shape == (1, N_CHANGE_BINS)
        assert one.row_changes.size == one.column_changes.size == one.density.size == 0
        np.testing.assert_array_equal(one.changes, full[name].changes)
        assert [one.unchanged(rule) for rule in RULES] == [full[name].unchanged(rule) for rule in RULES]
    for name, whole in full.items():
        for rule in RULES:
            assert bits(by_magnitude[rule][name]) == bits(whole.magnitudes(rule))


def test_light_spectra_have_their_ranks_and_no_values():
    with Store.open(":memory:") as store:
        store.put("key", "w", spectrum(0)).result()
        [light] = store.spectra("key", arrays=False).values()
    assert (light.rank, light.rank_low, light.rank_high, light.method) == (4, 3, None, "svd float32")
    assert light.singular_values.size == 0


@pytest.mark.parametrize("broken", [-1, 2**32], ids=["negative", "too large"])
def test_a_count_that_does_not_fit_is_refused_and_nothing_else_with_it(broken: int):
    bad = tally(0)
    bad.row_changes[0] = broken
    with Store.open(":memory:") as store:
        key = register(store, matrices(3))
        futures = [store.put(key, name, one) for name, one in [("a", tally(1)), ("bad", bad), ("b", tally(2))]]
        with pytest.raises(StoreError, match="does not fit its column in 'tallies'"):
            futures[1].result()
        for future in (futures[0], futures[2]):
            future.result()
        assert store.tallies(key).keys() == {"a", "b"}


def test_a_name_that_is_no_text_is_refused():
    with Store.open(":memory:") as store, pytest.raises(StoreError, match="does not fit"):
        store.put("key", "half a surrogate: \ud800", tally(0)).result()


def test_counts_of_a_tensor_stored_since_the_names_were_read_are_left_out():
    table = pa.table({"name": ["a", "late", "b"], "binades": [[3], [4], [5, 6]], "changed": [[7], [8], [9, 10]]})
    found = spread_over_binades(table, pa.chunked_array([["b", "a", "untouched"]]))
    assert found.sum(axis=1).tolist() == [19, 7, 0]
    assert found[0, [5, 6]].tolist() == [9, 10]
    assert found[1, 3] == 7


def test_a_process_may_do_without_pandas_which_pyarrow_would_import():
    code = """
import sys
from cache.rows import without_pandas
if sys.argv[1:]: without_pandas()
import pyarrow
assert pyarrow.array(["a", None]).to_pylist() == ["a", None]
print("pandas" in sys.modules)
import pandas
"""
    commands = ([sys.executable, "-c", code], [sys.executable, "-c", code, "without"])
    ended = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True) for command in commands]
    assert [one.stdout.split() for one in ended] == [["True"], ["False"]]
