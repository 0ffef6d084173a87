"""Models on the Hub, against a loopback Hub: what is found, what is downloaded, and every way it can fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download, scan_cache_dir

from analysis.errors import (
    AccessDenied,
    BadWeights,
    DiskFull,
    HubBusy,
    HubUnreachable,
    ModelNotFound,
    NoWeights,
    RevisionNotFound,
)
from analysis.models import parse_model
from cache import catalog
from cache.hub.places import PARTIAL, cache_dir
from cache.patience import BRISK
from tests.hub.builders import llama, model_files, safetensors_bytes
from tests.hub.faults import Cut, FlippedBit, Headers, Latency, Redirect, Status, Trickle, Truncated
from tests.hub.loopback import TOKEN, LoopbackHub

MODEL = llama(layers=1)
FILES = model_files(MODEL)
WEIGHTS = r"/resolve/.*safetensors"
FILE = "model.safetensors"


def find(text, settings):
    return catalog.find(parse_model(text), settings)


def fetch(found, settings, files=(FILE,), on_bytes=lambda _: None):
    return catalog.fetch(found, files, settings, on_bytes)


# Finding


@pytest.mark.parametrize("shards", [1, 3])
def test_a_model_is_pinned_and_its_tensors_listed_without_downloading_it(hub, hub_settings, shards):
    files = model_files(llama(layers=3, hidden=64), shards=shards)
    commit = hub.add("org/model", files)
    found = find("org/model", hub_settings)
    assert (found.pinned.name, found.pinned.commit, found.pinned.where) == ("org/model", commit, "hub")
    assert found.config["model_type"] == "llama"
    assert found.size_of_file() == {name: len(content) for name, content in files.items()}
    tensors = catalog.list_tensors(found, hub_settings)
    assert {t.name: t.shape for t in tensors} == {n: t.shape for n, t in llama(layers=3, hidden=64).items()}
    assert not any(asked.range == "" for asked in hub.asked("/resolve/"))
    assert catalog.bytes_to_fetch(found, {t.file for t in tensors}, hub_settings) == sum(
        len(content) for name, content in files.items() if name.endswith(".safetensors")
    )


def test_only_the_header_is_asked_of_a_large_file(hub, hub_settings):
    hub.add("org/model", model_files(llama(layers=2, hidden=128, vocabulary=512)))
    catalog.list_tensors(find("org/model", hub_settings), hub_settings)
    assert [asked.range for asked in hub.asked(WEIGHTS)] == ["bytes=0-99999"]


@pytest.mark.parametrize("revision", ["main", "v1", "refs/pr/2", "the commit"])
def test_a_revision_becomes_a_commit_and_only_that_is_asked_for(hub, hub_settings, revision):
    commit = hub.add("org/model", FILES)
    hub.tag("org/model", "v1", commit)
    hub.tag("org/model", "refs/pr/2", commit)
    revision = commit if revision == "the commit" else revision
    found = find(f"org/model@{revision}", hub_settings)
    hub.add("org/model", {"config.json": b"{}"})  # the branch moves on
    catalog.list_tensors(found, hub_settings)
    assert found.pinned.commit == commit
    assert all(f"/resolve/{commit}/" in asked.path for asked in hub.asked("/resolve/"))
    assert str(find(str(found.pinned), hub_settings).pinned) == str(found.pinned)


def test_a_subfolder_is_a_model_of_its_own(hub, hub_settings):
    commit = hub.add("org/runs", {"README.md": b"", **{f"step-100/{name}": c for name, c in FILES.items()}})
    found = find("org/runs/step-100", hub_settings)
    assert found.pinned.key == f"{commit}/step-100"
    assert set(found.size_of_file()) == {FILE, "config.json"}
    tensors = catalog.list_tensors(found, hub_settings)
    assert {tensor.file for tensor in tensors} == {FILE}
    folder = fetch(found, hub_settings)
    assert (folder / FILE).read_bytes() == FILES[FILE]


def test_weights_in_subfolders_only_are_pointed_out(hub, hub_settings):
    hub.add("org/runs", {f"step-100/{name}": content for name, content in FILES.items()})
    with pytest.raises(NoWeights, match="folders: step-100"):
        catalog.list_tensors(find("org/runs", hub_settings), hub_settings)


@pytest.mark.parametrize(
    ("files", "card", "base"),
    [
        pytest.param(FILES, "base_model: org/base", "org/base", id="card"),
        pytest.param(FILES, "base_model:\n- org/base\n- org/other", "org/base", id="a list"),
        pytest.param(FILES, "license: mit", None, id="says nothing"),
        pytest.param(FILES, "base_model: ../../outside", None, id="a path"),
        pytest.param(FILES, "base_model: {a: 1}", None, id="a mapping"),
        pytest.param(FILES, "base_model: [7, org/base]", None, id="a number"),
        pytest.param({"adapter_config.json": b'{"base_model_name_or_path": "org/base"}'}, "", "org/base", id="adapter"),
        pytest.param({"adapter_config.json": b"[" * 10_000}, "", None, id="adapter too deep"),
    ],
)
def test_the_base_model_that_a_model_names(hub, hub_settings, files, card, base):
    hub.add("org/model", files, card=card)
    assert catalog.suggest_base(parse_model("org/model"), hub_settings) == base


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(b'{"hidden_size": 8, "rope": NaN}', {"hidden_size": 8, "rope": None}, id="NaN"),
        pytest.param(b"<html>", {}, id="a web page"),
        pytest.param(b"[1]", {}, id="a list"),
        pytest.param(b"[" * 100_000, {}, id="too deep"),
        pytest.param(b'{"layers": 1%s}' % (b"0" * 5000), {}, id="a number of 5,000 digits"),
    ],
)
def test_a_strange_config_does_not_stop_the_comparison(hub, hub_settings, config, expected):
    hub.add("org/model", {"config.json": config, FILE: FILES[FILE]})
    found = find("org/model", hub_settings)
    assert found.config == expected
    assert len(catalog.list_tensors(found, hub_settings)) == len(MODEL)


# Refusals


@pytest.mark.parametrize(
    ("text", "state", "error", "words"),
    [
        pytest.param("org/none", {}, ModelNotFound, "no model 'org/none' on the Hub, or it is private", id="wrong id"),
        pytest.param("org/model", {"private": True}, ModelNotFound, "or it is private", id="private"),
        pytest.param("org/model", {"gated": True}, AccessDenied, "'org/model' is gated", id="gated"),
        pytest.param("org/model", {"disabled": True}, AccessDenied, "has been disabled", id="disabled"),
        pytest.param("org/model@v9", {}, RevisionNotFound, "'org/model' has no revision 'v9'", id="no revision"),
        pytest.param("org/model/none", {}, ModelNotFound, "'org/model' has no folder 'none'", id="no folder"),
    ],
)
def test_what_the_hub_refuses_is_said_in_our_words(hub, hub_settings, text, state, error, words):
    hub.add("org/model", FILES, **state)
    with pytest.raises(error) as caught:
        find(text, hub_settings)
    assert words in str(caught.value)
    assert not re.search(r"<img|http|X-Amz|Invalid", str(caught.value))


def test_a_gated_model_without_a_config_is_refused_when_it_is_looked_up(hub, hub_settings):
    hub.add("org/model", {FILE: FILES[FILE]}, gated=True)
    with pytest.raises(AccessDenied, match="gated"):
        find("org/model", hub_settings)


@pytest.mark.parametrize("state", [{"private": True}, {"gated": True}])
def test_a_token_in_the_environment_opens_what_it_may(hub, hub_settings, monkeypatch, state):
    hub.add("org/model", FILES, **state)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    found = find("org/model", hub_settings)
    assert len(catalog.list_tensors(found, hub_settings)) == len(MODEL)
    assert (fetch(found, hub_settings) / FILE).is_file()


def test_a_token_that_the_hub_does_not_know(hub, hub_settings, monkeypatch):
    hub.add("org/model", FILES)
    monkeypatch.setenv("HF_TOKEN", "hf_wrongToken12345")
    with pytest.raises(AccessDenied, match="does not accept the token") as caught:
        find("org/model", hub_settings)
    assert "hf_wrong" not in str(caught.value)


def test_a_token_stored_on_this_machine_is_not_used(hub, hub_settings, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").write_text(TOKEN)
    hub.add("org/model", FILES)
    fetch(find("org/model", hub_settings), hub_settings)
    assert {asked.authorization for asked in hub.requests} == {""}


def test_the_token_is_in_no_message_and_no_log(hub, hub_settings, monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    caplog.set_level("DEBUG")
    hub.add("org/model", FILES)
    found = find("org/model", hub_settings)
    hub.fail(FlippedBit(path=WEIGHTS))
    with pytest.raises(BadWeights) as damaged:
        fetch(found, hub_settings)
    hub.fail(Status(path="/api/", status=500))
    with pytest.raises(HubUnreachable) as broken:
        find("org/model", hub_settings)
    assert {asked.authorization for asked in hub.requests} == {f"Bearer {TOKEN}"}
    told = [*traceback.format_exception(damaged.value), *traceback.format_exception(broken.value), caplog.text]
    assert not any(TOKEN in text for text in told)


def test_the_library_is_switched_before_it_is_imported():
    program = (
        "import cache.catalog, huggingface_hub.constants as c; print(c.HF_HUB_DISABLE_XET, c.HF_HUB_DISABLE_TELEMETRY)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60)
    assert child.stdout.split() == ["True", "True"], child.stderr


def test_what_is_cached_is_not_served_once_the_hub_refuses(hub, hub_settings):
    hub.add("org/model", FILES)
    found = find("org/model", hub_settings)
    fetch(found, hub_settings)
    hub.repositories["org/model"].gated = True
    for again in (lambda: find("org/model", hub_settings), lambda: fetch(found, hub_settings)):
        with pytest.raises(AccessDenied, match="gated"):
            again()


# A Hub in trouble


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Status(status=503, times=2), id="503 twice"),
        pytest.param(Status(status=500, times=1), id="500"),
        pytest.param(Status(status=429, retry_after="1", times=1), id="429, come back in a second"),
        pytest.param(Cut(path=WEIGHTS, after=50, times=2), id="connection cut in the header, twice"),
        pytest.param(Latency(seconds=0.3), id="late answers"),
    ],
)
def test_passing_trouble_is_ridden_out(hub, hub_settings, fault):
    hub.add("org/model", FILES)
    hub.fail(fault)
    found = find("org/model", hub_settings)
    assert len(catalog.list_tensors(found, hub_settings)) == len(MODEL)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        pytest.param(Status(status=503), "answered with error 503", id="503 for ever"),
        pytest.param(Status(status=429), "slow down", id="429 without a time"),
        pytest.param(Status(status=429, retry_after="86400"), "come back in 24 hours", id="429 for a day"),
        pytest.param(Status(status=503, retry_after="600"), "come back in 10 minutes", id="503 for ten minutes"),
        pytest.param(Status(status=200, text="<html>Sign in</html>"), "could not be understood", id="a web page"),
        pytest.param(Status(status=200, text="{}"), "could not be understood", id="another JSON"),
        pytest.param(Redirect(to="http://127.0.0.2:9/"), "inside this network", id="sent into the local network"),
    ],
)
def test_lasting_trouble_ends_soon_and_says_what_to_do(hub, hub_settings, fault, words):
    hub.add("org/model", FILES)
    hub.fail(fault)
    started = time.monotonic()
    with pytest.raises(HubUnreachable) as caught:
        find("org/model", hub_settings)
    assert words in str(caught.value)
    assert not re.search(r"<|http:|X-Amz", str(caught.value))
    assert time.monotonic() - started < 5


def test_a_date_to_come_back_at_is_understood(hub, hub_settings):
    hub.add("org/model", FILES)
    hub.fail(Status(status=429, retry_after=formatdate(time.time() + 3 * 3600, usegmt=True)))
    with pytest.raises(HubUnreachable, match="come back in 3 hours"):
        find("org/model", hub_settings)


def test_no_hub_at_all(hub_settings):
    gone = LoopbackHub()
    settings = type(hub_settings)(**{**vars(hub_settings), "endpoint": gone.url})
    gone.start()
    gone.stop()
    with pytest.raises(HubUnreachable, match=r"No answer from the Hub about 'org/model'.*local folders"):
        find("org/model", settings)


def test_a_body_that_trickles_is_given_up(hub, hub_settings):
    hub.add("org/model", {FILE: FILES[FILE]})
    hub.fail(Trickle(path=WEIGHTS, seconds=0.02))
    hurried = replace(hub_settings, patience=replace(BRISK, slow_for=0.2))
    with pytest.raises(HubBusy):
        catalog.list_tensors(find("org/model", hurried), hurried)


def test_a_wrong_range_is_never_taken_for_the_right_one(hub, hub_settings):
    hub.add("org/model", {FILE: FILES[FILE]})
    hub.fail(Headers(path=WEIGHTS, values=(("Content-Range", "bytes 7-99/100"),)))
    with pytest.raises(HubUnreachable, match="could not be understood"):
        catalog.list_tensors(find("org/model", hub_settings), hub_settings)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git-lfs", id="lfs pointer"
        ),
        pytest.param(FILES[FILE][:-1], "cut off", id="cut off"),
        pytest.param(b"<html>", "too few", id="short page"),
    ],
)
def test_files_that_are_no_weights(hub, hub_settings, content, words):
    hub.add("org/model", {FILE: content})
    with pytest.raises(BadWeights, match=words):
        catalog.list_tensors(find("org/model", hub_settings), hub_settings)


# Downloading


def test_files_arrive_checked_and_are_not_fetched_twice(hub, hub_settings):
    hub.add("org/model", FILES)
    found, arrived = find("org/model", hub_settings), []
    folder = fetch(found, hub_settings, on_bytes=arrived.append)
    assert (folder / FILE).read_bytes() == FILES[FILE]
    assert sum(arrived) == len(FILES[FILE])
    assert catalog.bytes_to_fetch(found, [FILE], hub_settings) == 0
    assert fetch(found, hub_settings, on_bytes=pytest.fail) == folder
    assert len(hub.asked(WEIGHTS, "GET")) == 1


def test_a_new_commit_with_the_same_weights_costs_nothing(hub, hub_settings):
    hub.add("org/model", FILES)
    fetch(find("org/model", hub_settings), hub_settings)
    hub.add("org/model", {**FILES, "LICENSE": b"MIT"})
    found = find("org/model", hub_settings)
    assert catalog.bytes_to_fetch(found, [FILE], hub_settings) == 0
    assert (fetch(found, hub_settings, on_bytes=pytest.fail) / FILE).read_bytes() == FILES[FILE]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(FlippedBit(path=WEIGHTS, times=1), id="flipped bit"),
        pytest.param(Truncated(path=WEIGHTS, by=5, times=1), id="too short"),
        pytest.param(Cut(path=WEIGHTS, after=5000, times=1), id="connection cut"),
        pytest.param(Status(path=WEIGHTS, method="GET", status=503, times=1), id="503"),
    ],
)
def test_a_download_damaged_once_is_fetched_again(hub, hub_settings, fault):
    hub.add("org/model", FILES)
    found, arrived = find("org/model", hub_settings), []
    hub.fail(fault)
    folder = fetch(found, hub_settings, on_bytes=arrived.append)
    assert (folder / FILE).read_bytes() == FILES[FILE]
    assert sum(arrived) == len(FILES[FILE])


@pytest.mark.parametrize("fault", [FlippedBit(path=WEIGHTS), Truncated(path=WEIGHTS)])
def test_a_download_damaged_twice_is_refused_and_not_kept(hub, hub_settings, fault):
    hub.add("org/model", FILES)
    found, arrived = find("org/model", hub_settings), []
    hub.fail(fault)
    with pytest.raises(BadWeights, match="arrived damaged twice"):
        fetch(found, hub_settings, on_bytes=arrived.append)
    assert sum(arrived) == 0
    assert not [path for path in cache_dir().rglob("blobs/*") if path.is_file()]
    assert catalog.bytes_to_fetch(found, [FILE], hub_settings) == len(FILES[FILE])


def test_a_file_damaged_in_the_cache_is_noticed_and_replaced(hub, hub_settings):
    hub.add("org/model", FILES)
    found = find("org/model", hub_settings)
    path = fetch(found, hub_settings) / FILE
    blob = path.resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x55")
    os.utime(blob, ns=(0, 1))
    assert (fetch(found, hub_settings) / FILE).read_bytes() == FILES[FILE]


def test_a_file_is_hashed_once_until_it_changes(hub, hub_settings, monkeypatch):
    hub.add("org/model", FILES)
    found = find("org/model", hub_settings)
    fetch(found, hub_settings)
    monkeypatch.setattr("hashlib.file_digest", pytest.fail)
    fetch(found, hub_settings)


def test_a_bit_that_the_disk_lost_unseen_is_found_within_a_week(hub, hub_settings):
    hub.add("org/model", FILES)
    found = find("org/model", hub_settings)
    blob = (fetch(found, hub_settings) / FILE).resolve()
    seen = blob.stat()
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x55")
    os.utime(blob, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    [note] = (hub_settings.data_dir / "verified").iterdir()
    os.utime(note, (0, time.time() - 8 * 24 * 3600))
    arrived = []
    assert (fetch(found, hub_settings, on_bytes=arrived.append) / FILE).read_bytes() == FILES[FILE]
    assert (arrived[0], sum(arrived)) == (-len(FILES[FILE]), 0)


def test_a_small_file_is_checked_by_its_git_id(hub, hub_settings):
    hub.add("org/model", FILES)
    found = find("org/model", hub_settings)
    hub.fail(FlippedBit(path="config.json", times=1))
    folder = fetch(found, hub_settings, files=["config.json"])
    assert (folder / "config.json").read_bytes() == FILES["config.json"]
    assert (folder / "config.json").resolve().name == found.files[0].git_id


def test_the_library_and_we_share_what_is_cached(hub, hub_settings):
    commit = hub.add("org/model", FILES)
    found = find("org/model", hub_settings)
    asked = {"revision": commit, "endpoint": hub.url, "cache_dir": cache_dir(), "token": False}
    theirs = hf_hub_download("org/model", "config.json", **asked)
    folder = fetch(found, hub_settings, files=[FILE, "config.json"])
    assert str(folder / "config.json") == theirs
    hub.requests.clear()
    assert hf_hub_download("org/model", FILE, **asked) == str(folder / FILE)
    assert (folder / FILE).readlink() == Path("../../blobs") / str(found.files[1].sha256)
    assert not hub.requests
    [repository] = scan_cache_dir(cache_dir()).repos
    assert repository.size_on_disk == sum(map(len, FILES.values()))


def test_the_token_does_not_follow_to_another_host(hub, hub_settings, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    commit = hub.add("org/model", FILES, private=True)
    found = find("org/model", hub_settings)
    with LoopbackHub() as storage:
        storage.add("org/model", FILES)
        hub.fail(Redirect(path=WEIGHTS, to=f"{storage.url}/org/model/resolve/{commit}/{FILE}"))
        storage.fail(Cut(after=5000, times=1))
        assert (fetch(found, hub_settings) / FILE).read_bytes() == FILES[FILE]
        assert [asked.authorization for asked in storage.requests] == ["", ""]
    assert {asked.authorization for asked in hub.asked(WEIGHTS)} == {f"Bearer {TOKEN}"}
    assert [asked.range.split("-")[0] for asked in hub.asked(WEIGHTS, "GET")] == ["bytes=0", "bytes=5000"]


def test_an_exception_from_the_listener_ends_the_download(hub, hub_settings):
    hub.add("org/model", FILES)

    def stop(_: int) -> None:
        raise BrokenPipeError("nobody listens")

    with pytest.raises(BrokenPipeError):
        fetch(find("org/model", hub_settings), hub_settings, on_bytes=stop)
    assert [path.stat().st_size for path in cache_dir().rglob("blobs/*")] == [len(FILES[FILE])]
    assert fetch(find("org/model", hub_settings), hub_settings, on_bytes=pytest.fail)


def test_partial_files_that_nobody_resumes_are_swept(hub, hub_settings):
    hub.add("org/model", FILES)
    blobs = cache_dir() / "models--other--model" / "blobs"
    blobs.mkdir(parents=True)
    ages = {"old.incomplete": 25, "young.incomplete": 1, f"old{PARTIAL}": 8 * 24, f"young{PARTIAL}": 6 * 24}
    for name, hours in ages.items():
        (blobs / name).write_bytes(b"half")
        os.utime(blobs / name, (0, time.time() - hours * 3600))
    fetch(find("org/model", hub_settings), hub_settings)
    assert {path.name for path in blobs.iterdir()} == {"young.incomplete", f"young{PARTIAL}"}


def test_a_disk_too_small_is_said_before_anything_is_fetched(hub, hub_settings, monkeypatch):
    hub.add("org/model", FILES)
    found = find("org/model", hub_settings)
    monkeypatch.setattr("cache.hub.downloads._SPARE_DISK", 10**18)
    with pytest.raises(DiskFull, match="GB free"):
        fetch(found, hub_settings)
    assert not hub.asked(WEIGHTS, "GET")


def test_the_hub_cannot_choose_where_a_file_is_put(hub, hub_settings, tmp_path):
    hub.add("org/model", FILES)
    found = find("org/model", hub_settings)
    escape = '"../../../../escaped"'
    hub.fail(Headers(path=WEIGHTS, values=(("ETag", escape), ("X-Linked-Etag", escape))))
    assert (fetch(found, hub_settings) / FILE).read_bytes() == FILES[FILE]
    hub.add("org/model", {**FILES, "../../../escaped.safetensors": FILES[FILE]})
    with pytest.raises(BadWeights, match="lists weights under the name"):
        find("org/model", hub_settings)
    assert not list(tmp_path.rglob("escaped*"))


def test_an_offline_switch_is_named(hub, hub_settings, monkeypatch):
    hub.add("org/model", FILES)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachable, match="HF_HUB_OFFLINE is set"):
        find("org/model", hub_settings)


def test_an_index_that_its_shards_contradict(hub, hub_settings):
    files = model_files(MODEL, shards=2)
    shard = "model-00002-of-00002.safetensors"
    hub.add("org/model", {**files, shard: safetensors_bytes({"lm_head.weight": MODEL["lm_head.weight"]})})
    with pytest.raises(BadWeights, match=rf"the index names \d+ tensors .* in {re.escape(shard)}"):
        catalog.list_tensors(find("org/model", hub_settings), hub_settings)
