"""Figures for paper, drawn by the real Chromium: right size, right format, nothing left behind; and what is said where
there is none."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis import overlaps, rollup
from analysis.errors import NoChromium, ResourceError
from analysis.figures import curves, density, theme, upset, venn
from analysis.figures.heatmap import heatmap
from analysis.figures.printed import WIDTHS, printed, to_html
from analysis.measurements import Regions
from analysis.metrics import CATALOG
from cache import drawing
from tests.analysis.by_hand import measured, small_model

CHROMIUM = drawing.found("")


@pytest.fixture(scope="module")
def grid() -> rollup.Grid:
    alignment = small_model()
    return rollup.grid(alignment, CATALOG["unchanged-exact"], measured(alignment)[0], {})


def test_a_figure_for_paper_is_as_wide_as_its_column(grid: rollup.Grid):
    for inches in WIDTHS.values():
        drawn = printed(heatmap(grid), inches)
        assert drawn.layout.width == inches * 96
        assert (drawn.layout.paper_bgcolor, drawn.layout.plot_bgcolor) == ("white", "white")
        assert drawn.layout.template.layout.font.size == pytest.approx(8 / 72 * 96)


def test_cells_on_paper_are_vectors_with_their_values(grid: rollup.Grid):
    [cells, *_] = printed(heatmap(grid), 7.0).data
    assert cells.type == "bar"
    known = grid.values[np.isfinite(grid.values)]
    assert sorted(cells.marker.color) == pytest.approx(sorted(known.astype(np.float32)))
    assert len(cells.x) == known.size


def test_nothing_on_paper_is_there_to_be_pointed_at(grid: rollup.Grid):
    drawn = printed(heatmap(grid), 3.5)
    assert all(trace.customdata is None and trace.hovertemplate is None for trace in drawn.data)
    assert not any(trace.type == "scatter" and trace.marker.opacity == 0 for trace in drawn.data)


def test_lines_that_lean_on_a_neighbours_legend_have_their_own_on_paper():
    lines = [rollup.Curve(name, np.array([0.0, 1, 2]), np.array([0.1, 0.5, 1])) for name in ("q", "k")]
    figure = curves.layer_profiles(lines, CATALOG["unchanged-exact"]).update_layout(showlegend=False)
    assert printed(figure, 3.5).layout.showlegend
    assert not printed(curves.sparsity_over_tolerance(lines[:1]), 3.5).layout.showlegend


@pytest.mark.parametrize(("inches", "cells_share"), [(3.5, 0.45), (7.0, 0.7)])
@pytest.mark.parametrize("n_layers", [4, 12, 28, 80])
def test_layers_on_paper_are_numbered_clear_of_each_other(n_layers: int, inches: float, cells_share: float):
    alignment = small_model(n_layers)
    cells = heatmap(rollup.grid(alignment, CATALOG["unchanged-exact"], measured(alignment)[0], {}))
    axis = printed(cells, inches).layout.xaxis
    column = inches * 96 * cells_share / (axis.range[1] - axis.range[0])
    halves = [theme.ems(text) * 8 / 72 * 96 / 2 for text in axis.ticktext]
    ends = [(at * column - half, at * column + half) for at, half in zip(axis.tickvals, halves, strict=True)]
    word, *numbers = axis.ticktext
    assert word in ("outside", "<br>outside"), "on a line of its own where the first number needs the room"
    assert numbers[0] == "0" or n_layers == 80, "of so many the page does not write that one either"
    assert axis.tickangle == 0
    assert len(ends) >= 3
    on_one_line = ends[1:] if word.startswith("<br>") else ends
    assert all(right + 2 <= left for (_, right), (left, _) in pairwise(on_one_line))


def test_dots_below_bars_find_room_on_paper():
    regions = {"w": Regions.of("exact", np.arange(1, 129)[::-1].copy())}
    bars = upset.upset(overlaps.venn("exact", [f"run-{i}" for i in range(7)], regions))
    marked = [trace for trace in printed(bars, 3.5).data if trace.type == "scatter" and "markers" in trace.mode]
    assert marked
    assert all(trace.marker.size <= 3.5 * 96 / 2 / upset.MOST_BARS for trace in marked)
    assert [trace.marker.size for trace in bars.data[-2:]] == [10, 10]


def test_very_many_cells_stay_a_picture():
    blocks = density.density_map(np.ones((100, 100), np.int64), 100, 100)
    assert printed(blocks, 3.5).data[0].type == "heatmap"


def test_a_name_cannot_end_the_script_it_stands_in(grid: rollup.Grid):
    figure = heatmap(grid).update_layout(title="</script><script>alert(1)</script>")
    page = to_html(figure.update_layout(width=300, height=200), "svg", "</script>", 3.5)
    assert page.count("</script>") == 2


@pytest.mark.parametrize("inches", [3.5, 7.0])
def test_a_png_has_300_dots_an_inch(grid: rollup.Grid, inches: float):
    drawn = printed(heatmap(grid), inches)
    data = drawing.draw(to_html(drawn, "png", "t", inches), "png", CHROMIUM, inches=inches, about='{"models": "α"}')
    picture = Image.open(io.BytesIO(data))
    picture.load()
    assert picture.width == inches * 300
    assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.01)
    assert picture.info["Description"] == '{"models": "α"}'
    assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50


def test_an_svg_has_its_size_its_text_and_where_it_comes_from(grid: rollup.Grid):
    data = drawing.draw(to_html(printed(heatmap(grid), 3.5), "svg", "t", 3.5), "svg", CHROMIUM, about="<&>")
    root = ET.fromstring(data)
    assert (root.tag.endswith("svg"), root.get("width")) == (True, "3.5in")
    assert root[0].text == "<&>"
    assert "self_attn.q_proj" in "".join(root.itertext())
    assert b"<image" not in data.split(b"colorbar")[0]


def test_a_pdf_is_one_page_of_its_own_size(grid: rollup.Grid):
    drawn = printed(heatmap(grid), 3.5)
    data = drawing.draw(to_html(drawn, "pdf", "org/tuned against org/base", 3.5), "pdf", CHROMIUM)
    assert data.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", data)) == 1
    [box] = re.findall(rb"/MediaBox\s*\[([^\]]*)\]", data)
    width, height = [float(side) for side in box.split()][2:]
    assert (width, height) == pytest.approx((3.5 * 72, drawn.layout.height * 0.75), abs=1)


def test_a_figure_full_of_words_is_laid_out_wider_and_still_as_wide_as_its_column():
    regions = {"w": Regions.of("exact", np.array([900, 50, 30, 20]))}
    circles = printed(venn.circle_diagram(overlaps.venn("exact", ["run-1", "run-2"], regions)), 3.5)
    assert circles.layout.width > 3.5 * 96
    assert len(circles.data) == 1  # nothing to see, but the axes take their range from it
    svg = ET.fromstring(drawing.draw(to_html(circles, "svg", "t", 3.5), "svg", CHROMIUM))
    pdf = drawing.draw(to_html(circles, "pdf", "t", 3.5), "pdf", CHROMIUM)
    png = Image.open(io.BytesIO(drawing.draw(to_html(circles, "png", "t", 3.5), "png", CHROMIUM)))
    assert svg.get("width") == "3.5in"
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == 1
    assert re.search(rb"/MediaBox\s*\[0 0 252 ", pdf)
    assert png.width == pytest.approx(1050, abs=1)


def test_without_a_chromium_it_says_how_to_get_one():
    assert drawing.found("off") is None
    with pytest.raises(NoChromium, match="SUBNETSCOPE_CHROMIUM"):
        drawing.draw("<p>", "png", None)


def test_what_hangs_is_ended_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hanging = tmp_path / "chromium"
    hanging.write_text("#!/bin/sh\nsleep 600 &\nsleep 600\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(drawing.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ResourceError, match="within 1 seconds"):
        drawing.draw("<p>", "png", hanging, seconds=1)
    assert list(tmp_path.iterdir()) == [hanging]


def test_what_ends_without_a_figure_is_an_error(tmp_path: Path):
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    for form in ("pdf", "png"):
        with pytest.raises(ResourceError, match="without the figure"):
            drawing.draw("<p>", form, broken)


def test_the_drawing_process_gets_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    seen = tmp_path / "seen"
    spying = tmp_path / "chromium"
    spying.write_text(f"#!/bin/sh\nenv > {seen}\n")
    spying.chmod(0o755)
    with pytest.raises(ResourceError):
        drawing.draw("<p>", "png", spying)
    assert "hf_secret" not in seen.read_text()
