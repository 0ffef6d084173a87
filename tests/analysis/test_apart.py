"""Lines that lie on each other: both are seen, and those that are the same say so."""

import numpy as np
import plotly.graph_objects as go

from analysis.figures import theme
from analysis.figures.apart import told_apart

X = np.arange(5)


def drawn(*heights: np.ndarray, **axis: object) -> go.Figure:
    lines = [
        go.Scatter(x=X, y=one, mode="lines", name=f"run {i}", line=theme.line_style(i)) for i, one in enumerate(heights)
    ]
    return told_apart(go.Figure(lines, {"yaxis": axis}))


def looks(figure: go.Figure) -> list[tuple[str, bool]]:
    return [(line.line.dash, line.line.width > 3) for line in figure.data]


FIRST, SECOND = "16px,14px", "16px,6px,3px,6px"


def test_a_line_on_another_is_dashed_over_a_wide_one():
    figure = drawn(X / 5, 1 - X / 5, X / 5 + 0.004, range=[0, 1])
    assert looks(figure) == [("solid", True), ("solid", False), (FIRST, False)]
    assert figure.data[2].name == "run 2", "near is not the same"


def test_lines_that_are_the_same_say_so_and_differ_from_each_other():
    figure = drawn(X / 5, X / 5, X / 5, range=[0, 1])
    assert looks(figure) == [("solid", True), (FIRST, False), (SECOND, False)]
    assert [line.name for line in figure.data] == ["run 0", "run 1 (same as run 0)", "run 2 (same as run 0)"]


def test_lines_apart_stay_as_they_are():
    assert looks(drawn(X / 5, X / 5 + 0.05, range=[0, 1])) == [("solid", False)] * 2
    crossing = drawn(X / 5, 1 - X / 5, range=[0, 1])
    assert looks(crossing) == [("solid", False)] * 2


def test_lines_that_part_in_a_few_places_hide_each_other_elsewhere():
    parted = np.where(X == 1, 0.9, X / 5)
    assert looks(drawn(X / 5, parted, range=[0, 1]))[1][0] == FIRST


def test_on_a_logarithmic_axis_decades_count():
    near = drawn(10.0**X, 1.05 * 10.0**X, type="log", range=[0, 4])
    apart = drawn(10.0**X, 2 * 10.0**X, type="log", range=[0, 4])
    assert (looks(near)[1][0], looks(apart)[1][0]) == (FIRST, "solid")


def test_what_has_gaps_or_other_places_is_compared_where_both_are():
    gap = np.where(X == 2, np.nan, X / 5)
    assert looks(drawn(X / 5, gap, range=[0, 1]))[1][0] == FIRST
    assert looks(drawn(X / 5, np.full(5, np.nan), range=[0, 1]))[1][0] == "solid"
