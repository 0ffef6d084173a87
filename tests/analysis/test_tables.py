"""Tables to take away: the same numbers as on the page, harmless in a spreadsheet."""

import math

import numpy as np
import pytest

from analysis import overlaps, rollup, tables
from analysis.measurements import RULES, Regions
from analysis.metrics import CATALOG
from tests.analysis.by_hand import measured, small_model, tally_of


def test_one_row_a_tensor_with_counts_that_add_up_to_the_headline():
    alignment = small_model()
    tallies, spectra = measured(alignment)
    rows = tables.tensor_rows(alignment, tallies, spectra)
    found = rollup.headline(alignment, tallies, spectra, spectra_planned=True)
    assert [row["name"] for row in rows] == [pair.name for pair in alignment.pairs]
    for rule in RULES:
        assert sum(row[f"unchanged_{rule}"] for row in rows) == found.unchanged[rule].part


def test_a_grid_has_one_row_a_cell_of_the_model():
    alignment = small_model(2)
    tallies, _ = measured(alignment)
    rows = tables.grid_rows(rollup.grid(alignment, CATALOG["unchanged-exact"], tallies, {}))
    assert len(rows) == len(alignment.pairs)
    assert {row["state"] for row in rows} == {"ready"}


def test_region_rows_say_who_changed_what_and_what_chance_gives():
    found = overlaps.venn("exact", ["a", "rule"], {"w": Regions.of("exact", np.array([60, 10, 20, 10]))})
    rows = tables.region_rows(found)
    assert [row["entries"] for row in rows] == [60, 20, 10, 10]
    assert [(row["A a"], row["B rule"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [row["chance"] for row in rows] == pytest.approx([56, 24, 14, 6])
    assert all(math.isnan(row["over_chance_matched"]) for row in rows)
    assert {row["rule"] for row in rows} == {"exact"}


def test_agreement_rows_count_runs_in_total_and_by_tensor():
    alignment = small_model(1)
    regions = {pair.name: Regions.of("exact", np.array([60, 10, 20, 10])) for pair in alignment.pairs}
    total = tables.agreement_rows(overlaps.venn("exact", ["a", "b"], regions))
    by_tensor = tables.agreement_by_tensor(alignment, regions)
    assert [row["entries"] for row in total] == [60 * len(regions), 30 * len(regions), 10 * len(regions)]
    assert [by_tensor[0][f"changed_by_{n}"] for n in range(3)] == [60, 30, 10]
    assert len(by_tensor) == len(regions)


def test_overlap_rows_go_both_ways():
    venn = overlaps.venn("exact", ["a", "b"], {"w": Regions.of("exact", np.array([900, 50, 30, 20]))})
    both_ways = {(row["of"], row["in"]): row["one_sided_overlap"] for row in tables.overlap_rows(venn)}
    assert both_ways == {("a", "b"): 20 / 70, ("b", "a"): 20 / 50}


def test_all_numbers_of_one_matrix_name_the_rank_as_a_count():
    alignment = small_model(1)
    tallies, spectra = measured(alignment)
    pair = next(pair for pair in alignment.pairs if pair.is_matrix)
    rows = {row["number"]: row["value"] for row in tables.number_rows(pair, tallies[pair.name], spectra[pair.name])}
    assert rows["rank"] == f"{spectra[pair.name].rank} of {min(pair.shape)}"
    assert rows["unchanged, exact"] == f"{tallies[pair.name].equal:,}"


def test_rows_columns_blocks_and_sizes_of_one_matrix_add_up_to_its_changes():
    alignment = small_model(1)
    tally = measured(alignment)[0]["model.layers.0.mlp.down_proj.weight"]
    rows, columns = len(tally.row_changes), len(tally.column_changes)
    changed = tally.entries - tally.equal
    for found in (
        tables.line_rows(tally.row_changes, columns, "row"),
        tables.line_rows(tally.column_changes, rows, "column"),
        tables.block_rows(tally.density, rows, columns),
    ):
        assert sum(row["changed"] for row in found) == changed
        assert sum(row["entries"] for row in found) == tally.entries
    assert sum(row["changed"] for row in tables.size_rows(tally) if row["measure"] == "absolute") == changed
    by_magnitude = tables.magnitude_rows(tally)
    assert sum(row["changed_exact"] for row in by_magnitude) == changed
    assert (by_magnitude[1]["below"], by_magnitude[2]["from"]) == (2.0**-30, 2.0**-30)
    assert by_magnitude[-1] | {"entries": 0} == {
        "from": 2.0**15, "below": None, "entries": 0, "changed_exact": 0, "changed_mukherjee": 0
    }  # fmt: skip


def test_regions_by_tensor_name_their_models():
    rows = list(tables.tensor_region_rows(["a", "b"], {"w": Regions.of("exact", np.array([900, 50, 30, 20]))}))
    assert [(row["models"], row["entries"]) for row in rows] == [("none", 900), ("a", 50), ("b", 30), ("a and b", 20)]


def test_sizes_by_every_measure_add_up_to_the_changes():
    before = np.array([[1.0, 1.0, 1.0, 1.0]], np.float32)
    after = np.array([[1.0, np.nextafter(np.float32(1), np.float32(2)), -1.0, 1.5]], np.float32)
    rows = tables.size_rows(tally_of(before, after))
    of_measure = {row["measure"]: [r["changed"] for r in rows if r["measure"] == row["measure"]] for row in rows}
    assert of_measure == {
        "absolute": [1, 1, 1],
        "relative": [1, 1, 1],
        "units in the last place": [1, 1],
        "sign flipped": [1],
    }
    [one_step] = [row for row in rows if (row["measure"], row["to"]) == ("units in the last place", 1)]
    assert one_step["above"] == 0
