"""One command measures all that a GPU is to show: a part that fails is named, and the next one runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here, so the parts do not fail")
def test_a_part_that_fails_does_not_stop_the_next_one(tmp_path: Path):
    command = [sys.executable, "benchmarks/gpu.py", "--small", "--only", "copies", "experts", "--out", tmp_path / "out"]
    ran = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": "."}, capture_output=True, text=True, timeout=120)
    said = (tmp_path / "out").read_text()
    assert ran.returncode == 1
    assert ran.stdout == said
    assert said.index("**copies failed") < said.index("### experts") < said.index("**experts failed")
    assert "0 of 2 sections are whole" in said
