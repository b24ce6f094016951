"""The figure of what dead units cost, from the summary."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from relu_dynamics.figures.style import MARKERS, PAGE, STYLE, what_ran, write_caption

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
PANELS = (  # arm, quantity, label, title
    ("killed at step 0", "loss", "held-out loss (nats)", "loss at the end"),
    ("killed at step 0", "steps", "steps to the threshold", "time to threshold"),
    ("memorizing", "error", "training error", "capacity: random labels"),
)


def draw_consequences(summary: Mapping[str, Any]) -> Figure:
    """Loss, time and memorization against the killed fraction at every width; how much worse than
    without dead units, and by how much a dead unit differs from one that is not there."""
    with plt.style.context(STYLE):
        figure, grid = plt.subplots(2, 3, figsize=(PAGE, 4.6))
        for axes, (arm, quantity, label, title) in zip(grid[0], PANELS, strict=True):
            _draw_curves(axes, summary, arm, quantity)
            axes.set(ylabel=label, title=title, xlabel="dead fraction")
        grid[0, 0].legend(title="units per layer", title_fontsize=7, labelspacing=0.2)
        _draw_relative(grid[1, 0], summary)
        _draw_by_units(grid[1, 1], summary)
        _draw_arms(grid[1, 2], summary)
        write_caption(figure, _caption(summary))
    return figure


def _points(summary, arm, width, quantity):
    rows = [r for r in summary["rows"] if r["arm"] == arm and r["width"] == width]
    x = np.array([r["fraction"] for r in rows])
    y = np.array([r[quantity]["estimate"] for r in rows])
    ends = np.array([r[quantity]["interval"] for r in rows]).T
    return rows, x, y, ends


def _looks(summary) -> list[tuple[int, dict[str, Any]]]:
    """(width, its colour and marker) of every width."""
    looks = zip(summary["widths"], COLOURS, MARKERS, strict=False)
    return [(width, {"color": colour, "marker": marker}) for width, colour, marker in looks]


def _bars(axes: Axes, x, y, ends, **style):
    axes.errorbar(x, y, np.abs(ends - y), elinewidth=0.7, capsize=1.5, **style)


def _draw_curves(axes: Axes, summary, arm: str, quantity: str):
    for width, look in _looks(summary):
        _, x, y, ends = _points(summary, arm, width, quantity)
        _bars(axes, x, y, ends, **look, label=str(width))
    axes.axvline(0.4, color="0.6", linewidth=0.7, linestyle=(0, (3, 2)), zorder=0)
    axes.set_ylim(bottom=0)


def _draw_relative(axes: Axes, summary):
    """Loss over that without dead units, and where it is 10 % worse."""
    for width, look in _looks(summary):
        _, x, y, ends = _points(summary, "killed at step 0", width, "loss")
        _bars(axes, x, y / y[0], ends / y[0], **look)
        test = next(
            t for t in summary["tests"] if t["width"] == width and t["quantity"] == "held-out loss"
        )
        row = test["tenth_worse"]
        if row["estimate"] is not None:
            low, high = (x[-1] if end is None else end for end in row["interval"])
            axes.plot([low, high], [1.1, 1.1], color=look["color"], linewidth=3, alpha=0.5)
    axes.axhline(1.1, color="0.6", linewidth=0.5)
    axes.axvline(0.4, color="0.6", linewidth=0.7, linestyle=(0, (3, 2)), zorder=0)
    axes.set(
        yscale="log",
        xlabel="dead fraction",
        ylabel="loss / loss without dead",
        title="10 % worse: from where?",
    )
    ticks = [t for t in (0.8, 1, 1.5, 2, 3, 5) if axes.get_ylim()[0] <= t]
    axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()


def _draw_by_units(axes: Axes, summary):
    """The same losses over the number of units left."""
    for width, look in _looks(summary):
        rows, _, y, ends = _points(summary, "killed at step 0", width, "loss")
        units = [r["units_left"] for r in rows]
        _bars(axes, units, y, ends, **look, linewidth=0.8)
    new = {r["units_left"]: r["loss"] for r in summary["rows"] if r["arm"] == "new and smaller"}
    units = sorted(new)
    y = np.array([new[u]["estimate"] for u in units])
    ends = np.array([new[u]["interval"] for u in units]).T
    _bars(
        axes,
        units,
        y,
        ends,
        color="black",
        marker="D",
        mfc="white",
        linestyle="none",
        label="new, of that width",
    )
    axes.set(
        xscale="log", xlabel="living units per layer", ylabel="held-out loss (nats)", ylim=(0, None)
    )
    axes.set_title("dead or missing")
    ticks = [1, 2, 4, 6, 10, 20, 40, 100, 1000]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    living = [r["units_left"] for r in summary["rows"]]
    axes.set_xlim(0.85 * min(living), 1.15 * max(living))
    axes.legend()


def _draw_arms(axes: Axes, summary):
    """Killed late over killed early."""
    late: dict[str, Any] = {"mfc": "white", "linestyle": (0, (3, 1.5))}
    for width, look in _looks(summary):
        for arm, style in (("killed at step 0", {}), ("killed at half", late)):
            _, x, y, ends = _points(summary, arm, width, "loss")
            _bars(axes, x, y, ends, **look, **style)
    axes.plot([], [], color="0.3", marker="o", label="killed at step 0")
    axes.plot([], [], color="0.3", marker="o", **late, label="killed at half")
    axes.legend(loc="upper left")
    axes.set(
        xlabel="dead fraction", ylabel="held-out loss (nats)", ylim=(0, None), title="early or late"
    )


def _caption(summary) -> str:
    options = summary["options"]
    config, capacity = (options[name] | {"hidden": ("w", "w")} for name in ("config", "capacity"))
    return (
        f"{what_ran(config)}; capacity: {what_ran(capacity)}. w: the units per layer that "
        f"the legend gives; n = {summary['seeds']} seeds per point, 95 % intervals (t over seeds). "
        f"{summary['definitions']['killed'].capitalize()}; they stay dead (max z <= 0), are "
        "chosen at random, the same share of "
        "both layers. Time: mean minibatch loss between evaluations below "
        f"{summary['threshold']:g} nats, censored at {summary['steps']} steps (restricted mean). "
        "Dead or missing: coloured, networks with killed units; diamonds, new networks of that "
        "width, initialized and trained without any. Killed at half: after half of the steps. "
        "Dashed: the article's 40 %; thick: interval of the share at which loss becomes 10 % worse."
    )
