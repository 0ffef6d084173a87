"""Block counts of one matrix -> Figure: where in it the changed entries lie, and where several runs agree."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from analysis.figures import theme
from analysis.measurements import MAX_DENSITY_SIDE, Consensus

_NICE_TOPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def density_map(counts: NDArray[np.int64], rows: int, columns: int, *, whole_range: bool = False) -> go.Figure:
    """Changed share by block of a (rows, columns) matrix, row 0 at the top, column 0 at the left.

    Colours span 0 to 100 % with `whole_range`; else they begin at 0 and end at the next round share above the largest
    block's, or span the blocks' own range where that is more than half. Dark is much changed, as in the
    heatmaps of unchanged shares.
    """
    entries = _entries_of_blocks(rows, columns, counts.shape)
    return _block_map(
        counts / entries, rows, columns, "changed share", "changed", whole_range=whole_range, of_changes=True
    )


def consensus_map(found: Consensus, *, at_least: int = 0) -> go.Figure:
    """By block of the matrix, the share of runs that changed an entry there, on average over its entries; with
    `at_least`, the share of its entries that so many runs changed or more."""
    n_runs = found.counts.shape[2] - 1
    entries = _entries_of_blocks(found.rows, found.columns, found.counts.shape[:2])
    if at_least:
        shares, title = found.counts[:, :, at_least:].sum(axis=2) / entries, f"changed by {at_least} or more"
        words = f"of the entries changed by {at_least} runs or more"
    else:
        shares, title = (found.counts @ np.arange(n_runs + 1)) / (n_runs * entries), "share of runs"
        words = f"of {n_runs} runs changed an entry here, on average"
    return _block_map(shares, found.rows, found.columns, title, words)


def _entries_of_blocks(rows: int, columns: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    heights = np.diff([*_starts(rows, shape[0]), rows])
    widths = np.diff([*_starts(columns, shape[1]), columns])
    return np.maximum(np.outer(heights, widths), 1)


def _block_map(
    shares: NDArray[np.float64],
    rows: int,
    columns: int,
    title: str,
    words: str,
    *,
    whole_range: bool = False,
    of_changes: bool = False,
) -> go.Figure:
    row_starts, column_starts = _starts(rows, shares.shape[0]), _starts(columns, shares.shape[1])
    heights, widths = np.diff([*row_starts, rows]), np.diff([*column_starts, columns])
    top, bottom = _span(shares, whole_range=whole_range)
    drawn = theme.figure(
        height=460,
        coloraxis=theme.share_colours(top, bottom, title=title, of_changes=of_changes),
        xaxis=_axis(f"columns (inputs), 0 to {columns - 1}", column_starts, reverse=False),
        yaxis=_axis(f"rows (outputs), 0 to {rows - 1}", row_starts, reverse=True),
    )
    drawn.add_trace(
        go.Heatmap(
            z=shares.astype(np.float32),
            coloraxis="coloraxis",
            x=_ranges(column_starts, widths),
            y=_ranges(row_starts, heights),
            hovertemplate=f"row %{{y}}<br>column %{{x}}<br><b>%{{z:.4%}}</b> {words}<extra></extra>",
        )
    )
    return drawn


def _span(shares: NDArray[np.float64], *, whole_range: bool) -> tuple[float, float]:
    """(top, bottom) of the colours."""
    low, high = float(shares.min(initial=1)), float(shares.max(initial=0))
    if whole_range:
        return 1.0, 0.0
    own = (high, low) if high > low else (1.0, 0.0)
    return next(((top, 0.0) for top in _NICE_TOPS if top >= high), own)


def _starts(length: int, blocks: int) -> list[int]:
    """First line of each block; the kernel cuts blocks of ceil(length / 128) lines, the last may be short."""
    side = max(math.ceil(length / MAX_DENSITY_SIDE), 1)
    return [side * block for block in range(blocks)]


def _ranges(starts: list[int], sizes: NDArray[np.int64]) -> list[str]:
    """The lines of each block in words. As categories of the axes they appear in the hover without a text per cell."""
    return [
        f"{start}" if size == 1 else f"{start} to {start + size - 1}" for start, size in zip(starts, sizes, strict=True)
    ]


def _axis(title: str, starts: list[int], *, reverse: bool) -> dict:
    shown = theme.every(len(starts), 8)
    ends = [-0.5, len(starts) - 0.5]
    return theme.bare_axis(
        title=title,
        type="category",
        tickvals=list(shown),
        ticktext=[str(starts[i]) for i in shown],
        range=ends[::-1] if reverse else ends,
    )
