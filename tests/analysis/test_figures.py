"""Figures: what is drawn where, that it stays small, and that no name gets to be markup."""

import json

import numpy as np
import pytest

from analysis import overlaps, rollup
from analysis.figures import circles, curves, density, heatmap, pairs, profiles, sizes, spectra, theme, upset, venn
from analysis.heads import heads_of
from analysis.measurements import N_BINADES, Consensus, Regions
from analysis.metrics import CATALOG
from analysis.rollup import Cell, Curve, Grid
from tests.analysis.by_hand import measured, small_model, spectrum_of, tally_of

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "__proto__",
    "a<b>bold</b><a href='https://example.org'>link</a>",
    "evil\u202egnp.weight",
    "x" * 300,
    "%{customdata[0]}",
]


def grid_of(key: str, *, missing: int = 0, gaps: tuple[str, ...] = (), n_layers: int = 3) -> Grid:
    alignment = small_model(n_layers)
    tallies, found = measured(alignment)
    for name in list(tallies)[len(tallies) - missing :]:
        del tallies[name]
    return rollup.grid(alignment, CATALOG[key], tallies, found, gaps)


def traces(figure, kind: str) -> list:
    return [trace for trace in figure.data if trace.type == kind]


class TestHeatmap:
    def test_colours_every_cell_with_the_grids_values(self):
        grid = grid_of("unchanged-exact")
        (cells,) = traces(heatmap.heatmap(grid), "heatmap")
        assert np.allclose(cells.z, grid.values, equal_nan=True)

    def test_a_share_is_coloured_from_0_to_1_whatever_the_data(self):
        axis = heatmap.heatmap(grid_of("unchanged-exact")).layout.coloraxis
        assert (axis.cmin, axis.cmax) == (0, 1)

    def test_fitted_colours_say_so_on_the_colour_bar(self):
        grid = grid_of("unchanged-exact")
        axis = heatmap.heatmap(grid, fitted=True).layout.coloraxis
        assert (axis.cmin, axis.cmax) == (np.nanmin(grid.values), np.nanmax(grid.values))
        assert "fitted" in axis.colorbar.title.text

    def test_a_log_metric_is_drawn_by_its_logarithm_with_whole_decades_as_ticks(self):
        grid = grid_of("relative-update")
        figure = heatmap.heatmap(grid)
        (cells,) = traces(figure, "heatmap")
        assert np.allclose(cells.z, np.log10(grid.values), equal_nan=True, atol=1e-6)  # drawn in float32
        assert set(figure.layout.coloraxis.colorbar.ticktext) <= {f"10{p}" for p in ("⁻⁵", "⁻⁴", "⁻³", "⁻²", "⁻¹", "⁰")}

    def test_zero_of_a_log_metric_has_the_lowest_colour_not_a_hole(self):
        alignment = small_model(1)
        tallies, _ = measured(alignment, share=0.0)
        tallies["model.embed_tokens.weight"] = measured(small_model(1))[0]["model.embed_tokens.weight"]
        figure = heatmap.heatmap(rollup.grid(alignment, CATALOG["relative-update"], tallies, {}))
        (cells,) = traces(figure, "heatmap")
        assert np.nanmin(cells.z) == figure.layout.coloraxis.cmin

    def test_what_has_no_value_carries_a_sign_by_its_reason(self):
        grid = grid_of("unchanged-exact", missing=2, gaps=("model.layers.2.mlp.down_proj.weight",))
        signs = {trace.name: len(trace.x) for trace in traces(heatmap.heatmap(grid), "scatter") if trace.name}
        assert signs == {"not measured yet": 1, "no value": 1}

    def test_every_cell_of_the_model_can_be_clicked_and_leads_to_its_tensors(self):
        grid = grid_of("unchanged-exact", missing=1)
        targets = traces(heatmap.heatmap(grid), "scatter")[-1]
        assert len(targets.x) == int((grid.states != Cell.ABSENT).sum())
        found = {heatmap.cell_at(grid, x, y) for x, y in zip(targets.x, targets.y, strict=True)}
        assert found == {names for row in grid.names for names in row if names}

    @pytest.mark.parametrize(("x", "y"), [(-1, 0), (0, 99), (99, 0)])
    def test_a_point_outside_the_grid_leads_nowhere(self, x, y):
        assert heatmap.cell_at(grid_of("unchanged-exact"), x, y) == ()

    def test_numbers_stand_in_the_cells_of_a_small_grid_only(self):
        small, large = grid_of("unchanged-exact"), grid_of("unchanged-exact", n_layers=30)
        assert traces(heatmap.heatmap(small), "heatmap")[0].texttemplate
        assert traces(heatmap.heatmap(large), "heatmap")[0].texttemplate is None

    @pytest.mark.parametrize("name", HOSTILE, ids=["markup", "proto", "link", "bidi", "long", "template"])
    def test_a_strangers_name_is_text_and_never_an_axis_value(self, name):
        alignment = small_model(1, strange=name)
        tallies, _ = measured(alignment)
        figure = heatmap.heatmap(rollup.grid(alignment, CATALOG["unchanged-exact"], tallies, {}))
        drawn = figure.to_json()
        assert "<img" not in drawn
        assert "<a href" not in drawn
        assert "\u202e" not in json.loads(drawn)["layout"]["yaxis"]["ticktext"]
        assert all(isinstance(place, int) for place in figure.layout.yaxis.tickvals)
        assert max(len(text) for text in figure.layout.yaxis.ticktext) < 90  # 30 characters, escapes written out

    @pytest.mark.parametrize(
        ("n_layers", "n_modules", "most_bytes"), [(32, 12, 60_000), (80, 48, 500_000), (100, 500, 4_000_000)]
    )
    def test_stays_small(self, n_layers, n_modules, most_bytes):
        names = tuple(tuple((f"model.layers.{x}.m{y}",) for x in range(n_layers)) for y in range(n_modules))
        values = np.linspace(0, 1, n_layers * n_modules).reshape(n_modules, n_layers)
        states = np.full(values.shape, Cell.READY, np.int8)
        modules = tuple(f"self_attn.module_{y}" for y in range(n_modules))
        grid = Grid(CATALOG["unchanged-exact"], modules, tuple(range(n_layers)), values, states, names)
        figure = heatmap.heatmap(grid)
        assert len(figure.to_json()) < most_bytes
        assert len(traces(figure, "scatter")[-1].x) <= heatmap.MOST_TARGETS


