"""Overlap by layer and matrix: counts pool before they divide, and where nothing changed there is no overlap."""

import math

import numpy as np
import pytest

from analysis.alignment import align
from analysis.measurements import Magnitudes, Regions
from analysis.overlap_grids import AGREEMENTS, MEASURES, agreement_grid, overlap_grid
from analysis.rollup import Cell
from analysis.tensors import TensorInfo


def alignment_of(*names: str):
    infos = [TensorInfo(name, "F32", (10, 10), "model.safetensors", 0, 400) for name in names]
    return align(infos, infos)


def regions(*counts: int) -> Regions:
    return Regions.of("exact", np.array(counts, np.int64))


EXPERTS = [f"model.layers.0.mlp.experts.{e}.up_proj.weight" for e in range(2)]


def test_experts_of_a_cell_pool_their_counts():
    counted = {EXPERTS[0]: regions(90, 5, 0, 5), EXPERTS[1]: regions(70, 25, 5, 0)}
    grid = overlap_grid(alignment_of(*EXPERTS), "one-sided", counted, 0, 1, rule="exact")
    assert grid.values[0, 0] == pytest.approx(5 / 35)  # not the mean of 5/10 and 0/25
    assert grid.states[0, 0] == Cell.READY


@pytest.mark.parametrize(
    ("counted", "state"),
    [
        ({}, Cell.WAITING),
        ({EXPERTS[0]: regions(90, 5, 0, 5)}, Cell.PARTIAL),
        ({name: regions(100, 0, 0, 0) for name in EXPERTS}, Cell.GAP),
    ],
    ids=["not counted", "one of two counted", "nothing changed"],
)
def test_a_cell_says_why_it_has_no_value(counted, state):
    grid = overlap_grid(alignment_of(*EXPERTS), "jaccard", counted, 0, 1, rule="exact")
    assert grid.states[0, 0] == state


def test_a_cell_of_what_the_models_do_not_share_says_so_and_does_not_wait():
    up, down = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"
    grids = [
        overlap_grid(alignment_of(up, down), "jaccard", {}, 0, 1, rule="exact", left_out={up}),
        agreement_grid(alignment_of(up, down), "share", {}, 1, left_out={up}),
    ]
    for grid in grids:
        assert [Cell(state) for state in grid.states[:, 0]] == [Cell.LEFT_OUT, Cell.WAITING]
    one_expert = overlap_grid(
        alignment_of(*EXPERTS), "jaccard", {EXPERTS[0]: regions(90, 5, 0, 5)}, 0, 1, rule="exact", left_out={EXPERTS[1]}
    )
    assert one_expert.states[0, 0] == Cell.READY, "nothing more is to come"


def test_over_chance_is_one_for_independent_updates():
    independent = {"model.layers.0.mlp.up_proj.weight": regions(64, 16, 16, 4)}  # 20 % each, 4 % both
    grid = overlap_grid(alignment_of(*independent), "chance", independent, 0, 1, rule="exact")
    assert grid.values[0, 0] == pytest.approx(1)


def test_two_of_three_models_overlap_whatever_the_third_did():
    """Models 0 and 2: 30 changed by 0, of these 12 by 2 too (regions 5 and 7)."""
    counted = {"w": regions(40, 10, 10, 8, 10, 5, 10, 7)}
    grid = overlap_grid(alignment_of("w"), "one-sided", counted, 0, 2, rule="exact")
    assert grid.values[0, 0] == pytest.approx(12 / 30)


def test_the_matched_chance_needs_counts_by_magnitude():
    counted = {"w": regions(64, 16, 16, 4)}
    assert math.isnan(overlap_grid(alignment_of("w"), "matched", counted, 0, 1, rule="exact").values[0, 0])


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_of_the_list_can_be_drawn(measure):
    grid = overlap_grid(alignment_of("w"), measure, {"w": regions(64, 16, 16, 4)}, 0, 1, rule="exact")
    assert grid.metric is MEASURES[measure]


def test_agreement_pools_experts_and_stands_beside_both_chances():
    """200 entries of which 30 changed in exactly one run; 20 % and 20 % of each expert changed at random would give 32
    a hundred, and no more at equal magnitude since all weights are of one."""
    counted = {EXPERTS[0]: regions(85, 5, 5, 5), EXPERTS[1]: regions(75, 10, 10, 5)}
    chosen = [{EXPERTS[0]: 10, EXPERTS[1]: 15}] * 2
    magnitudes = [{n: Magnitudes(np.array([100]), np.array([c])) for n, c in one.items()} for one in chosen]

    def value(measure: str, n_runs: int) -> float:
        grid = agreement_grid(alignment_of(*EXPERTS), measure, counted, n_runs, magnitudes=magnitudes)
        assert grid.metric is AGREEMENTS[measure]
        return grid.values[0, 0]

    assert value("share", 1) == pytest.approx(30 / 200)
    assert value("share", 2) == pytest.approx(10 / 200)
    expected = 100 * 2 * 0.1 * 0.9 + 100 * 2 * 0.15 * 0.85
    assert value("chance", 1) == value("matched", 1) == pytest.approx(30 / expected)
    assert value("matched", 2) == pytest.approx(10 / (1 + 2.25))
