"""Published numbers: the data that comes with the project, and when ours are the same."""

import dataclasses
from decimal import Decimal
from fractions import Fraction

import pytest

from analysis import published as module
from analysis.measurements import RULES
from analysis.models import PinnedModel
from analysis.published import Claim, Ours, ours, published, rows, sentence, verdicts
from analysis.rollup import headline
from analysis.tensors import NotCompared
from tests.analysis.by_hand import measured, small_model

COMMIT = "a" * 40
SIMPO = ("meta-llama/Meta-Llama-3-8B-Instruct", "princeton-nlp/Llama-3-Instruct-8B-SimPO")


def known(base: str, tuned: str):
    found = published().find(PinnedModel("hub", base, COMMIT), PinnedModel("hub", tuned, COMMIT))
    assert found
    return found


def measuring(percent: str, rank: str | None = None, compared: float = 1.0) -> Ours:
    return Ours(dict.fromkeys(RULES, Fraction(percent)), Fraction(rank) if rank else None, compared)


def test_the_data_that_comes_with_the_project_can_be_read():
    data = published()
    assert len(data.pairs) == 24
    assert len({(pair.base, pair.tuned) for pair in data.pairs}) == 24
    assert {claim.source.rule for pair in data.pairs for claim in pair.claims} == {"mukherjee", "bf16"}
    assert all(rule in RULES for rule in module._DEFINITION_OF_RULE)
    assert all(0 <= claim.percent <= 100 for pair in data.pairs for claim in pair.claims)
    assert [entry["varied"] for entry in data.overlaps] == ["seed", "data", "seed, data and algorithm"]
    assert (len(data.subnetwork_runs), len(data.dynamics)) == (2, 4)


def test_a_pair_is_found_by_its_ids_at_any_commit():
    base, tuned = "Qwen/Qwen3-4B", "POLARIS-Project/Polaris-4B-Preview"
    assert known(base, tuned).claims == known(base.upper(), tuned.lower()).claims
    here = PinnedModel("hub", base, COMMIT)
    for other in (
        PinnedModel("hub", base, COMMIT),
        PinnedModel("hub", tuned, COMMIT, "checkpoint-1"),
        PinnedModel("folder", tuned, "files-" + COMMIT),
    ):
        assert published().find(here, other) is None
    assert published().find(PinnedModel("hub", tuned, COMMIT), here) is None, "the other way round is no published pair"


def test_a_rounded_number_and_its_finer_twin_are_one_claim():
    [claim] = known("allenai/Llama-3.1-Tulu-3-8B-SFT", "allenai/Llama-3.1-Tulu-3-8B-DPO").claims_of("unchanged")
    assert claim.words == "81.38 % (table 6, rounded in table 1)"


def test_two_numbers_that_contradict_each_other_are_both_shown():
    pair = known(*SIMPO)
    assert [claim.words for claim in pair.claims] == ["86.5 % (table 1)", "76.42 % (table 6)"]
    assert [row["verdict"] for row in rows(pair, None)] == ["not yet computed", "not yet computed"]
    found = [(row["published"], row["verdict"], row["ours"]) for row in rows(pair, measuring("76.41"))]
    assert found == [("86.5 %", "differs by −10.09 points", 76.41), ("76.42 %", "reproduces", 76.41)]


@pytest.mark.parametrize(
    ("printed", "measured_here", "words"),
    [
        ("81.4", "81.35", "reproduces"),
        ("81.4", "81.45", "reproduces"),
        ("81.4", "81.4500001", "differs by +0.050 points"),
        ("81.38", "81.33", "reproduces"),
        ("81.38", "81.32", "differs by −0.060 points"),
        ("86", "85.5", "reproduces"),
        ("86", "86.51", "differs by +0.51 points"),
        ("86.0", "85.9", "differs by −0.10 points"),
    ],
)
def test_what_reproduces_what(printed: str, measured_here: str, words: str):
    source = known(*SIMPO).source
    pair = dataclasses.replace(known(*SIMPO), claims=(Claim("unchanged", Decimal(printed), source, "table 1"),))
    assert [verdict.words for verdict in verdicts(pair, measuring(measured_here))] == [words]


