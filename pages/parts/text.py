"""Strangers' text made safe for Streamlit's Markdown. Whatever a model or a tensor is called goes through here."""

from __future__ import annotations

import re

from analysis.labels import shorten, visible

# Streamlit makes links of 'www.', 'https://' and 'name@host' after Markdown was read, whatever was escaped: an
# invisible joiner behind them keeps that from happening.
_WOULD_LINK = re.compile(r"(?i)(www(?=\.)|https?:(?=//)|@(?=[-\w]+\.))")
_JOINER = "\u2060"
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


def plain(text: str, limit: int = 200) -> str:
    """`text` for a widget that shows it as it is, an option or a table's cell: only hidden characters spelled out."""
    return shorten(visible(text), limit)


def safe_label(text: str, limit: int = 200) -> str:
    """`text` as Markdown that shows it letter by letter: no link, image, emphasis, directive or hidden character."""
    kept = _WOULD_LINK.sub(rf"\1{_JOINER}", shorten(visible(text), limit))
    return _PUNCTUATION.sub(r"\\\1", kept)
