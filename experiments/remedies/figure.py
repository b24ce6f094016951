"""Figures, from the summary alone: the ranking of the remedies with
their paired intervals, and the shapes of the activations with their derivatives."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from relu_dynamics.engine import tasks as known_tasks
from relu_dynamics.figures.style import PAGE, STYLE, write_caption

TASK_COLOURS = ("#0072B2", "#D55E00", "#009E73")
TASK_MARKERS = "os^"
MOST = 10  # times the loss of plain ReLU, either way, that the axis shows
SHAPE_STYLES = {  # colour, dashes
    "relu": ("#000000", "-"),
    "leaky_relu": ("#999999", "-"),
    "prelu": ("#999999", (0, (4, 1.5))),
    "elu": ("#E69F00", "-"),
    "selu": ("#E69F00", (0, (4, 1.5))),
    "gelu": ("#0072B2", "-"),
    "silu": ("#D55E00", "-"),
    "softplus": ("#009E73", "-"),
    "tanh": ("#CC79A7", "-"),
}
SHAPE_NAMES = {
    "relu": "ReLU",
    "leaky_relu": "leaky ReLU 0.01",
    "prelu": "PReLU at 0.25",
    "elu": "ELU",
    "selu": "SELU",
    "gelu": "GELU",
    "silu": "SiLU",
    "softplus": "softplus",
    "tanh": "tanh",
}


def draw_ranking(summary: Mapping, place: int = 0) -> Figure:
    """Every remedy at a base rate (the number of its ranking), and the lower rate alone, against
    plain ReLU: dead and flat units from birth, recovery of the same dead cohort, held-out loss, and
    time of a step."""
    ranked = summary["rankings"][place]
    rows = [row for row in ranked["rows"] if not row["low_rate"] or row["arm"] == "relu"]
    first_bias = f"recovered {summary['biases'][0]:g}"
    panels = (
        ("dead", "dead or diverged", "change of share"),
        ("flat", "flat units", "change of share"),
        (first_bias, f"biased to {summary['biases'][0]:g} revived", "change of P"),
        ("held_loss", "held-out loss", "x plain ReLU"),
    )
    with plt.style.context(STYLE):
        figure, grid = plt.subplots(
            1,
            len(panels) + 1,
            figsize=(PAGE, 1.3 + 0.17 * len(rows)),
            sharey=True,
            gridspec_kw={"width_ratios": [1] * len(panels) + [0.7]},
        )
        for axes, (measure, title, label) in zip(grid, panels, strict=False):
            _draw_differences(axes, summary, rows, measure)
            axes.set(title=title, xlabel=label)
            if measure == "held_loss":
                _label_factors(axes)
        _draw_time(grid[-1], rows)
        grid[0].set_yticks(range(len(rows)), [row["label"] for row in rows])
        grid[0].set_ylim(len(rows) - 0.5, -0.5)
        for axes in grid:
            for place in range(len(rows) - 1):
                axes.axhline(place + 0.5, color="0.94", linewidth=0.5, zorder=0)
        handles = [
            Line2D([], [], color=c, marker=m, linestyle="none", label=known_tasks.label_of(task))
            for task, c, m in zip(summary["tasks"], TASK_COLOURS, TASK_MARKERS, strict=False)
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        write_caption(figure, _caption(summary, ranked))
    return figure


def _caption(summary: Mapping, ranked: Mapping) -> str:
    config, base = summary["config"], ranked["plain"]
    hidden = "-".join(str(width) for width in config["hidden"])
    dead = ", ".join(
        f"{known_tasks.label_of(task)} {row['lost']['estimate']:.2f}" for task, row in base.items()
    )
    return (
        f"Against plain ReLU at learning rate {ranked['rate']:g}, momentum {config['momentum']:g} "
        f"(share lost: {dead}). Hidden {hidden}, batch {config['batch_size']}, {config['steps']} "
        f"steps, {summary['seeds']} seeds; bars: 95 %, paired by seed. Dead: max z <= 0 over the "
        f"{config['examples']} training examples; flat: derivative exactly 0 on all. Filled: "
        "survives the control of false discoveries (5 %). Units of diverged runs count as dead. "
        "The cohort is paired on the units dead at step 0 in both arms; no mark: too few units, or "
        "no seed with a finite loss in both arms. Loss: geometric mean of the ratios, those beyond "
        f"{MOST:g} times as numbered arrows. Time: noisy, small networks."
    )


def _draw_differences(axes: Axes, summary: Mapping, rows: Sequence[Mapping], measure: str):
    tasks = summary["tasks"]
    for place, row in enumerate(rows):
        for number, task in enumerate(tasks):
            found = row["tasks"][task]["difference"].get(measure)
            if found is None:
                continue
            y = place + 0.3 * (number - (len(tasks) - 1) / 2)
            colour = TASK_COLOURS[number % len(TASK_COLOURS)]
            low, high = (np.nan if end is None else end for end in found["interval"])
            if measure == "held_loss" and abs(found["estimate"]) > math.log(MOST):
                _draw_beyond(axes, y, found["estimate"], colour)
                continue
            axes.plot([low, high], [y, y], color=colour, linewidth=0.8)
            sure = found["verdict"] == "confirmed" or (
                found["verdict"] == "refuted" and not low <= 0 <= high
            )
            axes.plot(
                found["estimate"],
                y,
                marker=TASK_MARKERS[number % len(TASK_MARKERS)],
                color=colour,
                markersize=3,
                markerfacecolor=colour if sure else "white",
            )
    axes.axvline(0, color="0.6", linewidth=0.6, zorder=0)


def _draw_beyond(axes: Axes, y: float, logarithm: float, colour: str):
    """An arrow at the edge of the axis, with the factor that lies beyond it."""
    right = logarithm > 0
    place = math.copysign(math.log(MOST), logarithm)
    axes.plot(place, y, marker=">" if right else "<", color=colour, markersize=3.5, clip_on=False)
    axes.annotate(
        f"{math.exp(logarithm):.0e}".replace("e+0", "e").replace("e-0", "e-"),
        (place, y),
        xytext=(-3 if right else 3, 0),
        textcoords="offset points",
        ha="right" if right else "left",
        va="center",
        color=colour,
        fontsize=6,
    )


def _label_factors(axes: Axes):
    """Ticks of an axis of natural logarithms, as factors."""
    factors = (0.1, 0.3, 1, 3, 10)
    axes.set_xticks([math.log(f) for f in factors], [f"{f:g}" for f in factors])
    axes.set_xlim(-1.08 * math.log(MOST), 1.08 * math.log(MOST))


def _draw_time(axes: Axes, rows: Sequence[Mapping]):
    for place, row in enumerate(rows):
        low, high = row["time"]["interval"]
        axes.plot([low, high], [place, place], color="0.4", linewidth=0.8)
        axes.plot(row["time"]["ratio"], place, marker="D", color="0.25", markersize=2.5)
    axes.axvline(1, color="0.6", linewidth=0.6, zorder=0)
    axes.set(title="time per step", xlabel="x plain ReLU", xscale="log")
    low, high = axes.get_xlim()
    ticks = [t for t in (0.5, 1, 2, 4, 8) if low <= t <= high]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()


def draw_activations(summary: Mapping) -> Figure:
    """Values, derivatives, and the size of the derivative far to the left, with the points where
    it is exactly 0."""
    shapes = summary["shapes"]
    z = np.array(shapes["z"])
    with plt.style.context(STYLE):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(PAGE, 2.9))
        for name, curve in shapes["curves"].items():
            colour, line = SHAPE_STYLES[name]
            style = {"color": colour, "linestyle": line, "linewidth": 1.0}
            left.plot(z, curve["value"], **style, label=SHAPE_NAMES[name])
            middle.plot(z, curve["derivative"], **style)
            size = np.array(shapes["tail"]["size"][name])
            tail = np.array(shapes["tail"]["z"])
            # A line ends where the derivative is exactly 0: a log axis cannot show it.
            right.plot(tail[size > 0], size[size > 0], **style)
        for name, at in shapes["stationary"].items():
            colour = SHAPE_STYLES[name][0]
            middle.plot(at, 0, marker="o", markersize=4, color=colour, markerfacecolor="white")
            middle.annotate(
                f"{SHAPE_NAMES[name]}' = 0\nat {at:.4f}",
                (at, 0),
                (-4.9, 0.6) if name == "silu" else (-4.9, 1.1),
                color=colour,
                fontsize=6.5,
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5},
            )
        marked = [n for n, at in shapes["flat_below"].items() if at is not None and at < -1]
        for number, name in enumerate(marked):
            at, colour = shapes["flat_below"][name], SHAPE_STYLES[name][0]
            right.plot(at, 1e-44, marker="|", color=colour, markersize=6, clip_on=False)
            right.text(
                -119,
                10.0 ** (-5.5 - 3.6 * number),
                f"{SHAPE_NAMES[name]} 0 from {at:.2f}",
                color=colour,
                fontsize=6.5,
            )
        left.set(title="f(z)", xlabel="z", ylabel="value", ylim=(-2.1, 3.1))
        left.legend(loc="upper left", fontsize=6.5, labelspacing=0.2, handlelength=1.6)
        middle.set(title="f'(z)", xlabel="z", ylabel="derivative", ylim=(-0.2, 1.85))
        middle.axhline(0, color="0.8", linewidth=0.6, zorder=0)
        right.set(
            title="|f'(z)| far to the left, float32",
            xlabel="z",
            ylabel="size of the derivative",
            yscale="log",
            ylim=(1e-44, 10),
            xlim=(-120, 1),
        )
        write_caption(
            figure,
            f"No run: each function and its derivative in float32 at {len(z):,} values of z. "
            "Right: a line ends where the derivative is exactly 0 from there on to the left (ticks "
            "on the axis): a unit whose z lies there on all inputs is dead.",
        )
    return figure
