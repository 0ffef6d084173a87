"""The header validator: what it reads, what it refuses and in which words. That it never takes what safetensors itself
refuses is tried with random damage in tests/faults/test_mutations.py."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import SafetensorError, deserialize

from analysis.errors import BadWeights
from analysis.tensors import TensorInfo
from cache.weights.safetensors_header import MAX_HEADER_BYTES, parse_header
from tests.hub.builders import BFloat16, safetensors_bytes


def file_of(header: object, data: bytes = b"\0" * 8) -> bytes:
    """A safetensors file with this header (JSON, or its bytes) before these data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def parse(content: bytes) -> list[TensorInfo]:
    return parse_header(content, len(content), "model.safetensors")


def test_a_header_becomes_tensors_in_the_order_of_their_bytes():
    content = safetensors_bytes({"small": np.zeros((2, 3), "float32"), "wide": BFloat16.of(np.ones((4,)))})
    small, wide = sorted(parse(content), key=lambda tensor: tensor.name)
    assert (small.dtype, small.shape, small.end - small.begin) == ("F32", (2, 3), 24)
    assert (wide.dtype, wide.shape, wide.end - wide.begin) == ("BF16", (4,), 8)
    assert max(small.end, wide.end) == len(content)
    assert content[wide.begin : wide.end] == b"\x80\x3f" * 4  # 1.0 in bfloat16, little-endian


def test_more_than_the_header_may_be_given():
    content = file_of({"a": entry()})
    assert parse_header(content[:-8], len(content), "f") == parse_header(content, len(content), "f")


@pytest.mark.parametrize(
    "header",
    [
        pytest.param({"a": entry(shape=[], offsets=[0, 4]), "b": entry(shape=[1], offsets=[4, 8])}, id="scalar"),
        pytest.param({"a": entry(shape=[0, 2**62], offsets=[0, 0]), "b": entry()}, id="a side of nothing"),
        pytest.param({"__metadata__": {"format": "pt"}, "a": entry()}, id="metadata"),
        pytest.param({"a": entry("F4", [16], [0, 8])}, id="half bytes"),
        pytest.param(b" " + json.dumps({"a": entry()}).encode() + b"   ", id="spaces around"),
        pytest.param({"naïve \U0001f600": entry()}, id="a name beyond ASCII"),
    ],
)
def test_unusual_and_sound(header):
    parse(file_of(header))
    deserialize(file_of(header))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "too few", id="empty"),
        pytest.param(b"\0" * 7, "too few", id="seven bytes"),
        pytest.param(b"\xff" * 8, "its header would be", id="length of 2^64-1"),
        pytest.param((MAX_HEADER_BYTES + 1).to_bytes(8, "little"), "25,000,000", id="over 25 MB"),
        pytest.param((100).to_bytes(8, "little") + b"{}", "after the file's end", id="past the end"),
        pytest.param(file_of(b"\xff\xfe{}"), "not UTF-8", id="not UTF-8"),
        pytest.param(file_of(b'{"a": '), "not JSON", id="half a JSON"),
        pytest.param(file_of(b"[" * 100_000), "too deeply", id="100,000 brackets"),
        pytest.param(file_of([]), "not a JSON object", id="a list"),
        pytest.param(file_of({"__metadata__": {"a": 1}, "a": entry()}), "__metadata__", id="metadata of numbers"),
        pytest.param(file_of({"a": 7}), "not a type, a shape", id="a number for a tensor"),
        pytest.param(file_of({"a": {"dtype": "F32", "shape": [2]}}), "not a type, a shape", id="no offsets"),
        pytest.param(file_of({"a": entry("F31")}), "unknown type 'F31'", id="unknown type"),
        pytest.param(file_of({"a": entry(["F32"])}), "unknown type", id="type is a list"),
        pytest.param(file_of({"a": entry(shape=[2.0])}), "not whole numbers", id="shape is a float"),
        pytest.param(file_of({"a": entry(shape=[True, 2])}), "not whole numbers", id="shape is a truth"),
        pytest.param(file_of({"a": entry(shape=[-2])}), "below 0", id="negative side"),
        pytest.param(file_of({"a": entry(shape=[2**64])}), "2^63", id="side of 2^64"),
        pytest.param(file_of({"a": entry(shape=[10**400])}), "2^63", id="side of 400 digits"),
        pytest.param(file_of({"a": entry(shape=[2**62, 2**62, 0], offsets=[0, 0])}, b""), "contradict", id="overflow"),
        pytest.param(file_of({"a": entry(offsets=[0, 8, 8])}), "not whole numbers", id="three offsets"),
        pytest.param(file_of({"a": entry(offsets=[8, 0])}), "contradict", id="reversed"),
        pytest.param(file_of({"a": entry(offsets=[0, 6])}), "contradict", id="size and shape differ"),
        pytest.param(file_of({"a": entry("F4", [1], [0, 1])}, b"\0"), "contradict", id="half a byte over"),
        pytest.param(file_of({"a": entry(), "b": entry()}), "'b' overlaps", id="the same bytes twice"),
        pytest.param(file_of({"a": entry(offsets=[4, 12])}, b"\0" * 12), "hole", id="a hole before"),
        pytest.param(file_of({"a": entry()}, b"\0" * 7), "cut off", id="cut off"),
        pytest.param(file_of({"a": entry()}, b"\0" * 9), "too long", id="trailing bytes"),
        pytest.param(file_of(b'{"a": %s}' % json.dumps(entry(shape=float("nan"))).encode()), "NaN", id="NaN"),
        pytest.param(file_of(b'{"\\ud800": %s}' % json.dumps(entry()).encode()), "not a type", id="half a character"),
    ],
)
def test_refused_with_the_file_and_the_reason(content, words):
    with pytest.raises(BadWeights, match=r"model\.safetensors") as caught:
        parse(content)
    assert words in str(caught.value)
    with pytest.raises(SafetensorError):
        deserialize(content)


def test_a_file_without_tensors_is_refused_although_the_reference_takes_it():
    assert deserialize(file_of({}, b"")) == []
    with pytest.raises(BadWeights, match="no tensors"):
        parse(file_of({}, b""))


def test_a_name_twice_is_refused_although_the_reference_takes_it():
    one = json.dumps(entry()).encode()
    content = file_of(b'{"a": %s, "a": %s}' % (one, one))
    assert len(deserialize(content)) == 1
    with pytest.raises(BadWeights, match="a name stands twice"):
        parse(content)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        pytest.param(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer", id="lfs"),
        pytest.param(b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page", id="html"),
        pytest.param(b"PK\x03\x04" + b"\0" * 60, "PyTorch archive", id="zip"),
        pytest.param(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "pickle", id="pickle"),
        pytest.param(b"GGUF\x03\0\0\0" + b"\xff" * 56, "GGUF", id="gguf"),
    ],
)
def test_other_files_under_this_name_are_recognised(content, kind):
    with pytest.raises(BadWeights, match=kind):
        parse(content)


def test_a_header_as_long_as_a_pickle_begins_is_no_pickle():
    padded = json.dumps({"a": entry()}).encode().ljust(0x280)  # its length is written 80 02 00 ...
    assert parse(file_of(padded))[0].name == "a"


def test_a_header_of_many_tensors_is_refused_beyond_the_limit(monkeypatch):
    monkeypatch.setattr("cache.weights.safetensors_header.MAX_TENSORS", 3)
    header = {f"t{i}": entry("U8", [1], [i, i + 1]) for i in range(4)}
    with pytest.raises(BadWeights, match="4 tensors"):
        parse(file_of(header, b"\0" * 4))
