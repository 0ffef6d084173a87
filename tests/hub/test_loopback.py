"""The loopback Hub is a Hub to the real library: what it answers, and what the library makes of its faults."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub.builders import llama, model_files
from tests.hub.faults import Status
from tests.hub.loopback import TOKEN, LoopbackHub

FILES = model_files(llama(layers=1), shards=2)


def api(hub: LoopbackHub, token: str | bool = False) -> HfApi:
    return HfApi(endpoint=hub.url, token=token)


def test_the_library_reads_commit_files_and_card(hub):
    commit = hub.add("org/model", FILES, card="base_model: org/base\nlicense: mit")
    info = api(hub).model_info("org/model", files_metadata=True)
    assert (info.sha, info.card_data.base_model) == (commit, "org/base")
    assert {file.rfilename: file.size for file in info.siblings} == {n: len(c) for n, c in FILES.items()} | {
        "README.md": len(b"---\nbase_model: org/base\nlicense: mit\n---\n# A model\n")
    }
    assert [file.rfilename for file in info.siblings if file.lfs] == sorted(
        n for n in FILES if n.endswith("safetensors")
    )


def test_the_library_downloads_a_snapshot(hub, tmp_path):
    commit = hub.add("org/model", FILES)
    folder = snapshot_download("org/model", endpoint=hub.url, cache_dir=tmp_path, token=False)
    assert folder.endswith(commit)
    assert {name: Path(folder, name).read_bytes() for name in FILES} == FILES


def test_revisions_are_branches_tags_and_commits(hub):
    first = hub.add("org/model", {"a": b"1"})
    second = hub.add("org/model", {"a": b"2"})
    side = hub.add("org/model", {"a": b"3"}, branch="refs/pr/1")
    hub.tag("org/model", "v1", first)
    revisions = {"main": second, "v1": first, first: first, "refs/pr/1": side}
    assert {name: api(hub).model_info("org/model", revision=name).sha for name in revisions} == revisions
    refs = api(hub).list_repo_refs("org/model")
    assert {branch.name for branch in refs.branches} == {"main", "refs/pr/1"}
    assert {tag.name: tag.target_commit for tag in refs.tags} == {"v1": first}


@pytest.mark.parametrize(
    ("state", "token", "error"),
    [
        pytest.param(None, False, RepositoryNotFoundError, id="missing"),
        pytest.param(None, TOKEN, RepositoryNotFoundError, id="missing, with a token"),
        pytest.param({"private": True}, False, RepositoryNotFoundError, id="private"),
        pytest.param({"gated": True}, False, GatedRepoError, id="gated"),
        pytest.param({"disabled": True}, TOKEN, DisabledRepoError, id="disabled"),
        pytest.param({}, "hf_unknownToken", HfHubHTTPError, id="wrong token"),
    ],
)
def test_the_library_raises_its_own_errors(hub, state, token, error):
    if state is not None:
        hub.add("org/model", FILES, **state)
    with pytest.raises(error):
        get_hf_file_metadata(hf_hub_url("org/model", "config.json", endpoint=hub.url), token=token)


def test_missing_revisions_and_files(hub, tmp_path):
    hub.add("org/model", FILES)
    with pytest.raises(RevisionNotFoundError):
        api(hub).model_info("org/model", revision="v9")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("org/model", "none.json", endpoint=hub.url, token=False, cache_dir=tmp_path)


@pytest.mark.parametrize("state", [{"private": True}, {"gated": True}])
def test_the_readers_token_opens_private_and_gated_models(hub, tmp_path, state):
    hub.add("org/model", FILES, **state)
    path = hf_hub_download("org/model", "config.json", endpoint=hub.url, token=TOKEN, cache_dir=tmp_path)
    assert json.loads(Path(path).read_text())["model_type"] == "llama"


def test_a_fault_strikes_as_often_as_it_was_told_to(hub):
    hub.add("org/model", FILES)
    hub.fail(Status(path="/api/", status=503, times=1))
    with pytest.raises(HTTPError):
        api(hub).model_info("org/model")
    assert api(hub).model_info("org/model").id == "org/model"
    assert [asked.path for asked in hub.requests] == ["/api/models/org/model"] * 2


def test_a_child_process_finds_it_by_hf_endpoint(hub):
    commit = hub.add("org/model", FILES)
    program = "import huggingface_hub as h; print(h.model_info('org/model').sha)"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert child.stdout.strip() == commit
