"""Jobs as a page shows them: the active ones live, the ended ones as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence

import streamlit as st

from analysis.errors import error_from_dict
from analysis.labels import duration, visible
from cache.records import JobRecord
from pages.parts import flow, handles, panels


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
    for job in jobs:
        panels.bar(job, titled=True)


def history(records: Sequence[JobRecord]) -> None:
    """Ended jobs, the newest first, with what went wrong."""
    ended = [record for record in records if record.ended_at]
    if not ended:
        st.caption("No job has ended yet.")
        return
    st.dataframe(
        [_row(record) for record in ended],
        hide_index=True,
        column_config={
            "ended": st.column_config.DatetimeColumn("ended (UTC)", format="YYYY-MM-DD HH:mm:ss"),
            "message": st.column_config.TextColumn(width="large"),
        },
    )


def _row(record: JobRecord) -> dict[str, object]:
    took = (record.ended_at - record.started_at).total_seconds() if record.ended_at and record.started_at else None
    return {
        "ended": record.ended_at,
        "state": record.state,
        "kind": record.kind,
        "models": visible(_models(record)),
        "took": "" if took is None else duration(took),
        "measured": f"{record.measured:,} of {record.planned:,}",
        "message": _message(record),
    }


def _models(record: JobRecord) -> str:
    pairs = json.loads(record.request)["pairs"]
    if record.kind == "dynamics":
        run = pairs[: (len(pairs) + 1) // 2]
        return f"{len(run)} checkpoints from {pairs[0][0].partition('@')[0]} to {run[-1][1].partition('@')[0]}"
    tuned = ", ".join(texts[1].partition("@")[0] for texts in pairs)
    return f"{tuned} against {pairs[0][0].partition('@')[0]}"


def _message(record: JobRecord) -> str:
    return visible(str(error_from_dict(json.loads(record.message)))) if record.message else ""
