"""The Store as jobs and pages use it: ask for holes, fill them, read. Pairs are in test_store_pairs."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from analysis import measurements
from analysis.alignment import align
from analysis.errors import StoreError
from analysis.measurements import Gap, Preview, Regions, Tally
from analysis.metrics import effective_rank
from analysis.models import Pair, PinnedModel
from analysis.plan import Hole, Plan
from analysis.series import Series
from cache import store as store_module
from cache.batch import Delete
from cache.masks import MaskFile
from cache.records import JobRecord, Notes
from cache.series_counts import SERIES
from cache.store import PAIRS, Store
from tests.analysis.by_hand import tally_of
from tests.cache.samples import BASE, MASKS, PAIR, bits, matrices, register, spectrum, tally, tensor

KEY = PAIR.key
OTHER = Pair(BASE, PinnedModel("folder", "./demo/other", "files-" + "d" * 40, "sub"))


# Holes


def test_holes_are_what_is_wanted_and_not_stored_in_the_plans_order(store: Store):
    register(store, matrices(2))
    everything = [Hole(kind, f"layers.{i}.w") for kind in ("tally", "spectrum") for i in (0, 1)]  # type: ignore[arg-type]
    assert store.holes(KEY, Plan()) == everything
    assert store.holes(KEY, Plan(spectra=False)) == everything[:2]
    store.put(KEY, "layers.1.w", tally(0))
    store.put(KEY, "layers.0.w", spectrum(0)).result()
    assert store.holes(KEY, Plan()) == [Hole("tally", "layers.0.w"), Hole("spectrum", "layers.1.w")]


def preview(largest: float) -> Preview:
    curve = np.array([1, 1024], np.float32), np.array([largest, 0.5], np.float32)
    return Preview("update", 1024, 2048, *curve, stable_rank=90.25, effective_rank=700.5)


def test_a_preview_is_wanted_of_large_matrices_and_stands_until_the_spectrum_comes(store: Store):
    infos = [tensor("large", 1024, 2048), tensor("small", 1023, 2048)]
    register(store, align(infos, infos))
    spectra = [Hole("spectrum", "large"), Hole("spectrum", "small")]
    assert [hole for hole in store.holes(KEY, Plan()) if hole.kind != "tally"] == [Hole("preview", "large"), *spectra]
    assert not [hole for hole in store.holes(KEY, Plan(keep_files=False)) if hole.kind == "preview"]
    assert not [hole for hole in store.holes(KEY, Plan(previews=False)) if hole.kind == "preview"]

    store.put(KEY, "large", preview(2.0)).result()
    store.put(KEY, "large", preview(3.0)).result()
    found = store.preview(KEY, "large")
    assert found is not None
    assert (found.stable_rank, found.effective_rank, found.rows, found.columns) == (90.25, 700.5, 1024, 2048)
    assert (found.positions.tolist(), found.values.tolist()) == ([1, 1024], [3, 0.5])
    assert [hole for hole in store.holes(KEY, Plan()) if hole.kind != "tally"] == spectra
    assert store.spectra(KEY) == {}
    assert store.find_pair(KEY).n_spectra == 0  # type: ignore[union-attr]

    store.put(KEY, "large", spectrum(0)).result()
    assert store.preview(KEY, "large") is None


def test_a_spectrum_leaves_no_preview_to_be_wanted_and_a_failed_one_is_not_spoken_of(store: Store):
    infos = [tensor(name, 1024, 2048) for name in ("one", "other", "third")]
    register(store, align(infos, infos))
    store.put(KEY, "one", spectrum(0))
    store.put(KEY, "other", Gap("preview", "too large")).result()
    wanted = [Hole("preview", "third"), Hole("spectrum", "other"), Hole("spectrum", "third")]
    assert [hole for hole in store.holes(KEY, Plan()) if hole.kind != "tally"] == wanted
    assert store.gaps(KEY) == {}
    assert store.find_pair(KEY).n_gaps == 0  # type: ignore[union-attr]
    store.put(KEY, "third", Gap("spectrum", "too large")).result()
    assert Hole("preview", "third") not in store.holes(KEY, Plan())


def test_effective_ranks_stand_beside_their_spectra_and_are_found_once_where_they_do_not(store: Store):
    register(store, matrices(3))
    for name, one in (("layers.0.w", spectrum(1)), ("layers.1.w", spectrum(1, of="base"))):
        store.put(PAIR.key, name, one).result()
    failed = replace(spectrum(1), singular_values=np.zeros(0, np.float32), reason="no convergence")
    store.put(PAIR.key, "layers.2.w", failed).result()
    expected = {"layers.0.w": effective_rank(spectrum(1).singular_values)}
    assert store.effective_ranks(PAIR.key) == expected
    store._database.write({}, deletes=[Delete("effective_ranks", {"pair_key": PAIR.key})]).result()
    assert store.effective_ranks(PAIR.key) == expected
    store.annotate(PAIR.key, Notes()).result()  # behind it in the queue: what was found is on the disk
    assert store._database.rows("SELECT name, effective_rank FROM effective_ranks") == list(expected.items())
    store.forget_measurements(PAIR.key, [Hole("spectrum", "layers.0.w")]).result()
    assert store.effective_ranks(PAIR.key) == {}


def test_only_a_spectrum_of_the_update_fills_the_hole(store: Store):
    register(store, matrices(1))
    store.put(KEY, "layers.0.w", spectrum(0, of="base"))
    store.put(KEY, "layers.0.w", Gap("spectrum", "too large"), of="tuned").result()
    assert Hole("spectrum", "layers.0.w") in store.holes(KEY, Plan())
    assert store.gaps(KEY) == {}
    assert store.gaps(KEY, of="tuned") == {("spectrum", "layers.0.w"): "too large"}


def test_a_gap_fills_its_hole_until_a_measurement_comes(store: Store):
    register(store, matrices(1))
    store.put(KEY, "layers.0.w", Gap("spectrum", "too large")).result()
    assert store.holes(KEY, Plan()) == [Hole("tally", "layers.0.w")]
    assert store.gaps(KEY) == {("spectrum", "layers.0.w"): "too large"}
    store.put(KEY, "layers.0.w", spectrum(0)).result()
    assert store.gaps(KEY) == {}


def test_what_is_taken_back_is_a_hole_again_with_its_gaps_and_of_its_kind_alone(store: Store):
    """Bytes that were not the file's make gaps too; an adapter's own tally is another than that of what is left."""
    register(store, matrices(1))
    name = "layers.0.w"
    store.put(KEY, name, Gap("spectrum", "entries that are not finite")).result()
    for of in ("update", "adapter"):
        store.put(KEY, name, tally(0), masks=MASKS if of == "update" else (), of=of).result()
    store.forget_measurements(KEY, [Hole("spectrum", name), Hole("tally", name, "adapter")]).result()
    assert store.gaps(KEY) == {}
    assert store.holes(KEY, Plan()) == [Hole("spectrum", name)]
    assert store.tallies(KEY).keys() == {name}
    assert not store.tallies(KEY, "adapter")
    assert len(store.masks(KEY)) == len(MASKS)


def test_a_gap_beside_a_measurement_is_dropped(store: Store):
    register(store, matrices(1))
    store.put(KEY, "layers.0.w", tally(0))
    store.put(KEY, "layers.0.w", Gap("tally", "measured again, and failed")).result()
    assert store.gaps(KEY) == {}
    assert store.tallies(KEY).keys() == {"layers.0.w"}


@pytest.mark.parametrize(
    ("version", "measurement"),
    [("TALLY_VERSION", tally(0)), ("SPECTRUM_VERSION", spectrum(0))],
    ids=["tally", "spectrum"],
)
def test_rows_of_an_older_version_are_not_asked_for(
    store: Store, monkeypatch: pytest.MonkeyPatch, version: str, measurement
):
    register(store, matrices(1))
    store.put(KEY, "layers.0.w", measurement).result()
    assert len(store.holes(KEY, Plan())) == 1
    for module in (store_module, store_module.queries):
        monkeypatch.setattr(module, version, getattr(measurements, version) + 1)
    assert len(store.holes(KEY, Plan())) == 2
    assert store.tallies(KEY) == store.spectra(KEY) == {}
    store.put(KEY, "layers.0.w", measurement).result()
    assert len(store.holes(KEY, Plan())) == 1


# Masks


def test_changes_by_line_are_read_alone_for_the_tensors_asked_for(store: Store):
    for i in range(3):
        store.put(KEY, f"layers.{i}.w", tally(i)).result()
    found = store.line_changes(KEY, ["layers.2.w", "layers.0.w", "layers.9.w"], "row")
    assert {name: changes.tolist() for name, changes in found.items()} == {
        f"layers.{i}.w": tally(i).row_changes.tolist() for i in (0, 2)
    }
    [columns] = store.line_changes(KEY, ["layers.1.w"], "column").values()
    assert columns.tolist() == tally(1).column_changes.tolist()
    assert store.line_changes(KEY, [], "row") == {}


def test_masks_come_with_their_tally_and_are_found_by_name_and_rule(store: Store):
    register(store, matrices(1))
    store.put(KEY, "layers.0.w", tally(0), masks=MASKS).result()
    assert store.masks(KEY) == {("layers.0.w", mask.rule): mask for mask in MASKS}


def test_a_tally_put_again_without_masks_keeps_them(store: Store):
    store.put(KEY, "layers.0.w", tally(0), masks=MASKS)
    store.put(KEY, "layers.0.w", tally(1)).result()
    assert len(store.masks(KEY)) == 2
    assert bits(store.tally(KEY, "layers.0.w")) == bits(tally(1))


def test_forgotten_masks_make_holes_only_for_those_who_need_masks(store: Store):
    register(store, matrices(2))
    plan = Plan(spectra=False)
    for i in (0, 1):
        store.put(KEY, f"layers.{i}.w", tally(i), masks=MASKS)
    store.put(OTHER.key, "layers.0.w", tally(9), masks=MASKS).result()
    assert store.holes(KEY, plan, masks_too=True) == []
    store.forget_masks([KEY]).result()
    assert store.masks(KEY) == {}
    assert len(store.masks(OTHER.key)) == 2
    assert store.holes(KEY, plan) == []
    assert store.holes(KEY, plan, masks_too=True) == [Hole("tally", "layers.0.w"), Hole("tally", "layers.1.w")]


def test_one_mask_of_two_is_not_all_of_them(store: Store):
    register(store, matrices(1))
    store.put(KEY, "layers.0.w", tally(0), masks=MASKS[:1]).result()
    assert store.holes(KEY, Plan(spectra=False), masks_too=True) == [Hole("tally", "layers.0.w")]


def test_the_exact_mask_serves_a_rule_that_calls_as_many_entries_changed(store: Store):
    """All changes of this tally are between 1e-7 and 1e-3: down to 1e-7 a tolerance passes none of them over."""
    register(store, matrices(1))
    found = measured(np.float32(0.5), np.float32(1e-5))
    mask = MaskFile("exact", "k/a.exact.mask", 24, 24 - found.unchanged("exact"), 40, "aa")
    store.put(KEY, "layers.0.w", found, masks=[mask]).result()
    assert store.masks_for(KEY, "1e-7") == {"layers.0.w": mask}
    assert store.masks_for(KEY, "1e-3") == {}
    for rule, holes in {"1e-8": 0, "1e-3": 1}.items():
        assert len(store.holes(KEY, Plan(spectra=False, mask_rules=(rule,)), masks_too=True)) == holes


def measured(weight: np.float32, step: np.float32) -> Tally:
    """The tally of 24 equal weights of which the first four moved by a step."""
    before = np.full((6, 4), weight, np.float32)
    after = before.copy()
    after[0] += step
    return tally_of(before, after)


def test_a_tally_that_could_not_be_taken_is_no_hole_of_an_overlap_either(store: Store):
    register(store, matrices(2))
    store.put(KEY, "layers.0.w", Gap("tally", "its file arrived damaged")).result()
    assert store.holes(KEY, Plan(spectra=False), masks_too=True) == [Hole("tally", "layers.1.w")]


def test_an_overlap_gap_says_why_masks_are_missing_until_they_come(store: Store):
    register(store, matrices(1))
    plan = Plan(spectra=False)
    store.put(KEY, "layers.0.w", tally(0)).result()
    store.put(KEY, "layers.0.w", Gap("overlap", "no room for masks")).result()
    assert store.holes(KEY, plan, masks_too=True) == []
    assert store.gaps(KEY) == {("overlap", "layers.0.w"): "no room for masks"}
    store.put(KEY, "layers.0.w", tally(0), masks=MASKS).result()
    assert store.gaps(KEY) == {}


# Regions


def test_regions_are_found_in_any_order_of_the_models_each_bit_with_its_model(store: Store):
    #                                             none  z    a   both
    store.overlaps.put_regions(BASE.key, ("z", "a"), "w", Regions.of("exact", np.array([90, 1, 20, 300]))).result()
    assert store.overlaps.regions(BASE.key, ("z", "a"), "exact")["w"].counts.tolist() == [90, 1, 20, 300]
    assert store.overlaps.regions(BASE.key, ("a", "z"), "exact")["w"].counts.tolist() == [90, 20, 1, 300]


def test_regions_belong_to_their_base_models_and_rule(store: Store):
    store.overlaps.put_regions(BASE.key, ("a", "b"), "w", Regions.of("exact", np.arange(4))).result()
    assert store.overlaps.regions(BASE.key, ("a", "b"), "mukherjee") == {}
    assert store.overlaps.regions(BASE.key, ("a",), "exact") == {}
    assert store.overlaps.regions("another base", ("a", "b"), "exact") == {}


# Jobs


def job(job_id: str, minute: int, *, ended: bool = False, **more: object) -> JobRecord:
    created = datetime(2026, 11, 22, 10, minute)
    return JobRecord(job_id, "compare", "{}", "queued", created, ended_at=created if ended else None, **more)  # type: ignore[arg-type]


def test_jobs_are_listed_newest_first_and_unfinished_ones_oldest_first(store: Store):
    for one in (job("a", 1), job("b", 2, ended=True), job("c", 3)):
        store.ledger.put(one).result()
    assert [one.id for one in store.ledger.jobs()] == ["c", "b", "a"]
    assert [one.id for one in store.ledger.jobs(limit=1)] == ["c"]
    assert [one.id for one in store.ledger.unfinished()] == ["a", "c"]


def test_a_job_put_again_is_the_same_job_later(store: Store):
    store.ledger.put(job("a", 1)).result()
    later = replace(job("a", 1, ended=True), state="failed", message="'x' is gone", measured=3, planned=9)
    store.ledger.put(later).result()
    assert store.ledger.jobs() == [later]
    assert store.ledger.unfinished() == []


def test_times_are_kept_as_utc(store: Store):
    tokyo = datetime(2026, 11, 22, 10, 0, tzinfo=timezone(timedelta(hours=9)))
    store.ledger.put(replace(job("a", 0), created_at=tokyo)).result()
    [found] = store.ledger.jobs()
    assert found.created_at == datetime(2026, 11, 22, 1, 0)


# Generations and threads


def test_a_generation_changes_for_what_was_touched_and_for_nothing_else(store: Store):
    run, regions = Series(BASE, (PAIR.tuned, OTHER.tuned)), Regions.of("exact", np.arange(2))

    def generations() -> list[int]:
        return [store.generation(name) for name in (KEY, OTHER.key, PAIRS, SERIES, BASE.key)]

    for put, changed in [
        (lambda: store.put(KEY, "w", tally(0)), [True, False, True, False, False]),
        (lambda: store.series.register(run, ["1", "2"]), [False, False, False, True, False]),
        (lambda: store.overlaps.put_regions(BASE.key, "a", "w", regions), [False] * 4 + [True]),
        (lambda: store.forget_masks([OTHER.key]), [False, True, True, False, False]),
    ]:
        before = generations()
        put().result()
        assert [old != new for old, new in zip(before, generations(), strict=True)] == changed


def test_a_store_opened_again_repeats_no_generation(tmp_path: Path):
    seen = []
    for _ in range(2):
        with Store.open(tmp_path / "store.duckdb") as store:
            seen.append(store.generation(KEY))
            store.put(KEY, "w", tally(0)).result()
            seen.append(store.generation(KEY))
    assert len(set(seen)) == 4


def test_threads_may_put_and_read_at_once(store: Store):
    """Eight threads replace the same rows and read them: no conflict, and never half a batch."""
    key = register(store, matrices(8))

    def work(seed: int) -> int:
        for i in range(8):
            store.put(key, f"layers.{i}.w", tally(seed), masks=MASKS).result()
            store.put(key, f"layers.{seed}.w", spectrum(seed)).result()
            n_masks = len(store.masks(key))  # two moments: between them another thread may put more tallies, not fewer
            n_tallies = len(store.tallies(key, arrays=False))
            assert n_masks % 2 == 0
            assert n_masks // 2 <= n_tallies <= 8
        return len(store.spectra(key))

    with ThreadPoolExecutor(8) as threads:
        assert max(threads.map(work, range(8))) == 8
    assert store.holes(key, Plan(), masks_too=True) == []
    any_of = [bits(tally(seed)) for seed in range(8)]
    assert all(bits(one) in any_of for one in store.tallies(key).values())


def test_the_last_put_of_many_in_one_batch_wins(store: Store):
    futures = [store.put(KEY, "w", tally(seed)) for seed in range(100)]
    futures[-1].result()
    assert bits(store.tally(KEY, "w")) == bits(tally(99))


def test_a_store_in_memory_works_the_same_and_leaves_nothing():
    with Store.open(":memory:") as store:
        key = register(store, matrices(1))
        store.put(key, "layers.0.w", tally(0)).result()
        assert len(store.holes(key, Plan())) == 1
    with Store.open(":memory:") as store:
        assert store.pairs() == []


def test_a_closed_store_refuses_a_put_with_words(tmp_path: Path):
    store = Store.open(tmp_path / "store.duckdb")
    store.close()
    store.close()
    with pytest.raises(StoreError, match="The store is closed"):
        store.put(KEY, "w", tally(0))
    with pytest.raises(StoreError, match="The store is closed"):
        store.pairs()


def test_records_have_a_column_for_every_field():
    assert {field.name for field in dataclasses.fields(JobRecord)} == set(store_module.tables.TABLES["jobs"].columns)
