"""Tiny real models: safetensors files, single or sharded, and Llama-shaped pairs whose changed entries are planted.

Files are written by the safetensors library itself. Tensors are numpy arrays, torch tensors, or `BFloat16`, which holds
bfloat16 as its 16 bits because numpy has no such type; so nothing here needs torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import TensorSpec, serialize

LLAMA_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "torch_dtype": "bfloat16",
}


@dataclass(frozen=True, eq=False)
class BFloat16:
    """A bfloat16 tensor by its bits."""

    bits: NDArray[np.uint16]

    @classmethod
    def of(cls, values: NDArray[np.floating[Any]]) -> BFloat16:
        """The values rounded to bfloat16 (to nearest, ties to even). Finite values only."""
        wide = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        return cls(((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype(np.uint16))

    @property
    def values(self) -> NDArray[np.float32]:
        return (self.bits.astype(np.uint32) << 16).view(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.bits.shape


Tensor = Any  # a numpy array, a torch tensor, or BFloat16
Tensors = Mapping[str, Tensor]


def safetensors_bytes(tensors: Tensors) -> bytes:
    """The content of one safetensors file."""
    parts = {name: _type_and_bytes(tensor) for name, tensor in tensors.items()}
    specs = {
        name: TensorSpec(dtype=dtype, shape=list(tensors[name].shape), data_ptr=raw.ctypes.data, data_len=raw.nbytes)
        for name, (dtype, raw) in parts.items()
    }
    return bytes(serialize(specs, {"format": "pt"}))


def model_files(tensors: Tensors, *, shards: int = 1, config: Mapping[str, object] | None = None) -> dict[str, bytes]:
    """A repository's files by name: config.json and one weight file, or `shards` of them and their index."""
    files = {"config.json": json.dumps(config if config is not None else LLAMA_CONFIG).encode()}
    if shards == 1:
        return {**files, "model.safetensors": safetensors_bytes(tensors)}
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    shard_of_tensor = {name: names[position * shards // len(tensors)] for position, name in enumerate(tensors)}
    for shard in names:
        files[shard] = safetensors_bytes({n: t for n, t in tensors.items() if shard_of_tensor[n] == shard})
    index = {"metadata": {"total_size": sum(map(len, files.values()))}, "weight_map": shard_of_tensor}
    return {**files, "model.safetensors.index.json": json.dumps(index).encode()}


def write_model(folder: Path, tensors: Tensors, *, shards: int = 1, config: Mapping[str, object] | None = None) -> Path:
    """The folder, which now holds such a model."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in model_files(tensors, shards=shards, config=config).items():
        (folder / name).write_bytes(content)
    return folder


def llama_shapes(
    *, layers: int, hidden: int, inner: int, keys: int, vocabulary: int, head: bool
) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama by name. `keys`: columns that keys have together, as values have; `head`: one of its own,
    not the embedding's."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        block = f"model.layers.{layer}"
        shapes |= {
            f"{block}.input_layernorm.weight": (hidden,),
            f"{block}.self_attn.q_proj.weight": (hidden, hidden),
            f"{block}.self_attn.k_proj.weight": (keys, hidden),
            f"{block}.self_attn.v_proj.weight": (keys, hidden),
            f"{block}.self_attn.o_proj.weight": (hidden, hidden),
            f"{block}.post_attention_layernorm.weight": (hidden,),
            f"{block}.mlp.gate_proj.weight": (inner, hidden),
            f"{block}.mlp.up_proj.weight": (inner, hidden),
            f"{block}.mlp.down_proj.weight": (hidden, inner),
        }
    shapes["model.norm.weight"] = (hidden,)
    return shapes | ({"lm_head.weight": (vocabulary, hidden)} if head else {})


def llama(*, seed: int = 0, layers: int = 2, hidden: int = 32, vocabulary: int = 64) -> dict[str, BFloat16]:
    """A Llama in bfloat16: grouped attention (4 heads, 2 for keys and values), gated MLP, untied head."""
    random = np.random.default_rng(seed)
    shape_of = llama_shapes(
        layers=layers, hidden=hidden, inner=hidden * 2, keys=hidden // 2, vocabulary=vocabulary, head=True
    )
    return {
        name: BFloat16.of(np.ones(shape) if len(shape) == 1 else random.normal(0, 0.02, shape))
        for name, shape in shape_of.items()
    }


def tuned_from(
    base: Mapping[str, BFloat16], *, changed_share: float = 0.1, seed: int = 1
) -> tuple[dict[str, BFloat16], dict[str, NDArray[np.bool_]]]:
    """A model in which exactly round(share * entries) entries of each tensor moved by one bfloat16 step, and where:
    by tensor name, true at a changed entry."""
    random = np.random.default_rng(seed)
    tuned, changed = {}, {}
    for name, tensor in base.items():
        chosen = np.zeros(tensor.bits.size, dtype=bool)
        chosen[random.permutation(chosen.size)[: round(changed_share * chosen.size)]] = True
        changed[name] = chosen.reshape(tensor.shape)
        tuned[name] = BFloat16(tensor.bits ^ changed[name].astype(np.uint16))
    return tuned, changed


def llama_pair(
    *, changed_share: float = 0.1, seed: int = 0, layers: int = 2, hidden: int = 32
) -> tuple[dict[str, BFloat16], dict[str, BFloat16]]:
    """Base and tuned; each tensor differs in exactly round(share * entries) entries."""
    base = llama(seed=seed, layers=layers, hidden=hidden)
    return base, tuned_from(base, changed_share=changed_share, seed=seed + 1)[0]


def _type_and_bytes(tensor: Tensor) -> tuple[str, NDArray[Any]]:
    """The type as safetensors' writer calls it, and the data as one contiguous array."""
    if isinstance(tensor, BFloat16):
        return "bfloat16", np.ascontiguousarray(tensor.bits)
    if isinstance(tensor, np.ndarray):
        return tensor.dtype.name, np.ascontiguousarray(tensor)
    dtype = str(tensor.dtype).removeprefix("torch.")
    import torch  # the tensor is torch's, so torch is there already

    return dtype, tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
