"""The summary in words says what the numbers say, of what they stand on, and no more."""

import dataclasses

import numpy as np
import pytest

from analysis import overlaps, rollup
from analysis.measurements import RULES, Magnitudes, Regions
from analysis.rollup import Headline, Share
from analysis.summary import summarize, summarize_overlap
from analysis.tensors import Alignment, NotCompared
from tests.analysis.by_hand import measured, small_model


def headline(**changes: object) -> Headline:
    whole = Headline(
        entries=1000,
        nonfinite=0,
        unchanged={rule: Share(800, 1000) for rule in RULES},
        tensors_measured=10,
        tensors_planned=10,
        tensors_touched=7,
        matrices_touched=6,
        matrices_measured=6,
        relative_update=2e-4,
        mean_of_layer_averages=0.8,
        mean_rank_share=0.99,
        mean_effective_rank_share=0.7,
        spectra_measured=6,
        spectra_planned=6,
    )
    return dataclasses.replace(whole, **changes)


def said(found: Headline, alignment: Alignment | None = None) -> str:
    return " ".join(summarize(found, alignment or Alignment((), (), 1000, 1000))).replace("\u00a0", " ")


def test_an_ordinary_pair_in_words():
    text = said(headline())
    assert "80.0000 % of the 1,000 compared parameters have exactly the value they had before; 200 changed." in text
    assert "Changes lie in 6 of 6 matrices and 1 of 4 vectors" in text
    assert "2.00 × 10⁻⁴ times the size of the base weights" in text
    assert "nearly full-rank: on average 99.00 %" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"entries": 0}, "Nothing of this pair is measured yet"),
        ({"tensors_measured": 4}, "of the 1,000 parameters measured so far"),
        (
            {"unchanged": {rule: Share(1000, 1000) for rule in RULES}, "tensors_touched": 0},
            "the two models are the same",
        ),
        ({"unchanged": {rule: Share(0, 1000) for rule in RULES}}, "Not one of the 1,000"),
        ({"mean_rank_share": 0.05}, "low-rank: on average 5.00 %"),
        ({"mean_rank_share": 0.5}, "have on average 50.00 % of the largest rank possible"),
        ({"mean_rank_share": 1.0}, "are full-rank"),
        ({"nonfinite": 3}, "not finite on at least one side: 3"),
    ],
    ids=["nothing", "part", "same", "all changed", "low rank", "middle", "full", "nan"],
)
def test_each_case_has_its_words(changes, words):
    assert words in said(headline(**changes))


def test_full_rank_of_a_sparse_update_comes_with_its_caveat():
    assert "sparse update of unrelated entries would be full-rank too" in said(headline())
    dense = headline(unchanged={rule: Share(10, 1000) for rule in RULES})
    assert "would be full-rank too" not in said(dense)


def test_without_spectra_nothing_is_said_of_rank():
    assert "rank" not in said(headline(mean_rank_share=float("nan"), mean_effective_rank_share=float("nan")))


def test_what_was_not_compared_is_said_with_its_share():
    alignment = Alignment((), (NotCompared("w", "base", "only the base has it", 1000),), 1000, 500)
    assert "1 tensor was not compared" in said(headline(), alignment)


def test_the_real_rollup_goes_in():
    alignment = small_model()
    tallies, spectra = measured(alignment)
    found = rollup.headline(alignment, tallies, spectra, spectra_planned=True)
    assert len(summarize(found, alignment)) >= 4


class TestOverlap:
    def venn(self, *counts: int) -> overlaps.Venn:
        k = len(counts).bit_length() - 1
        return overlaps.venn("exact", [str(i) for i in range(k)], {"w": Regions.of("exact", np.array(counts))})

    def test_two_runs_beside_chance(self):
        first, second, *_ = summarize_overlap(self.venn(900, 50, 30, 20), ["A", "B"])
        assert first.replace("\u00a0", " ") == (
            "Together they changed 100 of 1,000 parameters; both changed 20 of these, 20.0000 %."
        )
        assert "Of what B changed, A changed 40.00" in second  # the smaller update first: its overlap can reach 100 %
        assert "by chance it would be 7.00" in second

    def test_of_many_runs_only_the_extremes_are_put_into_words(self):
        sentences = summarize_overlap(self.venn(*range(100, 116)), list("ABCD"))
        assert sum("Of what" in sentence for sentence in sentences) == 2

    def test_of_three_runs_it_says_how_many_agree(self):
        text = " ".join(summarize_overlap(self.venn(900, 10, 10, 20, 10, 20, 10, 20), "ABC"))
        assert "30.00\u00a0% of what was changed at all was changed by one run alone" in text
        assert "agree" not in text, "without counts by magnitude there is no chance to set it beside"

    def test_steps_of_a_type_are_named_only_where_the_rule_or_the_weights_have_them(self):
        def told(rule: str, stored: str) -> str:
            counts = np.array([900, 50, 30, 20])
            binade = [{"w": Magnitudes(np.array([1000]), np.array([n]))} for n in (70, 50)]
            found = overlaps.venn(rule, "AB", {"w": Regions.of(rule, counts)}, binade)
            return summarize_overlap(found, "AB", stored)[-1]

        assert "a step of bfloat16 more easily" in told("exact", "BF16")
        assert "a step of float16 more easily" in told("exact", "F16")
        assert "a step of bfloat16" in told("mukherjee", "F32"), "the rule rounds"
        assert "a thousandth of themselves" in told("bf16", "F32")
        for stored in ("F32", ""):
            assert told("exact", stored) == told("1e-5", stored)
            assert "step" not in told("exact", stored)

    def test_what_is_as_much_as_chance_is_not_said_to_be_one_times_that(self):
        whole = {"w": Magnitudes(np.array([1000]), np.array([1000]))}
        regions = {"w": Regions.of("exact", np.array([0] * 7 + [1000]))}
        text = " ".join(summarize_overlap(overlaps.venn("exact", "ABC", regions, [whole] * 3), "ABC"))
        assert "1 times" not in text
        assert "all 3 agree on as many parameters as magnitude-matched chance gives" in text

    def test_no_change_at_all(self):
        assert summarize_overlap(self.venn(100, 0, 0, 0), ["A", "B"]) == [
            "None of the models changed anything in what was counted."
        ]
