"""Widgets that choose: they own their keys and the names in the URL, and nothing else does.

The URL is the one truth. A page reads its view from it, each widget shows the view's value, and a change is written
back before the page runs again. So the address bar is at all times the link to what is seen, defaults included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from analysis import links
from analysis.dynamics import MEASURES as STEP_MEASURES
from analysis.labels import tolerance_text
from analysis.links import CHOICES_OF_PAGE, EDGE_OF_TOLERANCE, View
from analysis.measurements import TOLERANCES
from analysis.metrics import CATALOG
from analysis.models import PinnedModel
from analysis.overlap_grids import AGREEMENTS, MEASURES
from pages.parts import address
from pages.parts.text import plain

_RULE_TITLES = {
    "exact": "Exact: any change of value",
    "mukherjee": "Mukherjee's rule: beyond 1e-5 in bfloat16",
    "bf16": "bf16 rule: beyond a thousandth of the weight",
    **{tolerance: f"Beyond {tolerance_text(float(tolerance))}" for tolerance in TOLERANCES},
}
_UNCHANGED_TITLES = {
    "exact": "Exact",
    "bf16": "bf16 rule",
    "mukherjee": "Mukherjee's rule",
    "tolerance": "A tolerance",
}
_DRAWN_TITLES = {"circles": "Circles", "bars": "Bars (UpSet)"}
_PAIRS_TITLES = {"one-sided": "One-sided", "jaccard": "Jaccard", "matched": "Over magnitude-matched chance"}
_UPDATE_TITLES = {"merged": "Merged, in the base's type", "own": "The adapter's own"}
_PATCH_TITLES = {"previous": "from the checkpoint before", "base": "from the base"}
_ROW_TITLES = {"layer": "Layers", "module": "Matrices"}
_OVER_TITLES = {"matrices": "Matrices", "layers": "One matrix over layers", "models": "One matrix over models"}
_SIZE_TITLES = {"absolute": "Absolute", "relative": "Relative to the weight", "ulps": "In steps of the stored type"}
_COLOUR_TITLES = {"full": "0 to 100 %", "fitted": "range of the data"}


PREPARED_SERIES = "dynamics.prepared"  # what the page of training dynamics has looked up, by base and lines
PREPARED = "compare.prepared"  # what the Compare page has looked up, by the two texts


def two_texts() -> tuple[str, str]:
    """The two models as typed, or as the address names them; empty until somebody asks."""
    named = address.query()
    base, tuned = "".join(named.get("base", ())), "".join(named.get("tuned", ()))
    for key, text in (("compare.base", base), ("compare.tuned", tuned)):
        if st.session_state.get(key) != text:
            st.session_state[key] = text
    with st.form("compare.form", border=False):
        left, right, button = st.columns([5, 5, 2], vertical_alignment="bottom")
        left.text_input("Base", key="compare.base", placeholder="org/name, org/name@revision or ./folder")
        right.text_input("Fine-tuned", key="compare.tuned", placeholder="org/name, org/name@revision or ./folder")
        button.form_submit_button("Look up", on_click=_typed, width="stretch")
    return base, tuned


def put_texts(base: str, tuned: str) -> None:
    """Names the two models in the address, for `two_texts` to show; for callbacks."""
    address.put({"base": [base], "tuned": [tuned]})


def _typed() -> None:
    st.session_state.pop(PREPARED, None)  # asked again is looked up again: a branch or a folder may have moved
    put_texts(st.session_state["compare.base"].strip(), st.session_state["compare.tuned"].strip())


def metric(view: View) -> str:
    """A metric of the page's list, by its key."""
    options = CHOICES_OF_PAGE[view.page]["metric"].allowed
    words = {key: metric.title for key, metric in CATALOG.items()} | {"unchanged": "Unchanged share"}
    return _select(view, "metric", "Metric", options, words.__getitem__, help=None)


