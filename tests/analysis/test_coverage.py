"""What stands behind a headline, when it is withheld, and what one is told before believing it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from analysis.alerts import alerts
from analysis.alignment import align
from analysis.coverage import chosen_of, part_of, reasons_to_withhold
from analysis.measurements import Tally
from analysis.plan import Plan
from analysis.rollup import headline, headline_of_part
from analysis.selection import select
from analysis.summary import summarize
from analysis.tensors import TITLE_OF_MATCH, Alignment, NotCompared, TensorInfo
from tests.analysis.by_hand import small_model, tally_of

MISSING = NotCompared("model.vision_tower.weight", "tuned", "only the tuned model has it", 500)


def tallied(alignment: Alignment, tune) -> dict[str, Tally]:
    """Tallies where each base tensor is random and `tune(pair, before)` is what became of it."""
    random, found = np.random.default_rng(0), {}
    for pair in alignment.pairs:
        before = random.normal(0, 0.02, pair.shape).astype(np.float32)
        found[pair.name] = tally_of(before, tune(pair, before).astype(np.float32))
    return found


def said(alignment: Alignment, tune) -> dict[str, str]:
    tallies = tallied(alignment, tune)
    found = headline(alignment, tallies, {}, spectra_planned=False)
    return {alert.kind: alert.sentence for alert in alerts(found, alignment, tallies)}


def nudged(pair, before: np.ndarray) -> np.ndarray:
    return before * np.float32(1.001)


def test_a_headline_stands_on_nine_tenths_of_both_sides():
    whole = small_model()
    n = whole.compared_parameters
    assert reasons_to_withhold(whole) == ()
    enough = dataclasses.replace(whole, tuned_parameters=n + n // 9)
    assert reasons_to_withhold(enough) == ()
    short = dataclasses.replace(whole, tuned_parameters=2 * n, not_compared=(MISSING, MISSING))
    assert reasons_to_withhold(short) == (
        "Only 50.00 % of the tuned model's parameters could be compared; a headline needs 90 %.",
        "2 tensors, 1,000 parameters: only the tuned model has it.",
    )
    found = headline(short, tallied(short, nudged), {}, spectra_planned=False)
    assert found.withheld
    assert [sentence.replace("\u00a0", " ") for sentence in summarize(found, short)] == [*found.reasons_withheld]


def test_an_ordinary_pair_has_no_alerts():
    assert said(small_model(), nudged) == {}


def test_nothing_changed():
    assert set(said(small_model(), lambda pair, before: before)) == {"nothing_changed"}


def test_only_embeddings_changed():
    only = said(small_model(), lambda pair, before: before * (1.001 if pair.place.block == "embedding" else 1.0))
    assert set(only) == {"only_embeddings"}


def test_different_types_are_told_with_the_rule():
    alignment = small_model(1)
    pairs = [dataclasses.replace(p, tuned=dataclasses.replace(p.tuned, dtype="BF16")) for p in alignment.pairs]
    told = said(dataclasses.replace(alignment, pairs=tuple(pairs)), nudged)
    assert told["dtypes"].startswith("4 tensors are stored as float32 in the base and as bfloat16 in the tuned model.")


def test_weights_that_are_not_finite():
    alignment = small_model()
    tallies = tallied(alignment, nudged)
    name = alignment.pairs[2].name
    tallies[name] = dataclasses.replace(tallies[name], nonfinite=3)
    found = headline(alignment, tallies, {}, spectra_planned=False)
    [alert] = alerts(found, alignment, tallies)
    assert (alert.kind, alert.tensors) == ("nonfinite", (name,))
    assert alert.sentence.startswith("3 entries are not finite")


def test_an_embedding_compared_with_two_tensors_is_said_to_count_twice():
    names = ("transformer.wte.weight", "lm_head.weight")
    embedding, head = (TensorInfo(name, "F32", (8, 2), "f", 0, 64) for name in names)
    tied = align([embedding, head], [embedding])
    assert (tied.counted_twice("base"), tied.counted_twice("tuned")) == (0, 16)
    [alert] = alerts(headline(tied, {}, {}, spectra_planned=False), tied, {})
    assert alert.kind == "matched_by_rule"
    assert "16 of the tuned model's parameters are compared as embedding and as output head" in alert.sentence


def test_names_matched_by_rule_are_told_by_kind():
    alignment = small_model(1)
    pairs = [dataclasses.replace(p, match=m) for p, m in zip(alignment.pairs, ("rows", *["renamed"] * 3), strict=True)]
    told = said(dataclasses.replace(alignment, pairs=tuple(pairs)), nudged)
    assert set(told) == {"matched_by_rule"}
    assert told["matched_by_rule"] == (
        "4 of 4 pairs were not found by their whole names alone "
        f"({TITLE_OF_MATCH['rows']}: 1; {TITLE_OF_MATCH['renamed']}: 3)."
    )


def test_two_models_that_do_not_come_from_one_another_share_what_is_named():
    """Most parameters are a table that both share, so pooled they would look alike: 94 % identical, correlated."""
    alignment = small_model()
    random = np.random.default_rng(5)

    def unrelated(pair, before: np.ndarray) -> np.ndarray:
        return before if pair.place.block in ("embedding", "norm") else random.normal(0, 0.02, pair.shape)

    tallies = tallied(alignment, unrelated)
    found = headline(alignment, tallies, {}, spectra_planned=False)
    assert abs(found.median_correlation) < 0.1
    assert found.matrices_correlated == 7
    [alert] = alerts(found, alignment, tallies)
    assert alert.kind == "not_related"
    assert set(alert.tensors) == {p.name for p in alignment.pairs if p.place.block in ("embedding", "norm")}
    assert "do not come from one another: over 7 matrices the median correlation" in alert.sentence
    assert "4 tensors of 688 parameters (embedding 1, norm 3)" in alert.sentence
    assert summarize(found, alignment)[0] == alert.sentence
    assert not any("update" in sentence for sentence in summarize(found, alignment))


def test_two_models_that_share_nothing():
    random = np.random.default_rng(5)
    told = said(small_model(), lambda pair, before: random.normal(0, 0.02, pair.shape))
    assert told["not_related"].endswith("No tensor has the same values in both.")


@pytest.mark.parametrize("n_measured", [0, 2])
def test_little_that_is_measured_says_nothing_of_the_whole(n_measured: int):
    alignment = small_model()
    random = np.random.default_rng(5)
    everything = tallied(alignment, lambda pair, before: random.normal(0, 0.02, pair.shape))
    tallies = {pair.name: everything[pair.name] for pair in alignment.pairs[:n_measured]}
    found = headline(alignment, tallies, {}, spectra_planned=False)
    assert alerts(found, alignment, tallies) == []


def test_a_matrix_without_variance_has_no_correlation():
    info = TensorInfo("w", "F32", (4, 4), "model.safetensors", 0, 64)
    alignment = align([info], [info])
    found = headline(alignment, {"w": tally_of(*[np.ones((4, 4), np.float32)] * 2)}, {}, spectra_planned=False)
    assert np.isnan(found.median_correlation)
    assert not found.is_unrelated


LAYERS_0_AND_1 = Plan(selection=select("0-1"))


def test_a_selection_is_a_part_that_says_how_much_it_is():
    whole = small_model(8)
    part = part_of(whole, [LAYERS_0_AND_1])
    chosen = chosen_of(whole, part)
    assert chosen is not None
    assert (chosen.layers, chosen.layers_whole, chosen.tensors, chosen.tensors_whole) == (2, 8, 6, 25)
    assert (
        chosen.words
        == f"2 of 8 layers, {100 * part.compared_parameters / whole.base_parameters:.2f} % of the parameters"
    )
    assert part.base_parameters == part.tuned_parameters == part.compared_parameters
    assert part_of(whole, [LAYERS_0_AND_1, Plan()]) is whole
    assert part_of(whole, [LAYERS_0_AND_1, Plan(selection=select("2-7,outside"))]) is whole
    assert chosen_of(whole, whole) is None
    modules = chosen_of(whole, part_of(whole, [Plan(selection=select("", "q_proj"))]))
    assert modules is not None
    assert modules.words.startswith("8 of 25 tensors, ")


def test_what_is_measured_belongs_to_the_part_though_nobody_asked():
    whole = small_model(4)
    part = part_of(whole, [LAYERS_0_AND_1], measured={"model.embed_tokens.weight"})
    assert len(part.pairs) == 7


def test_what_was_not_asked_for_does_not_withhold_the_headline():
    """Half of the tuned model has no partner, none of it in the layers that were selected."""
    whole = small_model(8)
    missing = dataclasses.replace(MISSING, name="model.layers.7.mlp.extra.weight", parameters=whole.compared_parameters)
    short = dataclasses.replace(whole, tuned_parameters=2 * whole.compared_parameters, not_compared=(missing,))
    tallies = tallied(part_of(short, [LAYERS_0_AND_1]), nudged)
    assert headline_of_part(short, tallies, {}, [Plan()]).withheld
    found = headline_of_part(short, tallies, {}, [LAYERS_0_AND_1])
    assert not found.withheld
    assert (found.tensors_measured, found.tensors_planned, found.spectra_planned) == (6, 6, 4)
    said = summarize(found, part_of(short, [LAYERS_0_AND_1]))
    assert said[0].startswith("All of this is of what was selected: 2 of 8 layers, ")
    assert "selected parameters" in said[1]


def test_what_could_not_be_compared_within_the_selection_does():
    whole = small_model(8)
    missing = dataclasses.replace(MISSING, name="model.layers.1.mlp.extra.weight", parameters=whole.compared_parameters)
    short = dataclasses.replace(whole, tuned_parameters=2 * whole.compared_parameters, not_compared=(missing,))
    found = headline_of_part(short, {}, {}, [LAYERS_0_AND_1])
    assert found.withheld
    assert "tuned model's parameters could be compared" in found.reasons_withheld[0]


def test_new_rows_and_buffers_of_a_selection():
    whole = small_model(2)
    rows = NotCompared("model.embed_tokens.weight[40:48]", "tuned", "rows that only the tuned model has", 128)
    buffer = NotCompared("model.rotary_emb.inv_freq", "both", "a buffer, not a parameter", 8)
    part = part_of(dataclasses.replace(whole, not_compared=(rows, buffer)), [Plan(selection=select("outside"))])
    assert [one.name for one in part.not_compared] == [rows.name, buffer.name]
    assert (part.base_parameters, part.tuned_parameters) == (640, 640 + 128)


def test_nothing_changed_in_the_selection_says_so():
    whole = small_model(4)
    part = part_of(whole, [LAYERS_0_AND_1])
    tallies = tallied(part, lambda pair, before: before)
    found = headline_of_part(whole, tallies, {}, [LAYERS_0_AND_1])
    [alert] = alerts(found, part, tallies)
    assert alert.sentence == "Nothing changed: every selected value is the same in both models."


def test_only_embeddings_of_what_was_selected():
    whole, plan = small_model(4), Plan(selection=select("1,outside"))
    part = part_of(whole, [plan])
    tallies = tallied(part, lambda pair, before: before * (1.001 if pair.place.block == "embedding" else 1.0))
    [alert] = alerts(headline_of_part(whole, tallies, {}, [plan]), part, tallies)
    assert alert.kind == "only_embeddings"
    assert "every other selected value" in alert.sentence


def test_spectra_of_some_layers_are_counted_as_asked_for():
    whole = small_model(8)
    found = headline_of_part(whole, {}, {}, [Plan(spectra_every=4)])
    assert found.chosen is None
    assert (found.tensors_planned, found.spectra_planned) == (25, 4)
    assert headline_of_part(whole, {}, {}, [Plan(spectra=False)]).spectra_planned == 0
