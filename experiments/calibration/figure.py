"""The reliability curve, and Brier scores beside those of the base rate."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from relu_dynamics.figures.style import PAGE, STYLE, write_caption

OURS, BASE = "#0072B2", "#D55E00"


def draw_calibration(summary: Mapping[str, Any]) -> Figure:
    """What happened over what was forecast, and scores by kind."""
    with plt.style.context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 3.6), width_ratios=(1, 1.15))
        draw_reliability(left, summary)
        draw_scores(right, summary)
        write_caption(figure, caption(summary))
    return figure


def draw_reliability(axes: Axes, summary: Mapping[str, Any]) -> None:
    """A point per bin, with the number of its units."""
    rows = summary["reliability"]
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.7)
    forks = summary["among_forks"]
    axes.plot(
        [row["forecast"] for row in forks],
        [row["estimate"] for row in forks],
        color="0.45",
        linestyle=(0, (3, 2)),
        label="as if one more fork",
    )
    x = np.array([row["forecast"] for row in rows])
    y = np.array([row["estimate"] for row in rows])
    low, high = np.array([row["interval"] for row in rows]).T
    axes.errorbar(
        x, y, [y - low, high - y], fmt="o", markersize=3.5, color=OURS, capsize=1.5,
        label="futures, in epochs",
    )  # fmt: skip
    others = summary["reliability_drawn_anew"]
    axes.plot(
        [row["forecast"] + 0.012 for row in others],
        [row["estimate"] for row in others],
        "o",
        markersize=3.5,
        markerfacecolor="none",
        color=OURS,
        label="futures, drawn as forks",
    )
    for at, found, row in zip(x, y, rows, strict=True):
        units = f"{row['units']:,}"
        place = {"xytext": (8, -3), "textcoords": "offset points", "fontsize": 6, "color": "0.35"}
        axes.annotate(units, (at, found), **place)
    axes.set(
        xlabel=f"forecast: share of {summary['forks']} forks",
        ylabel="what happened: share of unseen futures",
        xlim=(-0.03, 1.15),
        ylim=(-0.03, 1.03),
    )
    axes.legend(loc="upper left")


def draw_scores(axes: Axes, summary: Mapping[str, Any]) -> None:
    """Brier scores of every kind, the smaller the better."""
    rows = [row for row in summary["kinds"] if "brier" in row]
    for field, colour, marker, shift, label in (
        ("brier", OURS, "o", -0.12, "forecast"),
        ("brier_of_base_rate", BASE, "s", 0.12, "base rate of other networks"),
    ):
        x = np.array([row[field]["estimate"] for row in rows])
        low, high = np.array([row[field]["interval"] for row in rows]).T
        axes.errorbar(
            x, np.arange(len(rows)) + shift, xerr=[x - low, high - x], fmt=marker, markersize=3.5,
            color=colour, capsize=1.5, label=label,
        )  # fmt: skip
    names = [f"{row['words']}\n{row['units']} units in {row['networks']} networks" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=6.5)
    axes.invert_yaxis()
    axes.set(xlabel="Brier score", xlim=(0, None))
    axes.legend(loc="best")


def caption(summary: Mapping[str, Any]) -> str:
    """What was run, in a few lines."""
    skill = summary["scores"]["skill"]
    low, high = skill["interval"]
    return (
        f"n = {summary['units']:,} dead units in {summary['networks_with_dead_units']} of "
        f"{summary['networks']} held-out networks (max z <= 0 over all training examples), "
        f"{summary['futures']} unseen futures each, trained in epochs. Forecast: that a "
        f"unit is alive at some look within {summary['ahead']} steps; a number is that of units in "
        "the bin. 95 % intervals, clustered by network. Brier skill over the base rate "
        f"{skill['estimate']:.2f} [{low:.2f}, {high:.2f}]."
    )