class TestCurves:
    def test_tolerance_curve_has_a_dot_at_each_published_tolerance(self):
        tallies, _ = measured(small_model())
        figure = curves.sparsity_over_tolerance([rollup.tolerance_curve(tallies.values(), "all")], chosen=1e-5)
        line, dots = figure.data
        entries = sum(t.entries for t in tallies.values())
        assert dots.y == pytest.approx(
            [
                sum(t.unchanged(rule) for t in tallies.values()) / entries
                for rule in ("1e-8", "1e-7", "1e-6", "1e-5", "1e-4", "1e-3")
            ]
        )
        assert np.all(np.diff(line.y) >= 0)
        assert list(figure.layout.yaxis.range) == [-0.01, 1.01]
        assert dots.cliponaxis is False  # whole at 100 % too

    def test_the_chosen_tolerance_is_marked_by_its_value_on_the_log_axis(self):
        figure = curves.sparsity_over_tolerance([Curve("c", np.array([1e-9, 1.0]), np.array([0.5, 1.0]))], chosen=1e-4)
        assert figure.layout.shapes[0].x0 == 1e-4
        assert figure.layout.annotations[0].x == pytest.approx(-4)

    def test_layer_profiles_draw_one_line_a_matrix(self):
        alignment = small_model()
        tallies, found = measured(alignment)
        metric = CATALOG["rank"]
        figure = curves.layer_profiles(rollup.layer_profile(alignment, metric, tallies, found), metric)
        assert [trace.name for trace in figure.data] == ["self_attn.q_proj", "mlp.down_proj"]
        assert list(figure.data[0].x) == [0, 1, 2]

    def test_nothing_measured_draws_an_empty_frame(self):
        assert len(curves.layer_profiles([], CATALOG["relative-update"]).data) == 0


