"""Folders that were prepared to mislead: links, pipes, devices, names, counts, changes while one looks.

What is no weight file counts as not there; a weight file that cannot be read is refused aloud, with its name.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.errors import BadReference, BadWeights, FileChanged, NoWeights, PathNotAllowed, SubnetscopeError
from analysis.models import ModelRef, parse_model
from cache import catalog, folders
from cache.folders import MAX_NAMES
from cache.weights.repository import INDEX_FILE
from tests.faults.refusals import assert_refused, assert_words, open_model, soon
from tests.hub.builders import llama, model_files, safetensors_bytes, write_model

pytestmark = pytest.mark.timeout(60)

FILE = "model.safetensors"
MODEL = llama(layers=1)
WHOLE = safetensors_bytes(MODEL)
HIDDEN = "canary-of-the-secret-folder"
Build = Callable[[Path], None]


def link(to: str, name: str = FILE) -> Build:
    """A link of this name; {secret} is a folder outside the root that holds a model."""
    return lambda folder: (folder / name).symlink_to(to.format(secret=folder.parents[1] / "secret"))


def in_turn(*steps: Build) -> Build:
    def build(folder: Path) -> None:
        for step in steps:
            step(folder)

    return build


def file(name: str | bytes, content: bytes = WHOLE) -> Build:
    def build(folder: Path) -> None:
        with open(os.path.join(os.fsencode(folder), os.fsencode(name)), "wb") as target:  # noqa: PTH118, PTH123
            target.write(content)

    return build


def pipe(name: str) -> Build:
    return lambda folder: os.mkfifo(folder / name)


def listening(name: str) -> Build:
    def build(folder: Path) -> None:
        before = Path.cwd()
        os.chdir(folder)  # a socket's path may have some 100 characters only
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(name)
        finally:
            os.chdir(before)

    return build


def device(name: str) -> Build:
    """/dev/zero under another name, where this user may make one."""

    def build(folder: Path) -> None:
        try:
            os.mknod(folder / name, stat.S_IFCHR | 0o600, os.makedev(1, 5))
        except PermissionError:
            pytest.skip("devices can be made by root only")

    return build


def chain(length: int) -> Build:
    def build(folder: Path) -> None:
        for number in range(length):
            (folder / f"link-{number}").symlink_to(f"link-{number + 1}")
        (folder / f"link-{length}").write_bytes(WHOLE)
        (folder / FILE).symlink_to("link-0")

    return build


def many(count: int, name: str) -> Build:
    def build(folder: Path) -> None:
        for number in range(count):
            os.close(os.open(folder / name.format(number), os.O_CREAT | os.O_WRONLY))

    return build


def nothing(folder: Path) -> None:
    """An empty folder."""


def folder_named(name: str) -> Build:
    return lambda folder: (folder / name).mkdir()


REFUSED = "may not be read"
CASES: dict[str, tuple[Build, type[SubnetscopeError], tuple[str, ...]]] = {
    # Weights that are links
    "linked from outside": (link("{secret}/" + FILE), PathNotAllowed, (FILE, REFUSED)),
    "linked from outside by way of ..": (link("../../secret/" + FILE), PathNotAllowed, (FILE, REFUSED)),
    "linked from /etc": (link("/etc/passwd"), PathNotAllowed, (FILE, REFUSED)),
    "linked from /proc": (link("/proc/self/environ"), PathNotAllowed, (FILE, REFUSED)),
    "linked from a device": (link("/dev/zero"), PathNotAllowed, (FILE, REFUSED)),
    "linked from the terminal": (link("/dev/stdin"), PathNotAllowed, (FILE, REFUSED)),
    "linked from nowhere": (link("gone"), PathNotAllowed, (FILE, REFUSED)),
    "linked from itself": (link(FILE), PathNotAllowed, (FILE, REFUSED)),
    "two links in a circle": (in_turn(link("x"), link(FILE, "x")), PathNotAllowed, (FILE, REFUSED)),
    "through a folder that is a link outside": (
        in_turn(link("{secret}", "inner"), link("inner/" + FILE)),
        PathNotAllowed,
        (FILE, REFUSED),
    ),
    "a chain of 200 links": (chain(200), PathNotAllowed, (FILE, REFUSED)),
    "an index from outside": (in_turn(file(FILE), link("{secret}/" + FILE, INDEX_FILE)), PathNotAllowed, (INDEX_FILE,)),
    "an index from nowhere": (in_turn(file(FILE), link("gone", INDEX_FILE)), PathNotAllowed, (INDEX_FILE,)),
    "a second weight file from outside": (
        in_turn(file(FILE), link("{secret}/" + FILE, "more.safetensors")),
        PathNotAllowed,
        ("more.safetensors", REFUSED),
    ),
    # Weights that are no files
    "a pipe": (pipe(FILE), BadWeights, (FILE, "not a regular file")),
    "a link to a pipe": (in_turn(pipe("p"), link("p")), BadWeights, (FILE, "not a regular file")),
    "a device": (device(FILE), BadWeights, (FILE, "not a regular file")),
    "a socket": (listening(FILE), BadWeights, (FILE, "not a regular file")),
    "a folder": (folder_named(FILE), BadWeights, (FILE, "not a regular file")),
    "a link to the folder itself": (link("."), BadWeights, (FILE, "not a regular file")),
    "an index that is a pipe": (in_turn(file(FILE), pipe(INDEX_FILE)), BadWeights, (INDEX_FILE, "not a regular file")),
    "an index that is a folder": (in_turn(file(FILE), folder_named(INDEX_FILE)), BadWeights, (INDEX_FILE,)),
    # Nothing to compare
    "empty": (nothing, NoWeights, ("stranger", "o safetensors weights here")),
    "a pickle": (file("pytorch_model.bin", b"\x80\x04."), NoWeights, ("pickles (.bin), which can run code",)),
    "a file called like a folder of weights": (file("checkpoint-1"), NoWeights, ("o safetensors weights here",)),
    "in another case": (file("Model.SafeTensors"), NoWeights, ("o safetensors weights here",)),
    "a name with a space behind": (file(FILE + " "), NoWeights, ("o safetensors weights here",)),
    "weights in a folder": (
        in_turn(folder_named("step-1"), file("step-1/" + FILE)),
        NoWeights,
        ("folders: step-1",),
    ),
    "weights in a folder whose name turns round": (
        in_turn(folder_named("s\u202e\x1b[2J"), file("s\u202e\x1b[2J/" + FILE)),
        NoWeights,
        ("folders: s\\u202e\\u001b[2J",),
    ),
    # Names
    "a name that is no UTF-8": (file(b"m\xff.safetensors"), BadWeights, ("m\\udcff.safetensors", "cannot be shown")),
    "a name that turns the text round": (
        file("m\u202esrosnetefas.safetensors"),
        BadWeights,
        ("m\\u202e", "cannot be shown"),
    ),
    "a name that clears the screen": (
        file("m\x1b[2J.safetensors"),
        BadWeights,
        ("m\\u001b[2J.safetensors", "cannot be shown"),
    ),
    "a name of two lines": (file("m\nm.safetensors"), BadWeights, ("m\\u000am", "cannot be shown")),
    "a name with a line separator": (file("m\u2028m.safetensors"), BadWeights, ("m\\u2028m", "cannot be shown")),
    "a name of HTML": (file("<img src=x>.safetensors", b""), BadWeights, ("<img src=x>.safetensors", "holds 0 bytes")),
    "a name of 255 letters": (file("m" * 243 + ".safetensors", b""), BadWeights, ("mmm", "holds 0 bytes")),
    "a name that is a way up, nearly": (file("...safetensors", b""), BadWeights, ("'...safetensors'", "0 bytes")),
    "a backslash in a name": (file("..\\m.safetensors", b""), BadWeights, ("..\\m.safetensors", "holds 0 bytes")),
    "two names that differ in case": (
        in_turn(file("a.safetensors"), file("A.safetensors")),
        BadWeights,
        ("ore than one file holds the same tensors",),
    ),
    # Counts
    "too many names": (many(MAX_NAMES + 1, "{}.txt"), BadWeights, ("stranger", f"more than {MAX_NAMES:,} files")),
}


@contextmanager
def built(roots: Path, build: Build) -> Iterator[Path]:
    """The folder './models/stranger', beside a root's neighbour that holds a secret model."""
    write_model(roots.parent / "secret", MODEL)
    (roots.parent / "secret" / f"{HIDDEN}.safetensors").write_bytes(WHOLE)
    folder = roots / "stranger"
    folder.mkdir()
    build(folder)
    yield folder
    shutil.rmtree(os.fsencode(folder))  # names that are no UTF-8 are left to nobody


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_folder_is_refused(roots, hub_settings, name):
    build, kind, words = CASES[name]
    with built(roots, build):
        assert_refused(lambda: open_model("./models/stranger", hub_settings), kind, *words)