def unchanged_by(view: View) -> None:
    """What counts as unchanged, here and on the pair's other pages: a published rule, or a tolerance of one's own."""
    with st.container(horizontal=True, gap="large", vertical_alignment="bottom"):
        options = CHOICES_OF_PAGE[view.page]["rule"].allowed
        with st.container(width=440):
            rule = _segments(view, "rule", "Counts as unchanged", options, _UNCHANGED_TITLES.__getitem__)
        if rule == "tolerance":
            with st.container(width=420):
                _tolerance(view)


def _tolerance(view: View) -> str:
    """A tolerance at which counts are exact: an edge of the stored histogram."""
    key = _bound(view, "tolerance", view.one("tolerance"))
    return st.select_slider(
        "Tolerance on |after − before|",
        list(EDGE_OF_TOLERANCE),
        key=key,
        format_func=lambda text: tolerance_text(float(text)),
        on_change=_chose,
        args=(view, "tolerance", key),
        help="Counts are exact at each position: positions are the edges of the stored histogram.",
    )


def colours(view: View, title: str = "Colours span") -> bool:
    """Whether colours (or axes) are fitted to the data instead of spanning 0 to 100 %."""
    options = CHOICES_OF_PAGE[view.page]["colours"].allowed
    return _segments(view, "colours", title, options, _COLOUR_TITLES.__getitem__) == "fitted"


def sizes(view: View) -> str:
    """The measure by which the sizes of changes are shown."""
    return _segments(view, "sizes", "Measured", CHOICES_OF_PAGE[view.page]["sizes"].allowed, _SIZE_TITLES.__getitem__)


def own_update(view: View) -> bool:
    """Whether an adapter's own update is shown, instead of what is left of it after merging."""
    options = CHOICES_OF_PAGE[view.page]["update"].allowed
    return _segments(view, "update", "Update", options, _UPDATE_TITLES.__getitem__) == "own"


def rule(view: View) -> None:
    """Which entries count as changed."""
    options = CHOICES_OF_PAGE[view.page]["rule"].allowed
    _select(view, "rule", "What counts as changed", options, _RULE_TITLES.__getitem__, help=None)


def series_texts() -> tuple[str, str]:
    """The base and the checkpoints as typed, one a line, or as the address names them; empty until somebody asks."""
    named = address.query()
    base, lines = "".join(named.get("base", ())), "\n".join(named.get("tuned", ()))
    for key, text in (("dynamics.typed-base", base), ("dynamics.typed", lines)):
        if st.session_state.get(key) != text:
            st.session_state[key] = text
    with st.form("dynamics.form", border=False):
        left, right = st.columns([4, 6])
        left.text_input("Base", key="dynamics.typed-base", placeholder="org/name, org/name@revision or ./folder")
        right.text_area(
            "Checkpoints, in order",
            key="dynamics.typed",
            height=120,
            placeholder="org/name@step_*\norg/name/checkpoint-*\n./runs/checkpoint-*\n200 ./runs/final",
            help="One model a line, or several by a pattern: 'org/name@step_*' for branches and tags, "
            "'org/name/checkpoint-*' or './folder/checkpoint-*' for folders, sorted by their numbers. A number in "
            "front of a model says its step where its name does not.",
        )
        left.form_submit_button("Look up", on_click=_typed_series, type="primary")
    return base, lines


def _typed_series() -> None:
    st.session_state.pop(PREPARED_SERIES, None)
    lines = [line.strip() for line in st.session_state["dynamics.typed"].splitlines() if line.strip()]
    address.put({"base": [st.session_state["dynamics.typed-base"].strip()], "tuned": lines})


def step_measure(view: View) -> str:
    """What the heatmap over steps shows."""
    options = CHOICES_OF_PAGE[view.page]["show"].allowed
    return _select(view, "show", "Show", options, lambda key: STEP_MEASURES[key].title, help=None)


