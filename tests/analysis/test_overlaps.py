"""Overlaps and chance by hand, and the two truths an overlap must tell apart: unrelated updates come out at chance, a
common subnetwork above it."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import chance
from analysis.alignment import align
from analysis.measurements import Magnitudes, Regions
from analysis.overlaps import Venn, left_out, stored_in, venn
from analysis.tensors import TensorInfo
from tests.analysis.test_elementwise import tally_of


def regions_of(*counts: int) -> Regions:
    return Regions.of("exact", np.array(counts, np.int64))


def test_overlap_by_hand():
    """100 entries: A changed 20, B changed 30, both 10. Chance in both: 20 * 30 / 100 = 6."""
    found = venn("exact", ("A", "B"), {"w": regions_of(60, 10, 20, 10)})
    assert (found.changed(0), found.changed(1), found.changed(0, 1)) == (20, 30, 10)
    assert found.one_sided(0, 1) == 0.5
    assert found.one_sided(1, 0) == pytest.approx(1 / 3)
    assert found.jaccard(0, 1) == 0.25
    assert found.chance(0, 1) == pytest.approx(0.3)
    assert found.expected.tolist() == pytest.approx([56, 14, 24, 6])
    assert math.isnan(found.matched_chance(0, 1)), "needs counts by magnitude"


def test_chance_is_taken_within_each_tensor_before_it_is_pooled():
    """One tensor that both changed wholly, one that neither touched: nothing above chance there."""
    found = venn("exact", ("A", "B"), {"a": regions_of(0, 0, 0, 50), "b": regions_of(50, 0, 0, 0)})
    assert found.one_sided(0, 1) == found.chance(0, 1) == 1.0


def test_the_matched_chance_by_hand():
    """Of 100 entries 20 are small, and both models change small ones only: 10 each, and then 5 in common by chance."""
    model = Magnitudes(np.array([20, 80]), np.array([10, 0]))
    found = venn("exact", ("A", "B"), {"w": regions_of(85, 5, 5, 5)}, [{"w": model}, {"w": model}])
    assert found.chance(0, 1) == pytest.approx(0.1)
    assert found.matched_chance(0, 1) == pytest.approx(0.5)
    assert found.over_matched(0, 1) == pytest.approx(1.0)
    assert found.matched_by_runs.tolist() == pytest.approx([85, 10, 5])


def test_runs_that_agree_by_hand():
    """Regions of three models: 1 and 2 and 4 are one model's alone, 3, 5, 6 two models', 7 all three's."""
    found = venn("exact", "ABC", {"w": regions_of(40, 10, 8, 6, 5, 4, 3, 24)})
    assert found.by_runs.tolist() == [40, 23, 13, 24]


bins = st.integers(2, 6).flatmap(
    lambda k: st.lists(
        st.integers(1, 50).flatmap(lambda n: st.tuples(st.just(n), *[st.integers(0, n)] * k)), min_size=1, max_size=5
    )
)


@settings(max_examples=60, deadline=None)
@given(bins)
def test_expected_regions_are_products_and_their_sums_by_runs_poissons_binomial(found: list[tuple[int, ...]]):
    table = np.array(found, float)
    entries, changed = table[:, 0], table[:, 1:].T
    k = len(changed)
    expected = chance.expected_regions((entries, changed))
    for subset in range(1 << k):
        inside = [changed[i] / entries if subset >> i & 1 else 1 - changed[i] / entries for i in range(k)]
        assert expected[subset] == pytest.approx((entries * np.prod(inside, axis=0)).sum(), abs=1e-9)
    by_runs = chance.expected_by_runs((entries, changed))
    for n in range(k + 1):
        of_size = [expected[s] for s in range(1 << k) if s.bit_count() == n]
        assert by_runs[n] == pytest.approx(sum(of_size), abs=1e-9)
    for i, j in combinations(range(k), 2):
        both = sum(expected[s] for s in range(1 << k) if s >> i & 1 and s >> j & 1)
        assert both == pytest.approx((changed[i] * changed[j] / entries).sum(), abs=1e-9)


# Synthetic truths


def tuned_alone(base: torch.Tensor, seed: int, *, std: float = 1e-5) -> torch.Tensor:
    noise = torch.randn(base.shape, generator=torch.Generator().manual_seed(seed)) * std
    return (base.float() + noise).bfloat16()


