"""Indexes that cannot be followed, and files that contradict each other: refused with the file and the reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pytest

from analysis.errors import BadWeights, NoWeights
from cache.weights import MAX_FILES
from cache.weights.repository import INDEX_FILE, MAX_INDEX_BYTES
from cache.weights.safetensors_header import MAX_TENSORS
from tests.faults.refusals import assert_refused, open_model, soon
from tests.hub.builders import llama, model_files, safetensors_bytes

pytestmark = pytest.mark.timeout(60)

SHARD = "model-00001-of-00001.safetensors"
ONE = safetensors_bytes({"a": llama(layers=1)["model.norm.weight"]})
OTHER = safetensors_bytes({"b": llama(layers=1)["model.norm.weight"]})
Files = Mapping[str, bytes]


def index(weight_map: object, **more: object) -> Files:
    return text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map, **more}).encode())


def text(content: bytes) -> Files:
    """This index beside a shard that is sound and a config."""
    return {INDEX_FILE: content, SHARD: ONE, "config.json": b"{}"}


def shard(name: str) -> Files:
    """An index that leads to this name."""
    return index({"a": name})


NO_INDEX = f"{INDEX_FILE} is not an index"
NO_MAP = "does not say which file holds which tensor"
STRANGE = "must be .safetensors files beside it"

CASES: dict[str, tuple[Callable[[], Files], type[Exception], tuple[str, ...]]] = {
    # No index at all
    "empty": (lambda: text(b""), BadWeights, (NO_INDEX,)),
    "a web page": (lambda: text(b"<html><img src=x onerror=alert(1)></html>"), BadWeights, (NO_INDEX,)),
    "a git-lfs pointer": (lambda: text(b"version https://git-lfs.github.com/spec/v1\n"), BadWeights, (NO_INDEX,)),
    "not UTF-8": (lambda: text(b'{"weight_map":{"\xff":"a"}}'), BadWeights, (NO_INDEX,)),
    "UTF-16": (lambda: text(json.dumps({"weight_map": {"a": SHARD}}).encode("utf-16")), BadWeights, (NO_INDEX,)),
    "half a JSON": (lambda: text(b'{"weight_map":{"a":'), BadWeights, (NO_INDEX,)),
    "a list": (lambda: text(b"[]"), BadWeights, (NO_INDEX,)),
    "a text": (lambda: text(b'"weight_map"'), BadWeights, (NO_INDEX,)),
    "null": (lambda: text(b"null"), BadWeights, (NO_INDEX,)),
    "no weight_map": (lambda: text(b'{"metadata":{}}'), BadWeights, (NO_INDEX,)),
    "a million brackets": (lambda: text(b"[" * 10**6), BadWeights, (NO_INDEX,)),
    "a million objects in each other": (lambda: text(b'{"weight_map":' * 10**6), BadWeights, (NO_INDEX,)),
    "5,000 digits": (lambda: text(b'{"weight_map":1' + b"0" * 5000 + b"}"), BadWeights, (NO_INDEX,)),
    "larger than is read": (
        lambda: text(b'{"weight_map":{"a":"' + SHARD.encode() + b'"}' + b" " * MAX_INDEX_BYTES + b"}"),
        BadWeights,
        (INDEX_FILE, "50,000,000"),
    ),
    "50 MB of nothing": (lambda: text(b'{"weight_map":[' + b"0," * 24_000_000 + b"0]}"), BadWeights, (INDEX_FILE,)),
    # A weight_map of something else
    "the map is empty": (lambda: index({}), BadWeights, (NO_MAP,)),
    "the map is a list": (lambda: index([SHARD]), BadWeights, (NO_MAP,)),
    "the map is a text": (lambda: index(SHARD), BadWeights, (NO_MAP,)),
    "the map is a number": (lambda: index(7), BadWeights, (NO_MAP,)),
    "the map is null": (lambda: index(None), BadWeights, (NO_MAP,)),
    "a shard is a list": (lambda: index({"a": [SHARD]}), BadWeights, (NO_MAP,)),
    "a shard is an object": (lambda: index({"a": {SHARD: 1}}), BadWeights, (NO_MAP,)),
    "a shard is null": (lambda: index({"a": None}), BadWeights, (NO_MAP,)),
    "a shard is a number": (lambda: index({"a": 1, "b": SHARD}), BadWeights, (NO_MAP,)),
    "a shard is NaN": (lambda: text(b'{"weight_map":{"a":NaN}}'), BadWeights, (NO_MAP,)),
    "more names than tensors are read": (
        lambda: index(dict.fromkeys(map(str, range(MAX_TENSORS + 1)), SHARD)),
        BadWeights,
        (INDEX_FILE, "300,001 tensors"),
    ),
    # Shards that lead elsewhere
    "a way up": (lambda: shard("../secret.safetensors"), BadWeights, (INDEX_FILE, "'../secret", STRANGE)),
    "a way down and up": (lambda: shard("a/../../secret.safetensors"), BadWeights, (INDEX_FILE, STRANGE)),
    "a folder below": (lambda: shard("sub/model.safetensors"), BadWeights, (INDEX_FILE, STRANGE)),
    "from here": (lambda: shard("./" + SHARD), BadWeights, (INDEX_FILE, STRANGE)),
    "absolute": (lambda: shard("/etc/passwd.safetensors"), BadWeights, (INDEX_FILE, STRANGE)),
    "a Windows path": (lambda: shard("..\\..\\secret.safetensors"), BadWeights, (INDEX_FILE, STRANGE)),
    "a drive": (lambda: shard("C:\\model.safetensors"), BadWeights, (INDEX_FILE, STRANGE)),
    "a share of the network": (lambda: shard("\\\\host\\share\\m.safetensors"), BadWeights, (INDEX_FILE, STRANGE)),
    "an address": (lambda: shard("https://elsewhere.example/m.safetensors"), BadWeights, (INDEX_FILE, STRANGE)),
    "a NUL": (lambda: shard("model\0.safetensors"), BadWeights, (INDEX_FILE, "\\x00", STRANGE)),
    "a line break": (lambda: shard("model\n.safetensors"), BadWeights, (INDEX_FILE, "\\n", STRANGE)),
    "a line break behind": (lambda: shard(SHARD + "\n"), BadWeights, (INDEX_FILE, STRANGE)),
    "a line separator": (lambda: shard("model\u2028.safetensors"), BadWeights, (INDEX_FILE, "\\u2028", STRANGE)),
    "text that turns round": (lambda: shard("model\u202e.safetensors"), BadWeights, (INDEX_FILE, "\\u202e", STRANGE)),
    "half a character": (lambda: shard("model\ud800.safetensors"), BadWeights, (INDEX_FILE, "\\ud800", STRANGE)),
    "letters that look alike": (lambda: shard("mоdel.safetensors"), BadWeights, (INDEX_FILE, "\\u043e", STRANGE)),
    "HTML": (lambda: shard("<img src=x>.safetensors"), BadWeights, (INDEX_FILE, STRANGE)),
    "escaped": (lambda: shard("%2e%2e%2fsecret.safetensors"), BadWeights, (INDEX_FILE, STRANGE)),
    "a name of 1 MB": (lambda: shard("m" * 10**6 + ".safetensors"), BadWeights, (INDEX_FILE, "missing")),
    "the empty name": (lambda: shard(""), BadWeights, (INDEX_FILE, STRANGE)),
    "config.json": (lambda: shard("config.json"), BadWeights, (INDEX_FILE, "'config.json'", STRANGE)),
    "a pickle": (lambda: shard("pytorch_model.bin"), BadWeights, (INDEX_FILE, "'pytorch_model.bin'", STRANGE)),
    "the index itself": (lambda: shard(INDEX_FILE), BadWeights, (INDEX_FILE, STRANGE)),
    "another spelling of the shard": (lambda: shard(SHARD.upper()), BadWeights, (INDEX_FILE, STRANGE)),
    # Shards that are not there, or hold something else
    "a shard is missing": (lambda: shard("gone.safetensors"), BadWeights, ("1 of the 1 shards", "gone.safetensors")),
    "the same letters in another case": (lambda: shard(SHARD.capitalize()), BadWeights, ("missing", "Model-00001")),
    "100,000 shards are missing": (
        lambda: index({str(i): f"model-{i}.safetensors" for i in range(100_000)}),
        BadWeights,
        ("100000 of the 100000 shards", "and 99995 more"),
    ),
    "a tensor is not in its shard": (lambda: index({"a": SHARD, "b": SHARD}), BadWeights, (f"b in {SHARD}",)),
    "the tensors' names turn the text round": (
        lambda: index({"a": SHARD, "b\u202e\x1b[2J": SHARD}),
        BadWeights,
        ("b\\u202e\\u001b[2J in",),
    ),
    "a tensor's name is half a character": (
        lambda: text(b'{"weight_map":{"\\ud800":"%s"}}' % SHARD.encode()),
        BadWeights,
        ("\\ud800 in",),
    ),
    "a tensor's name has 1 MB": (lambda: index({"x" * 10**6: SHARD}), BadWeights, ("xxx in", "xxx…xxx", SHARD)),
    "100,000 tensors are not in their shard": (
        lambda: index({str(i): SHARD for i in range(100_000)}),
        BadWeights,
        ("names 100000 tensors", "and 99995 more"),
    ),
    "a shard is a git-lfs pointer": (
        lambda: {**index({"a": SHARD}), SHARD: b"version https://git-lfs.github.com/spec/v1\n"},
        BadWeights,
        (SHARD, "a git-lfs pointer"),
    ),
    "a shard is empty": (lambda: {**index({"a": SHARD}), SHARD: b""}, BadWeights, (SHARD, "holds 0 bytes")),
    # No index, and files that contradict each other
    "a shard of three": (lambda: {"model-00001-of-00003.safetensors": ONE}, BadWeights, ("1 of the 3 files",)),
    "a shard of 99999": (lambda: {"model-00001-of-99999.safetensors": ONE}, BadWeights, ("1 of the 99999 files",)),
    "a shard of none": (lambda: {"model-00001-of-00000.safetensors": ONE}, BadWeights, ("1 of the 0 files",)),
    "a tensor in two files": (
        lambda: {"x.safetensors": ONE, "y.safetensors": ONE},
        BadWeights,
        ("ore than one file", "tensors: a."),
    ),
    "two sound files and a broken one": (
        lambda: {"x.safetensors": ONE, "y.safetensors": OTHER, "z.safetensors": b"z"},
        BadWeights,
        ("'z.safetensors'", "holds 1 bytes"),
    ),
    "names in capital letters": (lambda: {"MODEL.SAFETENSORS": ONE}, NoWeights, ("o safetensors weights here",)),
    "a name that is only an ending": (lambda: {".safetensors": b""}, NoWeights, ("o safetensors weights here",)),
    "more files than are read": (
        lambda: {f"{i}.safetensors": b"" for i in range(MAX_FILES + 1)},
        BadWeights,
        (f"{MAX_FILES + 1:,} weight files",),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_malformed_index_is_refused(roots, hub_settings, name):
    make, kind, words = CASES[name]
    folder = roots / "stranger"
    folder.mkdir()
    for file, content in make().items():
        (folder / file).write_bytes(content)
    assert_refused(lambda: open_model("./models/stranger", hub_settings), kind, *words)


FROM_THE_HUB = [name for name in CASES if "50 MB" not in name and "larger" not in name][::3]


@pytest.mark.parametrize("name", FROM_THE_HUB)
def test_a_malformed_index_is_refused_from_the_hub_too(hub, hub_settings, name):
    make, kind, words = CASES[name]
    hub.add("org/stranger", make())
    assert_refused(lambda: open_model("org/stranger", hub_settings), kind, *words)


def test_what_an_index_says_beside_its_map_is_not_looked_at(roots, hub_settings):
    files = dict(model_files(llama(layers=1), shards=2))
    known = json.loads(files[INDEX_FILE])
    known["metadata"] = {"total_size": 10**4000, "x": [{}] * 9}
    files[INDEX_FILE] = json.dumps(known).encode()
    (roots / "stranger").mkdir()
    for file, content in files.items():
        (roots / "stranger" / file).write_bytes(content)
    with soon():
        assert len(open_model("./models/stranger", hub_settings)) == len(llama(layers=1))


def test_files_that_hold_too_many_tensors_together_are_refused_before_all_are_read(roots, hub_settings, monkeypatch):
    monkeypatch.setattr("cache.weights.MAX_TENSORS", 5)
    (roots / "stranger").mkdir()
    for number in range(40):
        (roots / "stranger" / f"{number}.safetensors").write_bytes(
            safetensors_bytes({f"{number}": llama(layers=1)["model.norm.weight"]})
        )
    assert_refused(lambda: open_model("./models/stranger", hub_settings), BadWeights, "more than 5 tensors")
