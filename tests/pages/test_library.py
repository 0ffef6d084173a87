"""The table of all comparisons: its numbers are those of each pair's own page, what is written stays, links restore."""

from __future__ import annotations

import re

import pytest

from analysis import rollup
from analysis.models import Pair
from analysis.plan import Plan
from analysis.selection import select
from cache import instance
from cache.records import Notes
from pages.parts import library, sources
from tests.analysis.by_hand import measured, small_model
from tests.pages.conftest import BASE, SEEDS, register
from tests.pages.test_pages import opened, query, texts


def test_the_amounts_of_all_pairs_are_those_of_each_pair(current: instance.Instance, two_runs: tuple[Pair, Pair]):
    amounts = current.store.numbers()
    assert amounts.keys() == {pair.key for pair in two_runs}
    alignment = small_model()
    for seed, pair in enumerate(two_runs):
        headline = rollup.headline(alignment, *measured(alignment, seed=seed), spectra_planned=True)
        found = amounts[pair.key]
        for rule, part in (("exact", found.exact), ("mukherjee", found.mukherjee), ("bf16", found.bf16)):
            assert (part, found.entries) == (headline.unchanged[rule].part, headline.unchanged[rule].whole)
        assert found.mean_rank_share == pytest.approx(headline.mean_rank_share)
        assert found.compared_parameters == alignment.compared_of("base")
        assert found.base_parameters == alignment.base_parameters


def test_notes_stay_and_replace_each_other(current: instance.Instance, pair: Pair):
    current.store.annotate(pair.key, Notes("GRPO", "math", ("seed 1", "paper"), "first *try*")).result()
    current.store.annotate(pair.key, Notes("DAPO", "math", ("paper",))).result()
    assert current.store.notes() == {pair.key: Notes("DAPO", "math", ("paper",), "")}


@pytest.mark.usefixtures("current")
def test_an_empty_store_says_so():
    app = opened(page="library")
    assert not app.exception
    assert "Nothing is compared on this server yet." in texts(app)


def test_ticked_comparisons_are_laid_over_each_other(two_runs: tuple[Pair, Pair]):
    app = opened(page="library", pick=[pair.key for pair in two_runs], metric=["rank"])
    assert not app.exception
    assert {"Sparsity over tolerance", "Layer by layer"} <= {heading.value for heading in app.subheader}
    assert len(app.get("plotly_chart")) == 4
    assert query(app)["metric"] == ["rank"]


def test_sft_against_rl_ticks_both_kinds(current: instance.Instance, two_runs: tuple[Pair, Pair]):
    for pair, algorithm in zip(two_runs, ("SFT", "GRPO"), strict=True):
        current.store.annotate(pair.key, Notes(algorithm)).result()
    app = opened(page="library")
    app.button[0].click().run()
    assert not app.exception
    assert query(app)["pick"] == [pair.key for pair in two_runs]


def test_filters_look_at_names_notes_and_tags(current: instance.Instance, two_runs: tuple[Pair, Pair]):
    current.store.annotate(two_runs[1].key, Notes("GRPO", "math", ("frozen vision",))).result()
    for named, expected in (
        ({}, 2), ({"q": [SEEDS[0].name]}, 1), ({"q": ["MATH grpo"]}, 1), ({"q": ["nowhere"]}, 0),
        ({"tag": ["frozen vision"]}, 1), ({"tag": ["GRPO"]}, 1), ({"of": ["org/base"]}, 2), ({"of": ["other"]}, 0),
    ):  # fmt: skip
        app = opened(page="library", **named)
        assert not app.exception
        assert ("No comparison matches the filters." in texts(app)) == (expected == 0)
        assert len(sources.tables_of("library", named)["comparisons"]()) == expected, named


def test_what_is_written_in_a_cell_replaces_that_alone(current: instance.Instance, pair: Pair):
    before = Notes("GRPO", "math", ("old",), "kept")
    library._write(pair.key, before, {"tags": ["new", " "], "algorithm": " DAPO "})
    assert current.store.notes()[pair.key] == Notes("DAPO", "math", ("new",), "kept")


def test_measured_is_of_what_was_asked_for(current: instance.Instance):
    """First everything without spectra, then also those of one layer."""
    alignment = small_model()
    pair = Pair(BASE, SEEDS[0])
    register(current, pair, alignment)
    tallies, spectra = measured(alignment)

    def share() -> float:
        [known] = current.store.pairs()
        return library.row(library.Entry(known, None, Notes(), ""))["measured"]

    current.store.ask(pair.key, Plan(spectra=False)).result()
    first, *others = tallies
    for name in others:
        current.store.put(pair.key, name, tallies[name]).result()
    assert share() == pytest.approx(len(others) / len(tallies))
    current.store.put(pair.key, first, tallies[first]).result()
    assert share() == 1
    current.store.ask(pair.key, Plan(selection=select("0"))).result()
    in_layer = [name for name in spectra if ".0." in name]
    assert share() == pytest.approx(len(tallies) / (len(tallies) + len(in_layer)))
    for name in in_layer:
        current.store.put(pair.key, name, spectra[name]).result()
    assert share() == 1


def test_no_name_gets_to_be_markup_where_a_link_is_hovered_over(hostile: Pair):
    app = opened(page="library", pick=[hostile.key])
    assert not app.exception
    [found] = [link.proto.help for link in app.get("page_link") if link.proto.label.startswith("Open ")]
    live = re.sub(r"\\.", "", found)
    assert found
    for markup in ("](", "<", "*bold"):
        assert markup not in live
