"""Local folders: what they are called, how they are pinned, and what may not be read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from analysis.errors import BadWeights, FileChanged, NoWeights, PathNotAllowed, RevisionNotFound
from analysis.models import parse_model
from cache import catalog, folders
from cache.settings import Settings
from tests.hub.builders import llama, llama_pair, write_model

MODEL = llama(layers=1)
FILE = "model.safetensors"


@pytest.fixture
def settings(roots: Path, tmp_path: Path) -> Settings:
    """One allowed root called 'models'; no Hub is ever asked."""
    environment = {"SUBNETSCOPE_LOCAL_ROOTS": str(roots), "SUBNETSCOPE_DEMO": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    return Settings.from_environment(environment, data_dir=tmp_path / "data")


def find(text: str | Path, settings: Settings, **how: bool):
    ref = catalog.reference(str(text), any_folder=how.get("any_folder", False))
    return catalog.find(ref, settings, **how)


@pytest.mark.parametrize("text", ["./models/run/step-1", "{roots}/run/step-1", "{roots}/run/../run/step-1/"])
def test_a_folder_has_one_name_however_it_was_typed(roots, settings, text):
    folder = write_model(roots / "run" / "step-1", MODEL, shards=2)
    found = find(text.format(roots=roots), settings)
    assert (found.pinned.name, found.folder) == ("./models/run/step-1", folder)
    assert found.config["model_type"] == "llama"
    assert {t.name for t in catalog.list_tensors(found, settings)} == set(MODEL)
    assert catalog.bytes_to_fetch(found, [FILE], settings) == 0
    assert catalog.fetch(found, [FILE], settings, pytest.fail) == folder
    assert find(str(found.pinned), settings).pinned == found.pinned


def test_the_root_itself_may_be_a_model(roots, settings):
    write_model(roots, MODEL)
    assert find("./models", settings).pinned.name == "./models"


def test_an_unknown_root_name_is_relative_to_where_we_are(roots, settings, monkeypatch):
    write_model(roots / "run", MODEL)
    monkeypatch.chdir(roots)
    assert find("./run", settings).pinned.name == "./models/run"


# Pinning


def test_the_commit_follows_the_weights_and_nothing_else(roots, settings):
    folder = write_model(roots / "a", MODEL)
    write_model(roots / "b", MODEL)
    commit = find("./models/a", settings).pinned.commit
    assert commit.startswith("files-")
    assert find("./models/b", settings).pinned.commit == commit, "the same weights elsewhere"
    (folder / "README.md").write_text("# Hello")
    assert find("./models/a", settings).pinned.commit == commit, "a card is no weight"
    content = bytearray((folder / FILE).read_bytes())
    content[-1] ^= 1
    (folder / FILE).write_bytes(content)
    assert find("./models/a", settings).pinned.commit != commit, "one bit is enough"


def test_large_files_are_pinned_by_header_size_and_time(roots, settings, monkeypatch):
    monkeypatch.setattr("cache.folders._WHOLE_FILE", 1000)
    path = write_model(roots / "a", MODEL) / FILE
    commit = find("./models/a", settings).pinned.commit
    assert find("./models/a", settings).pinned.commit == commit
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert find("./models/a", settings).pinned.commit != commit


def test_a_link_to_weights_that_have_changed_says_so(roots, settings):
    base, tuned = llama_pair(layers=1)
    write_model(roots / "a", base)
    before = find("./models/a", settings)
    write_model(roots / "a", tuned)
    with pytest.raises(RevisionNotFound, match="have changed since"):
        find(str(before.pinned), settings)
    with pytest.raises(FileChanged, match="after the comparison began"):
        catalog.fetch(before, [FILE], settings, pytest.fail)


# What may not be read


def outside(roots: Path) -> Path:
    return write_model(roots.parent / "secret", MODEL)


def test_not_there_and_not_allowed_are_told_in_the_same_words(roots, settings):
    outside(roots)
    (roots / "file").write_text("")
    (roots / "link").symlink_to(roots.parent / "secret")
    (roots / "loop").symlink_to(roots / "loop")
    texts = ["./models/none", "{out}", "{out}/none", "./models/link", "./models/loop", "./models/file"]
    texts += ["./models/../secret", "~/none", "/", "/proc/self"]
    answers = set()
    for text in (text.format(out=roots.parent / "secret") for text in texts):
        with pytest.raises(PathNotAllowed) as caught:
            find(text, settings)
        answers.add(str(caught.value).replace(f"'{text}'", "'…'"))
    assert len(answers) == 1


def test_without_roots_nothing_may_be_read(roots, tmp_path):
    write_model(roots / "a", MODEL)
    settings = Settings.from_environment({"SUBNETSCOPE_DEMO": "0"}, data_dir=tmp_path / "data")
    with pytest.raises(PathNotAllowed, match="reads no local folders"):
        find(roots / "a", settings)


@pytest.mark.parametrize("name", [FILE, "model.safetensors.index.json"])
def test_a_weight_file_linked_from_outside_is_refused(roots, settings, name):
    secret = outside(roots)
    folder = write_model(roots / "a", MODEL)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret / FILE)
    with pytest.raises(PathNotAllowed, match=name):
        find("./models/a", settings)


def test_other_files_linked_from_outside_are_as_if_not_there(roots, settings):
    secret = roots.parent / "config.json"
    secret.write_text('{"password": 1}')
    folder = write_model(roots / "a", MODEL)
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(secret)
    found = find("./models/a", settings)
    assert found.config == {}
    assert "config.json" not in found.size_of_file()


def test_a_link_put_there_after_finding_is_refused(roots, settings):
    secret = outside(roots)
    folder = write_model(roots / "a", MODEL)
    found = find("./models/a", settings)
    (folder / FILE).unlink()
    (folder / FILE).symlink_to(secret / FILE)
    with pytest.raises(PathNotAllowed):
        catalog.list_tensors(found, settings)


def test_the_layout_of_the_hub_cache_works(roots, settings):
    repository = roots / "models--org--model"
    snapshot = write_model(repository / "snapshots" / ("0" * 40), MODEL)
    (repository / "blobs").mkdir()
    (snapshot / FILE).rename(repository / "blobs" / "abc")
    (snapshot / FILE).symlink_to("../../blobs/abc")
    found = find(f"./models/models--org--model/snapshots/{'0' * 40}", settings)
    assert len(catalog.list_tensors(found, settings)) == len(MODEL)


@pytest.mark.timeout(10)
def test_a_pipe_is_not_waited_for(roots, settings):
    folder = roots / "a"
    folder.mkdir()
    os.mkfifo(folder / FILE)
    with pytest.raises(BadWeights, match="not a regular file"):
        find("./models/a", settings)


@pytest.mark.timeout(10)
def test_a_pipe_put_there_after_finding_is_not_waited_for(roots, settings):
    folder = write_model(roots / "a", MODEL)
    found = find("./models/a", settings)
    (folder / FILE).unlink()
    os.mkfifo(folder / FILE)
    with pytest.raises(BadWeights, match="not a regular file"):
        folders.read_model_range(found, FILE, 0, 8)


def test_a_file_cut_after_finding(roots, settings):
    folder = write_model(roots / "a", MODEL)
    found = find("./models/a", settings)
    os.truncate(folder / FILE, 20)
    with pytest.raises(FileChanged, match="cut while it was read"):
        catalog.list_tensors(found, settings)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull", id="lfs"),
        pytest.param(b"<!doctype html><title>Sign in</title>", "web page", id="html"),
        pytest.param(b"\x80\x02}q\x00X\x05\x00\x00\x00modelq", "pickle", id="pickle"),
    ],
)
def test_what_else_lies_under_a_weight_files_name(roots, settings, content, words):
    (roots / "a").mkdir()
    (roots / "a" / FILE).write_bytes(content)
    with pytest.raises(BadWeights, match=words):
        catalog.list_tensors(find("./models/a", settings), settings)


def test_checkpoints_below_a_folder_are_pointed_out(roots, settings):
    write_model(roots / "run" / "checkpoint-100", MODEL)
    with pytest.raises(NoWeights, match="folders: checkpoint-100"):
        catalog.list_tensors(find("./models/run", settings), settings)


# In the terminal


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        pytest.param("runs/step-1", "./runs/step-1", id="as other programs take it"),
        pytest.param("./runs/step-1", "./runs/step-1", id="from here"),
        pytest.param("{here}/runs/step-1", "{here}/runs/step-1", id="absolute"),
        pytest.param("../work/runs/step-1", "../work/runs/step-1", id="from above"),
    ],
)
def test_any_folder_may_be_named_in_the_terminal(tmp_path, settings, monkeypatch, typed, name):
    here = tmp_path / "work"
    write_model(here / "runs" / "step-1", MODEL)
    monkeypatch.chdir(here)
    found = find(typed.format(here=here), settings, any_folder=True)
    assert found.pinned.name == name.format(here=here)
    assert len(catalog.list_tensors(found, settings)) == len(MODEL)
    assert catalog.fetch(found, [FILE], settings, pytest.fail) == here / "runs" / "step-1"
    again = find(str(found.pinned), settings, any_folder=True)
    assert again.pinned == found.pinned


def test_roots_keep_their_names_in_the_terminal(roots, settings, monkeypatch, tmp_path):
    write_model(roots / "run", MODEL)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert find("./models/run", settings, any_folder=True).folder == roots / "run"


# Which base


@pytest.mark.parametrize(
    ("card", "siblings", "suggestion"),
    [
        pytest.param("---\nbase_model: org/base\n---\n", [], "org/base", id="an id"),
        pytest.param("---\nbase_model: org/base\n---\n", ["base"], "./models/base", id="a folder of that name"),
        pytest.param("---\nbase_model: /home/me/base\n---\n", ["base"], "./models/base", id="a path, found here"),
        pytest.param("---\nbase_model: /home/me/base\n---\n", [], None, id="a path, not here"),
        pytest.param("---\nbase_model: [a\n---\n", [], None, id="broken YAML"),
        pytest.param("---\nbase_model: !!python/name:os.system x\n---\n", [], None, id="a tag that would run code"),
        pytest.param("---\nbase_model: ../..\n---\n", [], None, id="a way up"),
        pytest.param("# No front matter", [], None, id="no front matter"),
        pytest.param("", [], None, id="empty"),
    ],
)
def test_the_base_that_a_folder_names(roots, settings, card, siblings, suggestion):
    folder = write_model(roots / "tuned", MODEL)
    (folder / "README.md").write_text(card)
    for sibling in siblings:
        write_model(roots / sibling, MODEL)
    assert catalog.suggest_base(parse_model("./models/tuned"), settings) == suggestion
    assert find("./models/tuned", settings).base_model == suggestion


def test_an_adapter_names_its_base_too(roots, settings):
    folder = roots / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    assert catalog.suggest_base(parse_model("./models/adapter"), settings) == "org/base"


def test_aliases_that_multiply_are_harmless(roots, settings):
    folder = write_model(roots / "bomb", MODEL)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    (folder / "README.md").write_text("---\n" + "\n".join([*lines, "base_model: *a9"]) + "\n---\n")
    assert catalog.suggest_base(parse_model("./models/bomb"), settings) is None


def test_a_real_pair_lists_its_tensors(settings, tmp_path):
    data = Path(os.environ.get("SUBNETSCOPE_REAL_WEIGHTS", Path(__file__).parents[3] / "shared" / "data"))
    if not (data / "trees-grpo").is_dir():
        pytest.skip("no real weights here")
    environment = {"SUBNETSCOPE_LOCAL_ROOTS": str(data), "SUBNETSCOPE_DEMO": "0"}
    settings = Settings.from_environment(environment, data_dir=tmp_path / "data")
    for name in ("run2-pretrained", "run2-grpo200"):
        found = find(f"./{data.name}/trees-grpo/{name}", settings)
        assert 100_000 < sum(t.parameters for t in catalog.list_tensors(found, settings)) < 110_000
    adapter = find(f"./{data.name}/gpt2-lora/step1500", settings)
    assert adapter.is_adapter
    assert len(catalog.list_tensors(adapter, settings)) == 24


def test_large_files_are_told_apart_though_size_and_date_are_equal(roots, settings):
    """Mounts and archives exist that give every file one date. Over 64 MB the content is hashed in many stretches."""
    commits = set()
    for seed in (1, 2):
        weights = np.random.default_rng(seed).integers(0, 255, 70_000_000, np.uint8)
        folder = write_model(roots / f"run{seed}", {"w": weights})
        os.utime(folder / "model.safetensors", ns=(0, 0))
        commits.add(find(f"./models/run{seed}", settings).pinned.commit)
    assert len(commits) == 2
