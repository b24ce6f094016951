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
from relu_dynamics.figures.style import PAGE, STYLE, label_factors, write_caption

TASK_COLOURS = ("#0072B2", "#D55E00", "#009E73")
TASK_MARKERS = "os^"
MOST = 10  # times the loss of plain ReLU, either way, that the axis shows
EDGE = math.log(MOST)
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
        (first_bias, f"revived, bias {summary['biases'][0]:g}", "change of P"),
        ("held_loss", "held-out loss", "x plain ReLU"),
    )
    with plt.style.context(STYLE):
        figure, grid = plt.subplots(
            1,
            len(panels) + 1,
            figsize=(PAGE, 1.3 + 0.17 * len(rows)),
            sharey=True,
            gridspec_kw={"width_ratios": [1, 1, 1, 1.3, 0.7]},
        )
        for axes, (measure, title, label) in zip(grid, panels, strict=False):
            _draw_differences(axes, summary, rows, measure)
            axes.set(title=title, xlabel=label)
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
        f"(share dead or diverged: {dead}); fewest on top. Hidden {hidden}, batch "
        f"{config['batch_size']}, {config['steps']} steps, {summary['seeds']} seeds; bars: 95 %, "
        f"paired by seed. Dead: max z <= 0 over the {config['examples']} training examples; "
        "flat: derivative exactly 0 on all. Filled: survives the control of false discoveries "
        "(5 %). Units of diverged runs count as dead. "
        "The cohort is paired on the units dead at step 0 in both arms; no mark: too few units, or "
        "no seed with a finite loss in both arms. Loss: geometric mean of the ratios; arrows give "
        f"those beyond {MOST:g} times, where intervals are cut. Time: noisy, small networks."
    )


def _draw_differences(axes: Axes, summary: Mapping, rows: Sequence[Mapping], measure: str):
    tasks = summary["tasks"]
    beyond = []
    for place, row in enumerate(rows):
        for number, task in enumerate(tasks):
            found = row["tasks"][task]["difference"].get(measure)
            if found is None:
                continue
            aside = number - (len(tasks) - 1) / 2
            y = place + 0.3 * aside
            colour = TASK_COLOURS[number % len(TASK_COLOURS)]
            low, high = (np.nan if end is None else end for end in found["interval"])
            if measure == "held_loss":
                if abs(found["estimate"]) > EDGE:
                    beyond.append((y, aside, found["estimate"], colour))
                    continue
                low, high = max(low, -EDGE), min(high, EDGE)
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
    if measure == "held_loss":
        _draw_beyond(axes, beyond)


def _draw_beyond(axes: Axes, beyond: Sequence[tuple[float, float, float, str]]):
    """An axis of factors up to `MOST`, and lanes beside it for what lies beyond: arrows, each with
    its factor. `beyond` has (y, place in the row, natural logarithm, colour)."""
    ends = [-1.08 * EDGE, 1.08 * EDGE]
    for y, aside, logarithm, colour in beyond:
        side = int(math.copysign(1, logarithm))
        end = side * 2.3 * EDGE
        ends[side > 0] = end
        axes.plot(end, y, marker="<>"[side > 0], color=colour, markersize=3.5, clip_on=False)
        axes.annotate(
            _factor_text(math.exp(logarithm)),
            (end, y),
            xytext=(-4 * side, -2.2 * aside),  # numbers of one row stand apart
            textcoords="offset points",
            ha="right" if side > 0 else "left",
            va="center_baseline",
            color=colour,
            fontsize=6,
        )
    for end, edge in zip(ends, (-EDGE, EDGE), strict=True):
        if abs(end) > 1.08 * EDGE:
            axes.axvline(edge, color="0.8", linewidth=0.6, linestyle=(0, (2, 2)), zorder=0)
    axes.set_xlim(*ends)
    label_factors(axes, (1 / MOST, 1, MOST))


def _factor_text(factor: float) -> str:
    """A factor in a few letters: 20, 0.05, 7·10⁸."""
    power = math.floor(math.log10(factor))
    if -2 <= power <= 2:
        return f"{factor:.0f}" if factor >= 1 else f"{factor:.1g}"
    raised = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{factor / 10.0**power:.0f}\N{MIDDLE DOT}10{raised}"


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
