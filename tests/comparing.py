"""Comparing from the terminal, in tests: a planted pair in, the report out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import cli
from analysis.tensors import TensorInfo
from cache import catalog
from cache.settings import Settings
from tests.hub.builders import BFloat16, tuned_from

if TYPE_CHECKING:
    from torch import Tensor

Tensors = dict[str, "Tensor"]


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SUBNETSCOPE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SUBNETSCOPE_THREADS", "1")
    monkeypatch.setenv("SUBNETSCOPE_DEVICE", "cpu")
    monkeypatch.setenv("SUBNETSCOPE_PICKLES", "0")


def compared(folder: Path, base: Path | str, tuned: Path | str, *options: str) -> dict:
    out = folder / "report.json"
    assert cli.main(["compare", str(base), str(tuned), "--no-spectra", "--json", str(out), *options]) == 0
    return json.loads(out.read_text())


def listed(folder: Path) -> list[TensorInfo]:
    settings = Settings.from_environment()
    found = catalog.find(catalog.reference(str(folder), any_folder=True), settings, any_folder=True)
    return catalog.list_tensors(found, settings)


def exact(report: dict) -> tuple[int, int]:
    return report["totals"]["unchanged"]["exact"], report["totals"]["entries"]


def truth(changed: Mapping[str, np.ndarray]) -> tuple[int, int]:
    return sum(int((~mask).sum()) for mask in changed.values()), sum(mask.size for mask in changed.values())


def in_torch(tensors: Mapping[str, BFloat16]) -> Tensors:
    import torch  # not where the module is loaded: every test loads it

    return {name: torch.from_numpy(tensor.bits.view(np.int16)).view(torch.bfloat16) for name, tensor in tensors.items()}


def moved(values: Tensors) -> tuple[Tensors, dict[str, np.ndarray]]:
    """The same in bfloat16, 20 % of each tensor's entries moved by one step, and which."""
    import torch

    plain = {name: BFloat16(tensor.view(torch.int16).numpy().view(np.uint16)) for name, tensor in values.items()}
    tuned, changed = tuned_from(plain, changed_share=0.2)
    return in_torch(tuned), changed
