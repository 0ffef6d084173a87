"""The gallery of published pairs, and a published pair's own overview."""

from __future__ import annotations

import pytest

from analysis.labels import shorten
from analysis.links import view_of
from analysis.models import Pair, PinnedModel
from analysis.published import published
from tests.analysis.by_hand import small_model
from tests.hub.loopback import LoopbackHub
from tests.pages.conftest import put_pair, register
from tests.pages.test_pages import opened, query, texts

TULU = "allenai/Llama-3.1-Tulu-3-8B-SFT", "allenai/Llama-3.1-Tulu-3-8B-DPO"
SIMPO = "meta-llama/Meta-Llama-3-8B-Instruct", "princeton-nlp/Llama-3-Instruct-8B-SimPO"


def pair_of(ids: tuple[str, str], commit: str = "1") -> Pair:
    return Pair(*(PinnedModel("hub", name, commit * 40) for name in ids))


@pytest.fixture
def tulu(current) -> Pair:
    """A small pair under the names of a published one, measured from end to end."""
    return put_pair(current, pair_of(TULU), small_model())


def lines(app, tuned: str):
    table = app.dataframe[0].value
    return table[table["tuned"] == shorten(tuned, 36)]  # in the middle, so that both columns are seen


def line(app, tuned: str):
    [(_, found)] = lines(app, tuned).iterrows()
    return found


def test_gallery_lists_every_published_pair_before_any_is_computed(current):
    app = opened(page="gallery")
    assert not app.exception
    table = app.dataframe[0].value
    assert len(table) == len(published().pairs) + 1, "one pair has two published values"
    assert set(table["verdict"]) == {"not yet computed", "nothing published"}
    assert table["ours"].isna().all()
    assert line(app, TULU[1])["published"] == "81.38 %"
    assert list(lines(app, SIMPO[1])["published"]) == ["86.5 %", "76.42 %"]


def test_ours_stands_beside_once_it_is_computed(tulu: Pair):
    app = opened(page="gallery")
    found = line(app, TULU[1])
    assert 75 < found["ours"] < 95, "a fifth of the entries moved"
    assert found["verdict"].startswith("differs by ")
    assert found["compared"] == 1
    assert found["tuned commit"] == "1111111"
    ranks = app.dataframe[1].value
    assert ranks[ranks["tuned"] == shorten(TULU[1], 36)].iloc[0]["verdict"].startswith("differs by ")


def test_both_contradicting_values_have_their_verdict(current):
    put_pair(current, pair_of(SIMPO), small_model())
    first, second = lines(opened(page="gallery"), SIMPO[1])["verdict"]
    assert first != second
    assert first.startswith("differs by ")


def test_of_several_commits_the_last_that_was_worked_on_counts(current, tulu: Pair):
    register(current, pair_of(TULU, "2"), small_model())
    found = line(opened(page="gallery"), TULU[1])
    assert (found["tuned commit"], found["verdict"]) == ("2222222", "not yet computed")


def test_a_click_puts_both_ids_into_compare(hub: LoopbackHub, current):
    app = opened(page="gallery")
    row = int(lines(app, SIMPO[1]).index[-1])
    app.session_state["gallery.pairs"] = {"selection": {"rows": [], "columns": [], "cells": [(row, "tuned")]}}
    app.run()
    assert query(app) == {"base": [SIMPO[0]], "tuned": [SIMPO[1]]}
    assert "is private" in texts(app), "Compare has asked the Hub, which has no such models here"


def test_the_papers_other_experiments_are_there_to_look_at(current):
    tables = [table.value for table in opened(page="gallery").dataframe]
    assert any("o1 by chance" in table for table in tables)
    assert any("never changed" in set(table.get("parameters", ())) for table in tables)


def test_overview_of_a_published_pair_has_the_published_value_beside(tulu: Pair):
    said = texts(opened(view_of("pair", tulu.base, tulu.tuned))).replace("\\", "").replace("\u00a0", " ")
    assert "81.38 % unchanged (Mukherjee's rule; Mukherjee et al. 2025, table 6, rounded in table 1); ours: " in said
    assert "differs by " in said


def test_overview_of_any_other_pair_says_nothing_of_it(pair: Pair):
    assert "Published" not in texts(opened(view_of("pair", pair.base, pair.tuned)))
