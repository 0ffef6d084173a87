"""The picture that stands beside a pasted link: two models, the number one came for, the heatmap small. PNG bytes.

Drawn with Pillow alone, so that a link has its picture on every server.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from analysis.figures.theme import DECADE_COLOURS, SHARE_COLOURS
from analysis.labels import shorten, visible
from analysis.rollup import Grid

SIZE = (1200, 630)  # what Slack, Mastodon and others show whole
_EDGE = 64
_INK, _PALE, _GROUND, _EMPTY = "#1b1f24", "#5b6169", "#ffffff", (236, 237, 239)


def card(title: str, number: str, words: Sequence[str], grid: Grid | None) -> bytes:
    """`title` in one line, `number` large, `words` below it, and the grid's cells along the bottom."""
    picture = Image.new("RGB", SIZE, _GROUND)
    pen = ImageDraw.Draw(picture)
    pen.text((_EDGE, 44), "Subnetscope", fill=_PALE, font=_font(26))
    _line(pen, 84, title, 38, _INK)
    _line(pen, 142, number, 76, _INK)
    for i, line in enumerate(words[:2]):
        _line(pen, 240 + 40 * i, line, 27, _PALE)
    if grid is not None and grid.values.size:
        _paste_cells(picture, grid, (_EDGE, 340, SIZE[0] - _EDGE, SIZE[1] - 52))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def _line(pen: ImageDraw.ImageDraw, y: int, text: str, size: int, fill: str) -> None:
    """One line of text; where it is too long, smaller, and then cut in the middle."""
    shown, room = visible(text), SIZE[0] - 2 * _EDGE
    size = max(min(size, int(size * room / max(pen.textlength(shown[:2000], font=_font(size)), 1))), 2 * size // 3)
    font = _font(size)
    limit = len(shown)
    while limit > 8 and pen.textlength(shorten(shown, limit), font=font) > room:
        limit -= max(limit // 20, 1)
    pen.text((_EDGE, y), shorten(shown, limit), fill=fill, font=font)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _paste_cells(picture: Image.Image, grid: Grid, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    cells = Image.fromarray(_coloured(grid), "RGB")
    picture.paste(cells.resize((right - left, bottom - top), Image.Resampling.NEAREST), (left, top))


def _coloured(grid: Grid) -> np.ndarray:
    """(modules, layers, 3): a share over 0 to 1, anything else over its own range."""
    values = grid.values
    if grid.metric.scale == "log":
        values = np.log10(np.where(values > 0, values, np.nan))
    known = values[np.isfinite(values)]
    is_share = grid.metric.scale == "share"
    low, high = (0.0, 1.0) if is_share or not known.size else (float(known.min()), float(known.max()))
    stops = np.array([_rgb(colour) for colour in (SHARE_COLOURS if is_share else DECADE_COLOURS)], np.float64)
    place = np.clip((np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-12), 0, 1) * (len(stops) - 1)
    under = np.minimum(place.astype(np.int64), len(stops) - 2)
    part = (place - under)[..., None]
    mixed = (1 - part) * stops[under] + part * stops[under + 1]
    return np.where(np.isfinite(values)[..., None], mixed, _EMPTY).astype(np.uint8)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
