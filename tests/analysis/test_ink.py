"""Numbers on cells, and words on the page, have the contrast that WCAG asks of small text (2.2, criterion 1.4.3)."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from analysis.dynamics import MEASURES, StepGrid
from analysis.figures import ink, pairs, theme
from analysis.figures.heatmap import heatmap
from analysis.figures.printed import printed
from analysis.figures.steps import step_heatmap
from analysis.measurements import Regions
from analysis.metrics import CATALOG
from analysis.overlaps import venn
from analysis.rollup import Cell, Grid
from analysis.series import axis
from pages.parts.charts import INK_OF_THEME

LEAST = 4.5
THEMES = tomllib.loads((Path(__file__).resolve().parents[2] / ".streamlit" / "config.toml").read_text())["theme"]
EVERY_PERCENT = np.linspace(0, 1, 101)


def grid_of(values: np.ndarray, metric: str = "unchanged-exact") -> Grid:
    names = tuple(tuple(("w",) for _ in row) for row in values)
    states = np.full(values.shape, Cell.READY, np.int8)
    rows, columns = values.shape
    return Grid(CATALOG[metric], tuple(map(str, range(rows))), tuple(range(columns)), values, states, names)


def least_contrast(figure) -> float:
    """The lowest contrast of a number on its cell, whose colour the colour axis gives."""
    cells, colours = figure.data[0], figure.layout.coloraxis
    scale = {"colorscale": [colour for _, colour in colours.colorscale], "cmin": colours.cmin, "cmax": colours.cmax}
    values = np.asarray(cells.marker.color if cells.type == "bar" else cells.z, np.float64)
    grounds = ink.ground(values, scale).reshape(-1, 3)
    texts = np.ravel(np.array(cells.text, object))
    known = [i for i, text in enumerate(texts) if text]
    assert len(known) > 4
    inks = np.array([ink.rgb(re.findall(r'color:(#\w{6})">', texts[i])[0]) for i in known])
    return float(contrast(inks, grounds[known]).min())


def contrast(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2, 'contrast ratio')."""
    lights = ink.luminance(one), ink.luminance(other)
    return (np.maximum(*lights) + 0.05) / (np.minimum(*lights) + 0.05)


@pytest.mark.parametrize("scale", ["SHARE_COLOURS", "DECADE_COLOURS"])
def test_one_of_black_and_white_reads_at_every_percent(scale: str):
    grounds = ink.ground(EVERY_PERCENT, {"colorscale": getattr(theme, scale), "cmin": 0.0, "cmax": 1.0})
    inks = np.array([ink.rgb(one) for one in ink.ink_on(grounds)])
    assert contrast(inks, grounds).min() >= LEAST


def test_contrast_is_what_the_standard_gives():
    black, white, grey = (ink.rgb(colour) for colour in ("#000000", "#ffffff", "#767676"))
    assert contrast(black, white) == pytest.approx(21)
    assert contrast(grey, white) == pytest.approx(4.54, abs=0.005)  # the usual example of barely enough


def test_colours_between_two_stops_are_mixed_evenly():
    middle = ink.ground(np.array([0.5, 2.0]), {"colorscale": ("#000000", "#ffffff"), "cmin": 0.0, "cmax": 1.0})
    assert middle.tolist() == [[127.5] * 3, [255.0] * 3]


@pytest.mark.parametrize("fitted", [False, True], ids=["0 to 100 %", "fitted"])
@pytest.mark.parametrize("metric", ["unchanged-exact", "relative-update", "stable-rank"])
def test_numbers_on_a_heatmap_read_on_the_page_and_on_paper(metric: str, fitted: bool):
    values = EVERY_PERCENT[1:].reshape(20, 5) * (1 if metric == "unchanged-exact" else 30)
    drawn = heatmap(grid_of(values, metric), fitted=fitted)
    assert least_contrast(drawn) >= LEAST
    assert least_contrast(printed(drawn, 7.0)) >= LEAST


def test_numbers_over_steps_and_of_run_against_run_read_too():
    values = np.append(EVERY_PERCENT, np.nan).reshape(-1, 3)
    states = np.full(values.shape, Cell.READY, np.int8)
    grid = StepGrid(MEASURES["base"], tuple(map(str, range(len(values)))), values, states)
    assert least_contrast(step_heatmap(grid, axis(["1", "2", "3"]))) >= LEAST
    regions = {"w": Regions.of("exact", np.array([900, 50, 30, 20, 90, 10, 5, 70]))}
    for measure in ("one-sided", "jaccard"):
        assert least_contrast(pairs.pair_matrix(venn("exact", ["a", "b", "c"], regions), measure)) >= LEAST


def test_a_cell_without_a_colour_has_no_number():
    assert ink.inked([["–", "5"]], np.array([[np.nan, 5.0]]), theme.share_colours())[0][0] == ""


@pytest.mark.parametrize("name", ["light", "dark"])
def test_words_of_figures_read_on_the_pages_ground(name: str):
    grounds = [ink.rgb(THEMES[name][part]) for part in ("backgroundColor", "secondaryBackgroundColor")]
    for words in (*INK_OF_THEME[name], THEMES[name]["textColor"], THEMES[name]["linkColor"]):
        assert min(float(contrast(ink.rgb(words), ground)) for ground in grounds) >= LEAST, words
