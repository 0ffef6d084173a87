"""The overview's own parts: the headline numbers with what stands behind them, and the table of rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from analysis import links
from analysis.alerts import Alert
from analysis.labels import count, counted, percent, rough_count, rule_title, scientific, share
from analysis.links import view_of
from analysis.metrics import CATALOG
from analysis.models import Pair
from analysis.own_updates import AdapterSummary, both_rows
from analysis.published import MEASURES, Ours, PublishedPair, sentence, verdicts
from analysis.rollup import Headline, Share
from analysis.tables import match_rows, rule_rows
from analysis.tensors import Alignment
from pages.parts import address, numbers
from pages.parts.text import safe_label

_PUBLISHED_RULES = ("exact", "mukherjee")


def headline(found: Headline, alignment: Alignment, chosen: Mapping[str, Share]) -> None:
    """The numbers one came for, each with its counts and with the coverage beside it; first the unchanged share under
    the rule `chosen` by its title, then under the published ones. Where too little was compared, the reasons in their
    place. Of a pair measured in part it says first of which part; `alignment` is that part's."""
    if found.chosen:
        st.markdown(f":material/filter_alt: Of **{found.chosen.words}**, as selected.")
    if found.withheld:
        st.warning(
            "**No headline: too little of these models could be compared.** " + " ".join(found.reasons_withheld),
            icon=":material/visibility_off:",
        )
        with numbers.row():
            _coverage(found, alignment)
        return
    with numbers.row():
        always = {rule_title(rule): found.unchanged[rule] for rule in _PUBLISHED_RULES}
        for title, unchanged in {**chosen, **always}.items():
            _share(f"Unchanged, {title}", unchanged, _help(title), _mean_beside(title, found))
        numbers.number(
            "Size of the update",
            scientific(found.relative_update) if found.entries else "–",
            "‖update‖ / ‖base‖",
            help="Frobenius norm of the update over that of the base weights.",
        )
        _rank(found, alignment)
        _coverage(found, alignment)


def _help(title: str) -> str:
    helps = {rule_title(rule): CATALOG[f"unchanged-{rule}"].help for rule in _PUBLISHED_RULES}
    return helps.get(title, "|after − before| at most this tolerance.")


def _mean_beside(title: str, found: Headline) -> str:
    """What the released script averages, under a name of its own."""
    if title != rule_title("mukherjee") or not found.entries:
        return ""
    return f"; mean over tensors {share(found.mean_of_layer_averages)}"


def _share(label: str, found: Share, help: str, beside: str) -> None:
    value = percent(found.part, found.whole) if found.whole else "–"
    numbers.number(label, value, f"{numbers.of(found)}{beside}", help=help)


def _rank(found: Headline, alignment: Alignment) -> None:
    behind = f"{count(found.spectra_measured)} of {count(found.spectra_planned)} matrices"
    if found.spectra_planned < sum(pair.is_matrix for pair in alignment.pairs):
        behind += " that were asked for"
    numbers.number(
        "Rank of the updates",
        share(found.mean_rank_share),
        f"effective rank {share(found.mean_effective_rank_share)}; {behind}"
        if found.spectra_planned
        else "singular values were not asked for",
        help="Mean over matrices of numerical rank over the largest possible. Sparse random noise is full-rank too: "
        "read it beside the effective rank.",
    )


def _coverage(found: Headline, alignment: Alignment) -> None:
    measured = f"{count(found.tensors_measured)} of {count(found.tensors_planned)} tensors"
    selected = " selected" if found.chosen else ""
    numbers.number(
        "Compared of the selection" if found.chosen else "Compared",
        percent(alignment.compared_of("base"), alignment.base_parameters, 2),
        f"of {rough_count(alignment.base_parameters)}{selected} in the base, "
        f"{percent(alignment.compared_of('tuned'), alignment.tuned_parameters, 2)} of the tuned model; "
        f"{measured} measured",
        help="Parameters of the base that have a partner, by name or by a rule. What has none is listed.",
    )


def both_updates(found: AdapterSummary) -> None:
    """What an adapter itself adds beside what is left of it once it is merged into the base's type."""
    st.markdown(f"**The tuned side is an adapter:** {found.words}. Its two updates, over what it touches:")
    st.dataframe(both_rows(found), hide_index=True, height="content", width=640)
    waiting = found.tensors - found.tensors_measured
    more = f" {counted(waiting, 'tensor')} still to be measured." if waiting else ""
    st.caption(
        "The own update is what the adapter's factors multiply to, in float32. The merged one is what is left of it in "
        f"the base's type: entries too small to cross a step are lost, and rounding spreads over all directions.{more}"
    )


def published(known: PublishedPair, measured: Ours) -> None:
    """What papers report of this pair, beside ours and whether they agree."""
    found = [verdict for measure in MEASURES for verdict in verdicts(known, measured, measure)]
    if found:
        st.markdown("**Published** for this pair: " + " ".join(safe_label(sentence(one), 400) for one in found))
    if known.note:
        st.caption(safe_label(f"{known.note[0].upper()}{known.note[1:]}.", 400))


def alerts(found: Sequence[Alert], pair: Pair) -> None:
    """What to know before believing the numbers, and where another base may be meant, the way to it."""
    for alert in found:
        show = st.error if alert.kind == "not_related" else st.warning if alert.kind != "matched_by_rule" else st.info
        show(alert.sentence)
        if alert.kind == "nearer_base":
            for text in alert.models:
                base = links.pinned(text)
                address.link(
                    f"Open the comparison with {safe_label(base.title, 80)}", view_of("pair", base, pair.tuned)
                )
        if alert.kind == "declared_base":
            for position, text in enumerate(alert.models):
                if st.button(f"Compare with {safe_label(text, 80)}", key=f"declared-{position}"):
                    address.go_compare(text, str(pair.tuned))


def matches(alignment: Alignment) -> None:
    """How the compared tensors were found, where names alone did not do it."""
    if any(pair.match not in ("exact", "untouched") for pair in alignment.pairs):
        with st.expander("How tensors were matched"):
            st.dataframe(match_rows(alignment), hide_index=True)


def rule_table(found: Headline) -> None:
    """Unchanged and changed entries by every rule that is stored."""
    st.dataframe(
        rule_rows(found),
        hide_index=True,
        height="content",
        column_config={
            "unchanged": st.column_config.NumberColumn(format="localized"),
            "changed": st.column_config.NumberColumn(format="localized"),
        },
    )
