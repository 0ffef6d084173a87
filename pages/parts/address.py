"""The address bar: the view it names, and the ways to another.

The address is the one truth of what is seen, and every change of it is a step that the browser's back button goes
back over. Hence two cares: what a page adds by itself (a default, a commit) it adds to an address once, or nobody
could get back past it; and a step that Streamlit makes too many is recognised (see `go`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlencode, urlsplit

import streamlit as st

from analysis import links
from analysis.links import View
from analysis.models import PinnedModel

Query = Mapping[str, Sequence[str]]
PAGES = ("compare", "pair", "layers", "matrix", "spectra", "overlap", "dynamics", "library", "gallery", "jobs")
SCRIPT_OF_PAGE = {page: f"{page}.py" for page in PAGES}
_PAGE, _LEFT, _COMPLETED, _SEEN = "address.page", "address.left", "address.completed", "address.seen"


def enter(page: str) -> None:
    """Notes which page runs; the router's."""
    st.session_state[_PAGE] = page


def page() -> str:
    """Which page runs."""
    return str(st.session_state.get(_PAGE, ""))


def query() -> Query:
    """The query that the page is to show: the address's own, or what the page showed when it was left by `go`."""
    named = {name: st.query_params.get_all(name) for name in st.query_params}
    return st.session_state.get(_LEFT, {}).get(_mark(named), named)


def names_models() -> bool:
    """Whether the address names any model; a page without one starts with a choice of stored comparisons."""
    return "tuned" in query()


def named_base(options: Sequence[PinnedModel]) -> PinnedModel:
    """The base in the address if it is one of these, else the first."""
    named = "".join(query().get("base", ()))
    return next((model for model in options if str(model) == named), options[0])


def open_view(page: str) -> View:
    """The view that the address names, every choice written out in it from now on. Raises BadReference."""
    view = links.from_query(page, query())
    complete(links.to_query(view))
    st.session_state.setdefault(_SEEN, {})[page] = view
    return view


def as_left(view: View) -> View:
    """The view with the choices that its page was left with, where that was of the same models; what counts as
    unchanged stays as `view` has it."""
    before = seen(view.page)
    if before is None or before.models != view.models:
        return view
    carried = {name: view.choices[name] for name in links.CARRIED if name in view.choices}
    return replace(view, choices={**before.choices, **carried})


def seen(page: str) -> View | None:
    """The view with which a page was left, if it was open in this window."""
    return st.session_state.get(_SEEN, {}).get(page)


def complete(wanted: Query) -> None:
    """Brings the address to `wanted`, which shows the same; at most once for an address, see above."""
    now = {name: st.query_params.get_all(name) for name in st.query_params}
    done = st.session_state.setdefault(_COMPLETED, set())
    if now != wanted and _mark(now) not in done and _mark(now) not in st.session_state.get(_LEFT, {}):
        done.add(_mark(now))
        st.query_params.from_dict(wanted)


def choose(view: View, name: str, *values: str) -> None:
    """Brings the address to the view with another choice; for callbacks of widgets."""
    st.query_params.from_dict(links.to_query(view.choosing(name, *values)))


def put(wanted: Query) -> None:
    """Brings the address to `wanted`; for callbacks of widgets."""
    st.query_params.from_dict(wanted)


def go(view: View) -> None:
    """Opens another view. Does not return."""
    _switch(view.page, links.to_query(view))


def go_compare(base: str = "", tuned: str = "") -> None:
    """Opens the Compare page with two models named. Does not return."""
    _switch("compare", {"base": [base], "tuned": [tuned]})


def _switch(page: str, wanted: Query) -> None:
    """Streamlit writes the new page's query under the old page's path before it goes there, which leaves a wrong step
    in the browser's history. Whoever comes back to it means the old page as it was."""
    left = st.session_state.setdefault(_LEFT, {})
    left[_mark(wanted)] = query()
    st.switch_page(SCRIPT_OF_PAGE[page], query_params={name: list(values) for name, values in wanted.items()})


def _mark(named: Query) -> tuple[object, ...]:
    return (page(), *sorted((name, tuple(values)) for name, values in named.items()))


def link(label: str, view: View, *, help: str | None = None) -> None:
    """A link to another view, `label` in our own words."""
    st.page_link(SCRIPT_OF_PAGE[view.page], label=label, query_params=links.to_query(view), help=help)


def page_link(label: str, page: str) -> None:
    """A link to a page as it starts."""
    st.page_link(SCRIPT_OF_PAGE[page], label=label)


def whole(view: View) -> str:
    """The whole link to this view, as somebody else would open it."""
    return _whole(view.page, links.to_link(view))


def whole_of(page: str, named: Query) -> str:
    """The whole link to a page without a view of its own, with this query."""
    return _whole(page, f"{page}?{urlencode(dict(named), doseq=True)}" if named else page)


def _whole(page: str, link: str) -> str:
    here = urlsplit(st.context.url or "http://localhost:8501/")
    path = here.path.rstrip("/")
    root = path.removesuffix("/" + page) if path.endswith("/" + page) else path
    return f"{here.scheme}://{here.netloc}{root}/{link}"
