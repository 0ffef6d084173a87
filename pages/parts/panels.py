"""The parts around the drawings: heading, coverage, progress, and the four states ready, partial, missing, failed."""

from __future__ import annotations

import time
from collections.abc import Sequence

import streamlit as st

from analysis.errors import BadReference, SubnetscopeError
from analysis.labels import count, counted, duration, rough_count, size
from analysis.links import View
from analysis.models import Pair, PinnedModel
from analysis.plan import Plan
from cache.jobs import Preparation
from cache.progress import Progress
from cache.records import ModelCard, architecture_of
from pages.parts import address, flow, handles, lookups, permission, stored_pairs, unpinned
from pages.parts.text import safe_label

_POLL = "2s"
_REDRAW = 4.0  # seconds between redraws of a page that is filling

_STAGES = {
    "starting": "starting",
    "fetching": "fetching weights",
    "tallies": "reading and comparing",
    "spectra": "singular values",
    "overlap": "counting overlaps",
    "dynamics": "counting along the run",
}


def open_pair(page: str, title: str) -> tuple[View, Pair]:
    """The page's view and its pair, under the page's heading, with the progress of what is still measured. Stops the
    page where there is no pair to show: none named, a link that can't be read, one never compared here."""
    st.header(title, anchor=False)
    if not address.names_models():
        stored_pairs.pick_pair(page)
        flow.stop()
    view = open_view(page)
    pair = Pair(view.base, view.tuned[0])
    st.markdown(f"{_model(pair.tuned)} against its base {_model(pair.base)}")
    unpinned.say(view.models)
    if lookups.stored(pair) is None:
        missing(str(pair.base), str(pair.tuned))
        flow.stop()
    stop_at_hidden(pair)
    progress(pair.key)
    holes(pair)
    return view, pair


def open_view(page: str) -> View:
    """The view that the address names. Stops the page at a link that cannot be read, and at one without commits to
    models that were never compared here."""
    if texts := unpinned.texts():
        missing(*texts)
        flow.stop()
    try:
        return address.open_view(page)
    except BadReference as error:
        failure(error)
        flow.stop()


def _model(model: PinnedModel) -> str:
    return f"**{safe_label(model.title, 80)}** `{model.short_commit}`"


def stop_at_hidden(*pairs: Pair) -> None:
    """Stops a page about pairs that may not be shown, and says why."""
    refusal = permission.refusal(*pairs)
    if refusal:
        failure(refusal)
        st.caption("What was measured is kept, and shown as soon as the Hub lets this server read both models again.")
        flow.stop()


def failure(error: SubnetscopeError) -> None:
    """The state 'failed': what was seen, what was expected, what to do."""
    lines = [f"**{safe_label(error.saw.rstrip('.'), 500)}.**"]
    lines += [safe_label(part.rstrip("."), 500) + "." for part in (error.expected, error.do) if part]
    st.error("\n\n".join(lines))


def missing(base: str, tuned: str) -> None:
    """The state 'missing': a link to a pair that was never compared here, and how to get it."""
    names = " against ".join(safe_label(_without_commit(text), 100) for text in (tuned, base))
    st.info(f"{names} has not been compared on this server yet.")
    if st.button("Look it up and compare", type="primary", key=f"missing-{base}-{tuned}"):
        address.go_compare(base, tuned)


def _without_commit(text: str) -> str:
    return text.rpartition("@")[0] or text


def holes(pair: Pair) -> None:
    """The state 'partial' at rest: nobody is at it, and some of it isn't measured, though it was asked for, or because
    it failed or was not asked for. Offers to go on."""
    n_whole, n_failed = lookups.n_holes(pair.key), lookups.n_failed(pair.key)
    if not (n_whole or n_failed) or lookups.working(pair.key):
        return
    n, plans = lookups.unfinished(pair.key)
    words, button = st.columns([4, 1], vertical_alignment="center")
    label = "Measure the rest"
    if n:
        words.info(f"{counted(n, 'measurement')} of this pair still to be made.")
    elif n_failed:
        words.info(f"{counted(n_failed, 'measurement')} of this pair failed.")
        label, plans = "Try them again", lookups.asked(pair.key)
    else:
        more = counted(n_whole, "more measurement")
        words.info(f"Measured as selected. The whole pair needs {more}, which nobody asked for so far.")
    if button.button(label, width="stretch") and start(pair, *(plans or [Plan()])):
        flow.again()


