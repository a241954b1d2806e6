"""Names beside points, placed so that they cover neither each other nor the points."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Box", "arrange"]

_ANGLES = np.pi * np.array([0, 1, 0.5, 1.5, 0.25, 0.75, 1.25, 1.75, *np.arange(1, 16, 2) / 8])
_DIRECTIONS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)  # right of the point first
_RINGS = 24
_AIR = 1.0  # between boxes
_GAP = 3.0  # from a point to its label


class Box(NamedTuple):
    """A rectangle."""

    left: float
    bottom: float
    right: float
    top: float


def arrange(points: NDArray[np.float64], sizes: NDArray[np.float64], radius: float, frame: Box) -> list[Box]:
    """Place a label beside each point, crowded points first, at the nearest free place around it.

    Parameters
    ----------
    points : ndarray, shape (n, 2)
        Centres, in typographic points or pixels of that size.
    sizes : ndarray, shape (n, 2)
        Width and height of each label.
    radius : float
        Half the width of a drawn point.
    frame : Box
        No label leaves it.

    Returns
    -------
    list of Box
        In the order of the points. Where no place around a point is free, the one that covers least.
    """
    count = len(points)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    crowd = np.sort(distances, axis=1)[:, : min(count, 6)].sum(1)
    dots = np.concatenate([points - radius, points + radius], 1)
    placed = np.zeros((count, 4))
    done: list[int] = []
    for index in np.argsort(crowd, kind="stable"):
        half = sizes[index] / 2
        step = 0.8 * sizes[index, 1]
        found, least = None, np.inf
        reach = radius + _GAP + _RINGS * step + sizes[index]
        area = np.concatenate([points[index] - reach, points[index] + reach])
        # What is out of reach cannot be covered; a frame may push a label in, but never beyond its point.
        taken, near = _touching(placed[done], area), _touching(dots, area)
        for ring in range(_RINGS):
            centres = points[index] + _DIRECTIONS * (radius + _GAP + ring * step) + np.sign(_DIRECTIONS.round(9)) * half
            boxes = np.concatenate([centres - half, centres + half], 1)
            boxes += _into(boxes, frame)
            covered = _covered(boxes, taken, _AIR) + _covered(boxes, near, 0.0)
            best = int(covered.argmin())
            if covered[best] < least:
                found, least = boxes[best], covered[best]
            if least == 0:
                break
        placed[index] = found
        done.append(int(index))
    return [Box(*map(float, box)) for box in placed]


def _touching(boxes: NDArray[np.float64], area: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes that overlap an area."""
    touch: NDArray[np.float64] = boxes[(boxes[:, :2] < area[2:]).all(1) & (boxes[:, 2:] > area[:2]).all(1)]
    return touch


def _into(boxes: NDArray[np.float64], frame: Box) -> NDArray[np.float64]:
    """How far to move each box so that it lies in the frame."""
    low = np.maximum(0.0, np.array(frame[:2]) - boxes[:, :2])
    high = np.minimum(0.0, np.array(frame[2:]) - boxes[:, 2:])
    return np.tile(low + high, 2)


def _covered(boxes: NDArray[np.float64], others: NDArray[np.float64], air: float) -> NDArray[np.float64]:
    """Area of each box that others cover, summed over them."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2] - air)
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:] + air)
    area: NDArray[np.float64] = np.prod(np.maximum(0.0, high - low), axis=2).sum(1)
    return area