def step_rows(view: View) -> str:
    """Whether the heatmap's rows are layers or kinds of matrix."""
    return _segments(view, "rows", "Rows", CHOICES_OF_PAGE[view.page]["rows"].allowed, _ROW_TITLES.__getitem__)


def patch_from(view: View) -> str:
    """Which checkpoint a patch would start from."""
    return _segments(view, "patch", "Patch", CHOICES_OF_PAGE[view.page]["patch"].allowed, _PATCH_TITLES.__getitem__)


def measure(view: View) -> str:
    """A measure of overlap for the heatmap."""
    options = CHOICES_OF_PAGE[view.page]["measure"].allowed
    return _select(view, "measure", "Measure", options, lambda key: MEASURES[key].title, help=None)


def drawn_as(view: View) -> str:
    """Circles or bars, where there is a choice."""
    return _segments(view, "drawn", "Drawn as", CHOICES_OF_PAGE[view.page]["drawn"].allowed, _DRAWN_TITLES.__getitem__)


def pairs_by(view: View) -> str:
    """What the matrix of run against run shows."""
    return _segments(view, "pairs", "Shown", CHOICES_OF_PAGE[view.page]["pairs"].allowed, _PAIRS_TITLES.__getitem__)


def agreement(view: View) -> str:
    """The share of parameters that so many runs changed, or how many times chance it is."""
    options = CHOICES_OF_PAGE[view.page]["agree"].allowed
    return _select(view, "agree", "Shown", options, lambda key: AGREEMENTS[key].title, help=None)


def n_runs(view: View, n_models: int) -> int:
    """How many of the runs changed a parameter, exactly."""
    options = [str(n) for n in range(1, n_models + 1)]
    chosen = view.one("runs") if view.one("runs") in options else options[-1]
    key = _bound(view, "runs", chosen)
    words = f"Exactly … of {n_models} runs"
    return int(st.selectbox(words, options, key=key, on_change=_chose, args=(view, "runs", key)))


def matrix(view: View, options: Sequence[str]) -> str:
    """One of the matrices, the first to begin with."""
    chosen = view.one("matrix") if view.one("matrix") in options else options[0]
    key = _bound(view, "matrix", chosen)
    title = "Matrix"
    return st.selectbox(
        title, options, key=key, format_func=lambda n: plain(n, 80), on_change=_chose, args=(view, "matrix", key)
    )


def heads_of(view: View, modules: Sequence[str]) -> str:
    """One of the attention matrices, the first to begin with."""
    chosen = view.one("heads") if view.one("heads") in modules else modules[0]
    key = _bound(view, "heads", chosen)
    words, options = "Heads of", list(modules)
    return st.selectbox(
        words, options, key=key, format_func=lambda n: plain(n, 80), on_change=_chose, args=(view, "heads", key)
    )


def at_least(view: View, n_models: int) -> int:
    """What a map of agreement shows: 0 for the share of runs, else how many runs at least."""
    options = [str(n) for n in range(n_models + 1)]
    chosen = view.one("least") if view.one("least") in options else options[0]
    key = _bound(view, "least", chosen)

    def words(n: str) -> str:
        if n == "0":
            return "Share of runs that changed an entry"
        if n == "1":
            return "Entries changed by any run"
        return f"Entries changed by {'all' if int(n) == n_models else 'at least'} {n} runs"

    return int(st.selectbox("Shown", options, key=key, format_func=words, on_change=_chose, args=(view, "least", key)))


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
        args=(view, key),
    )
    first, second = chosen.split()
    return int(first), int(second)


def several(view: View, name: str, title: str, options: Sequence[str], shown: Sequence[str]) -> list[str]:
    """Some of `options`, at most as many as the link holds; where it names none, `shown`, from now on named."""
    at_most = CHOICES_OF_PAGE[view.page][name].at_most
    chosen = list(view.many(name)) or list(shown)
    if not view.many(name):
        address.complete(links.to_query(view.choosing(name, *chosen)))
    options = [*options, *(value for value in chosen if value not in options)]
    key = _bound(view, name, chosen)
    return st.multiselect(
        title,
        list(options),
        key=key,
        max_selections=at_most,
        format_func=lambda text: plain(text, 80),
        on_change=_chose_several,
        args=(view, name, key),
    )


