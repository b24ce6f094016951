"""Images of classes: the edge between two of them, its box-counting dimension, and where most of it
lies."""

from typing import Any

import numpy as np


def edges(image: np.ndarray, one: int, other: int) -> np.ndarray:
    """Pixels of an image [x, y] of classes that are of the one or the other of two, and whose right
    or upper neighbour is of the second of them."""
    found = np.zeros(image.shape, bool)
    for here, there, place in (
        (image[:-1], image[1:], found[:-1]),
        (image[:, :-1], image[:, 1:], found[:, :-1]),
    ):
        place |= ((here == one) & (there == other)) | ((here == other) & (there == one))
    return found


def box_dimension(boundary: np.ndarray) -> dict[str, Any] | None:
    """The box-counting dimension of a boolean image [x, y]: minus the slope of log(boxes that hold
    a boundary pixel) over log(side), sides 2, 4, ... to an eighth of the image, with the largest
    and least slope between neighbouring sides. None without a boundary."""
    if not boundary.any():
        return None
    size = boundary.shape[0]
    sides = [2**k for k in range(1, 20) if 2**k <= size // 8]
    counts = []
    for side in sides:
        cut = size // side * side
        boxes = boundary[:cut, :cut].reshape(cut // side, side, cut // side, side).any((1, 3))
        counts.append(int(boxes.sum()))
    if len(sides) < 2 or min(counts) == 0:
        return None
    x, y = np.log(sides), np.log(counts)
    steps = -np.diff(y) / np.diff(x)
    slope = -float(np.polyfit(x, y, 1)[0])
    return {
        "dimension": slope,
        "local": [float(steps.min()), float(steps.max())],
        "sides": sides,
        "boxes": counts,
    }


def choose_zoom(boundary: np.ndarray, zoom: float) -> tuple[float, float]:
    """The left and lower end, as shares of the image [x, y], of the window of 1 / zoom of each
    axis in which most of the boundary lies."""
    size = boundary.shape[0]
    side = max(int(round(size / zoom)), 1)
    total = np.pad(boundary.astype(int).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    windows = total[side:, side:] - total[:-side, side:] - total[side:, :-side]
    windows = windows + total[:-side, :-side]
    x, y = np.unravel_index(int(windows.argmax()), windows.shape)
    return x / size, y / size
