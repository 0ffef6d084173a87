"""Jobs as a page shows them: the active ones live, the ended ones as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

import streamlit as st

from analysis.errors import error_from_dict
from analysis.labels import ago, count, counted, duration, short_titles, shorten, visible
from analysis.links import pinned
from analysis.models import Pair
from cache.records import JobRecord, now
from pages.parts import flow, handles, panels, permission

_NEVER = datetime.min
_MOST_AT_ONCE = 25  # rows; more are scrolled to
_NAME = 44  # characters of a model's name
_WIDTHS = {"ended": 85, "state": 65, "kind": 75, "models": 420, "took": 65, "measured": 85, "message": 200}


def active() -> None:
    """Jobs that are queued or at work, each with its progress and a way to cancel."""
    if handles.jobs().active():
        _live(len(handles.jobs().active()))
    else:
        st.caption("Nothing is being measured now.")


@st.fragment(run_every="2s")
def _live(n_drawn: int) -> None:
    jobs = handles.jobs().active()
    if len(jobs) != n_drawn:
        flow.again()
    hidden = permission.hidden([key for job in jobs for key in job.pair_keys])
    shown = [job for job in jobs if hidden.keys().isdisjoint(job.pair_keys)]
    for job in shown:
        panels.bar(job, titled=True)
    if len(shown) < len(jobs):
        st.caption(f"{count(len(jobs) - len(shown))} more work for comparisons that are hidden.")


def history(records: Sequence[JobRecord]) -> None:
    """Ended jobs, the last to end first, with what went wrong."""
    ended = sorted(
        (record for record in records if record.ended_at), key=lambda record: record.ended_at or _NEVER, reverse=True
    )
    keys_of_job = {record.id: _pair_keys(record) for record in ended}
    hidden = permission.hidden([key for keys in keys_of_job.values() for key in keys])
    ended = [record for record in ended if hidden.keys().isdisjoint(keys_of_job[record.id])]
    permission.say_hidden()
    if not ended:
        st.caption("No job has ended yet.")
        return
    this_moment = now()
    st.dataframe(
        [_row(record, this_moment) for record in ended],
        hide_index=True,
        height="content" if len(ended) <= _MOST_AT_ONCE else 36 * _MOST_AT_ONCE,
        column_config={
            **{name: st.column_config.Column(width=width) for name, width in _WIDTHS.items()},
            "at": st.column_config.DatetimeColumn("at (UTC)", format="YYYY-MM-DD HH:mm:ss", width=145),
        },
    )


def _row(record: JobRecord, this_moment: datetime) -> dict[str, object]:
    took = (record.ended_at - record.started_at).total_seconds() if record.ended_at and record.started_at else None
    return {
        "ended": ago((this_moment - record.ended_at).total_seconds()) if record.ended_at else "",
        "at": record.ended_at,
        "state": record.state,
        "kind": record.kind,
        "models": visible(_models(record)),
        "took": "" if took is None else duration(took),
        "measured": f"{record.measured:,} of {record.planned:,}" if record.planned else "–",
        "message": _message(record),
    }


def _pair_keys(record: JobRecord) -> list[str]:
    pairs = json.loads(record.request)["pairs"]
    return [Pair(pinned(base), pinned(tuned)).key for base, tuned in pairs]


def _models(record: JobRecord) -> str:
    pairs = json.loads(record.request)["pairs"]
    if record.kind == "dynamics":
        run = pairs[: (len(pairs) + 1) // 2]
        return f"{counted(len(run), 'checkpoint')} from {_name(pairs[0][0])} to {_name(run[-1][1])}"
    tuned = [_name(text) for _, text in pairs]
    commits = [text.partition("@")[2].removeprefix("files-")[:7] for _, text in pairs]
    named = short_titles(tuned, commits) if len(tuned) > 1 else tuned
    return f"{', '.join(named)} against {_name(pairs[0][0])}"


def _name(text: str) -> str:
    return shorten(text.partition("@")[0], _NAME)


def _message(record: JobRecord) -> str:
    return visible(str(error_from_dict(json.loads(record.message)))) if record.message else ""
