"""Weight files that are not what their name says: each is refused with its name and the reason, from a folder as from
the Hub, within seconds and without much memory."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable

import pytest

from analysis.errors import BadWeights
from cache.weights.safetensors_header import (
    MAX_FILE_BYTES,
    MAX_HEADER_BYTES,
    MAX_NAME,
    MAX_SIDES,
    MAX_TENSORS,
    parse_header,
)
from tests.faults.refusals import assert_refused, open_model
from tests.hub.builders import llama, safetensors_bytes

FILE = "model.safetensors"
LARGE = MAX_HEADER_BYTES - 1_000  # a header of about the longest that is read
pytestmark = pytest.mark.timeout(60)


def of(header: object, data: bytes = b"\0" * 8) -> bytes:
    """A file with this header (JSON, or its bytes) before these data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def one(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8), **more: object) -> dict[str, object]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}}


def two(first: tuple[int, int], second: tuple[int, int]) -> dict[str, object]:
    return {
        name: {"dtype": "U8", "shape": [max(0, end - begin)], "data_offsets": [begin, end]}
        for name, (begin, end) in {"a": first, "b": second}.items()
    }


def raw(entry: str) -> bytes:
    """A header whose one entry is written exactly so."""
    return of(b'{"a":' + entry.encode("utf-8", "surrogatepass") + b"}")


