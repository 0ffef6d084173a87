"""Updates of the kinds that training leaves, for the benchmarks of spectra; the same seed gives the same update."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Random = torch.Generator


def normal(random: Random, *shape: int) -> Tensor:
    return torch.randn(shape, generator=random)


def merged(random: Random, update: Tensor) -> Tensor:
    """What is left of `update` once it is added to bfloat16 weights of size 0.02 and rounded."""
    base = (0.02 * normal(random, *update.shape)).bfloat16().float()
    return (base + update).bfloat16().float() - base


def small(random: Random, m: int, n: int, size: float = 1.76e-5) -> Tensor:
    """At the default size a fifth of the entries change, as after reinforcement learning."""
    return merged(random, size * normal(random, m, n))


def thin(random: Random, m: int, n: int, rank: int = 16) -> Tensor:
    return 1e-4 * (normal(random, m, rank) @ normal(random, rank, n))


def very_sparse(random: Random, m: int, n: int) -> Tensor:
    return 1e-4 * normal(random, m, n) * (torch.rand(m, n, generator=random) < 1e-3)


def frozen_rows(random: Random, m: int, n: int) -> Tensor:
    update = small(random, m, n)
    update[: m // 3] = 0
    return update


def repeated_rows(random: Random, m: int, n: int) -> Tensor:
    update = small(random, m, n)
    update[-40:] = update[:40]
    return update


def badly_scaled(random: Random, m: int, n: int) -> Tensor:
    short = min(m, n)
    left, right = torch.linalg.qr(normal(random, m, short))[0], torch.linalg.qr(normal(random, n, short))[0]
    return (left * torch.logspace(0, -8, short)) @ right.T


def at_threshold(random: Random, m: int, n: int) -> Tensor:
    """Ten values within 2 % of the numerical rank's threshold, at 4096 of 1e-5 of the largest: five on either side."""
    short, threshold = min(m, n), max(m, n) * 2.0**-23
    values = torch.logspace(0, -2, short, dtype=torch.float64)
    values[-10:] = threshold * (1 + torch.linspace(0.02, -0.02, 10))
    left, right = (torch.linalg.qr(normal(random, side, short).double())[0] for side in (m, n))
    return ((left * values) @ right.T).float()


def outlier(random: Random, m: int, n: int) -> Tensor:
    update = small(random, m, n)
    update[0, 0] += 0.5
    return update


def any_size(random: Random, m: int, n: int) -> Tensor:
    """Two entries a row, of 1e-14 to 1e-7: what elimination fills in between them nearly vanishes in float32."""
    update = torch.zeros(m, n)
    places = tuple(torch.randint(0, side, (2 * m,), generator=random) for side in (m, n))
    update[places] = 10.0 ** (-14 + 7 * torch.rand(2 * m, generator=random)) * normal(random, 2 * m).sign()
    return update


def dead_columns(random: Random, m: int, n: int) -> Tensor:
    """Weights of size 1e-22 in one column of ten, which decay alone has moved."""
    update = 1e-5 * normal(random, m, n)
    update[:, ::10] *= 1e-17
    return update


def orthogonal(random: Random, m: int, n: int) -> Tensor:
    tall = torch.linalg.qr(normal(random, max(m, n), min(m, n)).double())[0].float()
    return tall if m >= n else tall.T.contiguous()


KINDS: dict[str, Callable[[Random, int, int], Tensor]] = {
    "a fifth changed": small,
    "1 in 20 changed": lambda random, m, n: small(random, m, n, 4.2e-6),
    "1 in 1,000 changed": very_sparse,
    "dense": lambda random, m, n: small(random, m, n, 1e-3),
    "LoRA, rank 16": thin,
    "LoRA, merged": lambda random, m, n: merged(random, thin(random, m, n)),
    "LoRA, merged, 100 times": lambda random, m, n: merged(random, 100 * thin(random, m, n)),
    "a third of rows frozen": frozen_rows,
    "40 rows repeated": repeated_rows,
    "values 1 to 1e-8": badly_scaled,
    "ten values at the threshold": at_threshold,
    "one outlier": outlier,
    "two a row, 1e-14 to 1e-7": any_size,
    "a tenth of columns near 0": dead_columns,
    "signs": lambda random, m, n: 1.4e-5 * normal(random, m, n).sign(),
    "orthogonal": orthogonal,
    "untouched": lambda _, m, n: torch.zeros(m, n),
}


def update_of(kind: str, m: int, n: int, seed: int = 0) -> Tensor:
    return KINDS[kind](Random().manual_seed(seed), m, n)
