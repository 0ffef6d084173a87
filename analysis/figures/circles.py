"""Circles for two or three sets: centres, radii, and where to write each region's number. Geometry only.

Two circles have exact areas: their distance is found by bisection on the area of the lens. Three are placed so that
each two have the right lens; the region of all three then follows and may be off, which `worst_error` measures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SIDE = 480  # pixels a side of the raster on which regions are measured


@dataclass(frozen=True)
class Circle:
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Layout:
    """`spots[s]` is the roomiest point inside region s (a bit set of circles), if the region is drawn at all, and
    `room[s]` the radius of the largest disc that fits there, as a share of the drawing's side.
    `worst_error` is the largest |drawn - true| area of a region, as a share of the union."""

    circles: tuple[Circle, ...]
    spots: dict[int, tuple[float, float]]
    room: dict[int, float]
    worst_error: float


def layout(counts: Sequence[int]) -> Layout:
    """Circles for 2 or 3 sets from the counts of the 2^k regions; region 0, outside of all, is not drawn."""
    k = len(counts).bit_length() - 1
    sizes = [sum(n for s, n in enumerate(counts) if s >> i & 1) for i in range(k)]
    union = max(sum(counts[1:]), 1)
    radii = [math.sqrt(size / union / math.pi) for size in sizes]
    common = {
        (i, j): sum(n for s, n in enumerate(counts) if s >> i & 1 and s >> j & 1) / union
        for i in range(k)
        for j in range(i + 1, k)
    }
    distances = {pair: distance(radii[pair[0]], radii[pair[1]], area) for pair, area in common.items()}
    circles = _on_a_line(radii, distances[0, 1]) if k == 2 else _triangle(radii, distances)
    areas, spots, room = _measure(circles)
    errors = [abs(areas.get(s, 0.0) - counts[s] / union) for s in range(1, 1 << k)]
    return Layout(circles, spots, room, max(errors))


def lens(radius: float, other: float, apart: float) -> float:
    """The area two circles share when their centres are `apart`."""
    if apart >= radius + other:
        return 0.0
    if apart <= abs(radius - other):
        return math.pi * min(radius, other) ** 2
    near = math.acos(_unit((apart**2 + radius**2 - other**2) / (2 * apart * radius)))
    far = math.acos(_unit((apart**2 + other**2 - radius**2) / (2 * apart * other)))
    kite = (-apart + radius + other) * (apart + radius - other) * (apart - radius + other) * (apart + radius + other)
    return radius**2 * near + other**2 * far - 0.5 * math.sqrt(max(kite, 0.0))


def distance(radius: float, other: float, area: float) -> float:
    """How far apart two circles must be to share `area`; bisection to 1e-12 of their size."""
    near, far = abs(radius - other), radius + other
    for _ in range(60):
        middle = (near + far) / 2
        near, far = (middle, far) if lens(radius, other, middle) > area else (near, middle)
    return (near + far) / 2


def _unit(value: float) -> float:
    return min(max(value, -1.0), 1.0)


def _on_a_line(radii: Sequence[float], apart: float) -> tuple[Circle, ...]:
    return (Circle(0.0, 0.0, radii[0]), Circle(apart, 0.0, radii[1]))


def _triangle(radii: Sequence[float], apart: dict[tuple[int, int], float]) -> tuple[Circle, ...]:
    """Centres at the three distances; where these make no triangle, the third lies as near to both as it can."""
    a, b, c = apart[0, 1], apart[0, 2], apart[1, 2]
    if a == 0:
        return (*_on_a_line(radii, 0.0), Circle(b, 0.0, radii[2]))
    x = (a**2 + b**2 - c**2) / (2 * a)
    x = min(max(x, -b), b)
    return (*_on_a_line(radii, a), Circle(x, math.sqrt(max(b**2 - x**2, 0.0)), radii[2]))


def _measure(
    circles: Sequence[Circle],
) -> tuple[dict[int, float], dict[int, tuple[float, float]], dict[int, float]]:
    """Each region's drawn area, its roomiest point and the room there, on a raster.

    Regions are bounded by arcs alone, so the room at a point is its distance to the nearest circle's line.
    """
    left = min(c.x - c.radius for c in circles)
    low = min(c.y - c.radius for c in circles)
    side = max(max(c.x + c.radius for c in circles) - left, max(c.y + c.radius for c in circles) - low) or 1.0
    xs, ys = np.meshgrid(left + side * _grid(), low + side * _grid())
    from_lines = np.array([c.radius - np.hypot(xs - c.x, ys - c.y) for c in circles])
    region = sum((inside.astype(np.int64) << i) for i, inside in enumerate(from_lines > 0))
    room = np.abs(from_lines).min(axis=0)
    areas, spots, widest = {}, {}, {}
    for s in range(1, 1 << len(circles)):
        here = np.asarray(region == s)
        if here.any():
            areas[s] = float(here.sum()) * (side / _SIDE) ** 2
            best = np.unravel_index(np.argmax(np.where(here, room, -1.0)), room.shape)
            spots[s] = (float(xs[best]), float(ys[best]))
            widest[s] = float(room[best]) / side
    return areas, spots, widest


def _grid() -> NDArray[np.float64]:
    return (np.arange(_SIDE) + 0.5) / _SIDE
