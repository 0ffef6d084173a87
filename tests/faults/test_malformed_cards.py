"""Descriptions that cannot be read (config.json, adapter_config.json, a card's front matter): each counts as not said,
is named with its reason, and stops no comparison of weights that are sound."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest

from analysis.models import parse_model
from cache import cards, catalog
from cache.backends.prepare import card, is_tied
from cache.backends.wire import from_line, to_line
from tests.faults.refusals import open_model, soon
from tests.hub.builders import llama, write_model
from tests.hub.faults import Status

pytestmark = pytest.mark.timeout(60)

MODEL = llama(layers=1)

NOT_JSON: dict[str, tuple[Callable[[], bytes], str]] = {
    "a web page": (lambda: b"<html><img src=x onerror=alert(1)></html>", "not JSON"),
    "a git-lfs pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "not JSON"),
    "half a JSON": (lambda: b'{"hidden_size": 8', "not JSON"),
    "two JSONs": (lambda: b"{}{}", "not JSON"),
    "a byte order mark": (lambda: b"\xef\xbb\xbf{}", "not JSON"),
    "a NUL": (lambda: b"\0", "not JSON"),
    "a list": (lambda: b"[1]", "not a JSON object"),
    "a text": (lambda: b'"x"', "not a JSON object"),
    "null": (lambda: b"null", "not a JSON object"),
    "NaN": (lambda: b"NaN", "not a JSON object"),
    "not UTF-8": (lambda: b'{"a":"\xff"}', "not UTF-8"),
    "UTF-16": (lambda: '{"a":1}'.encode("utf-16"), "not UTF-8"),
    "a million brackets": (lambda: b"[" * 999_999, "nested too deeply"),
    "nested 100,000 deep": (lambda: b'{"a":' * 10**5 + b"1" + b"}" * 10**5, "nested too deeply"),
    "a number of 5,000 digits": (lambda: b'{"hidden_size":1%s}' % (b"0" * 5000), "too many digits"),
    "a number of 900,000 digits": (lambda: b'{"hidden_size":%s}' % (b"9" * 900_000), "too many digits"),
    "over 1 MB": (lambda: b'{"a":"%s"}' % (b"x" * 10**6), "more than 1,000,000 bytes"),
    "100 MB": (lambda: b" " * 10**8, "more than 1,000,000 bytes"),
}
NO_YAML: dict[str, tuple[str, str]] = {
    "aliases that multiply": (
        "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10))]),
        "aliases",
    ),
    "merges that multiply": (
        "\n".join(
            ["a0: &a0 {x: 1}", *(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 10))]
        ),
        "aliases",
    ),
    "a list that holds itself": ("x: &a [*a]", "aliases"),
    "brackets without end": ("x: " + "[" * 40_000, "nested too deeply"),
    "blocks in each other": ("\n".join(" " * i + "a:" for i in range(300)), "nested too deeply"),
    "an open bracket": ("base_model: [a", "not YAML"),
    "a tab": ("base_model:\n\t- a", "not YAML"),
    "a NUL": ("x: \0", "not YAML"),
    "an escape beyond Unicode": ('x: "\\UFFFFFFFF"', "not YAML"),
    "a list as a key": ("? [a]\n: b", "not YAML"),
    "an alias of nothing": ("x: *nobody", "aliases"),
    "two documents": ("a: 1\n--- x\nb: 2", "not YAML"),
    "a tag that is not declared": ("x: !nobody!here 1", "not YAML"),
    "no end": ("x: " + "y" * 60_000, "no end within 50,000 bytes"),
}


def found_with(roots, settings, name: str, content: bytes):
    folder = write_model(roots / "stranger", MODEL)
    (folder / "config.json").unlink()
    (folder / name).write_bytes(content)
    with soon():
        found = catalog.find(parse_model("./models/stranger"), settings)
        assert len(catalog.list_tensors(found, settings)) == len(MODEL)
    return found


@pytest.mark.parametrize("file", [cards.CONFIG_FILE, cards.ADAPTER_CONFIG_FILE])
@pytest.mark.parametrize("name", NOT_JSON)
def test_a_config_that_cannot_be_read_is_named_with_the_reason(roots, hub_settings, name, file):
    make, reason = NOT_JSON[name]
    found = found_with(roots, hub_settings, file, make())
    assert (found.config, found.base_model) == ({}, None)
    [note] = found.notes
    assert note.startswith(f"'{file}' is not read: it ")
    assert reason in note


@pytest.mark.parametrize("name", [name for name in NOT_JSON if name != "100 MB"])
def test_a_config_on_the_hub_that_cannot_be_read_is_named_with_the_reason(hub, hub_settings, name):
    make, reason = NOT_JSON[name]
    hub.add("org/stranger", {"config.json": make(), "model.safetensors": b""})
    with soon():
        found = catalog.find(parse_model("org/stranger"), hub_settings)
    [note] = found.notes
    assert note.startswith("'config.json' is not read: it ")
    assert reason in note


@pytest.mark.parametrize("name", NO_YAML)
def test_front_matter_that_cannot_be_read_is_named_with_the_reason(roots, hub_settings, name):
    front, reason = NO_YAML[name]
    found = found_with(roots, hub_settings, cards.CARD_FILE, f"---\n{front}\nbase_model: org/base\n---\n".encode())
    assert found.base_model is None
    [note] = found.notes
    assert note.startswith("'README.md' is not read: its front matter ")
    assert reason in note


SAYS_NOTHING: dict[str, str] = {
    "nothing": "",
    "a number": "base_model: 7",
    "null": "base_model: null",
    "a mapping": "base_model: {a: org/base}",
    "a list of lists": "base_model: [[org/base]]",
    "an empty list": "base_model: []",
    "a way up": "base_model: ../../outside",
    "an absolute path": "base_model: /etc",
    "a home": "base_model: ~root",
    "an address of a file": "base_model: file:///etc/passwd",
    "a text of 40 kB": "base_model: org/" + "x" * 40_000,
    "a folder's name of 400 letters": "base_model: org/" + "x" * 400,
    "text that turns round": 'base_model: "org/\\u202egnp"',
    "half a character": 'base_model: "org/\\ud800"',
    "a NUL": 'base_model: "org/a\\0b"',
    "two lines": 'base_model: "org/base\\norg/other"',
    "a line separator": 'base_model: "org/a\\u2028b"',
    "HTML": "base_model: <img src=x onerror=alert(1)>",
    "Markdown": "base_model: '![x](http://elsewhere.example/p.png)'",
    "code": "base_model: !!python/object/apply:os.system [touch /tmp/x]",
    "a name of code": "base_model: !!python/name:os.system org",
    "a number that would overflow": "base_model: 1" + ":59" * 400 + ".5",
    "a date": "base_model: 2026-99-99",
    "letters that look alike": "base_model: оrg/base",
}


@pytest.mark.parametrize("name", SAYS_NOTHING)
def test_a_base_that_cannot_be_meant_is_not_suggested(roots, hub_settings, name):
    found = found_with(roots, hub_settings, cards.CARD_FILE, f"---\n{SAYS_NOTHING[name]}\n---\n".encode())
    assert found.base_model is None


CARDS_OF_THE_HUB: dict[str, object] = {
    "a list": [1],
    "a text": "x",
    "self": {"self": 1, "base_model": "org/base"},
    "the library's own switch": {"ignore_metadata_errors": False, "base_model": "org/base"},
    "tags of lists": {"tags": [["a"], {"b": 1}], "base_model": "org/base"},
    "an odd model index": {"model-index": [{"results": 7}], "base_model": "org/base"},
    "a model index of text": {"model-index": "x", "base_model": "org/base"},
    "odd results": {"eval_results": [7], "base_model": "org/base"},
    "a card of 1 MB": {"x": "y" * 10**6, "base_model": "org/base"},
}


@pytest.mark.parametrize("name", CARDS_OF_THE_HUB)
def test_a_strange_card_on_the_hub_stops_nothing(hub, hub_settings, name):
    said = CARDS_OF_THE_HUB[name]
    commit = hub.add("org/stranger", {"model.safetensors": b""})
    info = hub.repositories["org/stranger"].info(commit, blobs=True) | {"cardData": said}
    hub.fail(Status(path="/api/models", status=200, text=json.dumps(info)))
    with soon():
        found = catalog.find(parse_model("org/stranger"), hub_settings)
    assert found.base_model == ("org/base" if isinstance(said, dict) else None)


CONFIGS: dict[str, bytes] = {
    "infinite": b'{"hidden_size":1e999,"vocab_size":-1e999,"head_dim":Infinity}',
    "4,000 digits": b'{"hidden_size":%s}' % (b"9" * 4000),
    "10^30 layers": b'{"num_hidden_layers":1%s}' % (b"0" * 30),
    "half a character": b'{"model_type":"\\ud800","architectures":["\\udfff"]}',
    "text that turns round": '{"architectures":["\u202e\x1b[2J"],"model_type":"a\\u0000b"}'.encode(),
    "architectures of 1 MB": b'{"architectures":["%s"]}' % (b"x" * 900_000),
    "100,000 architectures": b'{"architectures":[%s"x"]}' % (b'"x",' * 100_000),
    "everything is a list": b'{"hidden_size":[8],"architectures":[[1]],"tie_word_embeddings":["yes"]}',
    "tied is a text": b'{"tie_word_embeddings":"false","text_config":7}',
    "a key twice": b'{"model_type":"a","model_type":"b"}',
    "the keys of a message": b'{"type":"Tally","fields":{},"array":"<i8","shape":[1],"base64":"","zstd":false}',
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_config_says_reaches_the_store_as_plain_text_and_numbers(roots, hub_settings, name):
    found = found_with(roots, hub_settings, cards.CONFIG_FILE, CONFIGS[name])
    known = card(found, open_model("./models/stranger", hub_settings))
    text = json.dumps(known.config, allow_nan=False, ensure_ascii=False)
    text.encode()
    assert len(text) < 3_000
    assert text.isprintable()
    assert from_line(to_line({"card": known}))["card"].title == known.title
    assert is_tied(found) in (None, True, False)


def test_the_sizes_of_a_nested_language_model_are_those_of_its_layers(roots, hub_settings):
    config = b'{"hidden_size":7,"vocab_size":9,"text_config":{"hidden_size":64,"num_attention_heads":4,"n_head":[1]}}'
    found = found_with(roots, hub_settings, cards.CONFIG_FILE, config)
    known = card(found, open_model("./models/stranger", hub_settings)).config
    assert known == {"hidden_size": 64, "vocab_size": 9, "num_attention_heads": 4}


# Seeded damage: nothing but ours ever comes out

MUTATIONS = 4_000
_SOUND_CONFIG = json.dumps(
    {"architectures": ["LlamaForCausalLM"], "hidden_size": 8, "rope": {"theta": 1e4}, "base_model_name_or_path": "a/b"}
).encode()
_SOUND_CARD = b'---\nlicense: mit\nbase_model:\n- org/base\ntags: [a, "b"]\nx: {y: 2026-01-01, z: 1.5}\n---\n# Title\n'
_PIECES = (
    b"&a ", b"*a", b"<<: ", b"!!python/name:os.system ", b"[", b"{", b"}", b'"', b"\\ud800", b"1e999", b"\xff", b"\n",
    b"\t", b"---\n", b"? ", b"- ", b": ", b"|", b">", b"%", b"@", b"\0", b"9" * 5000, b"NaN", b"\xe2\x80\xa8",
)  # fmt: skip


def damaged(content: bytes, rng: random.Random) -> bytes:
    """One to three places changed: a bit, a byte more or fewer, a piece of syntax, a stretch twice, an end cut off."""
    text = bytearray(content)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(text) + 1)
        match rng.randrange(5):
            case 0 if at < len(text):
                text[at] ^= 1 << rng.randrange(8)
            case 1:
                del text[at : at + rng.randrange(1, 4)]
            case 2:
                text[at:at] = rng.choice(_PIECES)
            case 3:
                text[at:at] = text[: rng.randrange(len(text) + 1)]
            case _:
                del text[max(at, len(text) // 2) :]
    return bytes(text)


@pytest.mark.parametrize(
    ("file", "sound", "read"),
    [(cards.CONFIG_FILE, _SOUND_CONFIG, cards.read_config), (cards.CARD_FILE, _SOUND_CARD, cards.read_card)],
    ids=["config", "card"],
)
def test_damaged_descriptions_are_read_or_named(file, sound, read):
    rng = random.Random(20261122)
    outcomes = {"read": 0, "named": 0, "nothing there": 0}
    for _ in range(MUTATIONS // 2):
        text = damaged(sound, rng)
        said, notes = read(text), cards.unread({file: text})
        base = cards.as_hub_id(cards.base_in_card(said) or cards.base_in_adapter(said))
        assert base is None or parse_model(base).where == "hub"
        assert not (said and notes), text
        outcomes["named" if notes else "read" if said else "nothing there"] += 1
    assert outcomes["read"] > MUTATIONS / 20
    assert outcomes["named"] > MUTATIONS / 20
