"""Tiny models adapted by peft itself: a base and an adapter as they lie on the disk, and what peft merges them into."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel


@dataclass(frozen=True)
class Adapted:
    """`base` and `adapter` are folders; `before` is the base's weights, `after` what peft merges them into."""

    base: Path
    adapter: Path
    before: dict[str, Tensor]
    after: dict[str, Tensor]


def tiny_llama(dtype: torch.dtype = torch.bfloat16, *, tied: bool = False, bias: bool = False) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied, attention_bias=bias, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return _with_random_vectors(LlamaForCausalLM(config)).to(dtype)


def tiny_gpt2(dtype: torch.dtype = torch.float32, *, layers: int = 2, width: int = 32) -> PreTrainedModel:
    """Its projections lie (in, out), those of the other models (out, in)."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=layers, n_embd=width, n_head=4, vocab_size=64, n_positions=16, bos_token_id=1, eos_token_id=2
    )
    return _with_random_vectors(GPT2LMHeadModel(config)).to(dtype)


def _with_random_vectors(model: PreTrainedModel) -> PreTrainedModel:
    """New biases are 0, and nothing could be told from what multiplies them."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.02)
    return model


def adapted(folder: Path, model: PreTrainedModel, config: PeftConfig, *, seed: int = 1, size: float = 0.02) -> Adapted:
    """The model and an adapter of it whose every trained entry is random, saved as peft saves them and merged by it."""
    model.save_pretrained(folder / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what peft says of tied weights and of layouts is what the tests are about
        wrapped = get_peft_model(copy.deepcopy(model), config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad and parameter.is_floating_point():
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_((noise * size).to(parameter.dtype))
        wrapped.save_pretrained(folder / "adapter")
    merged = merged_by_peft(model, folder / "adapter")
    return Adapted(folder / "base", folder / "adapter", _weights(model), merged)


def merged_by_peft(model: PreTrainedModel, adapter: Path) -> dict[str, Tensor]:
    """What the adapter's file, loaded anew, leaves of the model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded: Any = PeftModel.from_pretrained(copy.deepcopy(model), str(adapter))
        return _weights(loaded.merge_and_unload())


def _weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