def test_the_number_beside_is_that_of_the_published_definition():
    pair = known("Qwen/Qwen3-4B", "POLARIS-Project/Polaris-4B-Preview")
    here = Ours({"exact": Fraction(1), "bf16": Fraction("79.31"), "mukherjee": Fraction(2)}, None, 1.0)
    [row] = rows(pair, here)
    assert (row["ours"], row["verdict"]) == (pytest.approx(79.31), "reproduces")
    assert (row["definition"], row["source"]) == ("bf16 rule", "Zhu et al. 2025, table 1")


def test_ranks_are_compared_too():
    pair = known("PRIME-RL/Eurus-2-7B-SFT", "PRIME-RL/Eurus-2-7B-PRIME")
    [found] = verdicts(pair, measuring("77", "99.52"), "rank")
    assert found.words == "reproduces"
    [not_yet] = verdicts(pair, measuring("77"), "rank")
    assert not_yet.words == "not yet computed"


def test_a_pair_without_a_published_number_says_so():
    pair = known("meta-llama/Meta-Llama-3-8B-Instruct", "Cornell-AGI/REBEL-Llama-3")
    [row] = rows(pair, None)
    assert (row["published"], row["verdict"]) == ("–", "nothing published")


def test_ours_is_there_once_everything_is_measured():
    alignment = small_model()
    tallies, spectra = measured(alignment)
    found = headline(alignment, tallies, spectra, spectra_planned=True)
    whole = ours(found, alignment, {})
    share = found.unchanged["mukherjee"]
    assert whole.unchanged is not None
    assert whole.unchanged["mukherjee"] == Fraction(100 * share.part, share.whole)
    assert (float(whole.rank), whole.compared) == (pytest.approx(100 * found.mean_rank_share), 1.0)

    name = alignment.pairs[0].name
    half = {other: tally for other, tally in tallies.items() if other != name}
    partly = headline(alignment, half, {}, spectra_planned=True)
    assert ours(partly, alignment, {}).unchanged is None
    assert ours(partly, alignment, {}).rank is None
    assert ours(partly, alignment, {("tally", name): "the file ends early"}).unchanged is not None


def test_below_nine_tenths_of_the_model_no_verdict_is_given():
    alignment = small_model()
    lost = dataclasses.replace(
        alignment,
        not_compared=(NotCompared("lm_head.weight", "base", "only the base has it", 10_000),),
        base_parameters=alignment.base_parameters + 10_000,
    )
    here = ours(headline(lost, *measured(lost), spectra_planned=True), lost, {})
    [found] = verdicts(known("Qwen/Qwen3-4B", "POLARIS-Project/Polaris-4B-Preview"), here)
    assert found.difference is None
    assert found.words.startswith("only 2")
    assert found.words.endswith(" % of the base compared")


def test_the_overview_has_it_in_a_sentence():
    pair = known("Qwen/Qwen3-4B", "POLARIS-Project/Polaris-4B-Preview")
    [found] = verdicts(pair, measuring("79.4"))
    assert sentence(found) == (
        "79.3 % unchanged (bf16 rule; Zhu et al. 2025, table 1); ours: 79.4000 %, differs by +0.10 points."
    )
    [none_yet] = verdicts(pair, None)
    assert sentence(none_yet).endswith("ours: not yet computed.")


def test_numbers_keep_the_digits_they_are_printed_with():
    [whole] = known("deepseek-ai/DeepSeek-V3-Base", "deepseek-ai/DeepSeek-R1-Zero").claims
    assert whole.words == "86.0 % (table 1)"
    assert whole.half_digit == Fraction(5, 100)
