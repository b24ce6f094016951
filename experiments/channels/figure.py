"""Figures: a map per channel; forks, accounts and the collapse test."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from relu_dynamics.config import LABELS
from relu_dynamics.figures import (
    FEW_TRIALS,
    PAGE,
    STYLE,
    WIDE_INTERVAL,
    draw_map,
    what_ran,
    write_caption,
)
from relu_dynamics.statistics import estimates

MAPS = ("viridis", "magma")  # a colour map per probability
SERIES_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


class Stored(NamedTuple):
    """What the figures draw."""

    results: Mapping[str, xr.Dataset]  # by channel
    summary: Mapping[str, Any]


def draw_channels(stored: Stored) -> Figure:
    """One map of a probability over learning rate and initial bias per channel, with the lines
    where its closed forms pass one half. Panels of a row share their biases, unless one would fill
    less than half of its height."""
    results = stored.results
    panels = sorted(stored.summary["panels"], key=lambda panel: _deepest(results[panel["name"]]))
    measures = dict.fromkeys(panel["measure"] for panel in panels)
    across = 4 if len(panels) > 6 else 3
    down = -(-len(panels) // across)
    with plt.style.context(STYLE):
        figure, grid = plt.subplots(down, across, figsize=(PAGE, 0.9 + 1.75 * down), squeeze=False)
        meshes = {}
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for number, (axes, panel) in enumerate(zip(grid.flat, panels, strict=False)):
            measure = panel["measure"]
            cells = estimates.cells(results[panel["name"]], measure)
            cmap = MAPS[list(measures).index(measure) % len(MAPS)]
            meshes[measure] = draw_map(axes, cells, panel["title"], cmap)
            if number + across < len(panels):
                axes.set_xlabel("")
        drawn = list(zip(grid.flat, panels, strict=False))
        alone = []  # panels with an axis of biases of their own
        for start in range(0, len(drawn), across):
            alone += _share_biases(drawn[start : start + across])
        for axes, panel in drawn:  # when their limits stand
            _draw_boundaries(axes, panel["boundaries"])
        for measure, mesh in meshes.items():
            title = estimates.label(results[panels[0]["name"]], measure)
            figure.colorbar(mesh, ax=grid, fraction=0.03, pad=0.015, aspect=40, label=title)
        write_caption(figure, _panels_caption(stored, alone))
    return figure


def _deepest(result: xr.Dataset) -> float:
    return float(result.initial_bias.min())


def _share_biases(row: Sequence[tuple[Axes, Mapping]]) -> list[str]:
    """Gives panels side by side one axis of biases, whose numbers stand at the first of them, and
    returns the titles of those that keep their own: they would fill less than half of it."""
    low = min(axes.get_ylim()[0] for axes, _ in row)
    high = max(axes.get_ylim()[1] for axes, _ in row)
    sharing = [ax for ax, _ in row if np.ptp(ax.get_ylim()) >= (high - low) / 2]
    for axes in sharing:
        axes.set_ylim(low, high)
    for axes, _ in row:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 4, 5, 10]))
    for axes in sharing[1:]:
        axes.tick_params(labelleft=False)
    for axes, _ in row[1:]:
        axes.set_ylabel("")
    return [_on_one_line(panel["title"]) for axes, panel in row if axes not in sharing]


def _on_one_line(title: str) -> str:
    return title.replace("\n", " ")


def _panels_caption(stored: Stored, alone: Sequence[str]) -> str:
    """What was run; what other networks some panels have; the lines, the measures, the marks; which
    panels have an axis of biases of their own."""
    panels, options = stored.summary["panels"], stored.summary["options"]
    results = stored.results
    configs = {panel["name"]: estimates.config_of(results[panel["name"]]) for panel in panels}
    usual = options["config"] | {"optimizer": "momentum"}
    others: dict[str, list[str]] = {}
    for panel in panels:
        hidden = "-".join(map(str, configs[panel["name"]]["hidden"]))
        if configs[panel["name"]]["hidden"] != usual["hidden"]:
            others.setdefault(hidden, []).append(_on_one_line(panel["title"]))
    networks = "".join(f"; hidden {width}: {', '.join(names)}" for width, names in others.items())
    at_risk = sum(panel["measured"]["trials"] for panel in panels)
    labels = dict.fromkeys(line["label"] for p in panels for line in p["boundaries"])
    lines = f"Red: where a closed form passes one half ({'; '.join(labels)}). " if labels else ""
    own = f"With an axis of biases of its own: {', '.join(alone)}. " if alone else ""
    first = next(iter(results.values()))
    measures = "; ".join(
        f"{estimates.label(first, name)}: {stored.summary['definitions'][name]}".split(". ")[0]
        for name in dict.fromkeys(panel["measure"] for panel in panels)
    )
    return (
        f"{what_ran(usual)}{networks}; {first.sizes['seed']} seeds per cell, n = {at_risk:,} units "
        f"in the denominators. {measures}. Dead: {estimates.judgement(first).short} over the probe "
        f"set. {lines}{own}Hatched: under {FEW_TRIALS} units or 95 % interval (clustered by run) "
        f"wider than {WIDE_INTERVAL}; grey: no unit in the denominator; white: not run."
    )


def _draw_boundaries(axes: Axes, boundaries: Sequence[Mapping]):
    limits = axes.get_xlim(), axes.get_ylim()
    for boundary in boundaries:
        for width, colour in ((2.2, "white"), (1.2, "#D62728")):
            axes.plot(
                boundary["learning_rate"], boundary["initial_bias"], color=colour, linewidth=width
            )
    axes.set(xlim=limits[0], ylim=limits[1])


def draw_channel_forks(stored: Stored) -> Figure:
    """What each channel does to P(recover) by causal forks, which share of the climb it has by
    accounts, and P(recovered by K / rate) over the rate."""
    forks: Sequence[Mapping] = stored.summary["forks"]
    channels = list(dict.fromkeys(row["channel"] for fork in forks for row in fork["rows"][1:]))
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(
            1, 3, figsize=(PAGE, 3.0), gridspec_kw={"width_ratios": [1, 0.9, 1.25]}
        )
        for number, fork in enumerate(forks):
            style = {
                "color": SERIES_COLOURS[number % len(SERIES_COLOURS)],
                "linestyle": "none",
                "marker": "os^D"[number % 4],
            }
            for row in fork["rows"][1:]:
                # The marks of a channel stand around its tick, however many forks have it.
                own = [i for i, other in enumerate(forks) if _row_of(other, row["channel"])]
                shift = 0.16 * (own.index(number) - (len(own) - 1) / 2)
                y = channels.index(row["channel"]) + shift
                share = {"estimate": row["share_of_climb"], "interval": row["share_interval"]}
                for ax, found in zip(axes, (row["difference"], share), strict=False):
                    if found["estimate"] is not None:
                        low, high = found["interval"] or (np.nan, np.nan)
                        ends = [[found["estimate"] - low], [high - found["estimate"]]]
                        ax.errorbar(
                            found["estimate"], y, xerr=ends, elinewidth=0.8, capsize=2, **style
                        )
            axes[1].plot([], [], label=f"{fork['name']} (n = {fork['rows'][0]['cohort']})", **style)
        for ax in axes[:2]:
            ax.axvline(0, color="0.6", linewidth=0.6, zorder=0)
            ax.set(ylim=(len(channels) - 0.5, -0.5))
            ax.set_yticks(range(len(channels)))
        axes[0].set_yticklabels(channels)
        axes[0].set_ylabel("channel")
        axes[1].set_yticklabels([])
        axes[0].set(xlabel="change of P(recover)", title="Switched off: causal forks")
        axes[1].set(xlabel="share of the climb of max z", title="Open: exact accounts")
        _draw_collapse(axes[2], stored.summary["collapse"])
        handles, labels = axes[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(forks))
        write_caption(figure, _forks_caption(stored))
    return figure


def _row_of(fork: Mapping, channel: str) -> Mapping | None:
    return next((row for row in fork["rows"][1:] if row["channel"] == channel), None)


def _forks_caption(stored: Stored) -> str:
    options = stored.summary["options"]
    forks = stored.summary["forks"]
    config = forks[0]["config"]
    collapse = stored.summary["collapse"]
    right = (
        f"Right: {options['seeds']} seeds, upstream open, all initial biases pooled; flat if the "
        "rate only rescaled time."
        if collapse and collapse["curves"]
        else ""
    )
    return (
        f"{what_ran(config)}, {options['fork_seeds']} seeds; forked at step {forks[0]['step']} "
        f"(legend: channels that are open). n: units of the biased layer that are dead there, "
        "max z <= 0 over the training examples; recovered: alive at a later evaluation. Left: the "
        "same units, batches and noise with the channel off, less those as they are; middle: what "
        "the channel added to max z of the units that recovered, over the whole climb. 95 % "
        f"intervals, paired or clustered by seed. {right}"
    )


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
