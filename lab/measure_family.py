"""What the updates of the demo family look like, from the stored checkpoints alone.

An update is after - before: the tuned weights minus the base weights. Two rules say which weights count as
unchanged:

* exact: the stored bfloat16 values are bitwise equal;
* within 1e-5: the rule of Mukherjee et al., "Reinforcement Learning Finetunes Small Subnetworks in Large
  Language Models" (arXiv 2505.11711): both values in bfloat16, subtracted in bfloat16, and
  ``torch.isclose(update, 0, atol=1e-5)``.

Shares are pooled over all weights. The numerical rank of a two-dimensional update is
``torch.linalg.matrix_rank`` of its float32 difference, as a percentage of the greatest rank its shape
allows. The overlap of two updates A and B follows the same paper: o1 is the share of A's changed weights
that B changed too, o2 the share of B's that A changed too. Each is set against what it would be if the two
had changed independent random weights in the same numbers: o1 would be B's share of changed weights, o2
A's. The weights counted as changed in overlaps are those that exceed the 1e-5 rule.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import torch
from safetensors.torch import load_file

BASE = "abacus-base"
TOLERANCE = 1e-5

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class UpdateFigures:
    """How much of a model an update touches, and its rank."""

    name: str
    weights: int
    unchanged_exact: float
    unchanged_within_tolerance: float
    mean_rank_percent: float
    lowest_rank_percent: float


@dataclass(frozen=True)
class OverlapFigures:
    """How two updates of the same base coincide; each figure next to its value under independence."""

    first: str
    second: str
    o1: float
    o1_by_chance: float
    o2: float
    o2_by_chance: float
    jaccard: float
    jaccard_by_chance: float


def load_weights(folder: Path) -> Weights:
    """The stored tensors of a checkpoint, which must be bfloat16."""
    weights = load_file(folder / "model.safetensors")
    other = {name: tensor.dtype for name, tensor in weights.items() if tensor.dtype != torch.bfloat16}
    if other:
        raise ValueError(f"{folder.name} has tensors that are not bfloat16: {other}")
    return weights


def bitwise_equal(base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    """Where the two stored values have the same sixteen bits."""
    return base.view(torch.int16) == tuned.view(torch.int16)


def within_tolerance(base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    """Where the bfloat16 difference is close to zero by Mukherjee's rule."""
    update = tuned - base
    return torch.isclose(update, torch.zeros_like(update), atol=TOLERANCE)


def rank_percent(base: torch.Tensor, tuned: torch.Tensor) -> float:
    """Numerical rank of one matrix's update as a percentage of the greatest possible."""
    update = tuned.float() - base.float()
    return 100 * torch.linalg.matrix_rank(update).item() / min(update.shape)


def pooled_changes(base: Weights, tuned: Weights) -> torch.Tensor:
    """One flag per weight of the whole model: changed by more than the tolerance."""
    return torch.cat([~within_tolerance(base[name], tuned[name]).flatten() for name in sorted(base)])


def update_figures(name: str, base: Weights, tuned: Weights) -> UpdateFigures:
    """Sparsity and rank of one update."""
    weights = sum(tensor.numel() for tensor in base.values())
    exact = sum(int(bitwise_equal(base[key], tuned[key]).sum()) for key in base)
    close = sum(int(within_tolerance(base[key], tuned[key]).sum()) for key in base)
    ranks = [rank_percent(base[key], tuned[key]) for key in base if base[key].dim() == 2]
    return UpdateFigures(name, weights, exact / weights, close / weights, sum(ranks) / len(ranks), min(ranks))


def overlap_figures(first: str, second: str, changes: dict[str, torch.Tensor]) -> OverlapFigures:
    """One-sided overlaps and Jaccard index of two sets of changed weights, with their chance values."""
    a, b = changes[first], changes[second]
    share_a, share_b = a.double().mean().item(), b.double().mean().item()
    both = (a & b).double().mean().item()
    both_by_chance = share_a * share_b
    return OverlapFigures(
        first,
        second,
        o1=both / share_a,
        o1_by_chance=share_b,
        o2=both / share_b,
        o2_by_chance=share_a,
        jaccard=both / (share_a + share_b - both),
        jaccard_by_chance=both_by_chance / (share_a + share_b - both_by_chance),
    )


def tuned_folders(family: Path) -> list[Path]:
    """Every tuned checkpoint, intermediate ones included, in a readable order."""
    finals = sorted(path for path in family.iterdir() if path.is_dir() and path.name != BASE)
    found: list[Path] = []
    for final in finals:
        steps = sorted(final.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")))
        found += [*steps, final]
    return found


def measure(family: Path) -> tuple[list[UpdateFigures], list[OverlapFigures]]:
    """All figures of a family folder; overlaps between finished models only."""
    base = load_weights(family / BASE)
    updates: list[UpdateFigures] = []
    changes: dict[str, torch.Tensor] = {}
    for folder in tuned_folders(family):
        name = folder.relative_to(family).as_posix()
        tuned = load_weights(folder)
        updates.append(update_figures(name, base, tuned))
        if "/" not in name:
            changes[name] = pooled_changes(base, tuned)
    overlaps = [overlap_figures(first, second, changes) for first, second in combinations(changes, 2)]
    return updates, overlaps


def updates_table(updates: list[UpdateFigures]) -> str:
    lines = [
        "| Model | Unchanged, bitwise | Unchanged within 1e-5 | Mean rank of updates | Lowest rank |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.name} | {row.unchanged_exact:.1%} | {row.unchanged_within_tolerance:.1%} "
        f"| {row.mean_rank_percent:.1f} % | {row.lowest_rank_percent:.1f} % |"
        for row in updates
    ]
    return "\n".join(lines)


def overlaps_table(overlaps: list[OverlapFigures]) -> str:
    lines = [
        "| A | B | o1 (chance) | o2 (chance) | Jaccard (chance) |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.first} | {row.second} | {row.o1:.1%} ({row.o1_by_chance:.1%}) "
        f"| {row.o2:.1%} ({row.o2_by_chance:.1%}) | {row.jaccard:.1%} ({row.jaccard_by_chance:.1%}) |"
        for row in overlaps
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", type=Path, help="folder that holds abacus-base and the tuned models")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    updates, overlaps = measure(args.family)
    print(updates_table(updates), overlaps_table(overlaps), sep="\n\n")
    if args.json:
        figures = {"updates": [asdict(row) for row in updates], "overlaps": [asdict(row) for row in overlaps]}
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
