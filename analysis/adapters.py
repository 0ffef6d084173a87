"""What an adapter adds to a tensor, and what is left of it in the base's type: rows as merging computes them.

The arithmetic is peft's own on the CPU (docs/methods.md): factors widened to float32 (float64 for a base in float64),
their product scaled, added to the base in that width, and rounded once. A matrix whose float32 update fits into a
quarter of the budget is multiplied whole, so that the bits are the same; beyond that in blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from analysis.elementwise.block import Geometry
from analysis.tensors import Merge

ReadRows = Callable[[int, int], Tensor]
Factors = Mapping[str, Tensor]


@dataclass
class Merging:
    """One tensor of the base while an adapter is merged into it. `factors` are the adapter's own tensors, whole, by
    role; `weight` reads the one that takes the base's place first, where there is one."""

    merge: Merge
    shape: Geometry
    before: ReadRows
    factors: Factors
    weight: ReadRows | None = None
    budget: int = 1 << 30
    _whole: Tensor | None = field(default=None, repr=False)
    _norms: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.merge.kind == "dora" and self.merge.transposed:
            self._norms = self._column_norms()  # now, while no block of the base is in anybody's hands

    def merged(self, first: int, last: int) -> Tensor:
        """Rows of the merged tensor, in the base's type."""
        start = self._start(first, last)
        if self.merge.kind == "full":
            return start
        if self.merge.rounded_first:
            return start + self._update(first, last).to(start.dtype)
        return self._wide(start, first, last).to(start.dtype)

    def own(self, first: int, last: int) -> Tensor:
        """Rows of the adapter's own update, before anything is rounded to the base's type."""
        before = self.before(first, last)
        wide = before.to(_width(before.dtype))
        if self.merge.kind == "full":
            return self._replacement(first, last).to(wide.dtype) - wide
        if self.merge.kind in ("dora", "ia3"):
            return self._wide(self._start(first, last), first, last) - wide
        update = self._update(first, last)
        return update if self.weight is None else update + (self._replacement(first, last).to(wide.dtype) - wide)

    def _start(self, first: int, last: int) -> Tensor:
        """What the update is added to, in the base's type."""
        before = self.before(first, last)
        return before if self.weight is None else self._replacement(first, last).to(before.dtype)

    def _replacement(self, first: int, last: int) -> Tensor:
        assert self.weight is not None
        return self.weight(first, last)

    def _wide(self, start: Tensor, first: int, last: int) -> Tensor:
        """The merged rows before they are rounded."""
        if self.merge.kind == "ia3":
            return start * self._scale(first, last)
        changed = start + self._update(first, last)
        return changed if self.merge.kind != "dora" else self._to_magnitude(changed, first, last)

    def _scale(self, first: int, last: int) -> Tensor:
        scale = self.factors["scale"]
        if self.shape.rows == 1:
            return scale.reshape(1, -1)
        scale = scale.T if self.merge.transposed else scale
        return scale[first:last] if len(scale) > 1 else scale

    def _update(self, first: int, last: int) -> Tensor:
        """Rows of the scaled product."""
        if self._whole is None and 4 * self.shape.rows * self.shape.columns <= self.budget // 4:
            self._whole = self._product(0, self.shape.rows)
        return self._product(first, last) if self._whole is None else self._whole[first:last]

    def _product(self, first: int, last: int) -> Tensor:
        product = _PRODUCT[self.merge.kind](self.factors, slice(first, last), self.merge.transposed)
        product = product * self.merge.scaling
        if self.merge.divisor is None:
            return product
        return product / (product.new_tensor([self.merge.divisor]) + 1e-5)

    def _to_magnitude(self, changed: Tensor, first: int, last: int) -> Tensor:
        """DoRA: each output's weights brought to the norm that was learned. They lie in a row, or in a column."""
        magnitude = self.factors["magnitude"].reshape(-1)
        if not self.merge.transposed:
            norms = torch.linalg.norm(changed, dim=1)
            return (magnitude[first:last] / norms).view(-1, 1) * changed
        assert self._norms is not None
        return (magnitude / self._norms).view(1, -1) * changed

    def _column_norms(self) -> Tensor:
        """(columns,): in float32 over the whole matrix where it is small, else summed in float64."""
        if 4 * self.shape.rows * self.shape.columns <= self.budget // 4:
            changed = self._start(0, self.shape.rows) + self._update(0, self.shape.rows)
            return torch.linalg.norm(changed.T, dim=1)
        step = max(1, self.budget // 64 // max(self.shape.columns, 1))
        total, width = torch.zeros(self.shape.columns, dtype=torch.float64), torch.float32
        for first in range(0, self.shape.rows, step):
            last = min(first + step, self.shape.rows)
            changed = self._start(first, last) + self._update(first, last)
            total, width = total + changed.double().square().sum(0), changed.dtype
        return total.sqrt().to(width)


def thin_singular_values(merge: Merge, factors: Factors) -> Tensor | None:
    """All singular values of the update that are not 0 by construction, largest first, in float64, from its factors
    alone; None for an update that is not of low rank by construction."""
    wide = {role: factor.double() for role, factor in factors.items()}
    scale = merge.scaling / (1.0 if merge.divisor is None else merge.divisor + 1e-5)
    if "weight" in dict(merge.factors) or merge.kind not in _THIN:
        return None
    values = _THIN[merge.kind](wide)
    return None if values is None else (values * abs(scale)).sort(descending=True).values


def widened(factor: Tensor, merge: Merge, base: torch.dtype) -> Tensor:
    """A factor as it is multiplied, for a base of this type."""
    return (factor.to(base) if merge.rounded_factors else factor).to(_width(base))


def _width(base: torch.dtype) -> torch.dtype:
    return torch.float64 if base == torch.float64 else torch.float32


# Rows of the products, as they lie in the base's tensor, not yet scaled.


def _low_rank(factors: Factors, rows: slice, transposed: bool) -> Tensor:
    """B A, or its transpose. An embedding's factors have names of their own."""
    left, right = (factors.get(f"embedding_{name}", factors.get(name)) for name in ("B", "A"))
    assert left is not None
    assert right is not None
    if "E" in factors:
        right = right * factors["E"]
    return (left @ right[:, rows]).T if transposed else left[rows] @ right


def _kronecker(factors: Factors, rows: slice, _: bool) -> Tensor:
    """w1 (a, b) and w2 (c, d) -> rows of (a c, b d): row i is row i // c of w1 with row i % c of w2."""
    outer, inner = _of_parts(factors, "w1"), _of_parts(factors, "w2")
    at = torch.arange(rows.start, rows.stop)
    left, right = outer[at // len(inner)], inner[at % len(inner)]
    return (left.unsqueeze(2) * right.unsqueeze(1)).reshape(len(at), -1)


def _hadamard(factors: Factors, rows: slice, _: bool) -> Tensor:
    return (factors["w1_a"][rows] @ factors["w1_b"]) * (factors["w2_a"][rows] @ factors["w2_b"])


def _vector(factors: Factors, rows: slice, _: bool) -> Tensor:  # noqa: ARG001 (as the others)
    return factors["bias"].reshape(1, -1)


def _of_parts(factors: Factors, part: str) -> Tensor:
    whole = factors.get(part)
    return factors[f"{part}_a"] @ factors[f"{part}_b"] if whole is None else whole


_PRODUCT: dict[str, Callable[[Factors, slice, bool], Tensor]] = {
    "lora": _low_rank,
    "dora": _low_rank,
    "adalora": _low_rank,
    "lokr": _kronecker,
    "loha": _hadamard,
    "bias": _vector,
}

# Singular values from the factors, in float64.


def _of_low_rank(factors: Factors) -> Tensor:
    """Of B A: of the small matrix between the orthonormal bases of both, R_B R_A^T."""
    left, right = (factors.get(f"embedding_{name}", factors.get(name)) for name in ("B", "A"))
    assert left is not None
    assert right is not None
    return _core_values(left, right * factors["E"] if "E" in factors else right)


def _core_values(left: Tensor, right: Tensor) -> Tensor:
    """Singular values of left (m, k) @ right (k, n) for small k."""
    if min(left.shape) == 0 or min(right.shape) == 0:
        return left.new_zeros(0)
    return torch.linalg.svdvals(torch.linalg.qr(left).R @ torch.linalg.qr(right.T).R.T)


def _of_kronecker(factors: Factors) -> Tensor:
    """Every singular value of w1 with every one of w2."""
    outer, inner = (
        torch.linalg.svdvals(factors[part])
        if part in factors
        else _core_values(factors[f"{part}_a"], factors[f"{part}_b"])
        for part in ("w1", "w2")
    )
    return torch.outer(outer, inner).reshape(-1)


def _of_hadamard(factors: Factors) -> Tensor | None:
    """Entry by entry, two products of rank r are one of rank r^2, whose factors are products of columns."""
    one, other = factors["w1_a"], factors["w2_a"]
    if one.shape[1] * other.shape[1] >= min(len(one), factors["w1_b"].shape[1]):
        return None
    left = (one.unsqueeze(2) * other.unsqueeze(1)).reshape(len(one), -1)
    right = (factors["w1_b"].unsqueeze(1) * factors["w2_b"].unsqueeze(0)).reshape(left.shape[1], -1)
    return _core_values(left, right)


_THIN: dict[str, Callable[[Factors], Tensor | None]] = {
    "lora": _of_low_rank,
    "adalora": _of_low_rank,
    "lokr": _of_kronecker,
    "loha": _of_hadamard,
}
