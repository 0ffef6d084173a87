"""Pretrain the base model on both operations, from a corpus of mixed quality.

The base then samples a right answer roughly half the time: often enough for reinforcement learning to find
right answers among its samples, with room left to improve.
"""

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from model import END, LONGEST_TEXT, PAD_ID, build_model, build_tokenizer, save_checkpoint
from problems import Problem, corpus
from records import save_record

NAME = "abacus-base"
OPERATIONS = "+-"


def encode(problems: list[Problem], tokenizer: PreTrainedTokenizerFast) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole sums as token ids, and the same ids as labels with the padding left out of the loss."""
    texts = [problem.prompt + problem.answer + END for problem in problems]
    batch = tokenizer(texts, padding="max_length", max_length=LONGEST_TEXT, padding_side="right", return_tensors="pt")
    ids = batch["input_ids"]
    return ids, ids.masked_fill(ids == PAD_ID, -100)


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """A linear warm-up, then a linear fall to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return (steps - step) / (steps - warmup)


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    problems: Iterator[Problem],
    steps: int,
    batch_size: int,
    peak_rate: float,
    warmup: int,
) -> None:
    """Next-character prediction over whole sums with AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_rate, betas=(0.9, 0.95), weight_decay=0.1)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peak_rate * learning_rate_factor(step, steps, warmup)
        ids, labels = encode([next(problems) for _ in range(batch_size)], tokenizer)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder that holds the whole family")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(1)
    started = time.monotonic()
    model, tokenizer = build_model(args.seed), build_tokenizer()
    problems = corpus(random.Random(args.seed), OPERATIONS)
    train(model, tokenizer, problems, args.steps, args.batch_size, args.learning_rate, args.warmup)
    save_checkpoint(model, args.out / NAME)
    save_record(
        args.out / NAME,
        method="pretraining",
        operations=OPERATIONS,
        seed=args.seed,
        steps=args.steps,
        learning_rate=args.learning_rate,
        examples_per_step=args.batch_size,
        seconds=time.monotonic() - started,
    )


if __name__ == "__main__":
    main()
