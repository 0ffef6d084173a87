"""Strangers' names in Markdown: they read letter by letter, and nothing in them comes alive."""

import re

import pytest

from pages.parts.text import plain, safe_label

HOSTILE = {
    "image": "![x](http://elsewhere.example/p.png)",
    "link": "[x](javascript:alert(1))",
    "tag": "<img src=x onerror=alert(1)>",
    "emphasis": "*a* _b_ ~c~ `d`",
    "heading": "# a",
    "formula": "$x^2$",
    "directive": ":red[x] :material/home:",
    "table": "a | b",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_every_punctuation_mark_is_escaped(name):
    escaped = safe_label(name)
    assert re.search(r"(?<!\\)[!-/:-@\[-`{-~]", re.sub(r"\\.", "", escaped)) is None
    assert re.sub(r"\\(.)", r"\1", escaped).replace("\u2060", "") == name


@pytest.mark.parametrize("name", ["www.elsewhere.example", "https://elsewhere.example", "me@elsewhere.example"])
def test_what_would_become_a_link_is_broken_by_a_joiner(name):
    assert not re.search(r"(?i)www\.|https?://|[\w.]+@[\w]", safe_label(name).replace("\\", ""))


def test_long_and_hidden_text_is_cut_and_spelled_out():
    assert len(plain("x" * 1000)) == 200
    assert "\u202e" not in safe_label("evil\u202egnp")
