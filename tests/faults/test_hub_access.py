"""Access to a private or gated model that is withdrawn after it was compared: what is stored of it is hidden."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import pytest

from analysis.errors import AccessDenied, HubUnreachable, ModelNotFound, RevisionNotFound
from analysis.models import Pair
from cache import access as module
from cache.access import Access
from cache.settings import Settings
from tests.faults.conftest import TUNED_FILES, Bench
from tests.hub.faults import Latency, Status
from tests.hub.loopback import TOKEN

TUNED = "org/tuned"
OLD = 1300.0  # seconds after which an answer is waited for anew


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access(bench: Bench, clock: Clock, hub_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Access]:
    """Over the bench's store; this server's token may read everything, and a page waits as long as it takes."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(module, "_PAGE_WAITS", 60.0)
    access = Access(bench.store, hub_settings, clock=clock)
    yield access
    access.stop()


def compared(bench: Bench, **kind: bool) -> Pair:
    """The pair, looked up while its tuned model was private, gated, or neither."""
    vars(bench.hub.repositories[TUNED]).update(kind)
    pair = bench.jobs.prepare("org/base", TUNED).pair
    assert pair is not None
    bench.hub.requests.clear()
    return pair


def deleted(bench: Bench) -> None:
    del bench.hub.repositories[TUNED]


def commit_removed(bench: Bench) -> None:
    bench.hub.add(TUNED, TUNED_FILES | {"more.txt": b"."}, private=True)
    del bench.hub.repositories[TUNED].files_of_commit[bench.commit]


def failing(status: int) -> Callable[[Bench], None]:
    def fail(bench: Bench) -> None:
        bench.hub.fail(Status(path=TUNED, status=status))

    return fail


@pytest.mark.parametrize(
    ("withdraw", "error"),
    [
        pytest.param(failing(401), AccessDenied, id="401"),
        pytest.param(failing(403), AccessDenied, id="403"),
        pytest.param(failing(404), ModelNotFound, id="404"),
        pytest.param(deleted, ModelNotFound, id="deleted"),
        pytest.param(commit_removed, RevisionNotFound, id="commit removed"),
    ],
)
def test_access_withdrawn_after_a_finished_job_hides_what_is_stored(
    bench: Bench, access: Access, clock: Clock, caplog: pytest.LogCaptureFixture, withdraw, error
):
    pair = compared(bench, private=True)
    assert access.refusal(pair) is None
    assert len(bench.hub.asked(TUNED)) == 1
    assert not bench.hub.asked("org/base"), "which everybody may read"
    withdraw(bench)
    assert access.refusal(pair) is None, "an answer holds for ten minutes"
    clock.now += OLD
    refusal = access.refusal(pair)
    assert isinstance(refusal, error)
    assert access.hidden() == {pair.key: refusal}
    wait_for_answers(access)
    assert [record.levelno for record in caplog.records if record.name == "cache.access"] == [logging.WARNING]
    assert f"{TUNED}@{bench.commit} ({refusal.saw})" in caplog.text


def test_a_grant_withdrawn_from_a_gated_model_hides_it_until_it_is_back(
    bench: Bench, access: Access, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    pair = compared(bench, gated=True)
    assert access.refusal(pair) is None
    monkeypatch.delenv("HF_TOKEN")
    clock.now += OLD
    assert isinstance(access.refusal(pair), AccessDenied)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    clock.now += OLD
    assert access.refusal(pair) is None


def test_after_ten_minutes_the_hub_is_asked_again_without_a_wait(bench: Bench, access: Access, clock: Clock):
    pair = compared(bench, private=True)
    assert access.refusal(pair) is None
    deleted(bench)
    clock.now += 700
    assert not access.makes_wait([pair.key])
    assert access.refusal(pair) is None, "the old answer, while a new one is asked for"
    wait_for_answers(access)
    assert isinstance(access.refusal(pair), ModelNotFound)


def test_a_hub_that_cannot_be_asked_changes_nothing_and_hides_what_it_never_spoke_of(
    bench: Bench, access: Access, clock: Clock, hub_settings: Settings, caplog: pytest.LogCaptureFixture
):
    pair = compared(bench, private=True)
    assert access.refusal(pair) is None
    bench.hub.fail(Status(path=TUNED, status=503))
    clock.now += OLD
    assert access.refusal(pair) is None, "as the Hub said last"

    restarted = Access(bench.store, hub_settings, clock=clock)
    assert isinstance(restarted.refusal(pair), HubUnreachable)
    n_asked = len(bench.hub.asked(TUNED))
    assert restarted.refusal(pair)
    assert len(bench.hub.asked(TUNED)) == n_asked, "not asked again within a minute"
    wait_for_answers(restarted)
    assert caplog.text.count("results are hidden until the Hub can be asked") == 1
    bench.hub.heal()
    clock.now += 61
    restarted.refusal(pair)
    wait_for_answers(restarted)
    assert restarted.refusal(pair) is None


def test_a_slow_hub_is_waited_for_once_and_no_longer_than_a_page_may(
    bench: Bench, access: Access, monkeypatch: pytest.MonkeyPatch
):
    pair = compared(bench, private=True)
    monkeypatch.setattr(module, "_PAGE_WAITS", 0.2)
    bench.hub.fail(Latency(path=TUNED, seconds=600.0))
    assert access.makes_wait([pair.key])
    refusal = access.refusal(pair)
    assert isinstance(refusal, HubUnreachable)
    assert "has not said yet" in refusal.saw
    assert access.is_asking
    assert not access.makes_wait([pair.key])


@pytest.mark.parametrize("private", [False, True], ids=["public", "where the operator shows all"])
def test_what_is_not_to_be_hidden_is_not_asked_about_and_stays_also_when_it_is_deleted(
    bench: Bench, hub_settings: Settings, monkeypatch: pytest.MonkeyPatch, private: bool
):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    pair = compared(bench, private=private)
    assert set(bench.store.restricted()) == ({pair.key} if private else set())
    deleted(bench)
    environ = {"HF_ENDPOINT": bench.hub.url, "SUBNETSCOPE_HIDE_RESTRICTED": "0"} if private else {}
    settings = Settings.from_environment(environ, data_dir=hub_settings.data_dir) if private else hub_settings
    access = Access(bench.store, settings)
    assert access.refusal(pair) is None
    assert access.hidden() == {}
    assert not bench.hub.requests


def wait_for_answers(access: Access) -> None:
    deadline = time.monotonic() + 60
    while access.is_asking:
        assert time.monotonic() < deadline
        time.sleep(0.02)
