"""What people type, and what it is taken for."""

from __future__ import annotations

import pytest

from analysis.errors import BadReference
from analysis.models import ModelRef, Pair, PinnedModel, parse_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("org/name", ModelRef("hub", "org/name")),
        ("  Qwen/Qwen2.5-7B \n", ModelRef("hub", "Qwen/Qwen2.5-7B")),
        ("org/name@v1.0", ModelRef("hub", "org/name", revision="v1.0")),
        ("org/name@refs/pr/3", ModelRef("hub", "org/name", revision="refs/pr/3")),
        ("org/name/checkpoint-500", ModelRef("hub", "org/name", "checkpoint-500")),
        ("org/name/a/b@main", ModelRef("hub", "org/name", "a/b", "main")),
        ("https://huggingface.co/org/name", ModelRef("hub", "org/name")),
        ("https://huggingface.co/org/name/tree/main/sub", ModelRef("hub", "org/name", "sub", "main")),
        ("/srv/run/step_200/", ModelRef("folder", "/srv/run/step_200")),
        ("./demo/abacus-base", ModelRef("folder", "./demo/abacus-base")),
        (f"./demo/x@files-{COMMIT}", ModelRef("folder", "./demo/x", revision=f"files-{COMMIT}")),
        ("~/runs/a@b", ModelRef("folder", "~/runs/a@b")),
    ],
    ids=lambda value: value.strip() if isinstance(value, str) else "",
)
def test_a_model_is_read_as_meant(text: str, ref: ModelRef):
    assert parse_model(text) == ref


@pytest.mark.parametrize(
    "text",
    ["", "   ", "llama3", "org/", "/".join("abcd") + "/..", "org/na me", "org/name@", "org/name@a..b", "org/name@../x",
     "../../etc/passwd@x\n", "org/name@main?x", "org/na\u202eme", "org/<b>", "a" * 2000, "org/-name", "org/na--me"],
    ids=repr,
)  # fmt: skip
def test_what_is_no_model_is_refused_with_how_to_write_one(text: str):
    if text.startswith("../"):
        assert parse_model(text).where == "folder", "whether it may be read is the folders' question"
        return
    with pytest.raises(BadReference) as caught:
        parse_model(text)
    assert caught.value.saw
    assert caught.value.do


@pytest.mark.parametrize("text", ["org/name@" + COMMIT, f"org/name/sub@{COMMIT}", f"./demo/x@files-{COMMIT}"])
def test_a_pinned_model_opens_itself_again(text: str):
    ref = parse_model(text)
    assert str(PinnedModel(ref.where, ref.name, ref.revision, ref.subfolder)) == text


def test_a_pairs_key_depends_on_commits_and_direction_only():
    one, other = PinnedModel("hub", "a/b", COMMIT), PinnedModel("hub", "c/d", COMMIT[::-1])
    assert Pair(one, other).key == Pair(PinnedModel("hub", "renamed/b", COMMIT), other).key
    assert Pair(one, other).key != Pair(other, one).key
    assert Pair(one, other).key != Pair(one, PinnedModel("hub", "c/d", COMMIT[::-1], "sub")).key