def base_weights(rows: int = 1500, columns: int = 2000) -> torch.Tensor:
    return (torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()


def overlap_of(base: torch.Tensor, tuned: list[torch.Tensor]) -> Venn:
    subsets = sum(((after != base).numpy().astype(np.int64) << i) for i, after in enumerate(tuned))
    regions = {"w": Regions.of("exact", np.bincount(subsets.ravel(), minlength=1 << len(tuned)))}
    magnitudes = [{"w": tally_of(base, after, rows=len(base)).magnitudes("exact")} for after in tuned]
    return venn("exact", [str(i) for i in range(len(tuned))], regions, magnitudes)


def test_unrelated_updates_in_bfloat16_overlap_by_59_percent_and_the_matched_chance_says_so():
    """Gaussian updates of 1e-5 to weights of 0.02: 58.9 % in common, 11.6 % by plain chance, 58.8 % at equal magnitude.
    With 3 million weights, 350,000 of them changed, the overlap's own deviation is 0.1 %."""
    base = base_weights()
    found = overlap_of(base, [tuned_alone(base, seed) for seed in (1, 2)])
    assert found.one_sided(0, 1) == pytest.approx(0.589, abs=0.004)
    assert found.chance(0, 1) == pytest.approx(0.116, abs=0.002)
    assert found.matched_chance(0, 1) == pytest.approx(0.588, abs=0.004)
    assert found.over_matched(0, 1) == pytest.approx(1, abs=0.006)


def test_the_same_holds_for_every_region_of_five_unrelated_updates():
    """Regions of some thousands of entries; five deviations of a Poisson count, and 1 % for weights of one binade not
    being all alike."""
    base = base_weights()
    found = overlap_of(base, [tuned_alone(base, seed, std=1e-5 * seed) for seed in range(1, 6)])
    off = np.abs(found.counts - found.matched)
    assert (off <= 5 * np.sqrt(found.matched) + 0.01 * found.matched).all()
    assert (np.abs(found.by_runs - found.matched_by_runs) <= 0.02 * found.matched_by_runs).all()
    naive = found.by_runs[5] / found.expected_by_runs[5]
    assert naive > 10, "plain chance misses what all five share by more than an order"


def test_what_the_models_do_not_share_in_one_shape_is_left_out_with_its_shapes():
    def model(words: int, *more: str) -> list[TensorInfo]:
        shapes = {"model.embed_tokens.weight": (words, 4), "model.norm.weight": (4,)} | dict.fromkeys(more, (4, 4))
        return [TensorInfo(name, "F32", shape, "model.safetensors", 0, 4) for name, shape in shapes.items()]

    base = model(9, "model.layers.0.mlp.up_proj.weight")
    same, grown = align(base, base), align(base, model(10, "model.layers.0.mlp.up_proj.weight"))
    shorter, bare = align(base, model(8, "model.layers.0.mlp.up_proj.weight")), align(base, model(9))
    assert left_out([same, same]) == {}
    assert left_out([same, grown]) == {}, "the rows of the base are in both"
    assert left_out([same, shorter]) == {"model.embed_tokens.weight": ((9, 4), (8, 4))}
    assert left_out([bare, same]) == {"model.layers.0.mlp.up_proj.weight": (None, (4, 4))}


def test_the_type_of_the_weights_is_that_of_most_parameters_of_every_model():
    def model(dtype: str) -> list[TensorInfo]:
        shapes = {"w": (8, 8), "norm": (8,)}
        dtypes = {"w": dtype, "norm": "F32"}
        return [TensorInfo(n, dtypes[n], shape, "model.safetensors", 0, 4) for n, shape in shapes.items()]

    short, long = (align(model("F32"), model(dtype)) for dtype in ("BF16", "F32"))
    assert stored_in([short, short]) == "BF16"
    assert stored_in([long]) == "F32"
    assert stored_in([short, long]) == ""


def test_a_planted_common_subnetwork_lies_above_the_matched_chance():
    """Three runs that move the same tenth of the weights, chosen whatever their size, by steps that cross any bfloat16
    neighbour, and nothing else: chance at equal magnitude is a tenth, the overlap all of it."""
    base = base_weights(400, 500)
    planted = torch.rand(base.shape, generator=torch.Generator().manual_seed(9)) < 0.1
    tuned = [torch.where(planted, tuned_alone(base, seed, std=0.05), base) for seed in (1, 2, 3)]
    found = overlap_of(base, tuned)
    assert found.one_sided(0, 1) > 0.98
    assert found.matched_chance(0, 1) == pytest.approx(0.1, abs=0.005)
    assert found.by_runs[3] > 90 * found.matched_by_runs[3]


def test_a_subnetwork_planted_among_rounding_is_seen_above_it():
    """Unrelated noise as above, and in both runs a common twentieth of the weights beside it: the overlap rises above
    the matched chance by about what was planted."""
    base = base_weights(800, 1000)
    planted = torch.rand(base.shape, generator=torch.Generator().manual_seed(9)) < 0.05
    tuned = [torch.where(planted, tuned_alone(base, seed, std=0.05), tuned_alone(base, seed)) for seed in (1, 2)]
    found = overlap_of(base, tuned)
    assert found.over_matched(0, 1) > 1.3
