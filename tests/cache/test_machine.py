"""How many GPUs a comparison will use, as the driver's files and CUDA's variable tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.machine import gpus


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    (tmp_path / "version").touch()
    return tmp_path / "version"


@pytest.mark.parametrize(
    ("wanted", "visible", "nodes", "n"),
    [
        ("auto", None, ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"], 2),
        ("cuda", None, ["nvidia3"], 1),
        ("cpu", None, ["nvidia0"], 0),
        ("cuda:1", None, ["nvidia0", "nvidia1"], 1),
        ("cuda:1,cuda:0", None, ["nvidia0", "nvidia1"], 2),
        ("auto", "1", ["nvidia0", "nvidia1"], 1),
        ("auto", "0,1,-1,2", ["nvidia0", "nvidia1", "nvidia2", "nvidia3"], 2),
        ("auto", "", ["nvidia0"], 0),
        ("auto", None, [], 1),
    ],
)
def test_gpus_are_counted_without_torch(
    wanted: str, visible: str | None, nodes: list[str], n: int, driver: Path, tmp_path: Path
):
    (tmp_path / "dev").mkdir()
    for node in nodes:
        (tmp_path / "dev" / node).touch()
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert gpus(wanted, environ, driver, tmp_path / "dev") == n


def test_without_a_driver_the_cpu_measures(tmp_path: Path):
    assert gpus("auto", {}, tmp_path / "version", tmp_path) == 0
