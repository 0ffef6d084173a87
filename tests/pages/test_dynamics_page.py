"""The page of training dynamics over a real store: its states, its choices, its link."""

from __future__ import annotations

import json

import numpy as np
import pytest

from analysis.links import View, to_query, view_of
from analysis.measurements import MASK_RULES, StepCounts
from analysis.models import PinnedModel
from analysis.series import Series
from cache import instance
from pages.parts import sources
from tests.analysis.by_hand import measured, small_model
from tests.pages.conftest import BASE, HOSTILE_NAME, put_pair, register
from tests.pages.test_pages import opened, query, texts, with_menu

RUN = tuple(PinnedModel("hub", "org/run", str(i) * 40) for i in (4, 5, 6))
SERIES = Series(BASE, RUN)
LABELS = ("step_10", "step_200", "step_1000")


@pytest.fixture
def alignment():
    return small_model(2, strange=HOSTILE_NAME)


def registered(current: instance.Instance, alignment) -> None:
    for pair in SERIES.pairs:
        register(current, pair, alignment)
    current.store.series.register(SERIES, LABELS).result()


@pytest.fixture
def ready(current: instance.Instance, alignment) -> View:
    """A run that is measured and counted: of each tensor a half never changed, a quarter came back."""
    registered(current, alignment)
    for seed, pair in enumerate(SERIES.pairs):
        put_pair(current, pair, alignment, seed=seed)
    for entry in alignment.pairs:
        quarter = entry.entries // 4
        for rule in MASK_RULES:
            changed, union = np.array([quarter, 2 * quarter, quarter]), np.array([quarter, 2 * quarter, 2 * quarter])
            outside = np.array([0, quarter, 0])
            counts = StepCounts(rule, entry.entries, changed, changed, outside, outside, union)
            current.store.series.put_steps(SERIES.key, entry.name, counts).result()
    return view_of("dynamics", BASE, *RUN).choosing("step", *LABELS)


def test_a_followed_run_shows_its_fates_with_their_counts(ready: View, alignment):
    app = opened(ready)
    assert not app.exception
    assert not app.error
    entries, quarter = alignment.compared_parameters, sum(pair.entries // 4 for pair in alignment.pairs)
    value_of = {metric.label: metric.value for metric in app.metric}
    assert set(value_of) == {
        "Unchanged at the end", "Never changed", "Changed and came back", "In the final subnetwork"
    }  # fmt: skip
    assert value_of["Changed and came back"] == "25.0000 %"
    assert f"{quarter:,} of {entries:,}" in texts(app)
    assert query(app) == to_query(ready)
    assert [list(table.value["step"]) for table in app.dataframe] == [[10, 200, 1000]] * 3
    titles = [column["label"] for column in json.loads(app.dataframe[2].proto.columns).values() if "label" in column]
    assert {"changed, outside final", "in the step, outside final"} < set(titles)
    assert len(titles) == len(set(titles)), "no two columns have one heading"


def test_a_link_keeps_its_choices(ready: View):
    chosen = ready.choosing("rule", "mukherjee").choosing("show", "outside").choosing("rows", "module")
    app = opened(chosen.choosing("patch", "base").choosing("colours", "fitted"))
    assert not app.exception
    assert app.selectbox(key="dynamics.rule").value == "mukherjee"
    assert app.selectbox(key="dynamics.show").value == "outside"
    assert query(app)["rows"] == ["module"]
    app.selectbox(key="dynamics.show").select("union").run()
    assert query(app)["show"] == ["union"]
    assert not app.exception


def test_numbers_are_taken_away_with_models_commits_and_rule(ready: View):
    app = with_menu(opened(ready))
    assert all(f"tuned={model}" in app.code[0].value for model in RUN)
    assert "take/dynamics/steps.csv?" in texts(app)
    found = sources.tables_of("dynamics", to_query(ready))
    steps, patches = list(found["steps"]()), list(found["patches"]())
    assert [row["checkpoint"] for row in steps] == [str(model) for model in RUN]
    assert {row["rule"] for row in steps} == {ready.mask_rule}
    assert len(patches) == len(RUN)
    origin = sources.origin("dynamics", to_query(ready), "")
    assert all(model.commit in str(origin) for model in RUN)


def test_figures_are_what_the_page_draws(ready: View):
    for draw in sources.figures_of("dynamics", to_query(ready)).values():
        assert draw().data


def test_a_run_that_is_half_measured_shows_what_is_there_and_offers_to_go_on(current, alignment):
    registered(current, alignment)
    first = SERIES.from_base[0]
    name = alignment.pairs[0].name
    current.store.put(first.key, name, measured(alignment)[0][name]).result()
    app = opened(view_of("dynamics", BASE, *RUN).choosing("step", *LABELS))
    assert not app.exception
    assert "measurements of this run still to be made" in texts(app)
    assert "Go on" in [button.label for button in app.button]
    assert texts(app).count("counted once every pair of the run is measured") == 2
    assert "A patch is sized once its pair is measured whole" in texts(app)


def test_a_measured_run_that_is_not_counted_says_so(current, alignment):
    registered(current, alignment)
    for pair in SERIES.pairs:
        put_pair(current, pair, alignment)
    app = opened(view_of("dynamics", BASE, *RUN).choosing("step", *LABELS))
    assert f"{len(alignment.pairs)} tensors still to be counted along the run" in texts(app)
    assert [metric.label for metric in app.metric] == ["Unchanged at the end"]


def test_a_run_that_was_never_followed_offers_to(current):
    app = opened(view_of("dynamics", BASE, *RUN).choosing("step", *LABELS))
    assert "has not been followed on this server" in texts(app)
    assert [button.label for button in app.button if "Look it up" in button.label] == ["Look it up and follow it"]


def test_without_a_run_the_page_asks_and_lists_those_it_knows(ready: View):
    app = opened(page="dynamics")
    assert not app.exception
    assert [area.label for area in app.text_area] == ["Checkpoints, in order"]
    app.button(key=f"dynamics.open-{SERIES.key}").click().run()
    assert query(app) == to_query(ready)
    [another] = [button for button in app.button if button.label == "Follow another run"]
    another.click().run()
    assert query(app) == {}
    assert [area.label for area in app.text_area] == ["Checkpoints, in order"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["llama3"], "'llama3' is not a model id"),
        (["org/*/x"], "where none can be meant"),
        (["./nowhere/checkpoint-*"], "is not a folder that can be read here"),
    ],
)
def test_a_slip_of_the_pen_is_answered_with_what_to_do(current, lines: list[str], words: str):
    app = opened(page="dynamics", base=["org/base"] if "nowhere" not in lines[0] else ["./nowhere/b"], tuned=lines)
    assert not app.exception
    assert words in texts(app).replace("\\", "")


def test_a_run_with_its_base_in_it_is_refused_in_words(current):
    app = opened(view_of("dynamics", BASE, RUN[0], BASE))
    assert "stands in the series twice, or is its base" in texts(app).replace("\\", "")


def test_names_that_tell_no_steps_stand_one_after_the_other(ready: View):
    app = opened(view_of("dynamics", BASE, *RUN))
    assert not app.exception
    assert list(app.dataframe[0].value["checkpoint"]) == [1, 2, 3]


def test_steps_of_a_run_are_not_listed_among_the_comparisons(current, alignment):
    registered(current, alignment)
    for pair in SERIES.pairs:
        for name, tally in measured(alignment)[0].items():
            current.store.put(pair.key, name, tally).result()
    listed = opened().dataframe[0].value
    assert list(listed["base"]) == ["org/base"] * 3
