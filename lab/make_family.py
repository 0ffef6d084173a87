"""Make the whole demo family: train every model, measure it, and write cards, figures and tables.

    python make_family.py --out OUT --demo ../demo

Models already finished in OUT are kept, so an interrupted run can be taken up again. With ``--demo`` the
finished folders are copied there, without anything but weights, configuration, tokenizer and model card.
"""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from cards import write_cards
from evaluate import HELD_OUT_COUNT, accuracies
from measure_family import BASE, OverlapFigures, UpdateFigures, measure, overlaps_table, tuned_folders
from records import RECORD_FILE, load_record

LAB = Path(__file__).resolve().parent
FIGURES = LAB / "figures.json"
TABLES_BEGIN, TABLES_END = "<!-- tables: begin (make_family.py) -->", "<!-- tables: end -->"


@dataclass(frozen=True)
class Run:
    """One training run: the script, the folder it fills, and its arguments."""

    script: str
    name: str
    seed: int
    options: list[str] = field(default_factory=list)

    def command(self, out: Path) -> list[str]:
        named = ["--name", self.name] if self.name != BASE else []
        return [
            sys.executable,
            str(LAB / self.script),
            *("--out", str(out)),
            *named,
            *("--seed", str(self.seed)),
            *self.options,
        ]


RUNS = [
    Run("pretrain.py", BASE, seed=0),
    Run("grpo.py", "abacus-grpo-seed1", seed=1, options=["--keep-steps", "50", "100"]),
    Run("grpo.py", "abacus-grpo-seed2", seed=2),
    Run("grpo.py", "abacus-grpo-minus-seed1", seed=1, options=["--operations=-"]),
    Run("dpo.py", "abacus-dpo-seed1", seed=1),
    Run("dpo.py", "abacus-dpo-seed2", seed=2),
    Run("sft.py", "abacus-sft-seed1", seed=1),
    Run("sft.py", "abacus-sft-seed2", seed=2),
    Run("sft.py", "abacus-sft-lowrate-seed1", seed=1, options=["--learning-rate", "3e-6"]),
]


def train_all(out: Path) -> None:
    """Run every training that has not finished yet, one after the other."""
    for run in RUNS:
        if (out / run.name / RECORD_FILE).exists():
            continue
        print(f"training {run.name}", flush=True)
        subprocess.run(run.command(out), check=True)


def evaluate_all(out: Path) -> dict[str, Any]:
    """Accuracies of the base, the tuned models and the kept intermediate checkpoints."""
    folders = [out / BASE, *tuned_folders(out)]
    return {
        folder.relative_to(out).as_posix(): {
            operations: accuracies(folder, operations) for operations in HELD_OUT_COUNT
        }
        for folder in folders
    }


def training_table(out: Path, accuracy: dict[str, Any], updates: list[UpdateFigures]) -> str:
    """Steps, rate, accuracy and sparsity per tuned model, intermediate checkpoints included."""
    base = accuracy[BASE]
    lines = [
        "| Model | Trained on | Steps | Learning rate "
        "| `+` sampled | `+` greedy | `-` sampled | `-` greedy "
        "| Unchanged, bitwise | Unchanged within 1e-5 | Mean rank |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in updates:
        model, _, checkpoint = row.name.partition("/")
        record = load_record(out / model)
        steps = checkpoint.removeprefix("checkpoint-") if checkpoint else str(record["steps"])
        change = [
            f"{base[operations][kind]:.1%} → {accuracy[row.name][operations][kind]:.1%}"
            for operations in HELD_OUT_COUNT
            for kind in ("sampled", "greedy")
        ]
        cells = [
            row.name,
            f"`{record['operations']}`",
            steps,
            f"{record['learning_rate']:g}",
            *change,
            f"{row.unchanged_exact:.1%}",
            f"{row.unchanged_within_tolerance:.1%}",
            f"{row.mean_rank_percent:.1f} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def seconds_table(out: Path) -> str:
    """How long each training took."""
    lines = ["| Model | Training time |", "| --- | ---: |"]
    lines += [f"| {run.name} | {load_record(out / run.name)['seconds']} s |" for run in RUNS]
    return "\n".join(lines)


def write_tables(
    out: Path, accuracy: dict[str, Any], updates: list[UpdateFigures], overlaps: list[OverlapFigures]
) -> None:
    """Put the generated tables between the two markers of lab/README.md."""
    readme = LAB / "README.md"
    before, rest = readme.read_text().split(TABLES_BEGIN)
    after = rest.split(TABLES_END)[1]
    tables = [training_table(out, accuracy, updates), overlaps_table(overlaps), seconds_table(out)]
    readme.write_text("\n\n".join([before + TABLES_BEGIN, *tables, TABLES_END + after]))


def write_figures(accuracy: dict[str, Any], updates: list[UpdateFigures], overlaps: list[OverlapFigures]) -> None:
    """Everything that was measured, as one JSON file."""
    figures = {
        "accuracy": accuracy,
        "updates": [asdict(row) for row in updates],
        "overlaps": [asdict(row) for row in overlaps],
    }
    FIGURES.write_text(json.dumps(figures, indent=2) + "\n")


def copy_to_demo(out: Path, demo: Path) -> None:
    """Replace the family in the demo folder by the one just made."""
    for run in RUNS:
        shutil.rmtree(demo / run.name, ignore_errors=True)
        shutil.copytree(out / run.name, demo / run.name, ignore=shutil.ignore_patterns(RECORD_FILE))
        for kept in (demo / run.name).glob("checkpoint-*/generation_config.json"):
            kept.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="working folder outside the repository")
    parser.add_argument("--demo", type=Path, help="where to copy the finished family")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    train_all(args.out)
    accuracy = evaluate_all(args.out)
    updates, overlaps = measure(args.out)
    write_figures(accuracy, updates, overlaps)
    write_tables(args.out, accuracy, updates, overlaps)
    write_cards(args.out, accuracy)
    if args.demo:
        copy_to_demo(args.out, args.demo)


if __name__ == "__main__":
    main()
