"""What is written down about a training run: one small JSON file next to each checkpoint."""

import json
from pathlib import Path
from typing import Any

RECORD_FILE = "training.json"


def save_record(folder: Path, **facts: Any) -> None:
    """Write the facts of a run, in a fixed order, next to its checkpoint."""
    facts["seconds"] = round(facts["seconds"])
    (folder / RECORD_FILE).write_text(json.dumps(facts, indent=2) + "\n")


def load_record(folder: Path) -> dict[str, Any]:
    """The facts that the training run wrote down."""
    return json.loads((folder / RECORD_FILE).read_text())