def filled(before: bytes, part: bytes, after: bytes) -> bytes:
    """A header of about 25 MB that repeats one part."""
    return of(before + part * ((LARGE - len(before) - len(after)) // len(part)) + after)


GOOD = b'{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
WHOLE = safetensors_bytes(llama(layers=1))

# What the file holds (made when it is asked for: some are large), and the reason that must be named.
CASES: dict[str, tuple[Callable[[], bytes], str]] = {
    # Not long enough, or its length is wrong
    "empty": (lambda: b"", "holds 0 bytes"),
    "one byte": (lambda: b"\0", "holds 1 bytes"),
    "seven bytes": (lambda: b"\x02" + b"\0" * 6, "holds 7 bytes"),
    "a length of 0": (lambda: of(b""), "not JSON"),
    "a length and nothing else": (lambda: (2).to_bytes(8, "little"), "after the file's end"),
    "a length one byte too long": (lambda: (len(GOOD) + 1).to_bytes(8, "little") + GOOD, "after the file's end"),
    "a length that reaches into the data": (lambda: (len(WHOLE) // 2).to_bytes(8, "little") + WHOLE[8:], "not UTF-8"),
    "a length of 2^64 - 1": (lambda: b"\xff" * 8 + GOOD, "would be 18,446,744,073,709,551,615 bytes"),
    "a length of 2^63": (lambda: (2**63).to_bytes(8, "little") + GOOD, "would be 9,223,372,036,854,775,808 bytes"),
    "a length in the other byte order": (lambda: len(GOOD).to_bytes(8, "big") + GOOD, "more than the 25,000,000"),
    "a header over the limit": (lambda: of(b" " * MAX_HEADER_BYTES + b"{}"), "more than the 25,000,000"),
    "only zeros": (lambda: b"\0" * 4096, "not JSON"),
    "only ones": (lambda: b"\xff" * 4096, "more than the 25,000,000"),
    "cut inside the header": (lambda: WHOLE[:100], "after the file's end"),
    "cut inside the data": (lambda: WHOLE[:-1], "cut off"),
    "a byte behind the data": (lambda: WHOLE + b"\0", "too long"),
    "the file twice": (lambda: WHOLE * 2, "too long"),
    # Other files under this name
    "a git-lfs pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a git-lfs pointer"),
    "a web page": (lambda: b"\n  <!DOCTYPE html><img src=x onerror=alert(1)>", "a web page"),
    "a page without a doctype": (lambda: b"<HTML><script>alert(1)</script></HTML>", "a web page"),
    "a pickle": (lambda: b"\x80\x04\x95\x00cposix\nsystem\n(Vtouch /tmp/x\ntR.", "a Python pickle"),
    "a PyTorch archive": (lambda: b"PK\x03\x04" + b"\0" * 60, "a PyTorch archive"),
    "a zip bomb": (lambda: b"PK\x03\x04\x14\0\0\0\x08\0" + zlib.compress(b"\0" * 10**7), "not opened"),
    "a gzip bomb": (lambda: b"\x1f\x8b\x08\0" + zlib.compress(b"\0" * 10**7), "more than the 25,000,000"),
    "a GGUF file": (lambda: b"GGUF\x03\0\0\0" + b"\0" * 64, "a GGUF file"),
    "a JSON file": (lambda: b'{"error":"<img src=x> not found"}', "more than the 25,000,000"),
    # Not the text of a JSON object
    "not UTF-8": (lambda: of(b'{"\xff\xfe":1}'), "not UTF-8"),
    "UTF-8 of half a character": (lambda: of(b'{"\xed\xa0\x80":1}'), "not UTF-8"),
    "overlong UTF-8": (lambda: of(b'{"\xc0\xaf":1}'), "not UTF-8"),
    "UTF-16": (lambda: of('{"a":1}'.encode("utf-16")), "not UTF-8"),
    "a byte order mark": (lambda: of(b"\xef\xbb\xbf{}"), "not JSON"),
    "half a JSON": (lambda: of(b'{"a":{"dtype":'), "not JSON"),
    "two JSONs": (lambda: of(b"{}{}"), "not JSON"),
    "a comma at the end": (lambda: of(b'{"a":' + GOOD + b",}"), "not JSON"),
    "a NUL in the text": (lambda: of(b'{"a\0":' + GOOD + b"}"), "not JSON"),
    "a line break in a name": (lambda: of(b'{"a\n":' + GOOD + b"}"), "not JSON"),
    "single quotes": (lambda: of(b"{'a':1}"), "not JSON"),
    "a comment": (lambda: of(b"{/**/}"), "not JSON"),
    "a list": (lambda: of([1, 2]), "not a JSON object"),
    "a text": (lambda: of("a"), "not a JSON object"),
    "a number": (lambda: of(7), "not a JSON object"),
    "nothing at all (null)": (lambda: of(None), "not a JSON object"),
    "25 million brackets": (lambda: filled(b"", b"[", b""), "more than"),
    "5 million objects in each other": (lambda: filled(b"", b'{"a":', b""), "more than"),
    "100,000 objects in each other": (lambda: of(b'{"a":' * 10**5 + b"1" + b"}" * 10**5), "nested too deeply"),
    # Entries that are no tensors
    "no tensors": (lambda: of({}, b""), "no tensors"),
    "metadata alone": (lambda: of({"__metadata__": {"format": "pt"}}, b""), "no tensors"),
    "metadata is a list": (lambda: of({"__metadata__": [], **one()}), "__metadata__"),
    "metadata of objects": (lambda: of({"__metadata__": {"a": {}}, **one()}), "__metadata__"),
    "metadata is null": (lambda: of({"__metadata__": None, **one()}), "__metadata__"),
    "metadata twice": (lambda: of(b'{"__metadata__":{},"__metadata__":{},"a":' + GOOD + b"}"), "a name stands twice"),
    "a name twice": (lambda: of(b'{"a":' + GOOD + b',"a":' + GOOD + b"}"), "a name stands twice"),
    "a name twice, once escaped": (lambda: of(b'{"a":' + GOOD + b',"\\u0061":' + GOOD + b"}"), "a name stands twice"),
    "a part twice": (lambda: raw('{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}'), "stands twice"),
    "an entry is null": (lambda: of({"a": None}), "not a type, a shape and two offsets"),
    "an entry is a list": (lambda: of({"a": ["F32", [2], [0, 8]]}), "not a type, a shape and two offsets"),
    "a part is missing": (lambda: of({"a": {"dtype": "F32", "shape": [2]}}), "not a type, a shape and two offsets"),
    "a part too many": (lambda: of(one(extra=1)), "not a type, a shape and two offsets"),
    "a part misspelt": (lambda: of({"a": {"DType": "F32", "shape": [2], "data_offsets": [0, 8]}}), "not a type"),
    "half a character in a name": (lambda: of(b'{"\\ud83d":' + GOOD + b"}"), "'\\ud83d'"),
    "a name that turns the text round": (lambda: of({"a\u202egnp": 7}), "'a\\u202egnp'"),
    "a name of HTML": (lambda: of({"<script>alert(1)</script>": 7}), "'<script>alert(1)</script>'"),
    "a name that is too long": (lambda: of({"a" * (MAX_NAME + 1): one()["a"]}), f"more than {MAX_NAME}"),
    "a name of 20 MB": (lambda: of({"a" * 20_000_000: one()["a"]}), f"more than {MAX_NAME}"),
    "a name of 20 MB for no tensor": (lambda: of({"\u202e" * 3_000_000: 7}), "not a type"),
    # Types and numbers
    "an unknown type": (lambda: of(one("F31")), "unknown type 'F31'"),
    "a type in small letters": (lambda: of(one("f32")), "unknown type 'f32'"),
    "a type of 20 MB": (lambda: of(one("F" * 20_000_000)), "unknown type 'FFF"),
    "a type with an escape": (lambda: of(one("\x1b[2J")), "unknown type '\\x1b[2J'"),
    "type is null": (lambda: of(one(None)), "unknown type None"),
    "type is an object": (lambda: of(one({"F32": 1})), "unknown type"),
    "shape is null": (lambda: of(one(shape=None)), "not whole numbers"),
    "shape is a text": (lambda: of(one(shape="2")), "not whole numbers"),
    "shape holds a text": (lambda: of(one(shape=["2"])), "not whole numbers"),
    "shape holds a fraction": (lambda: of(one(shape=[2.0])), "not whole numbers"),
    "shape holds 2e0": (lambda: raw('{"dtype":"F32","shape":[2e0],"data_offsets":[0,8]}'), "not whole numbers"),
    "shape holds a list": (lambda: of(one(shape=[[2]])), "not whole numbers"),
    "shape holds true": (lambda: of(one(shape=[True, 2])), "not whole numbers"),
    "shape holds -2": (lambda: of(one(shape=[-2])), "below 0"),
    "shape holds -0": (lambda: raw('{"dtype":"F32","shape":[-0],"data_offsets":[0,8]}'), "below 0"),
    "shape holds NaN": (lambda: raw('{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}'), "NaN"),
    "shape holds Infinity": (lambda: raw('{"dtype":"F32","shape":[Infinity],"data_offsets":[0,8]}'), "Infinity"),
    "shape holds 1e999": (lambda: raw('{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}'), "not whole numbers"),
    "shape holds 2^63": (lambda: of(one(shape=[2**63])), "not whole numbers"),
    "shape holds 2^64 + 2": (lambda: of(one(shape=[2**64 + 2])), "beyond 2^63"),
    "shape holds 5,000 digits": (
        lambda: raw('{"dtype":"F32","shape":[1%s],"data_offsets":[0,8]}' % ("0" * 5000)),
        "2^63",
    ),
    "shape holds 24 million digits": (
        lambda: raw('{"dtype":"F32","shape":[%s],"data_offsets":[0,8]}' % ("9" * 24_000_000)),
        "2^63",
    ),
    "shape holds 02": (lambda: raw('{"dtype":"F32","shape":[02],"data_offsets":[0,8]}'), "not JSON"),
    "shape holds foreign digits": (lambda: raw('{"dtype":"F32","shape":[٢],"data_offsets":[0,8]}'), "not JSON"),
    "a product beyond 2^64": (lambda: of(one(shape=[2**32, 2**32, 2])), "contradict"),
    "a product that wraps round to 2": (lambda: of(one(shape=[2**62 + 1, 4, 2**61])), "contradict"),
    "a product that comes back to 0": (lambda: of(one(shape=[2**62, 2**62, 0], offsets=[0, 0]), b""), "contradict"),
    "too many sides": (lambda: of(one(shape=[1] * MAX_SIDES + [2])), f"more than {MAX_SIDES} sides"),
    "two million sides": (lambda: of(one(shape=[1] * 2_000_000 + [2])), f"more than {MAX_SIDES} sides"),
    "half a byte": (lambda: of(one("F4", [3], [0, 2]), b"\0\0"), "contradict"),
    "one offset": (lambda: of(one(offsets=[8])), "not whole numbers"),
    "offsets are an object": (lambda: of(one(offsets={"0": 8})), "not whole numbers"),
    "offsets reversed": (lambda: of(one(offsets=[8, 0])), "contradict"),
    "offsets below 0": (lambda: of(one(offsets=[-8, 0])), "below 0"),
    "offsets as fractions": (lambda: of(one(offsets=[0.0, 8.0])), "not whole numbers"),
    "offsets far behind the end": (lambda: of(one(offsets=[2**62, 2**62 + 8])), "hole"),
    "a shape that needs more bytes": (lambda: of(one(shape=[3])), "contradict"),
    "a shape that needs fewer bytes": (lambda: of(one(shape=[1])), "contradict"),
    # Tensors among each other
    "the same bytes twice": (lambda: of(two((0, 8), (0, 8))), "overlaps"),
    "one byte twice": (lambda: of(two((0, 5), (4, 8))), "overlaps"),
    "one inside the other": (lambda: of(two((0, 8), (2, 4))), "overlaps"),
    "a hole between": (lambda: of(two((0, 3), (5, 8))), "hole"),
    "a hole before": (lambda: of(two((1, 4), (4, 8))), "hole"),
    "a hole behind": (lambda: of(two((0, 4), (4, 7))), "too long"),
    "over the end": (lambda: of(two((0, 4), (4, 9))), "cut off"),
    # As large as they may be, and made to be slow
    "24 million lists": (lambda: filled(b'{"a":[', b"[],", b"[]]}"), "more"),
    "8 million empty objects": (lambda: filled(b'{"a":[', b"{},", b"{}]}"), "more"),
    "12 million numbers": (lambda: filled(b'{"a":[', b"0,", b"0]}"), "more"),
    "5 million times the empty name": (lambda: filled(b"{", b'"":0,', b'"":0}'), "more"),
    "12 million sides": (lambda: filled(b'{"a":{"shape":[', b"1,", b"1]}}"), "more"),
    "24 million spaces": (lambda: filled(b"", b" ", b"{}"), "no tensors"),
    "4 million escaped letters": (lambda: filled(b'{"', b"\\u0041", b'":7}'), "not a type"),
    "some tensors too many": (
        lambda: of(b"{" + b",".join(b'"%x":%s' % (i, GOOD) for i in range(MAX_TENSORS + 2)) + b"}"),
        "300,003 times",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_malformed_weight_file_is_refused(roots, hub_settings, name):
    content, reason = CASES[name]
    folder = roots / "stranger"
    folder.mkdir()
    (folder / FILE).write_bytes(content())
    assert_refused(lambda: open_model("./models/stranger", hub_settings), BadWeights, FILE, reason)


FROM_THE_HUB = list(CASES)[::4]  # the validator is the same; the way there is not


@pytest.mark.parametrize("name", FROM_THE_HUB)
def test_a_malformed_weight_file_is_refused_from_the_hub_too(hub, hub_settings, name):
    content, reason = CASES[name]
    hub.add("org/stranger", {FILE: content()})
    assert_refused(lambda: open_model("org/stranger", hub_settings), BadWeights, FILE, reason)


def test_a_file_that_claims_to_be_larger_than_any_disk_is_refused():
    size = MAX_FILE_BYTES + 1
    content = of(one("U8", [size], [0, size]), b"")
    assert_refused(lambda: parse_header(content, len(content) + size, FILE), BadWeights, FILE, "more than")


def test_a_sparse_giant_that_is_sound_is_listed_without_reading_it(roots, hub_settings):
    size = 2**40
    head = of(one("U8", [size], [0, size]), b"")
    (roots / "giant").mkdir()
    with (roots / "giant" / FILE).open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)
    [tensor] = open_model("./models/giant", hub_settings)
    assert tensor.parameters == size
