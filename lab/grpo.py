"""Group relative policy optimisation of the base with a checkable reward (TRL GRPOTrainer).

The reward of a sampled answer is 1 when it is exactly right and 0 otherwise: nothing rewards form or
partly right digits. There is no KL term (TRL's default, ``beta=0``).
"""

from typing import Any

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from model import build_tokenizer, load_for_training
from problems import LONGEST_ANSWER, training_pool
from tuning import POOL_SIZE, parse_run, shared_settings, train_and_save

PROMPTS_PER_STEP = 64
ANSWERS_PER_PROMPT = 8


def exactly_right(completions: list[str], answer: list[str], **_others: Any) -> list[float]:
    """The reward: 1 for the right answer, 0 for any other."""
    return [float(given == wanted) for given, wanted in zip(completions, answer, strict=True)]


def prompts_with_answers(operations: str) -> Dataset:
    """The pool's prompts; the answers are only seen by the reward."""
    pool = training_pool(operations, POOL_SIZE[operations])
    return Dataset.from_list([{"prompt": problem.prompt, "answer": problem.answer} for problem in pool])


def main() -> None:
    args = parse_run(__doc__, steps=200, learning_rate=3e-6)
    model, tokenizer = load_for_training(args.base), build_tokenizer()
    settings = GRPOConfig(
        **shared_settings(args),
        per_device_train_batch_size=PROMPTS_PER_STEP * ANSWERS_PER_PROMPT,
        num_generations=ANSWERS_PER_PROMPT,
        max_completion_length=LONGEST_ANSWER + 1,
        temperature=1.0,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=20,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=exactly_right,
        args=settings,
        train_dataset=prompts_with_answers(args.operations),
        processing_class=tokenizer,
    )
    examples_per_step = PROMPTS_PER_STEP * ANSWERS_PER_PROMPT
    train_and_save(trainer, args, method="GRPO", examples_per_step=examples_per_step)


if __name__ == "__main__":
    main()