def start(wanted: Preparation | Pair, *plans: Plan) -> bool:
    """Whether the jobs that these plans need are on their way; where this machine cannot do them, says so."""
    try:
        for plan in plans:
            handles.jobs().submit(wanted, plan)
    except SubnetscopeError as error:
        failure(error)
        return False
    return True


def progress(*pair_keys: str) -> None:
    """The jobs that work for these pairs, live, each with a way to cancel; the failure of a last one that failed.
    While they work the page is drawn again every few seconds, so that results fill in."""
    last = {job.job_id: job for key in pair_keys if (job := handles.jobs().of_pair(key))}
    for job in last.values():
        if job.state == "failed" and job.error:
            failure(job.error)
    if any(not job.ended for job in last.values()):
        _live(pair_keys, _moment(pair_keys), time.monotonic())


@st.fragment(run_every=_POLL)
def _live(pair_keys: tuple[str, ...], drawn: tuple[int, ...], drawn_at: float) -> None:
    working = {job.job_id: job for key in pair_keys if (job := lookups.working(key))}
    if not working:
        flow.again()
    for job in working.values():
        bar(job)
    if time.monotonic() - drawn_at > _REDRAW and _moment(pair_keys) != drawn:
        flow.again()


def _moment(pair_keys: Sequence[str]) -> tuple[int, ...]:
    return tuple(lookups.generation(key) for key in pair_keys)


def bar(job: Progress, *, titled: bool = False) -> None:
    """One job's progress in one line, and the button that cancels it."""
    state, button = st.columns([6, 1], vertical_alignment="center")
    title = f"**{safe_label(job.title, 160)}**: " if titled else ""
    if job.state in ("running", "waiting"):
        state.progress(min(job.share, 1.0), text=title + _progress_words(job))
    else:
        state.markdown(f"{title}queued behind another job")
    if button.button("Cancel", key=f"cancel-{job.job_id}", width="stretch"):
        handles.jobs().cancel(job.job_id)
        flow.again()


def _progress_words(job: Progress) -> str:
    if job.waiting_for:
        return safe_label(job.waiting_words, 300)
    words = [_STAGES.get(job.stage, "working")]
    if job.bytes_planned and (job.stage == "fetching" or job.bytes_done < job.bytes_planned):
        words.append(f"{size(job.bytes_done)} of {size(job.bytes_planned)} fetched")
    if job.planned and (job.done or job.stage != "fetching"):
        words.append(f"{count(job.done)} of {count(job.planned)} measurements")
    if job.done and job.seconds_elapsed > 1 and job.stage in ("tallies", "spectra", "overlap", "dynamics"):
        words.append(f"{count(round(60 * job.done / job.seconds_elapsed))} a minute")
    if job.seconds_left is not None and job.seconds_left >= 1:
        words.append(f"about {duration(job.seconds_left)} left")
    if job.device:
        words.append(f"on {safe_label(job.device, 40)}")
    if job.note:
        words.append(safe_label(job.note, 200))
    return ", ".join(words)


def card(title: str, model: PinnedModel, known: ModelCard) -> None:
    """One model before a comparison: where it is pinned and how large it is."""
    st.caption(title)
    st.markdown(f"**{safe_label(model.title, 80)}**")
    words = [f"commit `{model.short_commit}`", f"{rough_count(known.parameters)} parameters", known.dtype]
    if architecture := architecture_of(known.config):
        words.append(safe_label(architecture, 60))
    st.markdown(" · ".join([*filter(None, words), size(known.bytes)]))


def no_spectra(pair_key: str) -> None:
    """Why a page about singular values has nothing to draw yet."""
    planned = any(pair.is_matrix for pair in lookups.alignment(pair_key).pairs)
    st.info("No singular values are measured yet." if planned else "This pair has no matrices, so no singular values.")
