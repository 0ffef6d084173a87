"""Strangers' text made safe for Streamlit's Markdown. Whatever a model or a tensor is called goes through here."""

from __future__ import annotations

import re

from analysis.labels import shorten, visible

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


def plain(text: str, limit: int = 200) -> str:
    """`text` for a widget that shows it as it is, an option or a table's cell: only hidden characters spelled out."""
    return shorten(visible(text), limit)


def safe_label(text: str, limit: int = 200) -> str:
    """`text` as Markdown that shows it letter by letter: no link, image, emphasis, directive or hidden character."""
    return _PUNCTUATION.sub(r"\\\1", shorten(visible(text), limit))
