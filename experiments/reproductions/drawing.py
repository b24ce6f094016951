"""What the figures of all reproductions share."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def draw_points(axes: Axes, x, rows: Sequence[Mapping], **style):
    """Draws estimates with their intervals."""
    y = np.array([row["estimate"] for row in rows], float)
    low, high = np.array([row["interval"] for row in rows], float).T
    reach = np.array([y - low, high - y])
    axes.errorbar(x, y, reach, elinewidth=0.7, capsize=1.5, **style)
