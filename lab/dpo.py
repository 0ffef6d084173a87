"""Direct preference optimisation of the base on its own right and wrong answers (TRL DPOTrainer).

For every problem of the pool the base samples a few answers. Where at least one is wrong, the right
answer is preferred over one of the wrong ones. The pairs do not depend on the training seed.
"""

import random

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from evaluate import answer_all
from model import build_tokenizer, load_for_training
from problems import POOL_SEED, training_pool
from tuning import POOL_SIZE, parse_run, shared_settings, train_and_save

BATCH = 64
BETA = 0.1
ANSWERS_PER_PROBLEM = 4


def preference_pairs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, operations: str) -> Dataset:
    """A chosen right answer and a rejected wrong sample for every problem that the base can get wrong."""
    pool = training_pool(operations, POOL_SIZE[operations])
    rounds = [
        answer_all(model, tokenizer, pool, sample=True, seed=POOL_SEED + number)
        for number in range(ANSWERS_PER_PROBLEM)
    ]
    choose = random.Random(POOL_SEED)
    pairs = []
    for problem, *answers in zip(pool, *rounds, strict=True):
        wrong = [answer for answer in answers if answer != problem.answer]
        if wrong:
            rejected = choose.choice(wrong)
            pairs.append({"prompt": problem.prompt, "chosen": problem.answer, "rejected": rejected})
    return Dataset.from_list(pairs)


def main() -> None:
    args = parse_run(__doc__, steps=300, learning_rate=3e-6)
    model, tokenizer = load_for_training(args.base), build_tokenizer()
    pairs = preference_pairs(model, tokenizer, args.operations)
    print(f"{len(pairs)} preference pairs", flush=True)
    settings = DPOConfig(
        **shared_settings(args),
        per_device_train_batch_size=BATCH,
        beta=BETA,
        lr_scheduler_type="linear",
        warmup_steps=20,
    )
    trainer = DPOTrainer(model=model, args=settings, train_dataset=pairs, processing_class=tokenizer)
    train_and_save(trainer, args, method="DPO", examples_per_step=BATCH)


if __name__ == "__main__":
    main()
