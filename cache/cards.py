"""What a model says about itself: config.json, the card's front matter, an adapter's config.

All of it is optional text from strangers: read with bounds, never trusted, and whatever cannot be read counts as not
said. Only the weights decide whether models can be compared.
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
_MAX_FRONT_MATTER = 100_000
_MOST_BASES = 20


def read_config(text: bytes) -> dict[str, object]:
    """The JSON object in `text`; empty where there is none. NaN and the infinities come back as None."""
    try:
        found = json.loads(text[: MAX_BYTES + 1].decode("utf-8"), parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_card(text: bytes) -> dict[str, object]:
    """The YAML between the first two '---' lines of a README; empty where there is none."""
    block = _FRONT_MATTER.match(text[:_MAX_FRONT_MATTER].decode("utf-8", errors="replace"))
    if not block:
        return {}
    try:
        found = yaml.safe_load(block[1])
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        return {}
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
