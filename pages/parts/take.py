"""The end of a page: its link, and everything on it as files. Addresses only: a file is made when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlencode

import streamlit as st

from analysis import links
from analysis.figures.printed import WIDTHS
from analysis.links import View
from analysis.models import Pair
from cache import drawing
from pages.parts import address, handles, papers, sources
from pages.parts.text import safe_label

_FORMATS = {"csv": "CSV", "parquet": "Parquet", "json": "JSON"}
_FIGURE_FORMATS = {"pdf": "PDF", "svg": "SVG", "png": "PNG"}
_TITLE = "Share, download, cite"
OPEN = "take.open"  # the state of the menu: whether it is open


def menu(view: View) -> None:
    """Links, numbers and figures of this view; of a pair's overview also the report, and how to cite it."""
    link = address.whole(view)
    share = link.replace(f"/{view.page}?", f"/share/{view.page}?", 1)
    _menu(link, share, view.page, links.to_query(view), view if view.page == "pair" else None)


def menu_of_page(page: str) -> None:
    """The same of a page that is not about one pair."""
    _menu(address.whole_of(page, address.query()), "", page, address.query(), None)


@st.fragment
def _menu(link: str, share: str, page: str, query: Mapping[str, Sequence[str]], reported: View | None) -> None:
    """Nothing is made until somebody opens it; the box for a link alone brings 1.5 MB of scripts."""
    menu = st.expander(_TITLE, key=OPEN, on_change="rerun")
    if not menu.open:
        return
    with menu:
        _links(link, share)
        _files(page, query)
        if reported:
            _report(reported)


def _links(link: str, share: str = "") -> None:
    left, right = st.columns(2) if share else (st.container(), None)
    with left:
        st.caption("Link to exactly this view")
        st.code(link, language=None, wrap_lines=True)
    if right is not None:
        with right:
            st.caption("The same with a title and a picture, to paste into a chat")
            st.code(share, language=None, wrap_lines=True)


def _files(page: str, query: Mapping[str, Sequence[str]]) -> None:
    asked = _encoded(query)
    numbers, figures = st.columns(2)
    with numbers:
        st.caption("Numbers, whole, with models, commits and versions inside (in CSV, as lines that begin with #)")
        st.markdown(_table_of_links(_number_lines(page, asked)))
    with figures:
        if not sources.figure_names(page):
            return
        if drawing.found(handles.settings().chromium):
            st.caption("Figures for a paper, for one column (3.5 in) or two (7 in); PNG at 300 dpi")
            st.markdown(_table_of_links(_figure_lines(page, asked)))
        else:
            st.caption(
                "The camera above each chart saves it as SVG. PDF and PNG for a paper need a Chromium on the server "
                "(docs/operations.md)."
            )


def _encoded(query: Mapping[str, Sequence[str]]) -> str:
    """Everything but letters, digits and _.-~ as %XX: no name is markup in it."""
    return urlencode(query, doseq=True, quote_via=quote, safe="")


def _number_lines(page: str, asked: str) -> list[tuple[str, ...]]:
    lines = [
        (_words(name), " ".join(f"[{label}](take/{page}/{name}.{form}?{asked})" for form, label in _FORMATS.items()))
        for name in sources.table_names(page)
    ]
    return [("table", ""), *lines, ("all tables", f"[JSON](take/{page}.json?{asked})")]


def _figure_lines(page: str, asked: str) -> list[tuple[str, ...]]:
    def cell(name: str, inches: str) -> str:
        more = f"{asked}&width={inches}" if asked else f"width={inches}"
        return " ".join(f"[{label}](figure/{page}/{name}.{form}?{more})" for form, label in _FIGURE_FORMATS.items())

    lines = [(_words(name), *(cell(name, inches) for inches in WIDTHS)) for name in sources.figure_names(page)]
    return [("figure", *(f"{inches} in" for inches in WIDTHS)), *lines]


def _table_of_links(lines: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table; the first line is its heading."""
    heading, *rows = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([heading, "|" + "---|" * len(lines[0]), *rows])


def _words(name: str) -> str:
    return name.replace("-", " ")


def _report(view: View) -> None:
    asked = _encoded(links.to_query(view))
    st.caption("The whole pair as one file that opens without a network")
    st.markdown(f"[Report (HTML, about 5 MB)](report/pair.html?{asked})")
    sentence, bibtex = papers.cited(Pair(view.base, view.tuned[0]))
    st.caption("To cite these numbers")
    st.markdown(safe_label(sentence, 1000))
    st.code(bibtex, language=None)
