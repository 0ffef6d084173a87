"""Reading rows, and noticing every way a file can change meanwhile."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from analysis.errors import BadWeights, FileChanged
from analysis.tensors import TensorInfo
from cache import weights
from cache.weights.reader import WeightFiles, bytes_per_row, rows
from tests.hub.builders import BFloat16, write_model

FILE = "model.safetensors"
VALUES = {
    "cube": np.arange(2 * 3 * 4, dtype="float32").reshape(2, 3, 4),
    "matrix": BFloat16.of(np.arange(15).reshape(5, 3)),
    "nothing": np.zeros((4, 0), "float32"),
    "scalar": np.array(7.0, "float64"),
    "vector": np.arange(6, dtype="float16"),
}


def tensors_in(folder: Path) -> dict[str, TensorInfo]:
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    found = weights.list_tensors(sizes, lambda name, begin, end: (folder / name).read_bytes()[begin:end])
    return {tensor.name: tensor for tensor in found}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", VALUES)


@pytest.mark.parametrize(
    ("name", "first", "last", "expected"),
    [
        pytest.param("cube", 1, 3, VALUES["cube"].reshape(6, 4)[1:3], id="sides but the last are rows"),
        pytest.param("matrix", 2, 5, VALUES["matrix"].bits[2:5], id="the last rows"),
        pytest.param("matrix", 2, 2, VALUES["matrix"].bits[2:2], id="no rows"),
        pytest.param("vector", 0, 1, VALUES["vector"], id="a vector is one row"),
        pytest.param("scalar", 0, 1, VALUES["scalar"], id="a scalar is one row"),
        pytest.param("nothing", 0, 4, VALUES["nothing"], id="rows without entries"),
    ],
)
def test_rows_are_the_bytes_of_the_file(folder, name, first, last, expected):
    tensors = tensors_in(folder)
    with WeightFiles(folder, tensors.values()) as files:
        assert files.read_rows(tensors[name], first, last).tobytes() == np.ascontiguousarray(expected).tobytes()


def test_a_view_is_read_like_a_tensor(folder):
    cube, matrix = tensors_in(folder)["cube"], tensors_in(folder)["matrix"]
    views = [cube.rows(1, 2, (3, 4)), matrix.rows(1, 3), cube.rows(1, 2, (3, 4)).rows(1, 2), cube.rows(1, 2)]
    with WeightFiles(folder, [cube, *views]) as files:
        assert files.read_rows(views[0], 1, 3).tobytes() == VALUES["cube"][1, 1:3].tobytes()
        assert files.read_rows(views[1], 0, 2).tobytes() == VALUES["matrix"].bits[1:3].tobytes()
        assert files.read_rows(views[2], 0, 1).tobytes() == VALUES["cube"][1, 1].tobytes()
        assert files.read_rows(views[3], 0, 3).tobytes() == VALUES["cube"][1].tobytes()
        with pytest.raises(IndexError):
            files.read_rows(views[1], 0, 3)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"stored": None}, id="no view, and no such tensor"),
        pytest.param({"stored": (3, 2, 4)}, id="of another shape"),
        pytest.param({"name": "matrix"}, id="of another tensor"),
        pytest.param({"name": "gone"}, id="of a tensor that is not there"),
        pytest.param({"dtype": "I32"}, id="of another type"),
        pytest.param({"shape": (4, 3)}, id="another matrix of as many entries"),
        pytest.param({"shape": (6, 4)}, id="more rows than its bytes"),
        pytest.param({"begin": 12, "end": 60}, id="not at the start of a slice"),
        pytest.param({"begin": 32, "end": 64, "shape": (2, 4)}, id="from one slice into the next"),
        pytest.param({"begin": -96}, id="before the tensor"),
        pytest.param({"end": 100_000}, id="beyond the tensor"),
        pytest.param({"begin": 0, "end": 0, "shape": (0, 3, 4)}, id="nothing, elsewhere"),
    ],
)
def test_a_view_that_the_header_does_not_bear_out_is_refused(folder, change):
    cube = tensors_in(folder)["cube"]
    offsets = {name: cube.begin + change[name] for name in ("begin", "end") if name in change}
    view = dataclasses.replace(cube.rows(0, 1, (3, 4)), **(change | offsets))
    with pytest.raises(FileChanged, match="other tensors"):
        WeightFiles(folder, [view])


def test_a_supplied_buffer_is_used_again(folder):
    matrix = tensors_in(folder)["matrix"]
    buffer = np.full(rows(matrix) * bytes_per_row(matrix), 255, dtype=np.uint8)
    with WeightFiles(folder, [matrix]) as files:
        read = files.read_rows(matrix, 1, 3, into=buffer)
    assert np.shares_memory(read, buffer)
    assert read.tobytes() == VALUES["matrix"].bits[1:3].tobytes()
    assert (buffer[len(read) :] == 255).all()


@pytest.mark.parametrize(("first", "last"), [(0, 6), (-1, 2), (3, 2)])
def test_rows_outside_the_tensor_are_a_mistake(folder, first, last):
    matrix = tensors_in(folder)["matrix"]
    with WeightFiles(folder, [matrix]) as files, pytest.raises(IndexError):
        files.read_rows(matrix, first, last)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))  # where the clock is coarser than this test


def replace(path: Path) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(path.read_bytes())
    new.replace(path)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("change", [overwrite, replace, cut, Path.unlink])
def test_a_change_while_open_is_noticed_at_the_end(folder, change):
    files = WeightFiles(folder, tensors_in(folder).values())
    files.verify()
    change(folder / FILE)
    with pytest.raises(FileChanged, match=FILE):
        files.close()


def test_a_read_beyond_a_cut_says_so_instead_of_dying(folder):
    tensors = tensors_in(folder)
    last = max(tensors.values(), key=lambda tensor: tensor.end)
    files = WeightFiles(folder, tensors.values())
    os.truncate(folder / FILE, 100)
    with pytest.raises(FileChanged, match="cut while it was read"):
        files.read_rows(last, 0, rows(last))
    with pytest.raises(FileChanged):
        files.close()


@pytest.mark.parametrize(
    "replacement",
    [
        pytest.param({"matrix": BFloat16.of(np.zeros((3, 5)))}, id="another shape"),
        pytest.param({"other": BFloat16.of(np.zeros((5, 3)))}, id="another name"),
        pytest.param(None, id="not safetensors any more"),
    ],
)
def test_a_change_before_opening_is_noticed_by_the_header(folder, replacement):
    tensors = tensors_in(folder)
    if replacement is None:
        (folder / FILE).write_bytes(b"<html>")
    else:
        write_model(folder, replacement)
    with pytest.raises(FileChanged, match="changed before it was read"):
        WeightFiles(folder, tensors.values())


def test_a_file_that_went_away_or_became_a_pipe_is_refused_at_once(folder):
    tensors = tensors_in(folder)
    (folder / FILE).unlink()
    with pytest.raises(FileChanged, match="removed before it was read"):
        WeightFiles(folder, tensors.values())
    os.mkfifo(folder / FILE)
    with pytest.raises(BadWeights, match="not a regular file"):
        WeightFiles(folder, tensors.values())


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_descriptor_stays_open(folder):
    before = open_descriptors()
    tensors = tensors_in(folder)
    with WeightFiles(folder, tensors.values()):
        pass
    overwritten = WeightFiles(folder, tensors.values())
    overwrite(folder / FILE)
    with pytest.raises(FileChanged):
        overwritten.close()
    assert open_descriptors() == before
