"""What of a view goes into a paper: its title in one line, how to cite it, and the report of a pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from analysis import citation, links
from analysis.figures import report as reports
from analysis.models import Pair
from cache import code
from pages.parts import handles, sources, views

Query = Mapping[str, Sequence[str]]
_TITLE_OF_PAGE = {"library": "All comparisons", "gallery": "Published pairs"}


def title(page: str, query: Query) -> str:
    """Whom a page is about: 'org/tuned against org/base', or the page's own name."""
    if page not in links.CHOICES_OF_PAGE:
        return _TITLE_OF_PAGE.get(page, page)
    view = links.from_query(page, query)
    return f"{', '.join(model.title for model in view.tuned)} against {view.base.title}"


def cited(pair: Pair) -> tuple[str, str]:
    """How to cite numbers of this pair: a sentence, and BibTeX."""
    return citation.sentence(pair, code.commit()), citation.bibtex(code.commit(), datetime.now(UTC).year)


def report(query: Query, provenance: Mapping[str, Any]) -> str:
    """The offline report of the pair that the query names. Raises BadReference or NotStored."""
    [pair] = views.pairs(sources.stored_view("pair", query))
    store = handles.store()
    of = reports.Measured(
        pair,
        store.alignment(pair.key),
        store.tallies(pair.key, arrays=False),
        store.spectra(pair.key),
        store.gaps(pair.key),
    )
    return reports.report(of, provenance, *cited(pair))
