"""What tensor names say across checkpoints: wrappers around a name, spellings of one thing, stacks, fused projections.

Tables, not templates of architectures: an unknown family has no row here, and is compared by its own names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from analysis.tensors import BUFFER, TensorInfo

# Segments that training frameworks put into names, anywhere ...
_INSERTED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer)\.")
# ... and those that a wrapping module or class puts in front, once or several times.
_IN_FRONT = re.compile(r"(?:module|base_model|model|language_model|transformer|gpt_neox|bert|roberta|llm)\.")
# One thing under several names.
_SPELLINGS = {
    re.compile(r"\bblock_sparse_moe\."): "mlp.",
    re.compile(r"(?<=experts\.)(\d+\.)w1\b"): r"\1gate_proj",
    re.compile(r"(?<=experts\.)(\d+\.)w3\b"): r"\1up_proj",
    re.compile(r"(?<=experts\.)(\d+\.)w2\b"): r"\1down_proj",
}
_STACK = re.compile(r"(?P<experts>(?:.*\.)?experts)\.(?P<part>(?!\d+\.)\w+?)(?:\.weight)?")

# A projection that holds others, one below the other in this order.
_PARTS_OF_FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "W_pack": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "fused_qkv_a_proj_with_mqa": ("q_a_proj", "kv_a_proj_with_mqa"),
}
_FUSED = re.compile(rf"(?<=\.)({'|'.join(_PARTS_OF_FUSED)})(?=\.|$)")

HEADS = ("lm_head.weight", "embed_out.weight", "output.weight", "head.weight")
EMBEDDINGS = (
    "embed_tokens.weight", "wte.weight", "embed_in.weight", "tok_embeddings.weight", "word_embeddings.weight",
    "embeddings.word_embeddings.weight", "decoder.embed_tokens.weight", "embeddings.weight",
)  # fmt: skip

_TABLE = re.compile(
    r"(?:^|\.)(?:embed_tokens|embed_tokens_per_layer|wte|wpe|embed_in|tok_embeddings|\w*embeddings?)\.weight$|^lm_head\.bias$"
)

_BUFFER_NAME = re.compile(
    r"(?:^|\.)(?:inv_freq|original_inv_freq|cos_cached|sin_cached|position_ids|token_type_ids|num_batches_tracked"
    r"|masked_bias|relative_position_index|relative_coords_table)$"
)
_MASK_NAME = re.compile(r"(?:attn|attention)\.bias$")
_BUFFER_DTYPES = ("BOOL", "I64", "U64")


def canonical(name: str) -> str:
    """The name without what wrappers put around it, in one spelling: 'model.language_model.layers.0.x' and
    'module._orig_mod.model.layers.0.x' are both 'layers.0.x'. Different tensors may share one; see `align`."""
    name = unwrapped(name)
    for pattern, spelling in _SPELLINGS.items():
        name = pattern.sub(spelling, name)
    return name


def unwrapped(name: str) -> str:
    """The name without wrappers' segments."""
    name = _INSERTED.sub("", name)
    while wrapper := _IN_FRONT.match(name):
        name = name[wrapper.end() :]
    return name


@dataclass(frozen=True)
class Stack:
    """One tensor that holds a matrix for each expert."""

    experts: str  # 'layers.0.mlp.experts'
    part: str  # 'gate_up_proj'

    def key(self, expert: int) -> str:
        """The canonical name that this expert's matrix would have as a tensor of its own."""
        return canonical(f"{self.experts}.{expert}.{self.part}.weight")


def stack_of(tensor: TensorInfo) -> Stack | None:
    """What the tensor stacks, if it is (experts, rows, columns) and its name says so."""
    found = _STACK.fullmatch(canonical(tensor.name)) if len(tensor.shape) == 3 else None
    return Stack(found["experts"], found["part"]) if found else None


def parts_of_fused(key: str) -> tuple[str, ...]:
    """The canonical names of the projections that lie one below the other in the one of this name; () if it is none."""
    found = _FUSED.search(key)
    if not found:
        return ()
    return tuple(key[: found.start()] + part + key[found.end() :] for part in _PARTS_OF_FUSED[found[0]])


def is_table(key: str) -> bool:
    """Whether the tensor of this canonical name has a row a word (or a position): an embedding or an output head.
    Another vocabulary then means other rows, and those that both have still belong together."""
    return key in HEADS or bool(_TABLE.search(key))


def why_no_parameter(tensor: TensorInfo) -> str:
    """The reason to list the tensor without counting it among the parameters; '' for a parameter."""
    return tensor.aside or (BUFFER if not tensor.unread and is_buffer(tensor) else "")


def is_buffer(tensor: TensorInfo) -> bool:
    """Whether the tensor is no parameter: an index, a mask, a table of rotary frequencies."""
    is_mask = bool(_MASK_NAME.search(tensor.name)) and len(tensor.shape) == 4
    return is_mask or tensor.dtype in _BUFFER_DTYPES or bool(_BUFFER_NAME.search(tensor.name))
