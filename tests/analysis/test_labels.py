"""Names and numbers as text: nothing hides, nothing is rounded into what it isn't."""

import math

import pytest

from analysis import labels


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (826613, 1_000_000, "82.6613 %"),
        (0, 10, "0.0000 %"),
        (10, 10, "100.0000 %"),
        (10**9 - 1, 10**9, "> 99.9999 %"),
        (1, 10**9, "< 0.0001 %"),
        (0, 0, "none"),
    ],
)
def test_percent_never_rounds_to_all_or_nothing(part, whole, text):
    assert labels.percent(part, whole) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain", "plain"), ("evil\u202egnp", "evil\\u202egnp"), ("a\nb", "a\\u000ab"), ("\U000e0041", "\\U000e0041")],
    ids=["plain", "bidi", "newline", "tag"],
)
def test_hidden_characters_are_spelled_out(text, shown):
    assert labels.visible(text) == shown


def test_shortening_keeps_both_ends_and_more_of_the_last():
    assert labels.shorten("model.layers.10.self_attn.q_proj.weight", 20) == "model.l…_proj.weight"
    assert labels.shorten("short", 20) == "short"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.000241, "2.41 × 10⁻⁴"), (0.0, "0"), (12.345, "12.3"), (1e-12, "1.00 × 10⁻¹²"), (math.nan, "–")],
)
def test_scientific_is_written_as_people_write(value, text):
    assert labels.scientific(value) == text


@pytest.mark.parametrize(("value", "text"), [(1e-5, "10⁻⁵"), (1.12e-5, "1.12 × 10⁻⁵"), (2e-9, "2 × 10⁻⁹")])
def test_an_exact_tolerance_is_written_exactly(value, text):
    assert labels.tolerance_text(value) == text


@pytest.mark.parametrize(
    ("titles", "names"),
    [
        (["org/a", "org/b"], ("a", "b")),
        (["one/a", "two/a"], ("one/a", "two/a")),
        (["org/a", "org/a"], ("org/a (m0)", "org/a (m1)")),
    ],
    ids=["by last part", "by whole", "by mark"],
)
def test_titles_are_as_short_as_tells_them_apart(titles, names):
    assert labels.short_titles(titles, ["m0", "m1"]) == names


@pytest.mark.parametrize(("seconds", "text"), [(3.6, "4 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (-1, "0 s")])
def test_durations_have_two_units_at_most(seconds, text):
    assert labels.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "just now"), (59, "just now"), (60, "1 min ago"), (7500, "2 h ago"), (172_800, "2 days ago")],
)
def test_how_long_ago_is_told_roughly(seconds, text):
    assert labels.ago(seconds) == text


def test_one_is_one_and_several_are_several():
    assert (labels.counted(1, "tensor"), labels.counted(0, "tensor")) == ("1 tensor", "0 tensors")
    assert labels.counted(1024, "matrix") == "1,024 matrices"
    assert labels.counted(2, "tensor is", "tensors are") == "2 tensors are"


def test_every_rule_has_one_title():
    titles = [labels.rule_title(rule) for rule in ("exact", "bf16", "mukherjee", "1e-8")]
    assert titles == ["exact", "bf16 rule", "Mukherjee's rule", "within 10⁻⁸"]
    assert labels.rule_title("tolerance", "1.12e-05") == "within 1.12 × 10⁻⁵"


@pytest.mark.parametrize(("size", "text"), [(0, "0 bytes"), (14_200_000_000, "14.2 GB"), (7_740_000, "7.74 MB")])
def test_sizes_count_in_thousands(size, text):
    assert labels.size(size) == text