AS_IF_NOT_THERE: dict[str, Build] = {
    "config.json from outside": link("{secret}/config.json", "config.json"),
    "config.json from /etc": link("/etc/passwd", "config.json"),
    "config.json is a pipe": pipe("config.json"),
    "config.json is a folder": folder_named("config.json"),
    "config.json is a socket": listening("config.json"),
    "config.json is a device": device("config.json"),
    "config.json is a circle": link("config.json", "config.json"),
    "README.md from outside": link("{secret}/config.json", "README.md"),
    "README.md is a pipe": pipe("README.md"),
    "README.md is a device": device("README.md"),
    "adapter_config.json is a pipe": pipe("adapter_config.json"),
    "a folder that is the root again": link("..", "up"),
    "a folder from outside": link("{secret}", "inner"),
    "a name that is no UTF-8": file(b"notes-\xff.txt"),
    "a name of 255 letters": file("n" * 255),
    "a name with a line break": file("a\nb"),
    "2,000 other files": many(2_000, "{}.txt"),
}


@pytest.mark.parametrize("name", AS_IF_NOT_THERE)
def test_what_is_no_weight_file_counts_as_not_there(roots, hub_settings, name):
    with built(roots, in_turn(AS_IF_NOT_THERE[name], file(FILE))), soon():
        assert len(open_model("./models/stranger", hub_settings)) == len(MODEL)
        found = catalog.find(parse_model("./models/stranger"), hub_settings)
        assert (found.config, found.base_model) == ({}, None)
        assert all(entry.path.isprintable() for entry in found.files)


