"""What the kernels take in memory, by shapes alone, and which way the singular values of a matrix are computed.

`analysis.measure` and `analysis.spectral` go by these numbers; here they are known without torch, so that what a
comparison needs can be told before it starts.
"""

from __future__ import annotations

from analysis.plan import Kind
from analysis.tensors import TensorPair

DIRECT_UP_TO = 640  # short side; below this the direct SVD costs well under a second
DECIDED_DIRECTLY_UP_TO = 2048  # short side; below this a doubtful rank is settled by the direct SVD
MAX_SHORT_SIDE = 20_480  # its Gram matrix in float64 takes 3.4 GB
COLUMNS_AT_ONCE = 64 << 20  # bytes in float64 of the columns of a wide matrix that are multiplied at once

# What a block costs while it is tallied, in bytes an entry, by the way that is taken: both sides and their flags;
# Triton's list of changed pairs and the block that is on its way meanwhile; torch's temporaries.
BYTES_AN_ENTRY = {"cpu": 12, "triton": 28, "torch": 120}
LANES_OF_A_GPU = 4  # tensors that are measured there at once
CPU_BLOCK = 1 << 20  # entries; beyond this a block leaves the cache and costs a quarter more
PROCESS = 350_000_000  # bytes of a worker that has loaded torch and the compiled pass, docs/performance.md


def rows_at_once(columns: int, budget: int, way: str = "cpu") -> int:
    """Rows of a block: a multiple of 8, so that the masks of blocks join at whole bytes."""
    entries = budget // 4 // BYTES_AN_ENTRY[way]
    entries = min(entries, CPU_BLOCK) if way == "cpu" else entries
    return max(8, entries // max(columns, 1) // 8 * 8)


def worker_bytes(pair: TensorPair, kind: Kind, budget: int) -> int:
    """The most memory that a worker on the CPU takes while it measures this pair of tensors."""
    columns = pair.shape[-1] if pair.shape else 1
    rows = pair.entries // max(columns, 1)
    block = min(rows_at_once(columns, budget), rows) * columns * BYTES_AN_ENTRY["cpu"]
    if kind == "tally":
        return PROCESS + block + pair.entries // 2  # both masks, packed, in pieces and joined
    if kind == "preview":
        return PROCESS + wide_copy(rows, columns) + 2 * block
    return PROCESS + _spectrum_bytes(rows, columns, budget, block)


def held_bytes(pair: TensorPair, budget: int) -> int:
    """Bytes of both sides where they stay in memory while the pair is measured as it passes: where the budget holds
    them, and where a doubtful rank may ask for a second look. 0 where blocks of rows are measured once, and let go."""
    both = sum(side.end - side.begin for side in (pair.base, pair.tuned))
    short = min(pair.shape) if pair.is_matrix else 0
    needs_all = pair.merge is not None and pair.merge.kind == "dora" and pair.merge.transposed  # its columns' norms
    may_ask_again = 0 < short <= DECIDED_DIRECTLY_UP_TO and 4 * pair.entries <= budget
    return both if needs_all or may_ask_again or both <= budget else 0


def wide_copy(rows: int, columns: int) -> int:
    """Bytes of the matrix in float32."""
    return 4 * rows * columns


def is_whole(rows: int, columns: int, budget: int) -> bool:
    """Whether the matrix is put together to be decomposed; if not, its Gram matrix is summed block by block."""
    return min(rows, columns) <= DIRECT_UP_TO or wide_copy(rows, columns) <= budget


def refusal(rows: int, columns: int, budget: int) -> str:
    """Why a matrix of this shape has no spectrum under this memory budget; '' where it has one."""
    short = min(rows, columns)
    if short > MAX_SHORT_SIDE:
        return f"its short side of {short:,} is over {MAX_SHORT_SIDE:,}"
    if rows < columns and not is_whole(rows, columns, budget):
        needed = wide_copy(rows, columns)
        return f"it needs {needed / 1e6:,.0f} MB, the memory budget is {budget / 1e6:,.0f} MB"
    return ""


def _spectrum_bytes(rows: int, columns: int, budget: int, block: int) -> int:
    """`block` bytes are taken by reading. Put together, the matrix is there up to three times: itself, scaled or
    without its rows of zeros, and what is worked on; for a rectangle, that is its Gram matrix thrice (the sum, a
    product or the eigensolver's copy, its workspace). Block by block there is no copy of it. 0 without a spectrum."""
    if refusal(rows, columns, budget):
        return 0
    short, whole = min(rows, columns), wide_copy(rows, columns)
    if short <= DIRECT_UP_TO:
        return 3 * whole + block
    gram = 3 * 8 * short * short
    if is_whole(rows, columns, budget):
        return max(3 * whole, 2 * whole + gram + 2 * COLUMNS_AT_ONCE) + block
    return gram + 4 * block