def spectra_over(view: View) -> str:
    """Whether chosen matrices are compared, one matrix over the layers, or one matrix over models of one base."""
    options = CHOICES_OF_PAGE[view.page]["over"].allowed
    return _segments(view, "over", "Compare", options, _OVER_TITLES.__getitem__)


def first_matrix(view: View, options: Sequence[str], otherwise: str) -> str:
    """One matrix: the first that the link names, to be compared with itself elsewhere."""
    chosen = next((name for name in view.many("matrix") if name in options), otherwise)
    if not view.many("matrix"):
        address.complete(links.to_query(view.choosing("matrix", chosen)))
    key = _bound(view, "first", chosen)
    return st.selectbox(
        "Matrix", options, key=key, format_func=lambda n: plain(n, 80), on_change=_chose, args=(view, "matrix", key)
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
        args=(view, key, options),
        disabled=len(by_text) < 2,
    )


def tuned_models(title: str, view: View, options: Sequence[PinnedModel]) -> None:
    """The models tuned from the view's base, those of the view chosen, in the order chosen."""
    texts = list(dict.fromkeys(str(model) for model in (*view.tuned, *options)))
    key = _bound(view, "tuned", [str(model) for model in view.tuned])
    st.multiselect(
        title,
        texts,
        key=key,
        max_selections=links.MOST_TUNED,
        format_func=_pinned_label,
        on_change=_chose_tuned,
        args=(view, key),
    )


def base_model(title: str, view: View, options: Sequence[PinnedModel]) -> None:
    """The stored base models, the view's own chosen; another choice starts the page afresh."""
    texts = list(dict.fromkeys(str(model) for model in (view.base, *options)))
    key = _bound(view, "base", str(view.base))
    st.selectbox(title, texts, key=key, format_func=_pinned_label, on_change=_chose_base, args=(key,))


def _pinned_label(text: str) -> str:
    model = links.pinned(text)
    return f"{plain(model.title, 70)} @ {model.short_commit}"


def _select(
    view: View, name: str, title: str, options: Sequence[str], words: Callable[[str], str], *, help: str | None
) -> str:
    key = _bound(view, name, view.one(name))
    return st.selectbox(title, options, key=key, format_func=words, on_change=_chose, args=(view, name, key), help=help)


def _segments(view: View, name: str, title: str, options: Sequence[str], words: Callable[[str], str]) -> str:
    key = _bound(view, name, view.one(name))
    chosen = st.segmented_control(
        title, options, key=key, format_func=words, required=True, on_change=_chose, args=(view, name, key)
    )
    return chosen or view.one(name)


def _bound(view: View, name: str, value: object) -> str:
    """The widget's key, its value set to what the address says."""
    key = f"{view.page}.{name}"
    if st.session_state.get(key) != value:
        st.session_state[key] = value
    return key


def _chose(view: View, name: str, key: str) -> None:
    address.choose(view, name, st.session_state[key])


def _chose_several(view: View, name: str, key: str) -> None:
    address.choose(view, name, *st.session_state[key])


def _chose_two(view: View, key: str) -> None:
    of, other = st.session_state[key].split()
    address.choose(view.choosing("of", of), "in", other)


def _chose_neighbour(view: View, key: str, options: dict[str, str]) -> None:
    address.choose(view, "name", options[st.session_state[key]])


def _chose_tuned(view: View, key: str) -> None:
    address.put(links.to_query(view) | {"tuned": st.session_state[key]})


def _chose_base(key: str) -> None:
    address.put({"base": [st.session_state[key]]})
