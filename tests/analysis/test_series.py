"""Lists of checkpoints as people write them, and the steps that their names tell."""

from __future__ import annotations

import pytest

from analysis.errors import BadReference
from analysis.models import PinnedModel
from analysis.series import MOST_CHECKPOINTS, Asked, Series, axis, natural_order, read_line, read_lines, series_of

BASE = PinnedModel("hub", "org/base", "a" * 40)
RUN = tuple(PinnedModel("hub", "org/run", str(i) * 40) for i in range(3))


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("org/name@main", Asked("model", "org/name@main")),
        ("200 ./runs/final model", Asked("model", "./runs/final model", step="200")),
        ("01-ai/Yi-6B", Asked("model", "01-ai/Yi-6B")),
        ("org/name@step_*", Asked("revisions", "org/name", "step_*")),
        ("org/name@release/step?", Asked("revisions", "org/name", "release/step?")),
        ("org/name/checkpoint-*", Asked("folders", "org/name", "checkpoint-*")),
        ("org/name/runs/checkpoint-*@main", Asked("folders", "org/name/runs", "checkpoint-*", "main")),
        ("./runs/a@b/global_step*", Asked("folders", "./runs/a@b", "global_step*")),
        ("/data/*", Asked("folders", "/data", "*")),
    ],
)
def test_a_line_is_a_model_or_a_pattern(line: str, asked: Asked):
    assert read_line(line) == asked


@pytest.mark.parametrize(
    "line", ["*", "org/*/name", "org/na*me/x@step*", "org/name/x*@st*", "100 org/name@step_*", "./*/x"]
)
def test_a_pattern_where_none_can_be_meant_is_refused_with_how_to_write_it(line: str):
    with pytest.raises(BadReference) as refused:
        read_line(line)
    assert refused.value.do


def test_a_list_is_read_line_by_line():
    assert [asked.text for asked in read_lines(" a/b \n\n c/d@x\r\n")] == ["a/b", "c/d@x"]
    for text in ("", " \n ", "a/b\n" * (MOST_CHECKPOINTS + 1), "a" * 20_000):
        with pytest.raises(BadReference):
            read_lines(text)


def test_names_are_in_the_order_that_people_count_in():
    names = ["step_100", "step_20", "step_3", "step_20b", "main"]
    assert sorted(names, key=natural_order) == ["main", "step_3", "step_20", "step_20b", "step_100"]
    assert Asked("folders", "x", "step_*0").matches(names) == ["step_20", "step_100"]
    assert sorted(["9a", "a9", "٣", "10"], key=natural_order)[0] == "٣"


@pytest.mark.parametrize(
    ("labels", "title", "positions"),
    [
        (["step_50", "step_100"], "step", (50, 100)),
        (["epoch1-step50", "epoch1-step90", "epoch2-step10"], "checkpoint", (1, 2, 3)),
        (["checkpoint-50", "checkpoint-100", "200"], "step", (50, 100, 200)),
        (["a", "b"], "checkpoint", (1, 2)),
        (["step5", "step5"], "checkpoint", (1, 2)),
        (["9" * 20], "checkpoint", (1,)),
    ],
)
def test_steps_are_read_off_names_where_they_rise(labels: list[str], title: str, positions: tuple[int, ...]):
    found = axis(labels)
    assert (found.title, found.positions, found.labels) == (title, positions, tuple(labels))


def test_a_series_has_its_pairs_and_comes_back_from_them():
    series = Series(BASE, RUN)
    assert [(pair.base, pair.tuned) for pair in series.pairs] == [
        (BASE, RUN[0]), (BASE, RUN[1]), (BASE, RUN[2]), (RUN[0], RUN[1]), (RUN[1], RUN[2]),
    ]  # fmt: skip
    assert Series.of_pairs(series.pairs) == series
    assert Series.of_pairs(Series(BASE, RUN[:1]).pairs) == Series(BASE, RUN[:1])
    assert series.key != Series(BASE, RUN[::-1]).key
    assert series.from_previous[0] == series.from_base[0]


@pytest.mark.parametrize("run", [(), (*RUN, RUN[0]), (BASE,), RUN * 30], ids=["none", "twice", "the base", "many"])
def test_what_is_no_series_is_refused(run: tuple[PinnedModel, ...]):
    with pytest.raises(BadReference):
        series_of(BASE, run)
