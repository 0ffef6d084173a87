"""Widgets that choose: they own their keys and the names in the URL, and nothing else does.

The URL is the one truth. A page reads its view from it, each widget shows the view's value, and a change is written
back before the page runs again. So the address bar is at all times the link to what is seen, defaults included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import streamlit as st

from analysis import links
from analysis.labels import tolerance_text
from analysis.links import CHOICES_OF_PAGE, EDGE_OF_TOLERANCE, View
from analysis.metrics import CATALOG
from analysis.models import PinnedModel
from analysis.overlaps import MEASURES
from pages.parts.text import plain

SCRIPT_OF_PAGE = {
    "compare": "compare.py",
    "pair": "pair.py",
    "layers": "layers.py",
    "matrix": "matrix.py",
    "spectra": "spectra.py",
    "overlap": "overlap.py",
    "jobs": "jobs.py",
}
_RULE_TITLES = {"exact": "Exact: any change of value", "mukherjee": "Mukherjee's rule: beyond 1e-5 in bfloat16"}
_COLOUR_TITLES = {"full": "0 to 100 %", "fitted": "range of the data"}


def named_models() -> bool:
    """Whether the address names any model at all; a page without one starts with a choice of stored comparisons."""
    return "tuned" in st.query_params


def open_view(page: str) -> View:
    """The view that the address names, every choice written out in it from now on. Raises BadReference."""
    query = {name: st.query_params.get_all(name) for name in st.query_params}
    view = links.from_query(page, query)
    complete = links.to_query(view)
    if complete != query:
        st.query_params.from_dict(complete)
    return view


def put_view(view: View) -> None:
    """Writes the view into the address without opening it again."""
    st.query_params.from_dict(links.to_query(view))


def named_base(options: Sequence[PinnedModel]) -> PinnedModel:
    """The base in the address if it is one of these, else the first."""
    named = st.query_params.get("base", "")
    return next((model for model in options if str(model) == named), options[0])


def go(view: View) -> None:
    """Opens another view. Does not return."""
    st.switch_page(SCRIPT_OF_PAGE[view.page], query_params=links.to_query(view))


def go_compare(base: str = "", tuned: str = "") -> None:
    st.switch_page(SCRIPT_OF_PAGE["compare"], query_params={"base": base, "tuned": tuned})


def link(label: str, view: View, *, help: str | None = None) -> None:
    """A link to another view, `label` in our own words."""
    st.page_link(SCRIPT_OF_PAGE[view.page], label=label, query_params=links.to_query(view), help=help)


def address(view: View) -> str:
    """The whole link to this view, as somebody else would open it."""
    here = urlsplit(st.context.url or "http://localhost:8501/")
    path = here.path.rstrip("/")
    root = path.removesuffix("/" + view.page) if path.endswith("/" + view.page) else path
    return f"{here.scheme}://{here.netloc}{root}/{links.to_link(view)}"


def two_texts() -> tuple[str, str]:
    """The two models as typed, or as the address names them; empty until somebody asks."""
    base, tuned = st.query_params.get("base", ""), st.query_params.get("tuned", "")
    for key, text in (("compare.base", base), ("compare.tuned", tuned)):
        if st.session_state.get(key) != text:
            st.session_state[key] = text
    with st.form("compare.form", border=False):
        left, right, button = st.columns([5, 5, 1.4], vertical_alignment="bottom")
        left.text_input("Base", key="compare.base", placeholder="org/name, org/name@revision or ./folder")
        right.text_input("Fine-tuned", key="compare.tuned", placeholder="org/name, org/name@revision or ./folder")
        button.form_submit_button("Look up", on_click=_typed, width="stretch")
    return base, tuned


def put_texts(base: str, tuned: str) -> None:
    """Names the two models in the address, for `two_texts` to show."""
    st.query_params.from_dict({"base": base, "tuned": tuned})


def _typed() -> None:
    put_texts(st.session_state["compare.base"].strip(), st.session_state["compare.tuned"].strip())


def metric(view: View) -> str:
    """A metric of the page's list, by its key."""
    options = CHOICES_OF_PAGE[view.page]["metric"].allowed
    return _select(view, "metric", "Metric", options, lambda key: CATALOG[key].title, help=None)


def tolerance(view: View) -> str:
    """A tolerance at which counts are exact: an edge of the stored histogram."""
    key = _bound(view, "tolerance", view.one("tolerance"))
    return st.select_slider(
        "Tolerance on |after − before|",
        list(EDGE_OF_TOLERANCE),
        key=key,
        format_func=lambda text: tolerance_text(float(text)),
        on_change=_chose,
        args=("tolerance", key),
        help="Counts are exact at each position: positions are the edges of the stored histogram.",
    )


def colours(view: View) -> bool:
    """Whether colours are fitted to the data instead of spanning 0 to 100 %."""
    options = CHOICES_OF_PAGE[view.page]["colours"].allowed
    return _segments(view, "colours", "Colours span", options, _COLOUR_TITLES.__getitem__) == "fitted"


