"""The life of one unit: the ribbon of its z, and how z is distributed as it dies and comes back."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from experiments.one_unit.analysis import Life, deepest_evaluation
from experiments.one_unit.drawing import (
    ALIVE,
    BACK,
    DEAD,
    density,
    set_z_axis,
    signed,
    write_caption,
)
from relu_dynamics.figures.style import COLUMN, PAGE, STYLE


def draw_life(life: Life, caption: str) -> Figure:
    """The ribbon of z of one unit over its training."""
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(figsize=(PAGE, 2.9))
        draw_ribbon(axes, life)
        handles = [
            Line2D([], [], color="black", label="margin: largest z"),
            Line2D([], [], color=ALIVE, linewidth=0.8, label="mean"),
            Patch(color=ALIVE, alpha=0.45, linewidth=0, label="mean \N{PLUS-MINUS SIGN} deviation"),
            Patch(color=ALIVE, alpha=0.16, linewidth=0, label="smallest to largest z"),
            Patch(color=DEAD, alpha=0.15, linewidth=0, label="dead"),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=5)
        write_caption(figure, caption, 142)
    return figure


def draw_ribbon(axes: Axes, life: Life):
    """Margin, mean +- deviation and min..max over the steps; the dead spell shaded, its two ends
    and the deepest margin marked. Of a skewed z one deviation may reach beyond every example, so
    the band is cut at the smallest and the largest z."""
    axes.axvspan(life.death, life.recovery, color=DEAD, alpha=0.12, linewidth=0)
    axes.fill_between(life.step, life.minimum, life.margin, color=ALIVE, alpha=0.16, linewidth=0)
    axes.fill_between(
        life.step,
        np.maximum(life.mean - life.deviation, life.minimum),
        np.minimum(life.mean + life.deviation, life.margin),
        color=ALIVE,
        alpha=0.38,
        linewidth=0,
    )
    axes.plot(life.step, life.mean, color=ALIVE, linewidth=0.8)
    axes.plot(life.step, life.margin, color="black", linewidth=1.0)
    axes.axhline(0, color="0.35", linewidth=0.6)
    low, high = life.minimum.min(), life.margin.max()
    axes.set(xlim=(life.step[0], life.step[-1]), ylim=(min(1.6 * low, -2), max(2.2 * high, 2)))
    set_z_axis(axes.yaxis)
    deepest = deepest_evaluation(life)
    top = 1.35 * max(high, 2 / 2.2)
    events = [(life.death, "v", DEAD, "dies"), (life.recovery, "^", BACK, "is back")]
    for step, marker, colour, text in events:
        axes.plot(step, 0, marker=marker, color=colour, markersize=5, zorder=5, clip_on=False)
        end = step > 0.85 * life.step[-1]
        axes.annotate(
            f"{text}, step {step}",
            (step, top),
            xytext=(-3 if end else 3, 0),
            textcoords="offset points",
            color=colour,
            ha="right" if end else "left",
            va="center",
        )
        axes.axvline(step, color=colour, linewidth=0.6)
    axes.plot(life.step[deepest], life.margin[deepest], "o", color="black", markersize=3)
    axes.annotate(
        f"deepest: {signed(life.margin[deepest], '.2f')}, step {life.step[deepest]}",
        (life.step[deepest], life.margin[deepest]),
        xytext=((life.death + life.recovery) / 2, 2.0),
        ha="center",
        va="bottom",
        zorder=6,
        path_effects=[withStroke(linewidth=1.5, foreground="white")],
        arrowprops={"arrowstyle": "-", "linewidth": 0.5, "shrinkB": 3},
    )
    axes.set(xlabel="training step", ylabel="pre-activation z")


def draw_ridges(steps: Sequence[int], z: np.ndarray, caption: str) -> Figure:
    """The distribution of one unit's z [rows, examples] as it dies and comes back."""
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(figsize=(COLUMN, 1.5 + 0.19 * len(z)))
        draw_ridgeline(axes, steps, z)
        write_caption(figure, caption, 64)
    return figure


def ridge_steps(death: int, recovery: int, last: int, rows: int = 9) -> list[int]:
    """Steps of a ridgeline: before death, its first dead evaluation, evenly through the spell to
    the last dead evaluation, the first evaluation back and beyond; each once, none outside [0,
    last]."""
    before = [death - 40, death - 10, death - 2, death - 1]
    spell = np.linspace(death, recovery - 1, rows).round().astype(int).tolist()
    after = [recovery, recovery + 10, recovery + 40, last]
    return sorted({step for step in (*before, *spell, *after) if 0 <= step <= last})


def draw_ridgeline(axes: Axes, steps: Sequence[int], z: np.ndarray, overlap: float = 1.7):
    """Densities of z [rows, examples], the earliest on top; the part above 0 is coloured."""
    for row, sample in enumerate(z):
        base = len(z) - 1 - row
        grid, height = density(sample)
        zero = np.interp(0.0, grid, height)
        upper = base + overlap * height
        axes.plot(grid, upper, color="white", linewidth=1.8, zorder=2 * row)
        axes.fill_between(grid, base, upper, color="0.82", zorder=2 * row, linewidth=0)
        if sample.max() > 0:
            alive = grid > 0
            part = np.concatenate([[0.0], grid[alive]]), np.concatenate([[zero], height[alive]])
            if sample.min() > 0:
                part = grid, height
            axes.fill_between(
                part[0], base, base + overlap * part[1], color=ALIVE, zorder=2 * row, linewidth=0
            )
        colour = ALIVE if sample.max() > 0 else DEAD
        axes.plot(grid, upper, color="0.25", linewidth=0.6, zorder=2 * row + 1)
        axes.plot(sample.max(), base, "|", color=colour, markersize=5, zorder=3 * len(z), mew=1.2)
        axes.annotate(
            f"{100 * np.mean(sample > 0):.1f} %" if sample.max() > 0 else "0 %",
            (1.0, base),
            xycoords=axes.get_yaxis_transform(),
            ha="right",
            va="bottom",
            color=colour,
            fontsize=6.5,
            zorder=3 * len(z),
        )
    axes.text(
        1.0,
        1.0,
        "examples\nwith z > 0",
        ha="right",
        va="top",
        transform=axes.transAxes,
        fontsize=6.5,
    )
    axes.axvline(0, color="0.2", linewidth=0.7, zorder=3 * len(z))
    axes.set_yticks(range(len(z)), [str(step) for step in reversed(steps)])
    for label, sample in zip(axes.get_yticklabels(), z[::-1], strict=True):
        label.set_color(ALIVE if sample.max() > 0 else DEAD)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set(xlim=(min(1.3 * z.min(), -1.5), max(8 * z.max(), 10)), ylim=(-0.3, len(z) + 1.0))
    set_z_axis(axes.xaxis)
    axes.set(xlabel="pre-activation z over the probe set", ylabel="training step")