def test_a_linked_folder_outside_is_not_looked_into(roots, hub_settings):
    with built(roots, in_turn(link("{secret}", "inner"))):
        assert_refused(lambda: open_model("./models/stranger", hub_settings), NoWeights, "o safetensors weights here")
        assert not any(
            HIDDEN in entry.path for entry in catalog.find(parse_model("./models/stranger"), hub_settings).files
        )


# Folders that change while one looks


def removed(folder: Path) -> None:
    shutil.rmtree(folder)


def cut(folder: Path) -> None:
    os.truncate(folder / FILE, 20)


def replaced_by_a_link(folder: Path) -> None:
    (folder / FILE).unlink()
    (folder / FILE).symlink_to(folder.parents[1] / "secret" / FILE)


def replaced_by_a_pipe(folder: Path) -> None:
    (folder / FILE).unlink()
    os.mkfifo(folder / FILE)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        pytest.param(removed, PathNotAllowed, id="removed"),
        pytest.param(cut, FileChanged, id="cut"),
        pytest.param(replaced_by_a_link, PathNotAllowed, id="replaced by a link"),
        pytest.param(replaced_by_a_pipe, BadWeights, id="replaced by a pipe"),
    ],
)
def test_a_folder_that_changes_after_it_was_found(roots, hub_settings, change, kind):
    write_model(roots.parent / "secret", MODEL)
    folder = write_model(roots / "stranger", MODEL)
    found = catalog.find(parse_model("./models/stranger"), hub_settings)
    change(folder)
    assert_refused(lambda: catalog.list_tensors(found, hub_settings), kind, FILE)


