"""What a model says about itself: config.json, the card's front matter, an adapter's config.

All of it is optional text from strangers: read with bounds, never trusted, and whatever cannot be read counts as not
said, with a note of why. Only the weights decide whether models can be compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import yaml

from analysis.errors import BadReference
from analysis.models import parse_model

CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
ADAPTER_CONFIG_FILE = "adapter_config.json"
MAX_BYTES = 1_000_000

_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_FRONT_MATTER_BEGINS = re.compile(rb"\A(?:\xef\xbb\xbf)?---[ \t]*\r?\n")
_MAX_FRONT_MATTER = 50_000  # the parser takes half a second for it
_DEEPEST = 50  # levels of front matter
_MOST_BASES = 20


def read_config(text: bytes) -> dict[str, object]:
    """The JSON object in `text`; empty where there is none. NaN and the infinities come back as None."""
    try:
        return _json_object(text)
    except _Unreadable:
        return {}


def read_card(text: bytes) -> dict[str, object]:
    """The YAML between the first two '---' lines of a README, its values as texts; empty where there is none."""
    try:
        return _front_matter(text)
    except _Unreadable:
        return {}


def unread(text_of_file: Mapping[str, bytes]) -> tuple[str, ...]:
    """A sentence for each of these files (by name) that is there and cannot be read: which, and why."""
    notes = []
    for file, text in text_of_file.items():
        try:
            if text:
                _front_matter(text) if file == CARD_FILE else _json_object(text)
        except _Unreadable as reason:
            notes.append(f"'{file}' is not read: {reason}.")
    return tuple(notes)


class _Unreadable(Exception):
    """Why a file says nothing, as the end of a sentence; in our words alone."""


def _json_object(text: bytes) -> dict[str, object]:
    if len(text) > MAX_BYTES:
        raise _Unreadable(f"it holds more than {MAX_BYTES:,} bytes")
    try:
        found = json.loads(text.decode("utf-8"), parse_constant=lambda _: None)
    except UnicodeDecodeError as error:
        raise _Unreadable("it is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise _Unreadable("it is not JSON") from error
    except RecursionError as error:
        raise _Unreadable("it is nested too deeply") from error
    except ValueError as error:
        raise _Unreadable("it holds a number of too many digits") from error
    if not isinstance(found, dict):
        raise _Unreadable("it is not a JSON object")
    return found


class _Texts(yaml.BaseLoader):
    """Scalars as the texts they are: no tag makes anything of them. No aliases, which multiply (and so do the merge
    keys that need them): a few lines could stand for a billion."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise _Unreadable("its front matter holds YAML aliases")
        if self.depth > _DEEPEST:
            raise _Unreadable("its front matter is nested too deeply")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _front_matter(text: bytes) -> dict[str, object]:
    block = _FRONT_MATTER.match(text[:_MAX_FRONT_MATTER].decode("utf-8", errors="replace"))
    if not block:
        if _FRONT_MATTER_BEGINS.match(text):
            raise _Unreadable(f"its front matter has no end within {_MAX_FRONT_MATTER:,} bytes")
        return {}
    try:
        found = yaml.load(block[1], Loader=_Texts)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:
        raise _Unreadable("its front matter is not YAML") from error
    return found if isinstance(found, dict) else {}


def bases_in_card(card: Mapping[str, object]) -> tuple[str, ...]:
    """The base models that a card names: its 'base_model', or all of them where it lists several (a merge);
    () where anything there is no short text."""
    named = card.get("base_model")
    listed = named[:_MOST_BASES] if isinstance(named, list) else [named]
    if not all(isinstance(one, str) and 0 < len(one.strip()) <= 500 for one in listed):
        return ()
    return tuple(dict.fromkeys(str(one).strip() for one in listed))


def base_in_card(card: Mapping[str, object]) -> str | None:
    """The base model that a card names, or the first of them. None where it is no short text."""
    return next(iter(bases_in_card(card)), None)


def base_in_config(config: Mapping[str, object], own_name: str) -> str | None:
    """What config.json says the model was loaded from before it was saved; None where that is the model itself."""
    named = base_in_card({"base_model": config.get("_name_or_path")})
    same = named is not None and named.rstrip("/").rpartition("/")[2] == own_name.rstrip("/").rpartition("/")[2]
    return None if same else named


def base_in_adapter(config: Mapping[str, object]) -> str | None:
    """The base model that an adapter's config names."""
    return base_in_card({"base_model": config.get("base_model_name_or_path")})


def as_hub_id(text: str | None) -> str | None:
    """`text` if it is the id of a model on the Hub, else None: a card may name a path of the machine it was made on."""
    try:
        return str(parse_model(text)) if text and parse_model(text).where == "hub" else None
    except BadReference:
        return None
