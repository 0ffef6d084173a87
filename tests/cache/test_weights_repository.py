"""Which files hold the weights, and whether index and headers agree."""

from __future__ import annotations

import json

import pytest

from analysis.errors import BadWeights, NoWeights
from analysis.tensors import TensorInfo
from cache import weights
from cache.weights.repository import Layout, layout, merge
from tests.hub.builders import llama, model_files, safetensors_bytes

INDEX = "model.safetensors.index.json"


def index_of(shard_of_tensor: object) -> bytes:
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": shard_of_tensor}).encode()


def tensor(name: str, file: str) -> TensorInfo:
    return TensorInfo(name, "F32", (1,), file, 0, 4)


def list_in_memory(files: dict[str, bytes]) -> list[TensorInfo]:
    return weights.list_tensors({n: len(c) for n, c in files.items()}, lambda name, begin, end: files[name][begin:end])


@pytest.mark.parametrize(
    ("names", "files"),
    [
        pytest.param(["config.json", "model.safetensors"], ("model.safetensors",), id="one file"),
        pytest.param(["model.safetensors", "extra.safetensors"], ("model.safetensors",), id="one file and others"),
        pytest.param(["b.safetensors", "a.safetensors"], ("a.safetensors", "b.safetensors"), id="any names"),
        pytest.param(
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
            id="numbered, no index",
        ),
        pytest.param(["model.safetensors", "unet/model.safetensors"], ("model.safetensors",), id="not in folders"),
        pytest.param(
            ["model.safetensors", "adapter_model.safetensors"], ("model.safetensors",), id="a model with an adapter"
        ),
        pytest.param(["weights.safetensors", "pytorch_model.bin"], ("weights.safetensors",), id="pickles do not count"),
        pytest.param(
            ["adapter_model.safetensors", "adapter_config.json"], ("adapter_model.safetensors",), id="an adapter"
        ),
    ],
)
def test_weight_files_by_their_names(names, files):
    assert layout(names, None).files == files


def test_the_index_decides_where_there_is_one():
    index = index_of({"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"})
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "consolidated.safetensors"]
    assert layout(names, index).files == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        pytest.param(["config.json"], "No safetensors weights here", id="nothing"),
        pytest.param(["pytorch_model.bin"], "PyTorch pickles", id="pickle"),
        pytest.param(["x-Q4_K_M.gguf"], "GGUF", id="gguf"),
        pytest.param(["adapter_model.bin"], "This adapter is a PyTorch pickle", id="adapter as a pickle"),
        pytest.param(["checkpoint-1/model.safetensors", "README.md"], "folders: checkpoint-1", id="in a folder"),
    ],
)
def test_no_weights_says_what_there_is_instead(names, words):
    with pytest.raises(NoWeights) as caught:
        layout(names, None)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        pytest.param(b"<html>", "not an index", id="not JSON"),
        pytest.param(b"[]", "not an index", id="a list"),
        pytest.param(b"[" * 100_000, "not an index", id="too deep"),
        pytest.param(b'{"weight_map": {}}', "does not say", id="empty"),
        pytest.param(index_of(["a"]), "does not say", id="map is a list"),
        pytest.param(index_of({"a": ["x.safetensors"]}), "does not say", id="shard is a list"),
        pytest.param(index_of({"a": "../secret.safetensors"}), "'../secret.safetensors'", id="parent folder"),
        pytest.param(index_of({"a": "/etc/x.safetensors"}), "'/etc/x.safetensors'", id="absolute path"),
        pytest.param(index_of({"a": "config.json"}), "'config.json'", id="not a weight file"),
        pytest.param(index_of({"a": "http://host/x.safetensors"}), "'http://", id="an address"),
        pytest.param(index_of({"a": "x\0.safetensors"}), "x\\x00", id="a NUL"),
        pytest.param(index_of({"a": "here.safetensors", "b": "gone.safetensors"}), "gone.safetensors", id="missing"),
    ],
)
def test_an_index_that_cannot_be_followed(index, words):
    with pytest.raises(BadWeights) as caught:
        layout(["here.safetensors", "config.json"], index)
    assert words in str(caught.value)


def test_missing_shards_are_all_listed():
    index = index_of({str(i): f"model-{i}.safetensors" for i in range(9)})
    with pytest.raises(BadWeights, match=r"8 of the 9 shards .* missing: model-1.safetensors, .* and 3 more"):
        layout(["model-0.safetensors"], index)


def test_numbered_files_must_be_complete():
    with pytest.raises(BadWeights, match="1 of the 3 files"):
        layout(["model-00001-of-00003.safetensors"], None)


def test_tensors_that_their_shard_does_not_hold_are_all_listed():
    found = Layout(("1.safetensors",), {"a": "1.safetensors", "b": "1.safetensors", "c": "1.safetensors"})
    with pytest.raises(BadWeights, match=r"b in 1\.safetensors, c in 1\.safetensors"):
        merge(found, {"1.safetensors": [tensor("a", "1.safetensors")]})


def test_the_index_chooses_between_two_files_and_keeps_what_it_forgot():
    found = Layout(("1.safetensors", "2.safetensors"), {"a": "2.safetensors", "b": "1.safetensors"})
    first = [tensor("a", "1.safetensors"), tensor("b", "1.safetensors")]
    second = [tensor("a", "2.safetensors"), tensor("forgotten", "2.safetensors")]
    merged = merge(found, {"1.safetensors": first, "2.safetensors": second})
    assert [(t.name, t.file[0]) for t in merged] == [("b", "1"), ("a", "2"), ("forgotten", "2")]


def test_without_an_index_a_name_in_two_files_is_refused():
    files = ("1.safetensors", "2.safetensors")
    with pytest.raises(BadWeights, match="More than one file holds the same tensors: a"):
        merge(Layout(files, {}), {file: [tensor("a", file)] for file in files})


@pytest.mark.parametrize("shards", [1, 3])
def test_a_model_lists_the_same_tensors_however_it_is_split(shards):
    model = llama(layers=1)
    tensors = list_in_memory(model_files(model, shards=shards))
    assert {t.name: t.shape for t in tensors} == {name: t.shape for name, t in model.items()}
    assert len({t.file for t in tensors}) == shards


def test_a_long_header_takes_a_second_read():
    norm = llama(layers=1)["model.norm.weight"]
    model = {f"model.layers.{layer}.mlp.experts.0.down_proj.weight": norm for layer in range(1200)}
    content, reads = safetensors_bytes(model), []

    def read(_: str, begin: int, end: int) -> bytes:
        reads.append((begin, end))
        return content[begin:end]

    assert len(weights.read_header("f", len(content), read)) == 1200
    assert reads == [(0, 100_000), (100_000, 8 + int.from_bytes(content[:8], "little"))]
