"""The normalized spectral shift: by hand on diagonals, against numpy, and what it is blind to."""

import dataclasses

import numpy as np
import pytest
import torch

from analysis.coverage import part_of
from analysis.figures import spectra
from analysis.measure import Engine, measure_spectrum
from analysis.plan import Hole, Plan
from analysis.rollup import headline_of_part
from analysis.selection import select
from analysis.shift import normalized_spectral_shift, relative_shifts, shift_row
from tests.analysis.by_hand import measured, small_model, spectrum_of, tally_of

HOLES = ("update", "base", "tuned")
NAME = "model.layers.1.mlp.down_proj.weight"


def test_shift_of_diagonals_is_the_distance_of_their_entries():
    base, tuned = spectrum_of(np.diag([4.0, 3.0])), spectrum_of(np.diag([4.0, 3.5]))
    assert normalized_spectral_shift(base, tuned) == pytest.approx(0.5 / 5)
    assert relative_shifts(base, tuned).tolist() == pytest.approx([0, 0.5 / 3], abs=1e-7)


def test_a_turn_alone_shifts_nothing_though_the_update_is_large():
    base = np.diag([4.0, 3.0]).astype(np.float32)
    turned = np.array([[0, -4], [3, 0]], np.float32)
    row = shift_row("w", spectrum_of(base), spectrum_of(turned), tally_of(base, turned))
    assert row["normalized spectral shift"] == pytest.approx(0, abs=1e-6)
    assert row["update / base"] == pytest.approx(np.sqrt(2))


def test_shift_is_never_above_the_size_of_the_update_and_reaches_it_by_stretching():
    random = np.random.default_rng(0)
    base = random.normal(size=(20, 30)).astype(np.float32)
    for update in (random.normal(0, 0.01, base.shape), random.normal(0, 2, base.shape), 0.1 * base):
        tuned = (base + update).astype(np.float32)
        row = shift_row("w", spectrum_of(base), spectrum_of(tuned), tally_of(base, tuned))
        assert row["shift / update"] <= 1 + 1e-5
    assert row["shift / update"] == pytest.approx(1, rel=1e-4)


def test_a_base_of_zeros_has_no_shift():
    zero = spectrum_of(np.zeros((2, 2), np.float32))
    assert np.isnan(normalized_spectral_shift(zero, spectrum_of(np.eye(2))))
    assert np.isnan(relative_shifts(zero, spectrum_of(np.eye(2)))).all()


def test_a_plan_of_sides_wants_two_spectra_of_each_matrix_it_names_and_nothing_else():
    alignment = small_model()
    plan = Plan(sides=(NAME, "model.layers.1.input_layernorm.weight"))
    assert list(plan.wanted(alignment)) == [Hole("spectrum", NAME, "base"), Hole("spectrum", NAME, "tuned")]
    assert Plan.from_dict({"sides": [NAME]}) == Plan(sides=(NAME,))


def test_asking_for_sides_makes_no_selection_larger():
    alignment = small_model()
    tallies, _ = measured(alignment)
    selected = Plan(selection=select("1"), spectra=False)
    only = {NAME: tallies[NAME]}
    assert part_of(alignment, [Plan(), Plan(sides=(NAME,))]) is alignment
    assert part_of(alignment, [Plan(sides=(NAME,))]) is alignment
    with_sides = headline_of_part(alignment, only, {}, [selected, Plan(sides=(NAME,))])
    assert with_sides == headline_of_part(alignment, only, {}, [selected])
    assert with_sides.chosen.layers == 1


def test_a_tensor_that_an_adapter_leaves_alone_has_a_base_all_the_same():
    [pair, *_] = (pair for pair in small_model().pairs if pair.name == NAME)
    weights = torch.eye(16, 24)

    def rows(first: int, last: int) -> torch.Tensor:
        return weights[first:last]

    untouched = dataclasses.replace(pair, match="untouched")
    of = {side: measure_spectrum(untouched, rows, rows, Engine(), Hole("spectrum", NAME, side)) for side in HOLES}
    assert {side: found.singular_values.sum() for side, found in of.items()} == {"update": 0, "base": 16, "tuned": 16}


def test_base_and_tuned_are_drawn_over_each_other_and_their_shift_beside():
    base = np.diag([4.0, 3.0, 2.0])
    pairs = [("w", spectrum_of(base), spectrum_of(base + np.diag([0, 0.3, 0])))]
    tuned, before = spectra.base_and_tuned(pairs).data
    assert (list(before.y), before.line.dash) == ([4, 3, 2], "dot")
    assert before.line.color != tuned.line.color, "they lie on each other"
    assert list(tuned.y) == pytest.approx([4, 3.3, 2])
    (moved,) = spectra.spectral_shifts(pairs).data
    assert (list(moved.x), list(moved.y)) == ([2], pytest.approx([0.1], rel=1e-6))
    assert len(spectra.spectral_shifts([]).data) == 0


def test_many_layers_are_coloured_in_order_and_not_in_a_legend():
    many = [(f"layer {i}", spectrum_of(np.diag([4.0, 3.0]))) for i in range(20)]
    figure = spectra.singular_values(many, in_order=True)
    assert len({line.line.color for line in figure.data}) == 20
    assert not figure.layout.showlegend
    assert spectra.singular_values(many[:3], in_order=True).layout.showlegend
