"""How far singular values are off, and whether ranks are torch.linalg.matrix_rank's, by kind and shape of the update.

    python -m benchmarks.spectra_accuracy [--shapes 640x640 700x900 ...] [--seeds 2] [--verbose]
    python -m benchmarks.spectra_accuracy --previews --shapes 1024x1024 2048x640 1200x1500 --seeds 1

Each update is decomposed as the app does, by torch.linalg.svdvals in float32, and by numpy's SVD in float64, which is
taken for the truth. The shapes lie on both sides of every switch between methods. One line a method: the largest error
of a value, as a part of the largest value, next to that of torch's float32 SVD on the same matrices; and the ranks that
equal matrix_rank's, those inside the bounds, and those that equal the rank by float64 values. With --previews it is the
previews that are held against float64: one line an update.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain, product

import numpy as np
import torch

from analysis.elementwise import geometry
from analysis.measurements import Spectrum
from analysis.metrics import effective_rank, stable_rank
from analysis.preview import estimate
from analysis.spectral import spectrum
from benchmarks.updates import KINDS, update_of

_SHAPES = ("512x512", "640x2000", "2000x640", "700x700", "700x900", "900x1200", "1200x900", "768x2048", "2048x768")


@dataclass
class Trial:
    shape: str
    kind: str
    found: Spectrum
    error: float  # of the largest value
    error_of_torch: float
    rank_by_torch: int
    rank_by_float64: int

    @property
    def equals(self) -> bool:
        return self.found.rank == self.rank_by_torch

    @property
    def is_inside(self) -> bool:
        return (self.found.rank_low or 0) <= self.rank_by_torch <= (self.found.rank_high or 0)


def spectrum_of(update: torch.Tensor) -> Spectrum:
    nothing = torch.zeros(1).expand(update.shape)
    return spectrum(lambda: iter([(nothing, update)]), geometry(tuple(update.shape)), budget=1 << 33)


def trial(shape: str, kind: str, seed: int) -> Trial:
    update = update_of(kind, *map(int, shape.split("x")), seed)
    exact = np.linalg.svd(update.double().numpy(), compute_uv=False)
    found, by_torch = spectrum_of(update), torch.linalg.svdvals(update).numpy()
    one = exact[0] or 1.0
    return Trial(
        shape,
        kind,
        found,
        float(np.abs(found.singular_values - exact).max() / one),
        float(np.abs(by_torch - exact).max() / one),
        int(torch.linalg.matrix_rank(update)),
        int((exact > max(update.shape) * float(np.finfo(np.float32).eps) * exact[0]).sum()),
    )


def previews(shapes: list[str], seeds: int) -> None:
    print("| shape | update | largest value | stable rank | effective rank | curve, mean and largest, of σ₁ |")
    print("|---|---|---|---|---|---|")
    for shape, seed, kind in product(shapes, range(seeds), [kind for kind in KINDS if kind != "untouched"]):
        update = update_of(kind, *map(int, shape.split("x")), seed)
        exact = np.linalg.svd(update.double().numpy(), compute_uv=False)
        found = estimate(update)
        off = np.abs(found.values - exact[found.positions.astype(int) - 1]) / exact[0]
        pairs = (
            (found.values[0], exact[0]),
            (found.stable_rank, stable_rank(exact)),
            (found.effective_rank, effective_rank(exact)),
        )
        numbers = " | ".join(f"{100 * (one / other - 1):+.2f} %" for one, other in pairs)
        print(f"| {shape} | {kind} | {numbers} | {off.mean():.0e}, {off.max():.0e} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=_SHAPES)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--previews", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.previews:
        previews(options.shapes, options.seeds)
        return
    trials_of = defaultdict(list)
    for shape in options.shapes:
        for seed in range(options.seeds):
            for kind in KINDS:
                one = trial(shape, kind, seed)
                trials_of[one.found.method].append(one)
                if options.verbose or not one.equals:
                    bounds = f"{one.found.rank_low} to {one.found.rank_high}"
                    ranks = f"{one.found.rank} ({bounds}), torch {one.rank_by_torch}, float64 {one.rank_by_float64}"
                    print(
                        f"{shape} {kind}, seed {seed}: {one.found.method}, off by {one.error:.0e}, {ranks}", flush=True
                    )
    print("\n| method | updates | off by | torch's SVD | rank as matrix_rank | inside the bounds | as float64 |")
    print("|---|---|---|---|---|---|---|")
    for method, trials in [*sorted(trials_of.items()), ("all", list(chain(*trials_of.values())))]:
        errors = f"{max(t.error for t in trials):.1e} | {max(t.error_of_torch for t in trials):.1e}"
        as_float64 = sum(t.found.rank == t.rank_by_float64 for t in trials)
        ranks = f"{sum(t.equals for t in trials)} | {sum(t.is_inside for t in trials)} | {as_float64}"
        print(f"| {method} | {len(trials)} | {errors} | {ranks} |")


if __name__ == "__main__":
    main()
