"""Comparisons of a model that the Hub lets this server read no more: no page shows them, each says so."""

from __future__ import annotations

import json
import time
from datetime import datetime
from urllib.parse import urlencode

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient
from streamlit.testing.v1 import AppTest

from analysis.links import View, to_query, view_of
from analysis.models import Pair
from analysis.series import Series
from cache import access, instance
from cache.records import JobRecord
from pages.parts import routes, sources
from tests.analysis.by_hand import measured
from tests.hub.builders import llama, model_files, tuned_from
from tests.hub.faults import Latency, Status
from tests.hub.loopback import TOKEN, LoopbackHub
from tests.pages.test_pages import opened, texts

HIDDEN = "1 comparison is hidden: the Hub does not let this server read their models (see the log)."

pytestmark = pytest.mark.usefixtures("children_at_hand")


@pytest.fixture
def pairs(hub: LoopbackHub, current: instance.Instance, monkeypatch: pytest.MonkeyPatch) -> tuple[Pair, Pair]:
    """A private model and a public one, both looked up on the Hub and measured against one base."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(access, "_PAGE_WAITS", 60.0)
    base = llama(layers=1)
    hub.add("org/base", model_files(base))
    hub.add("org/secret", model_files(tuned_from(base, seed=1)[0]), private=True)
    hub.add("org/public", model_files(tuned_from(base, seed=2)[0]))
    secret, public = (put(current, f"org/{name}") for name in ("secret", "public"))
    return secret, public


def put(current: instance.Instance, tuned: str) -> Pair:
    found = current.jobs.prepare("org/base", tuned)
    assert found.pair is not None
    assert found.alignment is not None
    tallies, spectra = measured(found.alignment)
    measurements = [*tallies.items(), *spectra.items()]
    for written in [current.store.put(found.pair.key, name, measurement) for name, measurement in measurements]:
        written.result()
    return found.pair


def an_hour_later(current: instance.Instance) -> None:
    """What the Hub said is too old to go by."""
    current.access._clock = lambda: time.monotonic() + 3600


def tables(app: AppTest) -> str:
    return "\n".join(table.value.to_string() for table in app.dataframe)


@pytest.mark.processes
def test_pages_of_a_withdrawn_model_show_the_refusal_and_nothing_else(
    current: instance.Instance, pairs: tuple[Pair, Pair], hub: LoopbackHub
):
    secret, public = pairs
    assert opened(view_of("pair", secret.base, secret.tuned)).metric
    hub.fail(Status(path="org/secret", status=401))
    an_hour_later(current)
    name = next(iter(current.store.tallies(secret.key)))
    series = Series(secret.base, (secret.tuned,))
    current.store.series.register(series, ["last"]).result()
    for view in (
        *(view_of(page, secret.base, secret.tuned) for page in ("pair", "layers", "spectra")),
        view_of("matrix", secret.base, secret.tuned, name=name),
        view_of("overlap", secret.base, public.tuned, secret.tuned),
        view_of("dynamics", series.base, *series.checkpoints),
    ):
        app = opened(view)
        assert not app.exception, view.page
        [error] = app.error
        assert "The Hub does not accept the token" in error.value, view.page
        assert not app.metric, view.page
        assert not app.get("plotly_chart"), view.page
        assert not app.dataframe, view.page


def test_lists_leave_a_withdrawn_model_out_and_say_so(
    current: instance.Instance, pairs: tuple[Pair, Pair], hub: LoopbackHub, caplog: pytest.LogCaptureFixture
):
    secret, _ = pairs
    at = datetime(2026, 1, 1)
    request = json.dumps({"pairs": [[str(secret.base), str(secret.tuned)]], "plan": {}})
    current.store.ledger.put(JobRecord("1", "compare", request, "done", at, "", at, at, 9, 9)).result()
    current.store.series.register(Series(secret.base, (secret.tuned,)), ["last"]).result()
    lists = ("compare", "library", "gallery", "layers", "dynamics", "jobs")
    before = {page: opened(page=page) for page in lists}
    assert all("hidden" not in texts(app) for app in before.values())
    assert "org/secret" in tables(before["jobs"])
    assert "2 models tuned from" in links(before["compare"])

    hub.fail(Status(path="org/secret", status=404))
    an_hour_later(current)
    for page in lists:
        app = opened(page=page)
        assert not app.exception, page
        assert HIDDEN in texts(app), page
        everything = "\n".join([texts(app), tables(app), links(app), *(button.label for button in app.button)])
        assert "org/secret" not in everything, page
        assert "2 models tuned from" not in everything, page
    assert "org/public" in tables(opened(page="compare"))
    [row] = sources.tables_of("library", {})["comparisons"]()
    assert row["tuned"] == "org/public"
    assert [record.name for record in caplog.records if record.name == "cache.access"] == ["cache.access"]
    assert str(secret.tuned) in caplog.text


def links(app: AppTest) -> str:
    return "\n".join(link.proto.label for link in app.get("page_link"))


def test_a_public_model_that_is_gone_stays_visible(
    current: instance.Instance, pairs: tuple[Pair, Pair], hub: LoopbackHub
):
    _, public = pairs
    del hub.repositories["org/public"]
    an_hour_later(current)
    app = opened(view_of("pair", public.base, public.tuned))
    assert not app.error
    assert app.metric


def test_a_hub_that_is_away_leaves_the_page_as_it_was(
    current: instance.Instance, pairs: tuple[Pair, Pair], hub: LoopbackHub
):
    secret, _ = pairs
    view: View = view_of("pair", secret.base, secret.tuned)
    assert opened(view).metric
    hub.fail(Status(path="/", status=503))
    an_hour_later(current)
    assert opened(view).metric
    current.access._answer_of.clear()  # as after a restart
    app = opened(view)
    assert not app.metric
    [error] = app.error
    assert "The Hub cannot be asked whether this server may read" in error.value
    assert "1 comparison is hidden until the Hub says" in texts(opened(page="library"))


@pytest.mark.parametrize("page", ["compare", "library", "overlap", "jobs"])
def test_a_page_does_not_wait_long_for_a_slow_hub(
    pairs: tuple[Pair, Pair], hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, page: str
):
    monkeypatch.setattr(access, "_PAGE_WAITS", 0.1)
    hub.fail(Latency(path="org/secret", seconds=600.0))
    app = opened(page=page)
    assert not app.exception
    assert "1 comparison is hidden until the Hub says" in texts(app)


def test_files_of_a_withdrawn_model_are_not_handed_out(
    current: instance.Instance, pairs: tuple[Pair, Pair], hub: LoopbackHub
):
    secret, public = pairs
    hub.fail(Status(path="org/secret", status=401))
    an_hour_later(current)
    with TestClient(Starlette(routes=routes.routes())) as asking:
        for kind, rest in (("take", "/tensors.csv"), ("figure", "/unchanged-over-tolerance.svg"), ("share", "")):
            views = (view_of("pair", pair.base, pair.tuned) for pair in (secret, public))
            queries = (urlencode(to_query(view), doseq=True) for view in views)
            of_secret, of_public = (asking.get(f"/{kind}/pair{rest}?{query}") for query in queries)
            assert of_secret.status_code == 403, kind
            assert "org/secret" not in of_secret.text or "tensor" not in of_secret.text
            assert of_public.status_code == 200, kind
