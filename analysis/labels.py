"""Names and numbers as text a person reads. Knows nothing about HTML or Markdown: whoever draws escapes."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

_STRANGE_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_PLURALS = {"matrix": "matrices", "entry": "entries"}  # not made by an s
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def visible(text: str) -> str:
    """`text` with control, bidirectional and private characters spelled out as \\u202e: no name hides itself."""
    return "".join(_spelled(char) if unicodedata.category(char) in _STRANGE_CATEGORIES else char for char in text)


def _spelled(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def shorten(text: str, limit: int) -> str:
    """`text` in at most `limit` characters, cut in the middle: both ends of a tensor's name tell it apart."""
    if len(text) <= limit:
        return text
    tail = (limit - 1) * 2 // 3
    return f"{text[: limit - 1 - tail]}…{text[len(text) - tail :]}"


def short_titles(titles: Sequence[str], marks: Sequence[str]) -> tuple[str, ...]:
    """Models' titles as short as tells them apart: the last part, else the whole, else with a mark (a commit)."""
    for names in ([title.rpartition("/")[2] for title in titles], list(titles)):
        if len(set(names)) == len(names):
            return tuple(names)
    return tuple(f"{title} ({mark})" for title, mark in zip(titles, marks, strict=True))


def letter(position: int) -> str:
    """'A' for the first of several models: a short name where a title has no room."""
    return chr(ord("A") + position)


def percent(part: int, whole: int, digits: int = 4) -> str:
    """'82.6613 %'. Never rounds to 0 or 100 what is neither: '> 99.9999 %' says that something is left."""
    if not whole:
        return "none"
    text = f"{100 * part / whole:.{digits}f}"
    if part < whole and float(text) == 100:
        return f"> {100 - 10**-digits:.{digits}f} %"
    if part > 0 and float(text) == 0:
        return f"< {10**-digits:.{digits}f} %"
    return f"{text} %"


def share(value: float, digits: int = 2) -> str:
    """A share without its counts, '98.20 %'; a dash where there is none."""
    return "–" if math.isnan(value) else f"{100 * value:.{digits}f} %"


def count(number: int) -> str:
    """'1,024,000'."""
    return f"{number:,}"


def counted(number: int, what: str, several: str = "") -> str:
    """'1 tensor', '1,024 tensors', '2 matrices'; `several` where more than the noun changes ('is', 'are')."""
    several = several or _PLURALS.get(what, f"{what}s")
    return f"{count(number)} {what if number == 1 else several}"


def rough_count(number: int) -> str:
    """'1.24 B' for a parameter count; exact below a thousand."""
    for size, name in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return str(number)


def scientific(value: float, digits: int = 3) -> str:
    """'2.41 × 10⁻⁴', or the plain number where that is as short; a dash where there is none."""
    if math.isnan(value):
        return "–"
    if value == 0 or 1e-2 <= abs(value) < 1e5:
        return f"{value:.{digits}g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa} × {power_of_ten(int(exponent))}"


def tolerance_text(value: float) -> str:
    """An exact tolerance: '10⁻⁵', '1.12 × 10⁻⁵'."""
    mantissa, exponent = f"{value:.2e}".split("e")
    power = power_of_ten(int(exponent))
    return power if float(mantissa) == 1 else f"{float(mantissa):g} × {power}"


def rule_title(rule: str, tolerance: str = "") -> str:
    """What counts as unchanged, in words: 'exact', 'bf16 rule', 'Mukherjee's rule', 'within 10⁻⁶' (for the rule '1e-6',
    and for 'tolerance' with one)."""
    titles = {"exact": "exact", "bf16": "bf16 rule", "mukherjee": "Mukherjee's rule"}
    return titles.get(rule) or f"within {tolerance_text(float(tolerance if rule == 'tolerance' else rule))}"


def power_of_ten(exponent: int) -> str:
    return "10" + str(exponent).translate(_SUPERSCRIPT)


def power_of_two(exponent: int) -> str:
    return "2" + str(exponent).translate(_SUPERSCRIPT)


def size(n_bytes: float) -> str:
    """'14.2 GB', in powers of 1000 as disks and the Hub count."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.3g} {name}"
    return f"{n_bytes:.0f} bytes"


def ago(seconds: float) -> str:
    """'just now', '4 min ago', '3 h ago', '2 days ago': how long since, roughly."""
    minutes = int(max(seconds, 0) // 60)
    if minutes < 1:
        return "just now"
    if minutes < 60:
        return f"{minutes} min ago"
    return f"{minutes // 60} h ago" if minutes < 48 * 60 else f"{minutes // (24 * 60)} days ago"


def duration(seconds: float) -> str:
    """'4 s', '3 min 20 s', '2 h 5 min': two units at most."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
