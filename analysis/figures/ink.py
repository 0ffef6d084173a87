"""Black or white for numbers on coloured cells: whichever can be read, cell by cell, on the page and on paper alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLACK, WHITE = "#000000", "#ffffff"


def inked(texts: Sequence[Sequence[str]], values: NDArray[np.float64], colours: Mapping[str, Any]) -> list[list[str]]:
    """`texts` in the ink that reads on the colour of their cell, which is that of `values` on the colour axis
    `colours`; nothing where there is no colour. One of black and white always has a contrast of at least 4.58 (WCAG
    asks 4.5)."""
    known = np.isfinite(values)
    inks = ink_on(ground(np.asarray(values, np.float64), colours))
    return [
        [
            f'<span style="color:{inks[i, j]}">{text}</span>' if text and known[i, j] else ""
            for j, text in enumerate(row)
        ]
        for i, row in enumerate(texts)
    ]


def ground(values: NDArray[np.float64], colours: Mapping[str, Any]) -> NDArray[np.float64]:
    """(*, 3): red, green and blue, 0 to 255, of each value's colour, mixed as the browser does: evenly in sRGB."""
    scale = np.array([rgb(colour) for colour in colours["colorscale"]])
    low, high = colours["cmin"], colours["cmax"]
    at = np.clip((values - low) / max(high - low, 1e-12), 0, 1) * (len(scale) - 1)
    return np.stack([np.interp(at, np.arange(len(scale)), scale[:, part]) for part in range(3)], axis=-1)


def ink_on(grounds: NDArray[np.float64]) -> NDArray[np.str_]:
    """Black or white for each ground, whichever stands out more."""
    light = luminance(grounds)
    return np.where((light + 0.05) ** 2 > 1.05 * 0.05, BLACK, WHITE)


def luminance(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Relative luminance, 0 to 1, of colours of 0 to 255 (WCAG 2.2, 'relative luminance')."""
    part = np.asarray(rgb) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def rgb(colour: str) -> NDArray[np.float64]:
    """'#1769a8' as red, green and blue, 0 to 255."""
    return np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)], np.float64)
