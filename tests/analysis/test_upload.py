"""Blocks on their way to a device, and which devices there are; tests/test_cuda.py does the same with a real GPU."""

from __future__ import annotations

import pytest
import torch

from analysis.elementwise import way_on
from analysis.measure import devices, pick_device
from analysis.upload import on_device


def test_the_cpu_gets_the_very_blocks_one_at_a_time():
    read = []

    def blocks():
        for i in range(3):
            read.append(i)
            yield torch.full((2, 2), i), torch.full((2, 2), -i)

    for i, (before, after) in enumerate(on_device(blocks(), torch.device("cpu"))):
        assert (int(before[0, 0]), int(after[0, 0])) == (i, -i)
        assert read[-1] == i, "nothing is read ahead, for the reader's buffer may be one"
    block = torch.zeros(1, 1)
    ((same, _),) = on_device([(block, block)], torch.device("cpu"))
    assert same is block


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_where_triton_cannot_start_a_kernel_torch_counts():
    assert (way_on("cuda"), way_on("mps"), way_on("cpu")) == ("torch", "torch", "cpu")


@pytest.mark.parametrize(
    ("wanted", "here", "found"),
    [
        ("cpu", 2, ("cpu",)),
        ("auto", 0, ("cpu",)),
        ("auto", 1, ("cuda:0",)),
        ("auto", 2, ("cuda:0", "cuda:1")),
        ("cuda:2,cuda:0", 3, ("cuda:2", "cuda:0")),
        ("cuda", 2, ("cuda:0", "cuda:1")),
        ("cuda:1", 2, ("cuda:1",)),
    ],
)
def test_devices_are_those_that_torch_sees(wanted: str, here: int, found: tuple[str, ...], monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: here > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: here)
    assert devices(wanted) == found
    assert pick_device(wanted) == found[0]


@pytest.mark.parametrize(("wanted", "here"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2), ("cuda:0,cuda:2", 2)])
def test_a_gpu_that_is_not_there_is_refused(wanted: str, here: int, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: here > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: here)
    with pytest.raises(RuntimeError, match="CUDA device"):
        devices(wanted)
