"""The page of training dynamics, its own parts: which run, looking it up, starting it, and what its numbers mean."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from analysis.dynamics import Course, Landed, fate, unchanged_shares
from analysis.errors import BadReference, SubnetscopeError
from analysis.labels import counted, duration, percent, size
from analysis.links import View, pinned, to_query, view_of
from analysis.measurements import MaskRule
from analysis.models import PinnedModel
from analysis.patches import ENCODINGS
from analysis.rollup import Share
from analysis.series import Axis, Series, axis, label_of, series_of
from analysis.tables import Row
from cache.jobs import SeriesPreparation
from pages.parts import address, courses, flow, handles, lookups, numbers, panels, permission, pickers
from pages.parts.text import plain, safe_label


def open_series() -> tuple[View, Series, Axis]:
    """The view, its run, and where its checkpoints stand. Stops the page where there is none to show: nothing named,
    models that are to be looked up first, a link that cannot be read."""
    if not address.names_models():
        _ask("", "")
        _stored()
        flow.stop()
    if not _is_pinned():
        _ask(*_named())
        flow.stop()
    try:
        view = address.open_view("dynamics")
        series = series_of(view.base, view.tuned)
    except BadReference as error:
        panels.failure(error)
        flow.stop()
    if courses.find(series) is None or any(lookups.stored(pair) is None for pair in series.pairs):
        _missing(series, view)
        flow.stop()
    panels.stop_at_hidden(*series.pairs)
    labels = view.many("step")
    if len(labels) != len(series.checkpoints):
        labels = tuple(label_of(model) for model in series.checkpoints)
    where = axis(labels)
    first, last = plain(where.names[0], 40), plain(where.names[-1], 40)
    st.markdown(
        f"{counted(len(series.checkpoints), 'checkpoint')}, **{safe_label(first)}** to **{safe_label(last)}**, of a "
        f"run from **{safe_label(view.base.title, 80)}** `{view.base.short_commit}`"
    )
    with st.expander("The checkpoints, and another run"):
        st.dataframe(_model_rows(series.checkpoints, where), hide_index=True)
        # A link of Streamlit's to the page that is open goes nowhere, so these are buttons.
        st.button("Follow another run", on_click=address.put, args=({},))
    return view, series, where


def _named() -> tuple[str, str]:
    named = address.query()
    return "".join(named.get("base", ())), "\n".join(named.get("tuned", ()))


def _is_pinned() -> bool:
    """Whether every model in the address stands there with its commit: a link, and nothing to look up."""
    named = address.query()
    try:
        return bool([pinned(text) for name in ("base", "tuned") for text in named.get(name, ())])
    except BadReference:
        return False


def _model_rows(models: Sequence[PinnedModel], where: Axis) -> list[Row]:
    return [
        {
            where.title: position,
            "name": plain(label, 60),
            "model": plain(model.title, 100),
            "commit": model.short_commit,
        }
        for position, label, model in zip(where.positions, where.labels, models, strict=True)
    ]


def _ask(base: str, lines: str) -> None:
    """The form, and what was found for what it asks."""
    st.markdown(
        "Name the model that a run started from, and the run's checkpoints: how sparse is each update, which "
        "parameters stay changed, which come back, and how large would a patch from one checkpoint to the next be?"
    )
    pickers.series_texts()
    if not lines:
        return
    try:
        found = _prepared(base, lines)
    except SubnetscopeError as error:
        panels.failure(error)
        return
    _confirm(found)


def _prepared(base: str, lines: str) -> SeriesPreparation:
    """What is known of the run; looked up once, not at every rerun. Raises model errors."""
    known = st.session_state.setdefault(pickers.PREPARED_SERIES, {})
    if (base, lines) not in known:
        with st.spinner("Looking up the checkpoints"):
            known[base, lines] = handles.jobs().prepare_series(base, lines)
    return known[base, lines]


def _confirm(found: SeriesPreparation) -> None:
    """The checkpoints that were found, in their order, what following them will cost, and the button that starts."""
    where = axis(found.labels)
    st.subheader(f"{counted(len(found.labels), 'checkpoint')} found", anchor=False)
    rows = _model_rows(found.series.checkpoints, where)
    for row, compared, parameters in zip(rows, found.compared, found.parameters, strict=True):
        row["compared with the base"] = percent(compared, parameters, 2)
    st.dataframe(rows, hide_index=True)
    if where.title != "step":
        st.caption(
            "The names do not tell rising steps, so the checkpoints stand at 1, 2, 3, ... A number in front of a line "
            "says the step: '200 ./runs/final'."
        )
    for note in found.notes:
        st.warning(safe_label(note, 500))
    words = [f"To fetch: {size(found.bytes_to_fetch)}" if found.bytes_to_fetch else "All weights are here already"]
    words.append(f"about {duration(found.seconds_estimated)}, by a rough estimate")
    st.markdown(f"{counted(len(found.series.pairs), 'comparison')}, without singular values. {'; '.join(words)}.")
    if found.bytes_to_fetch and found.bytes_to_fetch > found.disk_free:
        st.warning(f"Only {size(found.disk_free)} of disk are free.")
    if st.button("Start", type="primary"):
        try:
            handles.jobs().submit_series(found.series)
        except SubnetscopeError as error:
            panels.failure(error)
            return
        address.put(to_query(view_of_series(found.series, found.labels)))  # `go` is for another page
        flow.again()


def view_of_series(series: Series, labels: Sequence[str]) -> View:
    return view_of("dynamics", series.base, *series.checkpoints).choosing("step", *labels)


def _stored() -> None:
    """Runs that were followed here, to open."""
    known = [one for one in courses.known() if all(lookups.stored(pair) for pair in one.series.pairs)]
    hidden = permission.hidden([pair.key for one in known for pair in one.series.pairs])
    known = [one for one in known if not any(pair.key in hidden for pair in one.series.pairs)]
    permission.say_hidden()
    if not known:
        return
    st.subheader("Followed here", anchor=False)
    for one in known[:50]:
        names = axis(one.labels).names
        first, last = safe_label(names[0], 40), safe_label(names[-1], 40)
        title = safe_label(one.series.checkpoints[-1].title, 60)
        st.button(
            f"{title}: {counted(len(one.labels), 'checkpoint')}, {first} to {last}, from "
            f"{safe_label(one.series.base.title, 60)}",
            key=f"dynamics.open-{one.series.key}",
            type="tertiary",
            on_click=address.put,
            args=(to_query(view_of_series(one.series, one.labels)),),
        )


def _missing(series: Series, view: View) -> None:
    """The state 'missing': a link to a run that was never followed here, and how to get it."""
    st.info("This run has not been followed on this server yet.")
    if st.button("Look it up and follow it", type="primary"):
        labels = view.many("step")
        steps = [
            f"{label} " if label.isdecimal() and len(labels) == len(series.checkpoints) else "" for label in labels
        ] or [""] * len(series.checkpoints)
        try:
            with st.spinner("Looking up the checkpoints"):
                lines = [f"{step}{model}" for step, model in zip(steps, series.checkpoints, strict=True)]
                found = handles.jobs().prepare_series(str(series.base), "\n".join(lines))
        except SubnetscopeError as error:
            panels.failure(error)
        else:
            handles.jobs().submit_series(found.series)
            flow.again()


def choices(view: View) -> tuple[MaskRule, bool]:
    """The rule, and whether scales are fitted to the data."""
    rule, span = st.columns([3, 2], vertical_alignment="bottom")
    with rule:
        pickers.rule(view)
    with span:
        fitted = pickers.colours(view, "Scales span")
    return view.mask_rule, fitted


def grid_choices(view: View) -> tuple[str, str]:
    """What the heatmap shows, and what its rows are."""
    what, rows = st.columns([3, 2], vertical_alignment="bottom")
    with what:
        shown = pickers.step_measure(view)
    with rows:
        return shown, pickers.step_rows(view)


def follow_or_wait(series: Series) -> None:
    """The progress of the run's job, or what is needed to start it."""
    keys = [pair.key for pair in series.pairs]
    panels.progress(*keys)
    if any(lookups.working(key) for key in keys):
        return
    missing = courses.n_missing(series)
    run = courses.course(series, "exact")
    left = courses.n_to_follow(series) - (run.tensors if run else 0)
    if not missing and left <= 0:
        return
    words, button = st.columns([4, 1], vertical_alignment="center")
    if missing:
        words.info(f"{counted(missing, 'measurement')} of this run still to be made.")
    else:
        words.info(f"{counted(left, 'tensor')} still to be counted along the run.")
    if button.button("Go on", type="primary", width="stretch"):
        try:
            handles.jobs().submit_series(series)
        except SubnetscopeError as error:
            panels.failure(error)
        else:
            flow.again()


