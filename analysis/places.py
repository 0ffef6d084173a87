"""Where in a model a tensor sits, read off its name: a table of stacks and of blocks, from today's families.

A name that no row knows keeps itself as its module, so an unknown family still groups by its own names.
"""

from __future__ import annotations

import re
from functools import lru_cache

from analysis.naming import unwrapped
from analysis.tensors import Place, TensorPair

_LAYER = re.compile(r"(?:^|\.)(?:\w*layers?|h|\w*blocks?)\.(\d{1,6})(?=\.)")
# Stacks (without their wrappers) whose layers are *the* layers; any other stack (a vision tower, an encoder beside a
# decoder) keeps its name.
_MAIN_STACKS = {"layers", "h", "layer", "blocks", "decoder.layers", "encoder.layer"}
_EXPERT = re.compile(r"(?<=experts\.)(\d{1,6})(?=\.)")
_OF_STACK = re.compile(r"(?P<experts>(?:.*\.)?experts\.)?(?P<rest>.*)\[(?P<expert>\d{1,6})\]")

# The first pattern found in the module's name names its block; written from the field's common names.
_BLOCK_OF_PATTERN = {
    re.compile(pattern, re.IGNORECASE): block
    for pattern, block in {
        r"lm_head|output_projection|embed_out|shared_head\.head|^(score|classifier|v_head|cls)\b|^output$": "head",
        r"embed|wte|wpe": "embedding",
        r"norm|ln_": "norm",
        r"router|\.gate(\.|$)|shared_expert_gate": "router",
        r"attn|attention|[qkvo]_proj": "attention",
        r"mlp|feed_forward|ffn|experts|up_proj|down_proj|gate_proj|fc\d|block_sparse_moe|^(intermediate|output)\.dense":
            "mlp",
    }.items()
}  # fmt: skip
_BLOCK_ORDER = {"embedding": 0, "norm": 1, "attention": 2, "router": 3, "mlp": 4, "other": 5, "head": 6}
_RANK_OF_PART = {
    "q_proj": 0, "k_proj": 1, "v_proj": 2, "o_proj": 3, "gate_up_proj": 0, "gate_proj": 0, "up_proj": 1, "down_proj": 2,
}  # fmt: skip


def place_of(name: str) -> Place:
    """Layer, block, module and expert read off a tensor's name. 'x.experts.down_proj[3]' is expert 3 of a stack."""
    stacked = _OF_STACK.fullmatch(name)
    if stacked:
        name = f"{stacked['experts'] or ''}{stacked['expert']}.{stacked['rest']}" if stacked["experts"] else name
    layer = _LAYER.search(name)
    expert = _EXPERT.search(name)
    module = name
    if expert:
        module = module[: expert.start()] + "*" + module[expert.end() :]
    if layer:
        stack = name[: layer.start(1) - 1]
        module = ("" if _is_main(stack) else f"{stack}.") + module[layer.end() + 1 :]
    module = module.removesuffix(".weight")
    return Place(int(layer[1]) if layer else None, _block(module), module, int(expert[1]) if expert else None)


@lru_cache(maxsize=4096)
def _block(module: str) -> str:
    """The block that a module's name speaks of; a model has tens of thousands of tensors, but few modules."""
    return next((block for pattern, block in _BLOCK_OF_PATTERN.items() if pattern.search(module)), "other")


@lru_cache(maxsize=4096)
def _is_main(stack: str) -> bool:
    return unwrapped(stack) in _MAIN_STACKS


def reading_order(pair: TensorPair) -> tuple[int, int, int, int, str]:
    """Sorts pairs as a reader goes through the model: attention as q, k, v, o and not by the alphabet."""
    place = pair.place
    before_layers = place.block == "embedding"
    layer = place.layer if place.layer is not None else (-1 if before_layers else 10**6)
    rank = next((rank for part, rank in _RANK_OF_PART.items() if part in place.module), 5)
    return layer, _BLOCK_ORDER[place.block], -1 if place.expert is None else place.expert, rank, place.module
