"""What SFT, DPO and GRPO share: the start, the pool of problems, the trainer's settings, the saving."""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from model import save_checkpoint, save_weights
from pretrain import NAME as BASE_NAME
from records import save_record

POOL_SIZE = {"+": 6000, "-": 3500}


def parse_run(description: str | None, steps: int, learning_rate: float) -> argparse.Namespace:
    """The arguments that every tuning script takes; the defaults are those of the demo family."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="folder that holds the whole family")
    parser.add_argument("--name", required=True, help="folder of the new model inside --out")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--operations", choices=sorted(POOL_SIZE), default="+")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--learning-rate", type=float, default=learning_rate)
    parser.add_argument("--keep-steps", type=int, nargs="*", default=[], help="steps kept as checkpoint-N")
    args = parser.parse_args()
    args.base = args.out / BASE_NAME
    torch.set_num_threads(1)
    set_seed(args.seed)
    return args


def shared_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Trainer settings common to all methods: float32 on the CPU, AdamW, nothing stored on the way."""
    return {
        "output_dir": str(args.out / args.name),
        "max_steps": args.steps,
        "learning_rate": args.learning_rate,
        "seed": args.seed,
        "data_seed": args.seed,
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


class KeepSteps(TrainerCallback):
    """Stores the weights, rounded to bfloat16, after chosen steps."""

    def __init__(self, folder: Path, steps: list[int]) -> None:
        self.folder = folder
        self.steps = steps

    def on_step_end(
        self,
        _args: TrainingArguments,
        state: TrainerState,
        _control: TrainerControl,
        model: PreTrainedModel,
        **_others: Any,
    ) -> None:
        if state.global_step in self.steps:
            save_weights(model, self.folder / f"checkpoint-{state.global_step}")


def train_and_save(trainer: Trainer, args: argparse.Namespace, method: str, examples_per_step: int) -> None:
    """Run the trainer, then store the model and the facts of the run."""
    folder = args.out / args.name
    trainer.add_callback(KeepSteps(folder, args.keep_steps))
    started = time.monotonic()
    trainer.train()
    save_checkpoint(trainer.model, folder)
    save_record(
        folder,
        method=method,
        operations=args.operations,
        seed=args.seed,
        steps=args.steps,
        learning_rate=args.learning_rate,
        examples_per_step=examples_per_step,
        seconds=time.monotonic() - started,
    )