def headline(series: Series, run: Course | None, from_base: Landed, rule: MaskRule) -> None:
    """The three fates of the paper's figure 2, and the sparsity of the last checkpoint."""
    last = unchanged_shares(from_base, rule)[-1]
    with numbers.row():
        if last.whole:
            _number("Unchanged at the end", last, "Entries that the last checkpoint holds as the base does.")
        if run is None:
            return
        told = fate(run)
        _number("Never changed", told.never, "At the base's value at every checkpoint of the run.")
        _number(
            "Changed and came back",
            told.returned,
            "Differed from the base at some checkpoint, and is at its value again at the last. What came and went "
            "between two checkpoints is not seen.",
        )
        _number("In the final subnetwork", told.final, "Differs from the base at the last checkpoint.")
    if len(series.checkpoints) == 1:
        st.caption("With one checkpoint nothing can have come back; name more of them.")


def _number(label: str, found: Share, help: str) -> None:
    value = percent(found.part, found.whole) if found.whole else "–"
    numbers.number(label, value, numbers.of(found), help=help)


def not_counted() -> None:
    """The state 'partial': what needs the counts along the run, before they are there."""
    st.info("This is counted once every pair of the run is measured.")


def left_out(series: Series, run: Course) -> None:
    """Tensors that are not part of the counts along the run."""
    compared = {pair.name for pair in courses.alignments(series, "base")[0].pairs}
    missing = sorted(compared - courses.names_followed(series))
    if missing:
        with st.expander(f"{counted(len(missing), 'tensor')} not followed through the whole run"):
            st.caption("Some checkpoint has them not, or holds them in another way than the one before it.")
            st.dataframe([{"tensor": plain(name)} for name in missing[:1000]], hide_index=True)
    st.caption(f"Over {counted(run.tensors, 'tensor')}, {counted(run.entries, 'entry')}.")