class TestSpectra:
    def test_long_spectra_are_thinned_and_keep_both_ends(self):
        spectrum = spectrum_of(np.random.default_rng(0).normal(size=(900, 600)))
        (line,) = spectra.singular_values([("w", spectrum)]).data
        assert len(line.x) <= spectra.MOST_POINTS
        assert (line.x[0], line.x[-1]) == (1, 600)
        assert line.y[-1] == spectrum.singular_values[-1]

    def test_zeros_have_no_place_on_a_log_axis(self):
        spectrum = spectrum_of(np.diag([3.0, 2.0, 0.0, 0.0]))
        (line,) = spectra.singular_values([("w", spectrum)], with_threshold=True).data
        assert list(line.y) == [3, 2]

    def test_energy_ends_at_one(self):
        spectrum = spectrum_of(np.random.default_rng(0).normal(size=(50, 20)))
        (line,) = spectra.energy([rollup.energy_curve(spectrum, "w")]).data
        assert line.y[-1] == pytest.approx(1)


class TestOneMatrix:
    def test_profile_pools_long_sides_and_bands_them(self):
        changes = np.arange(5000)
        band_low, band_high, line = profiles.along(changes, 10_000, "row").data
        assert len(line.x) <= profiles.MOST_BINS
        assert line.customdata[1] == "rows 10 to 19"
        assert line.y[1] == pytest.approx(np.arange(10, 20).mean() / 10_000)
        assert (band_low.y[1], band_high.y[1]) == pytest.approx((10 / 10_000, 19 / 10_000))

    def test_a_profile_is_parted_where_heads_begin(self):
        config = {"hidden_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2}
        heads = heads_of("self_attn.q_proj", (8, 8), config)
        figure = profiles.along(np.arange(8), 8, "row", heads)
        weak, strong = figure.layout.shapes
        assert weak.path == "M2,0L2,1 M6,0L6,1"
        assert strong.path == "M4,0L4,1", "another key-value head begins"
        assert figure.data[0].customdata[5] == "row 5<br>query head 2"

    def test_profile_of_a_short_side_shows_each_line(self):
        (line,) = profiles.along(np.array([3, 0, 1]), 4, "column").data
        assert list(line.y) == [0.75, 0, 0.25]
        assert line.customdata[0] == "column 0"

    def test_change_sizes_lose_no_entry(self):
        tallies, _ = measured(small_model(1))
        tally = tallies["model.embed_tokens.weight"]
        (bars,) = sizes.change_sizes(tally.changes).data
        assert sum(bars.y) == tally.entries - tally.equal
        (bars,) = sizes.relative_sizes(tally.relative).data
        assert sum(bars.y) == tally.entries - tally.equal
        (bars,) = sizes.ulp_sizes(tally.ulps, tally.sign_flips).data
        assert sum(bars.y) == tally.entries - tally.equal

    def test_relative_sizes_stand_where_their_bins_are(self):
        tally = tally_of(np.array([[1.0, 1.0, 4.0]], np.float32), np.array([[1.0, -1.0, 1.0]], np.float32))
        (bars,) = sizes.relative_sizes(tally.relative).data
        bar = {round(x, 3): (n, tuple(ends)) for x, n, ends in zip(bars.x, bars.y, bars.customdata, strict=True) if n}
        assert bar == {-0.125: (1, ("0.708", "0.794")), 0.151: (1, ("1", "2"))}

    def test_steps_are_named_and_a_flip_stands_apart(self):
        figure = sizes.ulp_sizes(np.array([5, 0, 0, 1, 2, *[0] * 28]), 3)
        (bars,) = figure.data
        assert figure.layout.xaxis.ticktext[:6] == ("1", "2", "3", "4", "5 to 8", "9 to 16")
        assert (bars.y[0], bars.y[4], bars.y[-1]) == (5, 2, 3)
        assert bars.customdata[-1] == "sign flipped"

    def test_magnitude_shares_divide_by_the_weights_there(self):
        before = np.array([[0.5, 0.5, 0.03, 0.03]], np.float32)
        tally = tally_of(before, np.array([[0.5, 0.51, 0.04, 0.05]], np.float32))
        changed = {"exact": tally.changed_by_binade("exact"), "Mukherjee's": tally.mukherjee_binades}
        figure = profiles.by_magnitude(changed, tally.base_binades)
        weights, exact, _ = figure.data
        assert (exact.y[0], exact.y[-1]) == (1.0, 0.5)
        assert sum(weights.y) == 1
        assert weights.customdata[-1][0] == "from 2⁻¹ to 2⁰"

    def test_density_counts_become_shares_of_their_true_blocks(self):
        counts = np.array([[4, 1], [2, 1]])
        (cells,) = density.density_map(counts, 2, 2).data
        assert np.allclose(cells.z, counts)

    def test_density_names_true_rows_also_of_the_short_last_block(self):
        before = np.zeros((300, 4), np.float32)
        tally = tally_of(before, np.ones_like(before))
        (cells,) = density.density_map(tally.density, 300, 4).data
        assert (cells.y[0], cells.y[-1]) == ("0 to 2", "297 to 299")
        assert np.allclose(cells.z, 1)

    @pytest.mark.parametrize(("shares", "top"), [(0.004, 0.005), (0.03, 0.05), (0.7, 1.0)], ids=str)
    def test_density_colours_end_at_a_round_share(self, shares, top):
        blocks = np.full((128, 128), round(shares * 1000), np.int64)
        figure = density.density_map(blocks, 128 * 10, 128 * 100)
        assert figure.layout.coloraxis.cmax == top

    def test_density_colours_of_a_dense_update_span_its_own_range(self):
        blocks = np.full((128, 128), 700, np.int64)
        blocks[0, 0] = 600
        axis = density.density_map(blocks, 128 * 10, 128 * 100).layout.coloraxis
        assert (axis.cmin, axis.cmax) == (0.6, 0.7)
        axis = density.density_map(blocks, 128 * 10, 128 * 100, whole_range=True).layout.coloraxis
        assert (axis.cmin, axis.cmax) == (0.0, 1.0)

    def test_dark_is_much_changed_in_heatmaps_of_either_share(self):
        unchanged, changed = (
            theme.share_colours(),
            density.density_map(np.eye(2, dtype=np.int64), 2, 2).layout.coloraxis,
        )
        assert changed.colorbar.title.text == "changed share"
        assert [colour for _, colour in changed.colorscale] == list(unchanged["colorscale"][::-1])

    def test_the_largest_density_map_stays_small(self):
        figure = density.density_map(np.ones((128, 128), np.int64), 151_936, 8192)
        assert len(figure.to_json()) < 120_000


class TestCircles:
    @pytest.mark.parametrize(("radius", "other", "share"), [(1, 1, 0.5), (1, 0.4, 0.9), (2, 1, 0.01)], ids=str)
    def test_bisection_finds_the_distance_of_a_lens(self, radius, other, share):
        area = share * np.pi * min(radius, other) ** 2
        assert circles.lens(radius, other, circles.distance(radius, other, area)) == pytest.approx(area, rel=1e-9)

    def test_lens_of_unit_circles_at_unit_distance_is_the_textbook_one(self):
        assert circles.lens(1, 1, 1) == pytest.approx(2 * np.pi / 3 - np.sqrt(3) / 2)

    @pytest.mark.parametrize(
        "counts", [(0, 50, 30, 20), (0, 0, 10, 90), (0, 1, 1, 0)], ids=["usual", "inside", "apart"]
    )
    def test_two_circles_are_exact(self, counts):
        assert circles.layout(counts).worst_error < 2e-3  # the raster's own grain

    def test_three_circles_measure_their_own_error(self):
        assert circles.layout((0, 10, 10, 3, 10, 3, 3, 5)).worst_error < 0.02
        assert circles.layout((0, 7, 5, 4, 4, 9, 2, 0)).worst_error > 0.02


class TestVenn:
    others = (upset.upset, upset.agreement, pairs.pair_matrix)

    def of(self, *counts: int, labels=None):
        k = len(counts).bit_length() - 1
        labels = labels or [f"run-{i}" for i in range(k)]
        return overlaps.venn("exact", labels, {"w": Regions.of("exact", np.array(counts, np.int64))})

    def test_prints_the_true_count_of_every_region(self):
        texts = [note.text for note in venn.circle_diagram(self.of(900, 50, 30, 20)).layout.annotations]
        assert {"50", "30", "20"} <= set(texts)
        assert any("70 changed" in text for text in texts)

    def test_says_when_areas_are_only_approximate(self):
        said = [
            any("approximate" in n.text for n in venn.circle_diagram(v).layout.annotations)
            for v in (self.of(0, 10, 10, 3, 10, 3, 3, 5), self.of(0, 7, 5, 4, 4, 9, 2, 0))
        ]
        assert said == [False, True]

    def test_a_region_too_thin_to_draw_is_listed_with_its_count(self):
        texts = " ".join(note.text for note in venn.circle_diagram(self.of(0, 100000, 1, 100000)).layout.annotations)
        assert texts.endswith(f'not labelled above: <span style="color:{theme.SERIES[1]}">●</span> 1')

    def test_a_number_that_would_touch_the_lines_of_its_region_is_listed(self):
        """45,000 is nearly as wide as its lens; a short number has room in a region just as wide."""
        tight, short, roomy = (
            venn.circle_diagram(self.of(0, 600_000 // n, 660_000 // n, both // n)).layout.annotations
            for both, n in ((45_000, 1), (45_000, 1000), (150_000, 1))
        )
        assert "45,000" not in [note.text for note in tight]
        assert "not labelled above" in tight[-1].text
        assert "45,000" in tight[-1].text
        assert "45" in [note.text for note in short]
        assert "150,000" in [note.text for note in roomy]

    def test_nothing_changed_anywhere_still_draws(self):
        assert venn.circle_diagram(self.of(100, 0, 0, 0)).layout.shapes

    def test_four_runs_become_bars_over_a_dot_matrix(self):
        counts = [0] + [100 - s for s in range(1, 16)]
        bars, by_chance, off, on = upset.upset(self.of(*counts)).data
        assert list(bars.y) == sorted(counts[1:], reverse=True)
        members = [at for at in on.x if at is not None]
        assert len(members) == sum(s.bit_count() for s in range(1, 16))
        assert len(members) + len(off.x) == 15 * 4
        assert by_chance.name == "by chance", "and no marks of magnitude-matched chance, which is unknown here"

    def test_chance_stands_on_the_bar_of_its_own_region(self):
        drawn = self.of(60, 10, 20, 10)  # by chance 14 only the first, 24 only the second, 6 both
        bars, by_chance, *_ = upset.upset(drawn).data
        assert list(bars.y) == [20, 10, 10]
        assert list(by_chance.y[::3]) == pytest.approx([24, 14, 6])
        assert "only run-1" in bars.customdata[0][0]

    @pytest.mark.parametrize("draw", [upset.upset, upset.agreement])
    def test_chance_is_as_wide_as_its_bar_and_ends_before_the_next(self, draw):
        by_chance = draw(self.of(*range(1, 65))).data[1]
        lines = list(zip(by_chance.x[::3], by_chance.x[1::3], strict=True))
        assert by_chance.mode == "lines"
        assert all(left + right == pytest.approx(2 * i) for i, (left, right) in enumerate(lines))
        assert all(0.6 < right - left < 1 for left, right in lines)

    def test_of_twelve_runs_the_largest_regions_are_drawn_and_the_rest_is_said(self):
        counts = np.arange(1, 4097)[::-1].copy()
        figure = upset.upset(self.of(*counts))
        assert len(figure.data[0].x) == upset.MOST_BARS
        (note,) = [a.text for a in figure.layout.annotations]
        assert "4,095 regions" in note
        others = counts[1 + upset.MOST_BARS :].sum() / counts[1:].sum()
        assert f"{100 * others:.2f} %" in note
        assert len(figure.to_json()) < 100_000

    def test_nothing_changed_has_no_bars(self):
        assert len(upset.upset(self.of(100, 0, 0, 0)).data[0].x) == 0

    def test_agreement_counts_runs_not_regions(self):
        bars, by_chance = upset.agreement(self.of(40, 10, 8, 6, 5, 4, 3, 24)).data
        assert list(bars.y) == [23, 13, 24]
        assert list(by_chance.y[::3]) == pytest.approx(self.of(40, 10, 8, 6, 5, 4, 3, 24).expected_by_runs[1:])

    @pytest.mark.parametrize("measure", ["one-sided", "jaccard", "matched"])
    def test_pair_matrix_of_twelve_runs_stays_readable(self, measure: str):
        figure = pairs.pair_matrix(self.of(*range(1, 4097)), measure)
        assert figure.layout.height < 700
        assert figure.layout.xaxis.ticktext[11] == "<b>L</b>"

    def test_pair_matrix_names_rows_and_gives_columns_their_letters(self):
        figure = pairs.pair_matrix(self.of(900, 50, 30, 20, labels=["abacus-dpo-seed1", "abacus-dpo-seed2"]), "jaccard")
        assert figure.layout.xaxis.ticktext == ("<b>A</b>", "<b>B</b>")
        assert figure.layout.yaxis.ticktext == ("abacus-dpo-seed1 <b>A</b>", "abacus-dpo-seed2 <b>B</b>")

    def test_pair_matrix_shows_one_sided_overlaps_with_both_chances(self):
        table = pairs.pair_matrix(self.of(900, 50, 30, 20)).data[0]
        assert table.z[0][1] == pytest.approx(20 / 70)
        assert table.z[1][0] == pytest.approx(20 / 50)
        assert "chance 5.00 %" in table.text[0][1]  # 50 of 1,000 changed by the other

    def test_labels_of_strangers_are_escaped(self):
        drawn = venn.circle_diagram(self.of(900, 50, 30, 20, labels=["<b>x</b>", "<img src=x>"]))
        others = [draw(self.of(900, 50, 30, 20, labels=["<b>x</b>", "<img src=x>"])) for draw in self.others]
        for text in (figure.to_json() for figure in (drawn, *others)):
            assert "<img" not in text
            assert "<b>x</b>" not in text


class TestConsensusMap:
    found = Consensus("exact", 3, 2, np.array([[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 0, 0]], [[1, 0, 0]] * 2]))

    def test_shows_the_share_of_runs(self):
        (cells,) = density.consensus_map(self.found).data
        assert cells.z.tolist() == [[0, 0.5], [1, 0], [0, 0]]

    def test_or_where_so_many_runs_agree(self):
        (cells,) = density.consensus_map(self.found, at_least=2).data
        assert cells.z.tolist() == [[0, 0], [1, 0], [0, 0]]

    def test_blocks_at_the_edge_are_smaller(self):
        counts = np.zeros((65, 1, 3), np.int64)
        counts[:, :, 2] = np.array([2] * 64 + [1]).reshape(-1, 1)  # 129 rows: blocks of two, the last of one
        (cells,) = density.consensus_map(Consensus("exact", 129, 1, counts)).data
        assert (cells.z == 1).all()


@pytest.mark.parametrize("count", [1, 9, 33, 500])
def test_ticks_never_crowd(count):
    assert len(theme.every(count, 32)) <= 32


def test_by_hand_tallies_are_whole():
    """The examples above stand on these: every changed entry is in exactly one bin, row and column."""
    tally = measured(small_model(1))[0]["model.embed_tokens.weight"]
    changed = tally.entries - tally.equal
    assert tally.joint.shape[0] == N_BINADES
    assert changed == tally.joint.sum() == tally.row_changes.sum() == tally.column_changes.sum() == tally.density.sum()
