"""What a link is when it is pasted somewhere: a title with the number one came for, a sentence, a picture.

Everything in it that strangers wrote is escaped; search engines are told to leave it alone.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from analysis import links
from analysis.errors import NotStored
from analysis.figures.card import card
from analysis.labels import count, percent, visible
from analysis.links import View
from analysis.models import Pair
from analysis.rollup import Grid
from analysis.summary import summarize
from pages.parts import lookups, papers, sources, views

Query = Mapping[str, Sequence[str]]
_MOST_WORDS = 1000


def html_of(page: str, query: Query, *, picture: str, own: str) -> str:
    """The share page, at `own`: its title and tags for programs, and the way to the view for people."""
    view = _shareable(page, query)
    number, words = _headline(view)
    fields = {
        "title": _escaped(f"{papers.title(page, query)}: {number}"),
        "words": _escaped(" ".join(words)[:_MOST_WORDS]),
        "forward": _escaped(f"../{links.to_link(view)}"),  # from /share/<page> to the page
        "picture": _escaped(picture),
        "own": _escaped(own),
    }
    return _PAGE.format(**fields)


def picture_of(page: str, query: Query) -> bytes:
    """The picture of the share page, PNG."""
    view = _shareable(page, query)
    number, words = _headline(view)
    return card(papers.title(page, query), number, [*_wrapped(" ".join(words), 82)], _small_grid(view))


def _shareable(page: str, query: Query) -> View:
    if page not in links.CHOICES_OF_PAGE:
        raise NotStored("This page has no link of its own to share")
    return sources.stored_view(page, query)


def _headline(view: View) -> tuple[str, list[str]]:
    """The number one came for, or why there is none, and a sentence or two."""
    if view.page == "overlap":
        found = views.overlap(view)
        k, union = len(found.labels), found.entries - int(found.counts[0])
        whom = "both" if k == 2 else f"all {k}"
        every = found.changed(*range(k))
        words = f"Of {count(union)} parameters that any of them changed, {whom} changed {count(every)}."
        return f"{percent(every, union, 2)} changed by {whom}" if union else "nothing changed", [words]
    key = Pair(view.base, view.tuned[0]).key
    found_of_pair, alignment = lookups.headline(key), lookups.alignment(key)
    sentences = [visible(one) for one in summarize(found_of_pair, alignment)][:2]
    if found_of_pair.withheld:
        return "no headline: too little could be compared", sentences
    if not found_of_pair.entries:
        return "not measured yet", sentences
    exact = found_of_pair.unchanged["exact"]
    return f"{percent(exact.part, exact.whole, 2)} of parameters unchanged", sentences


def _small_grid(view: View) -> Grid:
    if view.page == "overlap":
        return views.overlap_grid(view)
    key = Pair(view.base, view.tuned[0]).key
    if view.page == "layers":
        return views.grid(view)
    return lookups.grid(key, "unchanged-exact", "1e-05")


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text[: 2 * width].split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _escaped(text: str) -> str:
    return html.escape(visible(text))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="robots" content="noindex, nofollow">
<meta name="description" content="{words}">
<meta property="og:type" content="website"><meta property="og:site_name" content="Subnetscope">
<meta property="og:title" content="{title}"><meta property="og:description" content="{words}">
<meta property="og:url" content="{own}"><meta property="og:image" content="{picture}">
<meta property="og:image:width" content="1200"><meta property="og:image:height" content="630">
<meta name="twitter:card" content="summary_large_image"><meta name="twitter:title" content="{title}">
<meta name="twitter:description" content="{words}"><meta name="twitter:image" content="{picture}">
<meta http-equiv="refresh" content="0; url={forward}">
</head><body><h1>{title}</h1><p>{words}</p><p><a href="{forward}">Open it</a></p></body></html>
"""
