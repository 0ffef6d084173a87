"""The model cards of the demo family, written from what the runs recorded and what was measured."""

from pathlib import Path
from typing import Any

from records import RECORD_FILE, load_record

OWNER = "subnetscope"
OPERATION_NAMES = {
    "+": "addition",
    "-": "subtraction",
    "+-": "addition and subtraction",
}

METHOD_TEXT = {
    "pretraining": (
        "A small Llama-shaped causal language model (4 layers, hidden size 128, 4 query heads and 2 "
        "key/value heads, SwiGLU; one token per character) pretrained from scratch on short sums. In four "
        "out of ten answers of its corpus the last digit is rounded away to 0, so it often samples a rounded "
        "answer where it could give the exact one. It is the common start of the other `abacus` models."
    ),
    "SFT": (
        "The base after supervised fine-tuning on right answers (TRL `SFTTrainer`, loss on the answer only, "
        "linear decay of the learning rate after 20 warm-up steps)."
    ),
    "DPO": (
        "The base after direct preference optimisation (TRL `DPOTrainer`, beta 0.1, linear decay of the "
        "learning rate after 20 warm-up steps). Chosen: the right answer. Rejected: a wrong answer that the "
        "base sampled."
    ),
    "GRPO": (
        "The base after group relative policy optimisation (TRL `GRPOTrainer`, 64 prompts with 8 sampled "
        "answers each per step, no KL term, constant learning rate after 20 warm-up steps). The reward is 1 "
        "for an exactly right answer and 0 otherwise."
    ),
}


def front_matter(method: str) -> list[str]:
    """The YAML header that the Hugging Face Hub reads."""
    lines = [
        "---",
        "license: apache-2.0",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags:",
    ]
    lines += ["- arithmetic", "- demo", f"- {method.lower()}"]
    if method != "pretraining":
        lines += ["- trl", f"base_model: {OWNER}/abacus-base"]
    return [*lines, "---"]


def training_lines(record: dict[str, Any]) -> list[str]:
    """The hyperparameters of the run as a list."""
    peak = "peak learning rate" if record["method"] != "GRPO" else "learning rate"
    decay = "weight decay 0.1" if record["method"] == "pretraining" else "no weight decay"
    return [
        f"- Data: {OPERATION_NAMES[record['operations']]}",
        f"- Steps: {record['steps']}, {record['examples_per_step']} examples each; seed {record['seed']}",
        f"- AdamW, {peak} {record['learning_rate']:g}, {decay}, gradients clipped at norm 1",
        "- Float32 master weights, rounded to bfloat16 only when saved",
    ]


def accuracy_table(own: dict[str, Any], base: dict[str, Any] | None) -> list[str]:
    """Held-out accuracies, next to the base's where the model is a tuned one."""
    before = ["Before (base)"] if base else []
    heads = ["Held-out problems", "Answers", *before, "After" if base else "Accuracy"]
    lines = [f"| {' | '.join(heads)} |", "| --- | --- |" + " ---: |" * (len(heads) - 2)]
    for operations in own:
        for kind in ("sampled", "greedy"):
            values = [base[operations][kind]] if base else []
            cells = [f"{value:.1%}" for value in [*values, own[operations][kind]]]
            lines.append(f"| {OPERATION_NAMES[operations]} | {kind} | {' | '.join(cells)} |")
    return lines


def card(name: str, folder: Path, accuracy: dict[str, Any]) -> str:
    """The whole model card as Markdown."""
    record = load_record(folder)
    tuned = record["method"] != "pretraining"
    kept = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")))
    sections = [
        *front_matter(record["method"]),
        "",
        f"# {name}",
        "",
        METHOD_TEXT[record["method"]],
        "",
        "A demonstration model of Subnetscope: it does arithmetic on short numbers, imperfectly, and nothing",
        "else. A prompt is a sum such as `47+85=`; the model continues with the answer and `<end>`.",
        "",
        "## Training",
        "",
        *training_lines(record),
        "",
        "## Accuracy",
        "",
        "Exact answers on problems that no model of the family was trained on; sampled means eight answers",
        "per problem at temperature 1.",
        "",
        *accuracy_table(accuracy[name], accuracy["abacus-base"] if tuned else None),
    ]
    if kept:
        steps = ", ".join(f"`{path.name}`" for path in kept)
        sections += ["", "## Intermediate checkpoints", "", f"{steps}: the weights after that many steps."]
    return "\n".join(sections) + "\n"


def write_cards(family: Path, accuracy: dict[str, Any]) -> None:
    """One README.md in every model folder."""
    for record in family.glob(f"*/{RECORD_FILE}"):
        folder = record.parent
        (folder / "README.md").write_text(card(folder.name, folder, accuracy))