def rule(view: View) -> None:
    """Which entries count as changed in an overlap."""
    options = CHOICES_OF_PAGE[view.page]["rule"].allowed
    _select(view, "rule", "What counts as changed", options, _RULE_TITLES.__getitem__, help=None)


def measure(view: View) -> str:
    """A measure of overlap for the heatmap."""
    options = CHOICES_OF_PAGE[view.page]["measure"].allowed
    return _select(view, "measure", "Measure", options, lambda key: MEASURES[key].title, help=None)


def two_models(view: View, labels: Sequence[str]) -> tuple[int, int]:
    """Two different models of an overlap, by position: overlap 'of' the first 'in' the second."""
    positions = [str(i) for i in range(len(labels))]
    of, other = view.one("of"), view.one("in")
    if of not in positions or other not in positions or of == other:
        of, other = "0", "1"
    pairs = [f"{i} {j}" for i in positions for j in positions if i != j]
    key = _bound(view, "of-in", f"{of} {other}")
    chosen = st.selectbox(
        "Overlap of … in …",
        pairs,
        format_func=lambda at: " in ".join(plain(labels[int(i)], 60) for i in at.split()),
        key=key,
        on_change=_chose_two,
        args=(key,),
    )
    first, second = chosen.split()
    return int(first), int(second)


def several(view: View, name: str, title: str, options: Sequence[str], shown: Sequence[str]) -> list[str]:
    """Some of `options`, at most as many as the link holds; `shown` where the link names none."""
    at_most = CHOICES_OF_PAGE[view.page][name].at_most
    chosen = [value for value in view.many(name) if value in options] or list(shown)
    key = _bound(view, name, chosen)
    return st.multiselect(
        title,
        list(options),
        key=key,
        max_selections=at_most,
        format_func=lambda text: plain(text, 80),
        on_change=_chose_several,
        args=(name, key),
    )


def neighbour(view: View, title: str, options: dict[str, str], chosen: str, *, place: str) -> None:
    """A selectbox over `options` (text to show -> tensor name) that opens the matrix chosen."""
    by_text = list(options)
    current = next(text for text in by_text if options[text] == chosen)
    key = _bound(view, f"neighbour-{place}", current)
    st.selectbox(
        title,
        by_text,
        key=key,
        format_func=lambda text: plain(text, 60),
        on_change=_chose_neighbour,
        args=(key, options),
        disabled=len(by_text) < 2,
    )


def tuned_models(title: str, options: Sequence[PinnedModel], chosen: Sequence[PinnedModel], at_most: int) -> None:
    """Some of the models tuned from one base, in the order chosen."""
    texts = [str(model) for model in options]
    key = "overlap.tuned"
    st.session_state[key] = [str(model) for model in chosen if str(model) in texts]
    st.multiselect(
        title,
        texts,
        key=key,
        max_selections=at_most,
        format_func=_pinned_label,
        on_change=_chose_several,
        args=("tuned", key),
    )


def base_model(title: str, options: Sequence[PinnedModel], chosen: PinnedModel) -> None:
    """One of the stored base models; another choice starts the page afresh."""
    texts = list(dict.fromkeys(str(model) for model in (*options, chosen)))
    key = "overlap.base"
    st.session_state[key] = str(chosen)
    st.selectbox(title, texts, key=key, format_func=_pinned_label, on_change=_chose_base, args=(key,))


def _pinned_label(text: str) -> str:
    model = links.pinned(text)
    return f"{plain(model.title, 70)} @ {model.short_commit}"


def _select(
    view: View, name: str, title: str, options: Sequence[str], words: Callable[[str], str], *, help: str | None
) -> str:
    key = _bound(view, name, view.one(name))
    return st.selectbox(title, options, key=key, format_func=words, on_change=_chose, args=(name, key), help=help)


def _segments(view: View, name: str, title: str, options: Sequence[str], words: Callable[[str], str]) -> str:
    key = _bound(view, name, view.one(name))
    chosen = st.segmented_control(
        title, options, key=key, format_func=words, required=True, on_change=_chose, args=(name, key)
    )
    return chosen or view.one(name)


def _bound(view: View, name: str, value: object) -> str:
    """The widget's key, its value set to what the address says."""
    key = f"{view.page}.{name}"
    if st.session_state.get(key) != value:
        st.session_state[key] = value
    return key


def _chose(name: str, key: str) -> None:
    st.query_params[name] = st.session_state[key]


def _chose_several(name: str, key: str) -> None:
    st.query_params[name] = list(st.session_state[key])


def _chose_two(key: str) -> None:
    st.query_params["of"], st.query_params["in"] = st.session_state[key].split()


def _chose_neighbour(key: str, options: dict[str, str]) -> None:
    st.query_params["name"] = options[st.session_state[key]]


def _chose_base(key: str) -> None:
    st.query_params.from_dict({"base": st.session_state[key]})
