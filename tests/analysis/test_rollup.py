"""Numbers ready to draw: pooled over entries, honest about what is missing, worked by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import torch

from analysis import report
from analysis.alignment import align
from analysis.elementwise import geometry, tally
from analysis.measurements import CHANGE_EDGES, RULES, Spectrum, Tally
from analysis.metrics import CATALOG, at_tolerance
from analysis.models import Pair, PinnedModel
from analysis.rollup import OUTSIDE_LAYERS, Cell, grid, headline, tolerance_curve
from analysis.tensors import Alignment, TensorInfo


def tally_of(before: torch.Tensor, after: torch.Tensor) -> Tally:
    shape = geometry(tuple(before.shape))
    return tally([(before.reshape(shape.rows, -1), after.reshape(shape.rows, -1))], shape)


def alignment_of(**shapes: tuple[int, ...]) -> Alignment:
    tensors = [TensorInfo(name, "F32", shape, "model.safetensors", 0, 0) for name, shape in shapes.items()]
    return align(tensors, tensors)


NORM, Q0, Q1, HEAD = "model.norm.weight", "model.layers.0.q.weight", "model.layers.1.q.weight", "lm_head.weight"
SMALL = alignment_of(**{NORM: (10,), Q0: (10, 100), Q1: (10, 100), HEAD: (30, 10)})


def changed_in(n: int, *shape: int) -> Tally:
    """A tally of a tensor in which n entries moved by 0.5."""
    after = torch.zeros(shape)
    after.view(-1)[:n] = 0.5
    return tally_of(torch.zeros(shape), after)


def spectrum_of(values: list[float], rows: int, columns: int) -> Spectrum:
    rank = sum(value > 0 for value in values)
    return Spectrum("update", rows, columns, np.array(values, np.float32), 0.0, rank, rank, rank, "svd float32")


def test_headline_pools_over_entries_and_shows_the_average_under_its_own_name():
    """A dense norm of 10 entries must not weigh as much as an untouched matrix of 1000."""
    tallies = {NORM: changed_in(10, 10), Q0: changed_in(0, 10, 100)}
    found = headline(SMALL, tallies, {}, spectra_planned=True)
    assert (found.unchanged["exact"].part, found.unchanged["exact"].whole) == (1000, 1010)
    assert found.mean_of_layer_averages == 0.5
    assert (found.tensors_measured, found.tensors_planned, found.tensors_touched) == (2, 4, 1)
    assert (found.matrices_measured, found.matrices_touched, found.spectra_planned) == (1, 0, 3)
    assert math.isnan(found.mean_rank_share)


def test_headline_of_nothing_measured_has_no_share():
    found = headline(SMALL, {}, {}, spectra_planned=False)
    assert math.isnan(found.unchanged["exact"].value)


def test_grid_shows_value_waiting_gap_and_absent_apart():
    tallies = {NORM: changed_in(5, 10), Q0: changed_in(250, 10, 100)}
    found = grid(SMALL, CATALOG["unchanged-exact"], tallies, {}, gaps=[HEAD])
    cell = {name: (r, c) for r, row in enumerate(found.names) for c, names in enumerate(row) for name in names}
    assert found.layers == (OUTSIDE_LAYERS, 0, 1)
    assert found.values[cell[Q0]] == 0.75
    assert found.values[cell[NORM]] == 0.5
    states = {name: Cell(int(found.states[cell[name]])) for name in cell}
    assert states == {NORM: Cell.READY, Q0: Cell.READY, Q1: Cell.WAITING, HEAD: Cell.GAP}
    assert Cell(int(found.states[found.modules.index("q"), 0])) is Cell.ABSENT


def test_grid_of_ranks_leaves_vectors_out_and_a_zero_update_is_a_gap_for_effective_rank():
    spectra = {Q0: spectrum_of([2, 1, 0, 0, 0, 0, 0, 0, 0, 0], 10, 100), Q1: spectrum_of([0.0] * 10, 10, 100)}
    ranks = grid(SMALL, CATALOG["rank"], {}, spectra)
    assert set(ranks.modules) == {"q", "lm_head"}
    assert ranks.values[ranks.modules.index("q")].tolist()[1:] == [0.2, 0.0]
    effective = grid(SMALL, CATALOG["effective-rank"], {}, spectra)
    assert Cell(int(effective.states[effective.modules.index("q"), 2])) is Cell.GAP


def test_experts_of_one_layer_share_a_cell_pooled():
    names = [f"model.layers.0.mlp.experts.{e}.up_proj.weight" for e in range(3)]
    experts = alignment_of(**dict.fromkeys(names, (4, 5)))
    found = grid(
        experts, CATALOG["unchanged-exact"], {names[0]: changed_in(20, 4, 5), names[1]: changed_in(0, 4, 5)}, {}
    )
    assert found.values.tolist() == [[0.5]]
    assert Cell(int(found.states[0, 0])) is Cell.PARTIAL
    assert found.names[0][0] == tuple(names)


def test_the_tolerance_curve_is_exact_at_every_edge():
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(50, 60, generator=generator)
    after = before + torch.randn(50, 60, generator=generator) * 1e-4
    size = (after - before).abs().numpy()
    found = tolerance_curve([tally_of(before, after)], "x")
    assert found.y.tolist() == [(size <= edge).mean() for edge in CHANGE_EDGES]
    edge = 160
    metric = at_tolerance(edge)
    assert metric.parts(tally_of(before, after), None) == ((size <= CHANGE_EDGES[edge]).sum(), 3000)


def test_the_report_has_the_agreed_fields_and_is_plain_json():
    base, tuned = PinnedModel("hub", "a/b", "0" * 40), PinnedModel("hub", "a/c", "1" * 40)
    tallies = {name: changed_in(3, *shape) for name, shape in {NORM: (10,), Q0: (10, 100)}.items()}
    spectra = {Q0: spectrum_of([2.0, 1.0], 10, 100)}
    document = report.comparison(Pair(base, tuned), SMALL, tallies, spectra, {("tally", Q1): "too strange"})
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["totals"]["unchanged"] == dict.fromkeys(RULES, 1004)
    by_name = {entry["name"]: entry for entry in document["tensors"]}
    assert by_name[Q0]["rank"] == 2
    assert by_name[Q0]["max_rank"] == 10
    assert by_name[NORM]["rank"] is None
    assert by_name[Q1]["unchanged"] is None
    assert by_name[Q1]["gaps"] == {"tally": "too strange"}
    assert document["coverage"]["compared_parameters"] == 1010
