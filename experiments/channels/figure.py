"""Figures: a map per channel; forks, accounts and the collapse test."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from relu_dynamics.config import LABELS
from relu_dynamics.figures import FEW_TRIALS, PAGE, STYLE, WIDE_INTERVAL, draw_map
from relu_dynamics.statistics import estimates

ARM_LABELS = {
    "upstream_frozen": "upstream frozen",
    "residue_zeroed": "residue zeroed",
    "decay_off": "decay off",
    "noise_off": "noise off",
}
SERIES_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


class Stored(NamedTuple):
    """What the figures draw."""

    results: Mapping[str, xr.Dataset]  # by channel
    summary: Mapping[str, Any]


def draw_channels(stored: Stored) -> Figure:
    """One map of P(recover | learning rate, initial bias) per channel, with the line where its
    closed form passes one half."""
    results, panels = stored.results, stored.summary["panels"]
    across = 4 if len(panels) > 6 else 3
    down = -(-len(panels) // across)
    with plt.style.context(STYLE):
        figure, grid = plt.subplots(down, across, figsize=(PAGE, 0.6 + 1.75 * down), squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for number, (axes, panel) in enumerate(zip(grid.flat, panels, strict=False)):
            cells = estimates.cells(results[panel["name"]], panel["measure"])
            mesh = draw_map(axes, cells, panel["title"])
            if number % across:
                axes.set_ylabel("")
            if number + across < len(panels):
                axes.set_xlabel("")
            _draw_boundary(axes, panel["boundary"])
        figure.colorbar(mesh, ax=grid, fraction=0.03, pad=0.01, aspect=40, label="probability")
        labels = dict.fromkeys(p["boundary"]["label"] for p in panels if p["boundary"])
        lines = "; ".join(labels)
        figure.supxlabel(
            (f"Red: where the closed form passes one half ({lines}).\n" if lines else "")
            + f"Hatched: under {FEW_TRIALS} units or interval wider than {WIDE_INTERVAL}; grey: no "
            "unit in the denominator.",
            fontsize=6.5,
            color="0.25",
        )
    return figure


def _draw_boundary(axes: Axes, boundary: Mapping | None):
    if boundary is None:
        return
    limits = axes.get_xlim(), axes.get_ylim()
    for width, colour in ((2.2, "white"), (1.2, "#D62728")):
        axes.plot(
            boundary["learning_rate"], boundary["initial_bias"], color=colour, linewidth=width
        )
    axes.set(xlim=limits[0], ylim=limits[1])


def draw_channel_forks(stored: Stored) -> Figure:
    """What each channel does to P(recover) by causal forks, which share of the climb it has by
    accounts, and P(recovered by K / rate) over the rate."""
    forks: Sequence[Mapping] = stored.summary["forks"]
    arms = list(dict.fromkeys(row["arm"] for fork in forks for row in fork["rows"][1:]))
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(
            1, 3, figsize=(PAGE, 2.6), gridspec_kw={"width_ratios": [1, 0.9, 1.25]}
        )
        for number, fork in enumerate(forks):
            colour, shift = SERIES_COLOURS[number], 0.16 * (number - (len(forks) - 1) / 2)
            rows = fork["rows"][1:]
            y = np.array([arms.index(row["arm"]) for row in rows]) + shift
            mean = np.array([row["difference"]["estimate"] for row in rows])
            low, high = np.array([row["difference"]["interval"] for row in rows]).T
            style = {"color": colour, "linestyle": "none", "marker": "os^D"[number]}
            axes[0].errorbar(
                mean, y, xerr=[mean - low, high - mean], elinewidth=0.8, capsize=2, **style
            )
            shares = [row["share_of_climb"] for row in rows]
            axes[1].plot([np.nan if s is None else s for s in shares], y, **style)
            axes[1].plot([], [], label=f"{fork['name']}, from step {fork['step']}", **style)
        for ax in axes[:2]:
            ax.axvline(0, color="0.6", linewidth=0.6, zorder=0)
            ax.set(ylim=(len(arms) - 0.5, -0.5))
            ax.set_yticks(range(len(arms)))
        axes[0].set_yticklabels([ARM_LABELS.get(arm, arm) for arm in arms])
        axes[1].set_yticklabels([])
        axes[0].set(xlabel="change of P(recover)", title="Causal forks, one cohort")
        axes[1].set(xlabel="share of the climb", title="Exact accounts")
        _draw_collapse(axes[2], stored.summary["collapse"])
        handles, labels = axes[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=len(forks))
    return figure


def _draw_collapse(axes: Axes, collapse: Mapping | None):
    """P(recovered by K / rate) over the rate; flat if the rate only rescaled time."""
    axes.set(title="Does the rate only rescale time?", xlabel=LABELS["learning_rate"])
    curves = collapse["curves"] if collapse else []
    if not curves:
        axes.text(0.5, 0.5, "upstream panel not run", ha="center", transform=axes.transAxes)
        axes.set(xticks=(), yticks=(), xlabel="")
        return
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(curves)))
    for curve, colour in zip(curves, colours, strict=True):
        rows = curve["rows"]
        mean = np.array([row["estimate"] for row in rows], float)
        low, high = np.array([row["interval"] for row in rows]).T
        axes.errorbar(
            [row["learning_rate"] for row in rows],
            mean,
            [mean - low, high - mean],
            color=colour,
            marker="o",
            elinewidth=0.7,
            capsize=1.5,
            label=f"{curve['rate_times_steps']:.3g}",
        )
    axes.set(xscale="log", ylim=(0, None), ylabel="P(recovered by rate x step)")
    axes.legend(title="rate x step", loc="center left", bbox_to_anchor=(1, 0.5))
