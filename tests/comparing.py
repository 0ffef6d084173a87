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
from tests.hub.builders import BFloat16, llama, model_files, tuned_from, write_model
from tests.hub.loopback import LoopbackHub

if TYPE_CHECKING:
    from torch import Tensor

Tensors = dict[str, "Tensor"]


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SUBNETSCOPE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SUBNETSCOPE_THREADS", "1")
    monkeypatch.setenv("SUBNETSCOPE_DEVICE", "cpu")
    monkeypatch.setenv("SUBNETSCOPE_PICKLES", "0")


@pytest.fixture
def family(hub: LoopbackHub) -> LoopbackHub:
    """org/base, and org/tuned-a and org/tuned-b with exactly 20 % changed entries, sharded, with a card."""
    base = llama()
    hub.add("org/base", model_files(base))
    for name, seed in (("org/tuned-a", 1), ("org/tuned-b", 2)):
        files = model_files(tuned_from(base, changed_share=0.2, seed=seed)[0], shards=3)
        hub.add(name, files, card="base_model: org/base")
    return hub


def write_pair(folder: Path, **changes: object) -> tuple[str, str]:
    """The folders of a base and a model tuned from it, whose tensors in `changes` are other ones."""
    base = llama()
    tuned = {**tuned_from(base)[0], **changes}
    return str(write_model(folder / "base", base)), str(write_model(folder / "tuned", tuned))


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
