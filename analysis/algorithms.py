"""What kind of training an algorithm's name stands for, as far as the name says."""

from __future__ import annotations

import re
from typing import Literal

Kind = Literal["RL", "SFT", ""]

# As in Mukherjee (arXiv 2505.11711), preference optimisation counts as reinforcement learning.
_REINFORCED = {
    *("rl", "rlhf", "rlvr", "rlaif", "reinforce", "grpo", "drgrpo", "ppo", "rloo", "dapo", "gspo", "cispo", "prime"),
    *("dpo", "ipo", "kto", "orpo", "simpo"),
}
_SUPERVISED = {"sft", "finetuning", "instruct", "distillation", "distilled"}
_WORDS = re.compile(r"[a-z]+")


def kind_of(algorithm: str) -> Kind:
    """'RL' or 'SFT' by the first word that says so ('SFT + DPO' is both, and what came last counts); else ''."""
    words = _WORDS.findall(algorithm.lower().replace("+", " "))
    for word in reversed(words):
        if word in _REINFORCED:
            return "RL"
        if word in _SUPERVISED:
            return "SFT"
    return ""
