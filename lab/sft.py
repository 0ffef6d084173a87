"""Supervised fine-tuning of the base on the right answers to the pool's problems (TRL SFTTrainer)."""

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from model import build_tokenizer, load_for_training
from problems import training_pool
from tuning import POOL_SIZE, parse_run, shared_settings, train_and_save

BATCH = 64


def right_answers(operations: str) -> Dataset:
    """Prompts with their right answers; the loss is taken on the answers only (TRL's default)."""
    pool = training_pool(operations, POOL_SIZE[operations])
    return Dataset.from_list([{"prompt": problem.prompt, "completion": problem.answer} for problem in pool])


def main() -> None:
    args = parse_run(__doc__, steps=300, learning_rate=6e-5)
    model, tokenizer = load_for_training(args.base), build_tokenizer()
    settings = SFTConfig(
        **shared_settings(args),
        per_device_train_batch_size=BATCH,
        lr_scheduler_type="linear",
        warmup_steps=20,
    )
    trainer = SFTTrainer(
        model=model, args=settings, train_dataset=right_answers(args.operations), processing_class=tokenizer
    )
    train_and_save(trainer, args, method="SFT", examples_per_step=BATCH)


if __name__ == "__main__":
    main()
