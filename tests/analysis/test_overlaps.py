"""Overlap by layer and matrix: counts pool before they divide, and where nothing changed there is no overlap."""

import math

import numpy as np
import pytest

from analysis.alignment import align
from analysis.measurements import Regions
from analysis.overlaps import MEASURES, overlap_grid
from analysis.rollup import Cell
from analysis.tensors import TensorInfo


def alignment_of(*names: str):
    infos = [TensorInfo(name, "F32", (10, 10), "model.safetensors", 0, 400) for name in names]
    return align(infos, infos)


def regions(*counts: int) -> Regions:
    return Regions("exact", np.array(counts, np.int64))


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


def test_over_chance_is_one_for_independent_updates():
    independent = {"model.layers.0.mlp.up_proj.weight": regions(64, 16, 16, 4)}  # 20 % each, 4 % both
    grid = overlap_grid(alignment_of(*independent), "chance", independent, 0, 1, rule="exact")
    assert grid.values[0, 0] == pytest.approx(1)


def test_the_matched_chance_needs_tallies():
    counted = {"w": regions(64, 16, 16, 4)}
    assert math.isnan(overlap_grid(alignment_of("w"), "matched", counted, 0, 1, rule="exact").values[0, 0])


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_of_the_list_can_be_drawn(measure):
    grid = overlap_grid(alignment_of("w"), measure, {"w": regions(64, 16, 16, 4)}, 0, 1, rule="exact")
    assert grid.metric is MEASURES[measure]
