"""What the figures share: colours, the axis of z, captions, densities.

Pre-activations reach from hundredths to hundreds within one life, so their axes are asinh: linear
within +-1, logarithmic beyond.
"""

import textwrap

import numpy as np
from matplotlib.figure import Figure

ALIVE, DEAD, BACK = "#0072B2", "#D55E00", "#009E73"
Z_TICKS = (-1000, -100, -10, -1, 0, 1, 10, 100, 1000)


def write_caption(figure: Figure, text: str, width: int):
    figure.supxlabel(
        textwrap.fill(text, width, break_on_hyphens=False),
        fontsize=6.5,
        color="0.25",
        x=0.02,
        ha="left",
    )


def signed(value: float, form: str) -> str:
    """A number with a true minus sign."""
    return format(value, form).replace("-", "\N{MINUS SIGN}")


def set_z_axis(axis):
    """Makes an axis that of z, asinh with its ticks."""
    name = axis.axis_name
    getattr(axis.axes, f"set_{name}scale")("asinh", linear_width=1)
    low, high = getattr(axis.axes, f"get_{name}lim")()
    ticks = [tick for tick in Z_TICKS if low <= tick <= high]
    axis.set_ticks(ticks, [signed(tick, "g") for tick in ticks])
    axis.set_ticks([], minor=True)


def density(z: np.ndarray, points: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """(z grid, density relative to its peak) of a sample of z, a Gaussian kernel estimate in
    asinh(z) with Silverman's bandwidth. The grid ends at the smallest and the largest z: a kernel's
    tail must not carry a dead unit over 0."""
    values = np.arcsinh(np.asarray(z, float))
    spread = min(values.std(), np.subtract(*np.percentile(values, [75, 25])) / 1.34)
    width = max(0.9 * (spread or values.std()) * values.size**-0.2, 0.02)
    grid = np.linspace(values.min(), values.max(), points)
    height = np.exp(-0.5 * ((grid[:, None] - values[None, :]) / width) ** 2).sum(1)
    return np.sinh(grid), height / height.max()
