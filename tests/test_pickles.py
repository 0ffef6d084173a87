"""PyTorch's own weight files: read where they are allowed, without running anything in them."""

from __future__ import annotations

import io
import json
import os
import random
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

import cli
from analysis.errors import BadWeights, NoWeights, SubnetscopeError
from analysis.tensors import TensorInfo
from cache import catalog
from cache.settings import Settings
from cache.weights.torch_archive import ALIAS, parse_archive
from tests.comparing import Tensors, compared, exact, in_torch, listed, moved, truth
from tests.hub.builders import LLAMA_CONFIG, llama, write_model
from tests.hub.loopback import LoopbackHub

pytestmark = pytest.mark.usefixtures("terminal", "children_at_hand")


def saved(table: object, **how: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(table, buffer, **how)  # type: ignore[arg-type]
    return buffer.getvalue()


def pickled_files(tensors: Tensors, shards: int = 1) -> dict[str, bytes]:
    """A repository's files, as transformers wrote them before safetensors."""
    files = {"config.json": json.dumps(LLAMA_CONFIG).encode()}
    if shards == 1:
        return files | {"pytorch_model.bin": saved(tensors)}
    names = [f"pytorch_model-{n:05}-of-{shards:05}.bin" for n in range(1, shards + 1)]
    shard_of = {name: names[place * shards // len(tensors)] for place, name in enumerate(tensors)}
    files |= {shard: saved({n: t for n, t in tensors.items() if shard_of[n] == shard}) for shard in names}
    index = {"metadata": {}, "weight_map": shard_of}
    return files | {"pytorch_model.bin.index.json": json.dumps(index).encode()}


def written(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def parsed(content: bytes) -> list[TensorInfo]:
    return parse_archive("m.bin", len(content), lambda _, begin, end: content[begin:end])


@pytest.mark.parametrize("shards", [1, 3])
def test_pickles_where_they_are_allowed(shards: int, tmp_path: Path):
    """The base a pickle, the tuned model safetensors."""
    base = in_torch(llama())
    tuned, changed = moved(base)
    folder = written(tmp_path / "base", pickled_files(base, shards))
    report = compared(tmp_path, folder, write_model(tmp_path / "tuned", tuned), "--allow-pickles")
    assert exact(report) == truth(changed)
    assert report["coverage"]["not_compared"] == []


@pytest.mark.processes
def test_pickles_on_the_hub(hub: LoopbackHub, tmp_path: Path):
    base = in_torch(llama())
    tuned, changed = moved(base)
    hub.add("org/base", pickled_files(base, 2))
    hub.add("org/tuned", pickled_files(tuned, 1))
    report = compared(tmp_path, "org/base", "org/tuned", "--allow-pickles")
    assert exact(report) == truth(changed)


def test_pickles_are_not_opened_unless_allowed(tmp_path: Path, capsys: pytest.CaptureFixture):
    base = written(tmp_path / "base", pickled_files(in_torch(llama())))
    assert cli.main(["compare", str(base), str(base)]) == 5
    said = capsys.readouterr().err
    assert "PyTorch pickles (.bin), which can run code and are not opened" in said
    assert "SUBNETSCOPE_PICKLES=1 (--allow-pickles in the terminal)" in said


def test_safetensors_win_over_pickles(tmp_path: Path):
    base = in_torch(llama())
    tuned, changed = moved(base)
    folder = write_model(tmp_path / "base", base)
    (folder / "pytorch_model.bin").write_bytes(b"no archive at all")
    report = compared(tmp_path, folder, write_model(tmp_path / "tuned", tuned), "--allow-pickles")
    assert exact(report) == truth(changed)


def test_a_head_that_is_the_embedding_is_stored_and_counted_once(tmp_path: Path):
    base = in_torch(llama())
    del base["lm_head.weight"]
    tuned, changed = moved(base)
    for side, tensors in (("base", base), ("tuned", tuned)):
        both_names = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}
        written(tmp_path / side, pickled_files(both_names))
    report = compared(tmp_path, tmp_path / "base", tmp_path / "tuned", "--allow-pickles")
    assert exact(report) == truth(changed)
    assert report["coverage"]["base_parameters"] == truth(changed)[1]
    [alias] = report["coverage"]["not_compared"]
    assert (alias["name"], alias["reason"]) == ("lm_head.weight", ALIAS)


class Malicious:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.processes
def test_a_pickle_that_would_run_something_is_refused(protocol: int, tmp_path: Path, capsys: pytest.CaptureFixture):
    canary = tmp_path / "canary"
    table = {"a": torch.zeros(2), "b": Malicious(canary)}
    torch.load(io.BytesIO(saved(table)), weights_only=False)
    assert canary.exists(), "the bait works"
    canary.unlink()
    bad = written(tmp_path / "bad", {"pytorch_model.bin": saved(table, pickle_protocol=protocol)})
    good = write_model(tmp_path / "good", in_torch(llama()))
    assert cli.main(["compare", str(good), str(bad), "--allow-pickles"]) == 5
    said = capsys.readouterr().err
    assert "'pytorch_model.bin' is not read: loading it would run 'posix.system'; nothing in it was run" in said
    assert not canary.exists()


HOSTILE = {
    "a call without an import": b"\x80\x02}X\x01\x00\x00\x00ac__builtin__\neval\nX\x01\x00\x00\x001\x85Rs.",
    "an extension code": b"\x80\x02\x82\x01.",
    "an instance": b"(ios\nsystem\n.",
    "a new object": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "state for a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b.",
    "a call of a table": b"\x80\x02}).R.",
    "nothing on the stack": b"\x80\x02R.",
    "no end": b"\x80\x02}",
    "an unknown memo": b"\x80\x02h\x07.",
    "a mark that is not there": b"\x80\x02}u.",
    "a table of tables": b"\x80\x02}}}s.",
    "a list": b"\x80\x02].",
    "no numbers for sizes": b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n(NNNNtRs.",
}


@pytest.mark.parametrize("program", HOSTILE.values(), ids=HOSTILE.keys())
def test_other_pickles_are_refused(program: bytes):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("m/data.pkl", program)
    with pytest.raises(BadWeights, match=r"'m\.bin' is not read"):
        parsed(buffer.getvalue())


def many_kinds() -> Tensors:
    whole = torch.arange(24.0).reshape(4, 6)
    return {
        "float32": whole,
        "view": whole[1:3],
        "scalar": torch.tensor(3.0, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "one_column": torch.arange(5.0).reshape(5, 1),
        "half": torch.arange(6).half(),
        "bfloat16": torch.arange(6).bfloat16().reshape(2, 3),
        "float8": torch.arange(6.0).to(torch.float8_e4m3fn),
        "long": torch.arange(3),
        "bool": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(torch.ones(3, 2)),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_table_is_what_torch_loads(protocol: int):
    content = saved(many_kinds(), pickle_protocol=protocol)
    loaded = torch.load(io.BytesIO(saved(many_kinds())), weights_only=True)
    found = parsed(content)
    assert [tensor.name for tensor in found] == list(loaded)
    for tensor in found:
        expected = loaded[tensor.name].detach()
        assert tensor.shape == tuple(expected.shape)
        assert content[tensor.begin : tensor.end] == bytes_of(expected), tensor.name


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("wrap", ["model", "module", "state_dict"])
def test_weights_under_a_name_as_training_saves_them(wrap: str):
    content = saved({wrap: many_kinds(), "step": 7})
    assert [tensor.name for tensor in parsed(content)] == list(many_kinds())


def test_entries_out_of_order_are_listed_with_that_reason(tmp_path: Path):
    base = in_torch(llama())
    name = "model.layers.0.mlp.up_proj.weight"
    tuned, changed = moved(base)
    file = dict(base) | {name: base[name].t().contiguous().t()}
    folder = written(tmp_path / "base", pickled_files(file))
    report = compared(tmp_path, folder, write_model(tmp_path / "tuned", tuned), "--allow-pickles")
    assert exact(report) == truth({other: mask for other, mask in changed.items() if other != name})
    [left] = report["coverage"]["not_compared"]
    assert (left["name"], left["parameters"]) == (name, base[name].numel())
    assert "its entries do not lie in order in 'pytorch_model.bin'" in left["reason"]


def test_only_the_directory_and_the_pickle_are_read():
    content, read = saved({f"{n}": torch.zeros(100_000) for n in range(40)}), []

    def read_range(_: str, begin: int, end: int) -> bytes:
        read.append(end - begin)
        return content[begin:end]

    assert len(parse_archive("m.bin", len(content), read_range)) == 40
    assert len(read) < 6
    assert sum(read) < 130_000 < len(content) / 100


def test_files_from_before_pytorch_1_6_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SUBNETSCOPE_PICKLES", "1")
    old = saved(many_kinds(), _use_new_zipfile_serialization=False)
    with pytest.raises(BadWeights, match=r"form of before PyTorch 1\.6"):
        listed(written(tmp_path / "old", {"pytorch_model.bin": old}))


def test_what_is_no_archive_is_refused():
    compressed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(many_kinds()))) as old, zipfile.ZipFile(compressed, "w", 8) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    whole = saved(many_kinds())
    for content in (compressed.getvalue(), whole[:-100], whole[: len(whole) // 2], b"", b"PK\x03\x04", b"x" * 99):
        with pytest.raises(BadWeights):
            parsed(content)


def test_damaged_archives_raise_nothing_but_our_own_errors():
    whole, dice = saved(many_kinds()), random.Random(3)
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(dice.randint(1, 8)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        try:
            for tensor in parsed(bytes(damaged)):
                assert 0 <= tensor.begin <= tensor.end <= len(damaged)
        except SubnetscopeError:
            pass


def test_a_job_does_not_fetch_pickles_that_are_no_longer_allowed(tmp_path: Path):
    folder = written(tmp_path / "base", pickled_files(in_torch(llama())))
    settings = Settings.from_environment()
    found = catalog.find(catalog.reference(str(folder), any_folder=True), settings, any_folder=True)
    with pytest.raises(NoWeights, match="can run code"):
        catalog.fetch(found, ["pytorch_model.bin"], settings, lambda _: None)


def test_a_folder_of_pickles_is_pinned_to_their_content(tmp_path: Path):
    settings = Settings.from_environment()
    prints = set()
    for value in (0, 1):
        folder = written(tmp_path / str(value), {"pytorch_model.bin": saved({"a": torch.full((3,), value)})})
        ref = catalog.reference(str(folder), any_folder=True)
        prints.add(catalog.find(ref, settings, any_folder=True).pinned.commit)
    assert len(prints) == 2
