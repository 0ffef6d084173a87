from __future__ import annotations

import pytest

from analysis.algorithms import kind_of


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [
        ("GRPO", "RL"), ("Dr. GRPO", "RL"), ("iterative DPO", "RL"), ("SFT", "SFT"), ("SFT + DPO", "RL"),
        ("full-finetuning", "SFT"), ("pruning", ""), ("", ""), ("sftx", ""),
    ],
)  # fmt: skip
def test_the_last_word_that_says_so_decides(algorithm: str, kind: str):
    assert kind_of(algorithm) == kind
