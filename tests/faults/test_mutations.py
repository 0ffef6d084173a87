"""Seeded random damage to sound headers and indexes, 20,000 and 4,000 of them.

A header that the safetensors library refuses is never taken, one that both take is read the same, and nothing but our
own errors ever comes out. Both outcomes are counted, so that neither is never tried.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError, deserialize

from analysis.errors import BadWeights
from cache.weights.repository import layout
from cache.weights.safetensors_header import BITS_OF_DTYPE, parse_header
from tests.hub.builders import BFloat16, safetensors_bytes

HEADERS, SEEDS = 20_000, (1, 2, 3, 4)
INDEXES = 4_000
NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    5,
    8,
    2**31,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    10**25,
    1.0,
    1e400,
    True,
    None,
    "1",
    [],
)
BYTES = b'0123456789-+.eE"\\{}[],: \t\nabFU\x00\x7f\x80\xff'

Table = list[tuple[str, str, tuple[int, ...], bytes]] | None


# Damage: (file's content, its header's end, random) -> changed in place


def flipped_bit(content: bytearray, end: int, rng: random.Random) -> None:
    content[rng.randrange(end)] ^= 1 << rng.randrange(8)


def other_byte(content: bytearray, end: int, rng: random.Random) -> None:
    content[rng.randrange(8, end)] = rng.choice(BYTES)


def lost_bytes(content: bytearray, end: int, rng: random.Random) -> None:
    at = rng.randrange(end)
    del content[at : at + rng.choice((1, 1, 2, 8))]


def further_bytes(content: bytearray, end: int, rng: random.Random) -> None:
    """Some more in the header, whose length is put right."""
    at = rng.randrange(8, end + 1)
    more = bytes(rng.choices(BYTES, k=rng.choice((1, 1, 2, 8))))
    content[at:at] = more
    content[:8] = (end - 8 + len(more)).to_bytes(8, "little")


def other_length(content: bytearray, end: int, rng: random.Random) -> None:
    content[:8] = max(0, end - 8 + rng.choice((-2, -1, 1, 2, 100, 2**40))).to_bytes(8, "little")


def cut(content: bytearray, _: int, rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


def longer(content: bytearray, _: int, rng: random.Random) -> None:
    content += b"\0" * rng.randrange(1, 9)


def other_digit(content: bytearray, end: int, rng: random.Random) -> None:
    places = [at for at in range(8, end) if chr(content[at]).isdigit()]
    content[rng.choice(places)] = rng.choice(b"0123456789")


def in_json(change: Callable[[dict[str, Any], list[str], random.Random], None]) -> Callable[..., None]:
    """A change of the header as JSON: its entries, and their names without '__metadata__'."""

    def damage(content: bytearray, end: int, rng: random.Random) -> None:
        header = json.loads(content[8:end])
        change(header, [name for name in header if name != "__metadata__"], rng)
        text = json.dumps(header, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, None, 1))).encode()
        content[:end] = len(text).to_bytes(8, "little") + text

    return damage


def other_value(header: dict[str, Any], names: list[str], rng: random.Random) -> None:
    entry = header[rng.choice(names)]
    part = rng.choice(("shape", "data_offsets", "dtype", "extra"))
    known = entry.get(part, [])
    if part == "dtype":
        entry[part] = rng.choice((*BITS_OF_DTYPE, "F128", "", 7, None))
    elif part == "extra":
        entry[rng.choice(("extra", "dtype", "shape"))] = rng.choice(NUMBERS)
    else:
        n_values = rng.randrange(4) if part == "shape" else 2
        entry[part] = [rng.choice((*known, rng.choice(NUMBERS))) for _ in range(n_values)]


def swapped_parts(header: dict[str, Any], names: list[str], rng: random.Random) -> None:
    one, other = header[rng.choice(names)], header[rng.choice(names)]
    part = rng.choice(("shape", "data_offsets", "dtype"))
    one[part], other[part] = other[part], one[part]


def reshaped(header: dict[str, Any], names: list[str], rng: random.Random) -> None:
    """The same bytes as another shape or type: often still sound."""
    entry = header[rng.choice(names)]
    begin, end = entry["data_offsets"]
    entry["dtype"] = rng.choice(("U8", "I8", "BOOL", "F8_E4M3", "F16", "F4"))
    wide = BITS_OF_DTYPE[entry["dtype"]]
    entry["shape"] = rng.choice(([(end - begin) * 8 // wide], [1, (end - begin) * 8 // wide, 1], [end - begin]))


def renamed(header: dict[str, Any], names: list[str], rng: random.Random) -> None:
    other = rng.choice(
        ("", "a" * 499, "a" * 501, "__metadata__", "__proto__", "\u202e", "\x00", "x/../y", "\U0001f600")
    )
    header[other] = header.pop(rng.choice(names))


def dropped(header: dict[str, Any], names: list[str], rng: random.Random) -> None:
    name = rng.choice(names)
    if rng.random() < 0.5:
        del header[name]
    else:
        del header[name][rng.choice(list(header[name]))]


def other_metadata(header: dict[str, Any], _: list[str], rng: random.Random) -> None:
    header["__metadata__"] = rng.choice(({}, {"a": "b"}, {"a": 1}, {"a": None}, [], None, "x", {"": "\x00"}))


def wrapped(header: dict[str, Any], names: list[str], rng: random.Random) -> None:
    name = rng.choice(names)
    header[name] = rng.choice(([header[name]], {"a": header[name]}, json.dumps(header[name]), None))


DAMAGES = (
    flipped_bit, other_byte, other_byte, lost_bytes, further_bytes, other_length, cut, longer, other_digit,
    *(in_json(change) for change in (other_value, other_value, swapped_parts, reshaped, reshaped, renamed, dropped,
                                     other_metadata, wrapped)),
)  # fmt: skip


def sound_files(rng: random.Random) -> list[bytes]:
    """Small files of all kinds of types, of one to eight tensors."""
    arrays: dict[str, Any] = {
        "model.layers.0.self_attn.q_proj.weight": np.zeros((3, 5), "float16"),
        "model.norm.weight": BFloat16.of(np.ones((5,))),
        "counts": np.zeros((2, 0, 3), "int64"),
        "scalar": np.array(1.0, "float32"),
        "mask": np.zeros((7,), "bool"),
        "bytes": np.zeros((4, 4), "uint8"),
        "wide": np.zeros((2, 2), "float64"),
        "naïve \U0001f600": np.zeros((3,), "int32"),
    }
    names = list(arrays)
    return [safetensors_bytes({n: arrays[n] for n in rng.sample(names, k)}) for k in (1, 2, 3, 5, 8) for _ in range(4)]


def table(content: bytes) -> Table:
    try:
        found = parse_header(content, len(content), "model.safetensors")
    except BadWeights:
        return None
    return sorted((t.name, t.dtype, t.shape, content[t.begin : t.end]) for t in found)


def reference_table(content: bytes) -> Table:
    try:
        found = deserialize(content)
    except SafetensorError:
        return None
    return sorted((name, t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in found)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_damaged_header_is_taken_that_the_reference_refuses_and_all_are_read_the_same(seed):
    rng = random.Random(seed)
    files = sound_files(rng)
    outcomes: Counter[str] = Counter()  # too strict: no tensors, a name twice or too long, which we alone refuse
    for _ in range(HEADERS // len(SEEDS)):
        content = bytearray(rng.choice(files))
        rng.choice(DAMAGES)(content, 8 + int.from_bytes(content[:8], "little"), rng)
        ours, reference = table(bytes(content)), reference_table(bytes(content))
        assert reference is not None or ours is None, f"the reference refuses {bytes(content)!r}"
        assert ours is None or ours == reference, f"read differently: {bytes(content)!r}"
        outcomes["taken" if ours else "too strict" if reference is not None else "refused"] += 1
    assert outcomes["taken"] > outcomes.total() / 10
    assert outcomes["refused"] > outcomes.total() / 2
    assert outcomes["too strict"] < outcomes.total() / 20


SHARDS = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
OTHER_SHARDS = (
    "../x.safetensors",
    "config.json",
    "x\0.safetensors",
    "",
    7,
    None,
    [],
    {},
    SHARDS[0] + "\n",
    "gone.safetensors",
)


def damaged_index(rng: random.Random) -> bytes:
    known: dict[str, Any] = {
        "metadata": {"total_size": 8},
        "weight_map": {f"layers.{number}.w": rng.choice(SHARDS) for number in range(rng.randrange(1, 6))},
    }
    match rng.randrange(6):
        case 0:
            known["weight_map"][rng.choice(list(known["weight_map"]))] = rng.choice(OTHER_SHARDS)
        case 1:
            known[rng.choice(list(known))] = rng.choice(NUMBERS)
        case 2:
            known["weight_map"][rng.choice(("", "\ud800", "\u202e", "a" * 1000))] = rng.choice(SHARDS)
    content = bytearray(json.dumps(known).encode())
    if rng.random() < 0.5:
        at = rng.randrange(len(content))
        content[at : at + rng.randrange(3)] = bytes(rng.choices(BYTES, k=rng.randrange(3)))
    return bytes(content)


def test_no_damaged_index_leads_to_a_file_that_is_not_listed():
    rng = random.Random(20261122)
    names = {*SHARDS, "config.json", "model.safetensors.index.json"}
    outcomes: Counter[str] = Counter()
    for _ in range(INDEXES):
        content = damaged_index(rng)
        try:
            found = layout(names, content)
        except BadWeights:
            outcomes["refused"] += 1
        else:
            assert set(found.files) <= set(SHARDS), content
            assert set(found.shard_of_tensor.values()) == set(found.files), content
            outcomes["taken"] += 1
    assert min(outcomes.values()) > INDEXES / 5
