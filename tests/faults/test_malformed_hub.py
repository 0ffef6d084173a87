"""Answers of a Hub, or of what stands in its place, that are not what they should be: lists, names, sizes, types."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from analysis.errors import AccessDenied, BadWeights, FileChanged, HubUnreachable, ModelNotFound, SubnetscopeError
from analysis.models import parse_model
from cache import catalog
from tests.faults.refusals import assert_refused, open_model, soon
from tests.hub.builders import llama, safetensors_bytes
from tests.hub.faults import Status

pytestmark = pytest.mark.timeout(60)

FILE = "model.safetensors"
WHOLE = safetensors_bytes(llama(layers=1))
Info = dict[str, Any]


def listing(*files: object) -> Callable[[Info], object]:
    """An answer whose list of files is this one."""
    return lambda info: info | {"siblings": list(files)}


def named(name: object, size: object = 8) -> Info:
    return {"rfilename": name, "size": size}


def without(part: str) -> Callable[[Info], object]:
    return lambda info: {key: value for key, value in info.items() if key != part}


def value(part: str, other: object) -> Callable[[Info], object]:
    return lambda info: info | {part: other}


LIST = "list of the files of 'org/stranger' could not be understood"
ANSWER = "answer about 'org/stranger' could not be understood"
NAME = "lists weights under the name"

# What the answer becomes, as JSON or as its text, and the refusal.
CASES: dict[str, tuple[Callable[[Info], object], type[SubnetscopeError], str]] = {
    "nothing": (lambda _: "", HubUnreachable, ANSWER),
    "a web page": (lambda _: "<html><img src=x onerror=alert(1)>", HubUnreachable, ANSWER),
    "half a JSON": (lambda info: json.dumps(info)[:-20], HubUnreachable, ANSWER),
    "a list": (lambda info: [info], HubUnreachable, ANSWER),
    "null": (lambda _: None, HubUnreachable, ANSWER),
    "nested 100,000 deep": (lambda _: "[" * 10**5, HubUnreachable, ANSWER),
    "a number of 5,000 digits": (lambda _: '{"sha":1%s}' % ("0" * 5000), HubUnreachable, ANSWER),
    "60 MB": (lambda _: '"%s"' % ("x" * 60_000_000), HubUnreachable, ANSWER),
    "no commit": (without("sha"), HubUnreachable, "did not say which commit"),
    "a commit that is a path": (value("sha", "../../x"), HubUnreachable, "did not say which commit"),
    "a commit in capitals": (value("sha", "A" * 40), HubUnreachable, "did not say which commit"),
    "a commit that is a number": (value("sha", 7), HubUnreachable, "did not say which commit"),
    "a commit and a line break": (value("sha", "a" * 40 + "\n"), HubUnreachable, "did not say which commit"),
    "disabled": (value("disabled", True), AccessDenied, "'org/stranger' has been disabled"),
    "no list of files": (without("siblings"), HubUnreachable, LIST),
    "the list is an object": (value("siblings", {"a": 1}), HubUnreachable, LIST),
    "the list is empty": (listing(), ModelNotFound, "has no files"),
    "a file is a text": (listing("model.safetensors"), HubUnreachable, LIST),
    "a file is null": (listing(None), HubUnreachable, LIST),
    "a file without a name": (listing({"size": 8}), HubUnreachable, LIST),
    "a name is a number": (listing(named(7)), HubUnreachable, LIST),
    "a name is a list": (listing(named([FILE])), HubUnreachable, LIST),
    "a size below 0": (listing(named(FILE, -8)), HubUnreachable, LIST),
    "a size that is a text": (listing(named(FILE, "8")), HubUnreachable, LIST),
    "a size that is true": (listing(named(FILE, True)), HubUnreachable, LIST),
    "a size that is a fraction": (listing(named(FILE, 8.0)), HubUnreachable, LIST),
    "a size of 10^30": (listing(named(FILE, 10**30)), HubUnreachable, LIST),
    "no size": (listing({"rfilename": FILE}), HubUnreachable, "how large the files"),
    "a size beyond any disk": (listing(named(FILE, 2**62)), HubUnreachable, LIST),
    "a size that is too small": (
        listing(named(FILE, len(WHOLE) - 1)),
        FileChanged,
        f"'{FILE}' of 'org/stranger' is not the file",
    ),
    "a size that is too large": (
        listing(named(FILE, len(WHOLE) + 1)),
        FileChanged,
        f"'{FILE}' of 'org/stranger' is not the file",
    ),
    "a hash that is a path": (
        listing(named(FILE) | {"lfs": {"sha256": "../../../etc/passwd", "size": 8}}),
        HubUnreachable,
        LIST,
    ),
    "a hash that is a number": (listing(named(FILE) | {"lfs": {"sha256": 7, "size": 8}}), HubUnreachable, LIST),
    "lfs is a text": (listing(named(FILE) | {"lfs": "x"}), HubUnreachable, LIST),
    "a file that is not there": (listing(named("gone.safetensors")), BadWeights, "lists a file that is not there"),
    "weights by a way up": (listing(named("../secret.safetensors")), BadWeights, NAME),
    "weights by a way down and up": (listing(named("a/../../secret.safetensors")), BadWeights, NAME),
    "weights at an absolute path": (listing(named("/etc/x.safetensors")), BadWeights, NAME),
    "weights at two slashes": (listing(named("a//x.safetensors")), BadWeights, NAME),
    "weights on Windows": (listing(named("..\\..\\secret.safetensors")), BadWeights, NAME),
    "weights on a drive": (listing(named("C:\\x.safetensors")), BadWeights, NAME),
    "weights with a NUL": (listing(named("x\0.safetensors")), BadWeights, "\\u0000"),
    "weights with a line break": (listing(named("x\n.safetensors")), BadWeights, "\\u000a"),
    "weights with a line separator": (listing(named("x\u2028.safetensors")), BadWeights, "\\u2028"),
    "weights whose name turns round": (listing(named("x\u202e.safetensors")), BadWeights, "\\u202e"),
    "weights whose name is half a character": (listing(named("\ud800.safetensors")), BadWeights, "\\ud800"),
    "weights with a name of 1 MB": (listing(named("../" + "x" * 10**6 + ".safetensors")), BadWeights, NAME),
    "an index by a way up": (listing(named("../model.safetensors.index.json")), BadWeights, NAME),
}


def answer(hub, change: Callable[[Info], object]) -> None:
    """From now on the Hub answers with this instead."""
    commit = hub.add("org/stranger", {FILE: WHOLE})
    other = change(hub.repositories["org/stranger"].info(commit, blobs=True))
    hub.fail(Status(path="/api/models", status=200, text=other if isinstance(other, str) else json.dumps(other)))


@pytest.mark.parametrize("name", CASES)
def test_a_malformed_answer_is_refused(hub, hub_settings, name):
    change, kind, words = CASES[name]
    answer(hub, change)
    assert_refused(lambda: open_model("org/stranger", hub_settings), kind, "org/stranger", words)


def test_other_files_with_names_that_lead_elsewhere_are_left_out(hub, hub_settings):
    strange = ["../config.json", "/etc/passwd", "a\\b", "a\0b", "x\u202ey", "a//b", "./a", "", "..", "\ud800"]
    answer(hub, listing(named(FILE, len(WHOLE)), *map(named, strange)))
    with soon():
        found = catalog.find(parse_model("org/stranger"), hub_settings)
    assert [entry.path for entry in found.files] == [FILE]
    assert len(catalog.list_tensors(found, hub_settings)) == len(llama(layers=1))


def test_100_000_other_files_are_no_trouble(hub, hub_settings):
    answer(hub, listing(named(FILE, len(WHOLE)), *(named(f"logs/{number}.txt") for number in range(100_000))))
    with soon():
        assert len(open_model("org/stranger", hub_settings)) == len(llama(layers=1))


@pytest.mark.parametrize(
    "text",
    [
        "org/a?b",
        "org/a#b",
        "org/../x",
        "org/a%2fb",
        "org/a\u202eb",
        "org/a@../..",
        "org/a@b?c",
        "org/a@b%2f..",
        "org/a/..",
    ],
)
def test_what_would_lead_elsewhere_on_the_hub_is_never_asked_for(hub, hub_settings, text):
    with soon(), pytest.raises(SubnetscopeError):
        open_model(text, hub_settings)
    assert hub.requests == []