def patch_words() -> None:
    st.caption(
        "A patch holds the new values of the changed entries (exact rule, as they are stored, not compressed) and "
        "their positions: as 32-bit indices; as a bitmap, one bit for each entry of a changed tensor; or in as few "
        "bits as an ideal coder needs that knows each tensor's share of changes (the entropy bound). Indices are "
        "smaller than a bitmap while fewer than 1 entry in 32 changed."
    )


def patch_table(rows: Sequence[Row]) -> None:
    """Every patch, its size under each encoding."""
    if not rows:
        st.info("A patch is sized once its pair is measured whole.")
        return
    shown = [
        {
            **_which(row),
            "changed": row["changed"],
            **{title: size(float(str(row[f"{key}_bytes"]))) for key, title in ENCODINGS.items()},
            "full checkpoint": size(float(str(row["full_bytes"]))),
            **{f"{key}, of full": row[f"{key}_share"] for key in ENCODINGS},
        }
        for row in rows
    ]
    config = {"changed": st.column_config.NumberColumn(format="localized")}
    config |= {f"{key}, of full": st.column_config.NumberColumn(format="percent") for key in ENCODINGS}
    st.dataframe(shown, hide_index=True, column_config=config)


def _which(row: Row) -> Row:
    """The step of a row, or the name of its checkpoint where steps are not known."""
    return {"step": row["step"]} if "step" in row else {"checkpoint": plain(str(row["name"]), 60)}


# Title of each count, and what it is of; all are entries.
_COUNTS = {
    "unchanged_since_base": ("same as base", "Entries that the checkpoint holds as the base does."),
    "unchanged_since_previous": ("same as previous", "Entries that did not change since the checkpoint before."),
    "changed": ("changed", "Entries that differ from the base."),
    "changed_outside_final": (
        "changed, outside final",
        "Of those that differ from the base, entries outside the final subnetwork: none at the last checkpoint.",
    ),
    "came_back": ("came back", "Entries that differed from the base before, and do not at this checkpoint."),
    "changed_so_far": (
        "changed so far",
        "Entries that differed from the base at this checkpoint or at an earlier one.",
    ),
    "moved": ("changed in the step", "Entries that differ from the checkpoint before."),
    "moved_outside_final": (
        "in the step, outside final",
        "Of those that differ from the checkpoint before, entries outside the final subnetwork; at the last checkpoint "
        "they went back to the base's value in that very step.",
    ),
}


def table(rows: Sequence[Row]) -> None:
    """The counts of every checkpoint; the CSV has them with the models' commits."""
    shown = [_which(row) | {name: None if row[name] == "" else row[name] for name in _COUNTS} for row in rows]
    columns = {
        name: st.column_config.NumberColumn(title, format="localized", help=help, width=max(108, 7 * len(title)))
        for name, (title, help) in _COUNTS.items()
    }
    st.dataframe(shown, hide_index=True, height="content", column_config=columns)
