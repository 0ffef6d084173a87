"""Tables to take away: the same numbers as on the page, harmless in a spreadsheet."""

import csv
import io
import math

import numpy as np
import pytest

from analysis import rollup, tables
from analysis.measurements import RULES, Regions
from analysis.metrics import CATALOG
from tests.analysis.by_hand import measured, small_model


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize(
    "start", ["=", "+", "-", "@", "\t", "\r", "＝"], ids=["=", "+", "-", "@", "tab", "return", "wide ="]
)
def test_text_that_a_spreadsheet_would_run_is_quoted(start):
    [row] = read(tables.as_csv([{"name": f"{start}cmd()"}]))
    assert not row["name"].startswith(start)


def test_numbers_stay_numbers_and_nothing_known_is_empty():
    [row] = read(tables.as_csv([{"change": -0.25, "rank": math.nan}]))
    assert row == {"change": "-0.25", "rank": ""}


def test_no_rows_are_no_file():
    assert tables.as_csv([]) == ""


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


def test_overlap_rows_go_both_ways():
    venn = rollup.venn("exact", ["a", "b"], {"w": Regions("exact", np.array([900, 50, 30, 20]))})
    both_ways = {(row["of"], row["in"]): row["one_sided_overlap"] for row in tables.overlap_rows(venn)}
    assert both_ways == {("a", "b"): 20 / 70, ("b", "a"): 20 / 50}


def test_all_numbers_of_one_matrix_name_the_rank_as_a_count():
    alignment = small_model(1)
    tallies, spectra = measured(alignment)
    pair = next(pair for pair in alignment.pairs if pair.is_matrix)
    rows = {row["number"]: row["value"] for row in tables.number_rows(pair, tallies[pair.name], spectra[pair.name])}
    assert rows["rank"] == f"{spectra[pair.name].rank} of {min(pair.shape)}"
    assert rows["unchanged, exact"] == f"{tallies[pair.name].equal:,}"
