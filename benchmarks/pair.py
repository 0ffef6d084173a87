"""Writes a Llama-shaped pair of checkpoints of a wanted size, in bfloat16, sharded, a fifth of the entries changed.

    python -m benchmarks.pair FOLDER [--gigabytes 2] [--hidden 2048]

`gigabytes` counts both sides together. The tuned side is base + Gaussian noise rounded to bfloat16, as an RL update at
a small learning rate leaves it; FOLDER then holds base/ and tuned/.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.hub.builders import llama_shapes

_NOISE = 1.75e-5  # of the update, against weights of 0.02: about 20 % of the entries cross a bfloat16 step
_LAYERS_A_SHARD = 2


def shapes(hidden: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Tensor shapes of a Llama with grouped-query attention, a vocabulary of 16 times the hidden size, and no head but
    the embedding."""
    return llama_shapes(
        layers=layers, hidden=hidden, inner=_inner(hidden), keys=hidden // 4, vocabulary=16 * hidden, head=False
    )


def _inner(hidden: int) -> int:
    return hidden * 11 // 4


def layers_for(gigabytes: float, hidden: int) -> int:
    one = sum(torch.Size(shape).numel() for shape in shapes(hidden, 1).values())
    two = sum(torch.Size(shape).numel() for shape in shapes(hidden, 2).values())
    return max(1, round((gigabytes * 1e9 / 4 - (2 * one - two)) / (two - one)))


def write_pair(folder: Path, gigabytes: float, hidden: int) -> None:
    """Shard by shard, so that no more than two layers of both sides are in memory."""
    layers = layers_for(gigabytes, hidden)
    names = list(shapes(hidden, layers).items())
    step = 9 * _LAYERS_A_SHARD
    shards = [dict(names[first : first + step]) for first in range(0, len(names), step)]
    generator = torch.Generator().manual_seed(0)
    shard_of_tensor: dict[str, str] = {}
    for side in ("base", "tuned"):
        (folder / side).mkdir(parents=True, exist_ok=True)
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        base = {name: (torch.randn(shape, generator=generator) * 0.02).bfloat16() for name, shape in shard.items()}
        save_file(base, folder / "base" / file, {"format": "pt"})
        for name, weights in base.items():
            noise = torch.randn(weights.shape, generator=generator) * _NOISE
            base[name] = (weights.float() + noise).bfloat16()
        save_file(base, folder / "tuned" / file, {"format": "pt"})
        shard_of_tensor |= dict.fromkeys(shard, file)
    for side in ("base", "tuned"):
        index = {"metadata": {}, "weight_map": shard_of_tensor}
        (folder / side / "model.safetensors.index.json").write_text(json.dumps(index))
        (folder / side / "config.json").write_text(json.dumps(_config(hidden, layers)))


def _config(hidden: int, layers: int) -> dict[str, object]:
    """What transformers needs to load it."""
    sizes = {"hidden_size": hidden, "intermediate_size": _inner(hidden), "vocab_size": 16 * hidden}
    heads = {"num_hidden_layers": layers, "num_attention_heads": 16, "num_key_value_heads": 4}
    kind = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16"}
    return kind | sizes | heads | {"tie_word_embeddings": True}


@contextmanager
def pair_in(keep: Path | None, gigabytes: float, hidden: int) -> Iterator[Path]:
    """A folder with a pair: `keep`, which stays, and is used as it is where it has one; or one that is removed."""
    folder = keep or Path(tempfile.mkdtemp(prefix="subnetscope-"))
    try:
        if not (folder / "tuned" / "config.json").exists():
            write_pair(folder, gigabytes, hidden)
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder)


def into_page_cache(folder: Path) -> int:
    """Bytes of the weight files of both sides, read once."""
    buffer, total = bytearray(16 << 20), 0
    for path in folder.glob("*/*.safetensors"):
        with path.open("rb", buffering=0) as file:
            while n := file.readinto(buffer):
                total += n
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--hidden", type=int, default=2048)
    options = parser.parse_args()
    write_pair(options.folder, options.gigabytes, options.hidden)


if __name__ == "__main__":
    main()
