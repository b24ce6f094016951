"""Where activation and gradient flow in the small network, and where a dead unit stops them."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.one_unit.drawing import ALIVE, DEAD, write_caption
from experiments.one_unit.network import Network
from relu_dynamics.figures.style import PAGE, STYLE

GRADIENT = "#7B3294"


def draw_network(network: Network, caption: str) -> Figure:
    """Where activation flows and where gradient flows, beside each other, and where a dead unit
    stops both."""
    with plt.style.context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(PAGE, 3.9))
        for axes, backward in zip(panels, (False, True), strict=True):
            draw_flow(axes, network, backward)
        panels[0].set_title("Forward: what each edge carries \N{RIGHTWARDS ARROW}")
        power = gradient_power(network)
        panels[1].set_title(
            "\N{LEFTWARDS ARROW} Backward: gradient of each weight"
            + f", in $10^{{{-power}}}$" * bool(power)
        )
        handles = [
            Line2D([], [], color=ALIVE, linewidth=2, label="forward, weight > 0"),
            Line2D([], [], color=DEAD, linewidth=2, label="forward, weight < 0"),
            Line2D([], [], color=GRADIENT, linewidth=2, label="size of the gradient"),
            Line2D([], [], color=DEAD, marker="x", linestyle="none", label="dead unit; exactly 0"),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=4)
        write_caption(figure, caption, 142)
    return figure


def draw_flow(axes: Axes, network: Network, backward: bool):
    """The network with a number on every edge: what it carries forward, or (`backward`) the size
    of its weight's gradient. Edges that carry exactly 0 are dashed and crossed out."""
    power = gradient_power(network) if backward else 0
    size = lambda layers: [layer * 10.0**power for layer in layers]  # noqa: E731
    values = size(network.gradients if backward else network.carried)
    nodes = size(network.bias_gradients if backward else network.activity)
    widths = [len(values[0]), *(layer.shape[1] for layer in values)]
    dead = [np.zeros(widths[0], bool), *network.dead, np.zeros(widths[-1], bool)]
    place = lambda layer, unit: np.array([layer, (widths[layer] - 1) / 2 - unit])  # noqa: E731
    largest = max(layer.max() for layer in values) or 1.0
    for layer, edges in enumerate(values):
        sources, targets = edges.shape
        # n edges into each of many units: their numbers stand in one column at equal distances.
        share = sources / (sources + 1) if targets > 1 else 0.5
        for (i, j), value in np.ndenumerate(edges):
            start, end = place(layer, i), place(layer + 1, j)
            tint = GRADIENT if backward else ALIVE if network.weights[layer][i, j] > 0 else DEAD
            silent = value == 0
            axes.plot(
                *np.stack([start, end]).T,
                color="0.6" if silent else tint,
                linewidth=0.7 if silent else 0.4 + 3.2 * value / largest,
                linestyle=(0, (3, 2)) if silent else "-",
                alpha=1 if silent else 0.75,
                zorder=1,
            )
            middle = start + share * (end - start)
            axes.text(
                middle[0],
                middle[1],
                short_text(value),
                fontsize=6,
                ha="center",
                va="center",
                zorder=3,
                color="0.3" if silent else "black",
                bbox={"boxstyle": "square,pad=0.06", "facecolor": "white", "linewidth": 0},
            )
            if silent:
                at = start + 0.5 * share * (end - start)
                axes.plot(*at, "x", color=DEAD, markersize=5, mew=1.3, zorder=4)
    for layer, width in enumerate(widths):
        for unit in range(width):
            at = place(layer, unit)
            gone = dead[layer][unit]
            face = "0.85" if gone else "white"
            axes.plot(*at, "o", markersize=15, color="0.2", markerfacecolor=face, mew=0.8, zorder=5)
            if layer or not backward:
                value = nodes[layer - backward][unit]
                axes.text(
                    at[0], at[1], short_text(value), fontsize=6, ha="center", va="center", zorder=7
                )
            else:
                axes.text(
                    at[0], at[1], f"$x_{unit + 1}$", fontsize=7, ha="center", va="center", zorder=7
                )
            if gone:
                axes.text(at[0], at[1] - 0.3, "dead", color=DEAD, ha="center", va="center")
                axes.plot(*at, "x", color=DEAD, markersize=18, mew=1.6, alpha=0.75, zorder=6)
    names = ["inputs", *(f"hidden {k}" for k in range(1, len(widths) - 1)), "output"]
    bottom = -(max(widths) - 1) / 2 - 0.3
    for layer, name in enumerate(names):
        axes.text(layer, bottom, name, ha="center", va="top", fontsize=7)
    axes.set(xlim=(-0.25, len(values) + 0.25), ylim=(bottom - 0.25, -bottom))
    axes.set_axis_off()


def short_text(value: float) -> str:
    """A number in at most four characters, without its leading 0; 0 only when it is."""
    if value == 0:
        return "0"
    if value < 0.005:
        return "<.01"
    if value < 0.995:
        return f"{value:.2f}".removeprefix("0")
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def gradient_power(network: Network) -> int:
    """The power of ten by which gradients are multiplied, so that the largest has two digits."""
    largest = max(layer.max() for layer in network.gradients)
    return 1 - int(np.floor(np.log10(largest))) if largest > 0 else 0
