"""Accuracy of a checkpoint on the held-out problems, sampled at temperature 1 and greedy."""

import argparse
import json
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from model import build_tokenizer, load_for_training
from problems import LONGEST_ANSWER, Problem, held_out_set

HELD_OUT_COUNT = {"+": 900, "-": 450}
SAMPLES_PER_PROBLEM = 8
BATCH = 900


@torch.no_grad()
def answer_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    problems: list[Problem],
    sample: bool,
    seed: int,
) -> list[str]:
    """One answer of the model to every problem."""
    torch.manual_seed(seed)
    model.eval()
    answers: list[str] = []
    for start in range(0, len(problems), BATCH):
        prompts = [problem.prompt for problem in problems[start : start + BATCH]]
        batch = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
        generated = model.generate(
            **batch,
            do_sample=sample,
            temperature=1.0 if sample else None,
            top_k=0 if sample else None,
            max_new_tokens=LONGEST_ANSWER + 1,
        )
        completions = generated[:, batch["input_ids"].shape[1] :]
        answers += tokenizer.batch_decode(completions, skip_special_tokens=True)
    return answers


def share_right(problems: list[Problem], answers: list[str]) -> float:
    """The share of problems answered exactly."""
    right = sum(problem.answer == answer for problem, answer in zip(problems, answers, strict=True))
    return right / len(problems)


def accuracies(folder: Path, operations: str, seed: int = 0) -> dict[str, float]:
    """Sampled and greedy accuracy on the held-out problems of the given operations."""
    model, tokenizer = load_for_training(folder), build_tokenizer()
    problems = held_out_set(operations, HELD_OUT_COUNT[operations])
    repeated = problems * SAMPLES_PER_PROBLEM
    return {
        "sampled": share_right(repeated, answer_all(model, tokenizer, repeated, True, seed)),
        "greedy": share_right(problems, answer_all(model, tokenizer, problems, False, seed)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    print(json.dumps({operations: accuracies(folder, operations) for operations in HELD_OUT_COUNT}, indent=2))


if __name__ == "__main__":
    main()
