"""Bytes of a file in order, over connections that break: resumed at the byte reached, never two versions in one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analysis.errors import FileChanged, HubBusy, HubUnreachable
from analysis.models import parse_model
from cache import catalog
from cache.hub import stream_range
from cache.patience import PATIENT, Patience
from tests.hub.faults import Cut, Headers, Status, Truncated

FILE = "model.safetensors"
CONTENT = bytes(range(256)) * 8_000  # 2 MB
WEIGHTS = r"/resolve/.*safetensors"
SOON = Patience(pauses=(0.01,) * 4, busy_pauses=(0.01,) * 7, obeyed=1.0)


@pytest.fixture
def model(hub, hub_settings):
    hub.add("org/model", {FILE: CONTENT})
    settings = replace(hub_settings, patience=SOON)
    found = catalog.find(parse_model("org/model"), settings)
    hub.requests.clear()
    return found, settings


@pytest.mark.parametrize(("begin", "end"), [(0, len(CONTENT)), (5, 6), (1000, 1_900_000), (7, 7)])
def test_exactly_the_bytes_asked_for_in_pieces(model, begin, end):
    pieces = list(stream_range(*model, FILE, begin, end))
    assert b"".join(pieces) == CONTENT[begin:end]
    assert all(0 < len(piece) <= 1 << 20 for piece in pieces)


def test_a_cut_is_resumed_at_the_byte_reached(hub, model):
    hub.fail(Cut(path=WEIGHTS, after=300_000, times=6))
    waits = []
    pieces = stream_range(*model, FILE, 10, 2_000_000, on_wait=lambda reason, until: waits.append(reason))
    assert b"".join(pieces) == CONTENT[10:2_000_000]
    assert [asked.range for asked in hub.requests] == [f"bytes={10 + n * 300_000}-1999999" for n in range(7)]
    assert waits == ["No answer from the Hub about 'org/model'"] * 6


def test_five_tries_without_progress_are_enough(hub, model):
    hub.fail(Cut(path=WEIGHTS, after=0))
    with pytest.raises(HubBusy, match="No answer from the Hub"):
        list(stream_range(*model, FILE, 0, 100))
    assert len(hub.requests) == 5


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Headers(path=WEIGHTS, values=(("ETag", '"other"'), ("X-Linked-Etag", '"other"'))), id="ETag"),
        pytest.param(Truncated(path=WEIGHTS, by=1), id="size"),
    ],
)
def test_another_version_is_never_appended(hub, model, fault):
    pieces = stream_range(*model, FILE, 0, len(CONTENT))
    hub.fail(Cut(path=WEIGHTS, after=500_000, times=1))
    arrived = [next(pieces)]
    hub.fail(fault)
    with pytest.raises(FileChanged, match="not the file that the Hub listed, or changed"):
        arrived.extend(pieces)
    assert b"".join(arrived) == CONTENT[:500_000]


def test_a_server_without_ranges_serves_from_the_first_byte_only(hub, model):
    hub.fail(Status(path=WEIGHTS, status=200, text="x" * len(CONTENT)))
    assert b"".join(stream_range(*model, FILE, 0, 10)) == b"x" * 10
    with pytest.raises(HubUnreachable, match="could not be understood"):
        list(stream_range(*model, FILE, 5, 10))


def test_the_patience_of_a_job_lasts_for_minutes():
    assert (PATIENT.pauses, PATIENT.busy_pauses[-1], PATIENT.later) == ((1, 2, 4, 8), 60, (60, 300, 900))
