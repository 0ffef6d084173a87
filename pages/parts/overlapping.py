"""The overlap page's own parts: which models, counting them, and what the numbers mean."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from analysis.alerts import not_tuned_from
from analysis.errors import SubnetscopeError
from analysis.figures import density
from analysis.figures import pairs as pairwise
from analysis.labels import count, counted
from analysis.links import View, to_query, view_of
from analysis.measurements import MASK_RULES, MaskRule
from analysis.models import Pair
from analysis.overlaps import Venn
from analysis.summary import summarize_overlap
from analysis.tables import agreement_rows, overlap_rows
from pages.parts import address, charts, flow, handles, lookups, panels, permission, pickers, runs, unpinned
from pages.parts.text import plain, safe_label

_NAME = 30  # characters of a model's name in the table
CAPTION_OF_PAIRS = {
    "one-sided": "Of what the row's run changed, the share that the column's run changed too (o1, o2).",
    "jaccard": "Jaccard index: changed by both over changed by either.",
    "matched": "Parameters changed by both, over what magnitude-matched chance gives: 1 is chance.",
}


def open_overlap() -> View:
    """The view, with pickers for the base and for two to twelve models tuned from it. Stops the page where something is
    missing, saying what."""
    families = runs.families(lookups.pairs())
    view = _named() or _first(families)
    _stop_at_strangers(view)
    unpinned.say(view.models)
    base, rule = st.columns(2)
    with base:
        pickers.base_model("Base", view, list(families))
    with rule:
        pickers.rule(view)
    pickers.tuned_models("Models tuned from it", view, families.get(view.base, ()))
    if len(set(view.tuned)) < 2:
        st.info("Choose at least two tuned models.")
        flow.stop()
    return view


def _named() -> View | None:
    return panels.open_view("overlap") if address.names_models() else None


def _first(families: runs.Families) -> View:
    """Without models in the address: those of the base that was chosen, or of the one with the last activity."""
    permission.say_hidden()
    if not families:
        st.info("An overlap needs two models tuned from one base, each compared with that base here.")
        address.page_link("Compare two models", "compare")
        flow.stop()
    base = address.named_base(list(families))
    view = view_of("overlap", base, *runs.to_begin_with(base, families[base]))
    address.complete(to_query(view))
    return view


def _stop_at_strangers(view: View) -> None:
    """Stops where a pair of the link was never compared here, and offers to do it."""
    strangers = [Pair(view.base, model) for model in view.tuned if lookups.stored(Pair(view.base, model)) is None]
    for pair in strangers:
        panels.missing(str(pair.base), str(pair.tuned))
    if strangers:
        flow.stop()
    panels.stop_at_hidden(*(Pair(view.base, model) for model in view.tuned))


def count_or_wait(view: View, pairs: tuple[Pair, ...], rule: MaskRule) -> None:
    """The progress of the counting, or what is needed to start it."""
    panels.progress(*[pair.key for pair in pairs])
    if any(job and job.kind == "overlap" for job in map(lookups.working, [pair.key for pair in pairs])):
        return
    n_counted, n_tensors = runs.n_counted(pairs, rule), runs.n_common(pairs)
    if n_counted >= n_tensors:
        return
    words, button = st.columns([4, 1], vertical_alignment="center")
    if n_counted:
        words.info(f"The overlap is counted for {count(n_counted)} of {count(n_tensors)} tensors.")
    else:
        words.info(
            "The overlap of these models is not counted yet. It needs their update masks under this rule; where these "
            "are not kept, the weights are read again."
        )
    if button.button("Count it", type="primary", width="stretch"):
        _submit(view, MASK_RULES if rule in MASK_RULES else (rule,))


def _submit(view: View, rules: Sequence[MaskRule], maps: Sequence[str] = ()) -> None:
    try:
        handles.jobs().submit_overlap(view.base, view.tuned, rules, maps=maps)
    except SubnetscopeError as error:
        panels.failure(error)
    else:
        flow.again()


def warn_of_strangers(pairs: tuple[Pair, ...], labels: Sequence[str]) -> None:
    """Which of the models do not come from the base."""
    for pair, label in zip(pairs, labels, strict=True):
        if warning := not_tuned_from(runs.resemblance(pair)):
            st.error(f"**{safe_label(label, 80)}** {warning}")


def left_out(pairs: tuple[Pair, ...], labels: Sequence[str]) -> None:
    """Tensors that no number of this page is of, in a list; nothing where all models have all in one shape."""
    rows = runs.left_out(pairs, labels)
    if not rows:
        return
    n_whole = len(rows) + runs.n_common(pairs)
    were = "was" if len(rows) == 1 else "were"
    with st.expander(
        f"{counted(len(rows), 'tensor')} of {count(n_whole)} {were} left out: shapes differ between the models"
    ):
        st.caption(
            "Not all of the models have them in one shape. No number here is of them. Shapes that were compared:"
        )
        columns = {label: st.column_config.TextColumn(plain(label, _NAME)) for label in labels}
        st.dataframe(
            [row | {"tensor": plain(str(row["tensor"]))} for row in rows],
            hide_index=True,
            column_config=columns,
            placeholder="–",
        )


def explain(found: Venn, stored: str) -> None:
    """What the circles say, in words."""
    st.subheader("In words", anchor=False)
    for sentence in summarize_overlap(found, [safe_label(name, 60) for name in found.labels], stored):
        st.markdown(sentence)


def caption_of_pairs(by: str, n_runs: int) -> str:
    """What the cells of the matrix of run against run hold."""
    chances = by == "one-sided" and n_runs <= pairwise.MOST_WITH_CHANCES
    return CAPTION_OF_PAIRS[by] + (" Below it chance, and magnitude-matched chance." if chances else "")


def agreement_table(found: Venn) -> None:
    """How many entries exactly 0, 1 ... of the runs changed, beside both chance levels."""
    number = st.column_config.NumberColumn
    st.dataframe(
        agreement_rows(found),
        hide_index=True,
        placeholder="–",
        height="content",
        column_config={
            "rule": None,
            "runs": number("runs", help="Changed by exactly so many runs."),
            "of": None,
            "entries": number(format="localized"),
            "share_of_entries": number("share", format="percent"),
            "chance": number("chance", format="%,.0f"),
            "chance_matched": number("magnitude-matched", format="%,.0f", help="Magnitude-matched chance."),
            "over_chance_matched": number("over that", format="%.3g", help="Entries over magnitude-matched chance."),
        },
    )


def consensus_map(view: View, pairs: tuple[Pair, ...], rule: MaskRule) -> None:
    """Where in one matrix the runs agree, or the offer to draw it."""
    matrices = runs.counted_matrices(pairs, rule)
    if not matrices:
        return
    st.subheader("Where in a matrix the runs agree", anchor=False)
    which, what = st.columns([3, 2], vertical_alignment="bottom")
    with which:
        name = pickers.matrix(view, matrices)
    with what:
        at_least = pickers.at_least(view, len(pairs))
    found = runs.consensus(pairs, name, rule)
    if found is not None:
        charts.show(density.consensus_map(found, at_least=at_least), "Agreement of the runs by block")
        return
    words, button = st.columns([4, 1], vertical_alignment="center")
    words.info("The map of this matrix is not drawn yet. It is counted from the runs' update masks.")
    if button.button("Draw the map", width="stretch"):
        _submit(view, (rule,), maps=(name,))


def table(found: Venn) -> None:
    """Every ordered pair of models: both counts, the overlaps, both chance levels."""
    number, name = st.column_config.NumberColumn, st.column_config.TextColumn
    st.dataframe(
        [row | {side: plain(str(row[side]), _NAME) for side in ("of", "in")} for row in overlap_rows(found)],
        hide_index=True,
        placeholder="–",
        column_order=(
            *("of", "in", "one_sided_overlap", "chance", "chance_matched", "jaccard"),
            *("changed", "changed_by_both"),
        ),
        column_config={
            "of": name(width=200),
            "in": name(width=200),
            "changed": number(format="localized", width=90),
            "changed_by_both": number("changed by both", format="localized", width=120),
            "one_sided_overlap": number("one-sided overlap", format="percent", width=130),
            "chance": number(format="percent", width=80),
            "chance_matched": number("magnitude-matched chance", format="percent", width=185),
            "jaccard": number("Jaccard", format="percent", width=80),
        },
    )
