"""The model of the demo family: its shape, its tokenizer, and how it is loaded and saved.

The shape is Llama's (grouped-query attention, SwiGLU, RMSNorm, rotary positions), made small. Checkpoints
are stored in bfloat16; training loads them into float32 master weights and only rounds to bfloat16 when
it saves, as the usual RL frameworks do.
"""

import copy
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from problems import ALPHABET, LONGEST_ANSWER, LONGEST_PROMPT

PAD, END = "<pad>", "<end>"
PAD_ID, END_ID = 0, 1
HIDDEN = 128
LONGEST_TEXT = LONGEST_PROMPT + LONGEST_ANSWER + 1


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character: a byte-pair tokenizer without any merges."""
    vocabulary = {token: number for number, token in enumerate([PAD, END, *ALPHABET])}
    core = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        model_max_length=32,
        clean_up_tokenization_spaces=False,
    )


def build_model(seed: int) -> PreTrainedModel:
    """A freshly initialised model in float32, its weights scaled to its width (one over the square root)."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=2 + len(ALPHABET),
        hidden_size=HIDDEN,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=HIDDEN**-0.5,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=False,
        use_cache=True,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        max_new_tokens=LONGEST_ANSWER + 1,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
    )
    return model


def load_for_training(folder: Path) -> PreTrainedModel:
    """A stored checkpoint as float32 master weights."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def save_weights(model: PreTrainedModel, folder: Path) -> None:
    """Round a copy of the weights to bfloat16 and store it with its configuration."""
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    rounded.config.use_cache = True  # trainers switch it off
    rounded.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


def save_tokenizer(folder: Path) -> None:
    """Store a fresh tokenizer: trainers leave their padding and truncation in the one they used.

    The class is written under the name that transformers 4 knows too; transformers 5 reads it as its own.
    """
    build_tokenizer().save_pretrained(folder)
    settings_file = folder / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings_file.write_text(json.dumps(settings, indent=2) + "\n")


def save_checkpoint(model: PreTrainedModel, folder: Path) -> None:
    """Store a complete Hub-shaped folder: weights, configuration and tokenizer."""
    save_weights(model, folder)
    save_tokenizer(folder)