@pytest.mark.parametrize("step", ["scandir", "realpath", "open", "fstat"])
def test_a_folder_that_vanishes_while_it_is_found(roots, hub_settings, monkeypatch, step):
    """At the first call of each step the folder is gone: every one of them may meet that."""
    folder = write_model(roots / "stranger", MODEL)
    place = folders.locate(parse_model("./models/stranger"), hub_settings)
    owner = os.path if step == "realpath" else os
    real = getattr(owner, step)

    def vanishing(*values: object, **options: object) -> object:
        monkeypatch.undo()
        shutil.rmtree(folder)
        return real(*values, **options)

    monkeypatch.setattr(owner, step, vanishing)
    with soon(), pytest.raises(PathNotAllowed) as caught:
        folders._fingerprint(place, folders._files(place))
    assert_words(caught.value)


# Rights


@contextmanager
def as_nobody() -> Iterator[None]:
    """The block runs without root's right to read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_roots(tmp_path_factory, monkeypatch) -> Iterator[Path]:
    """A root that everybody may enter, unlike pytest's own folders."""

    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        roots = Path(made) / "models"
        roots.mkdir()
        yield roots


@pytest.mark.parametrize(
    ("closed", "words"),
    [
        pytest.param(FILE, (FILE, REFUSED), id="the weights"),
        pytest.param(INDEX_FILE, (INDEX_FILE, REFUSED), id="the index"),
        pytest.param(".", ("stranger", REFUSED), id="the folder"),
    ],
)
def test_what_may_not_be_read_is_refused(open_roots, hub_settings, closed, words):
    settings = replace(hub_settings, local_roots=(open_roots,))
    folder = write_model(open_roots / "stranger", MODEL)
    (folder / INDEX_FILE).write_bytes(model_files(MODEL, shards=2)[INDEX_FILE])
    (folder / closed).chmod(0)
    with as_nobody():
        assert_refused(lambda: open_model("./models/stranger", settings), PathNotAllowed, *words)
    (folder / closed).chmod(0o700)


def test_a_config_that_may_not_be_read_counts_as_not_there(open_roots, hub_settings):
    settings = replace(hub_settings, local_roots=(open_roots,))
    folder = write_model(open_roots / "stranger", MODEL)
    (folder / "config.json").chmod(0)
    (folder / "README.md").write_text("---\nbase_model: org/base\n---\n")
    (folder / "README.md").chmod(0)
    with as_nobody():
        found = catalog.find(parse_model("./models/stranger"), settings)
    assert (found.config, found.base_model) == ({}, None)


# Names of folders, in the terminal and beside a model


@pytest.mark.parametrize("name", [b"caf\xe9", "run\u202egnp".encode(), b"run\x1b[2J", "run\u2028x".encode()])
def test_a_folder_whose_name_cannot_be_shown_is_refused_in_the_terminal(tmp_path, hub_settings, name):
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))  # noqa: PTH118
    write_model(Path(path), MODEL)

    def door() -> None:
        catalog.find(catalog.reference(path, any_folder=True), hub_settings, any_folder=True)

    assert_refused(door, BadReference, "cannot be shown", ascii(name)[2:5])
    shutil.rmtree(os.fsencode(path))


def test_a_link_to_a_folder_whose_name_cannot_be_shown_is_refused(roots, hub_settings):
    path = os.fsdecode(os.path.join(os.fsencode(roots), b"caf\xe9"))  # noqa: PTH118
    write_model(Path(path), MODEL)
    (roots / "link").symlink_to(path)
    assert_refused(lambda: open_model("./models/link", hub_settings), BadReference, "cannot be shown")
    shutil.rmtree(os.fsencode(path))


@pytest.mark.parametrize("depth", [60, 2_000])
def test_folders_deep_in_each_other(roots, hub_settings, depth):
    """60 levels are a folder like any other, 2,000 are more than a path may have."""
    deep = roots
    for _ in range(60):
        deep = deep / "deeper"
    write_model(deep, MODEL)
    text = "./models" + "/deeper" * depth
    if depth == 60:
        assert len(open_model(text, hub_settings)) == len(MODEL)
    else:
        assert_refused(lambda: catalog.find(folder_ref(text), hub_settings), PathNotAllowed, "not a folder")


def folder_ref(text: str) -> ModelRef:
    """What a link or a request could carry past the parser's limit of 1,024 characters."""
    return ModelRef("folder", text)
