"""Figures, from the summary alone: dead latents by the size of the mean, what revivals change."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from relu_dynamics.engine import optimizers, tasks
from relu_dynamics.figures.style import PAGE, STYLE, label_factors, write_caption

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
MARKERS = "os^D"


def draw_dead(summary: Mapping) -> Figure:
    """The share of dead latents at birth and at the end, over gamma, a panel per activation."""
    labels = summary["labels"]["activations"]
    plain = [row for row in summary["cells"] if row["revival"] == "plain"]
    kinds = list(dict.fromkeys((row["learning_rate"], row["initial_bias"]) for row in plain))
    gammas = sorted({row["scaling_dose"] for row in plain})
    with plt.style.context(STYLE):
        figure, panels = plt.subplots(
            1, len(labels), figsize=(PAGE, 2.9), sharey=True, squeeze=False
        )
        for axes, (name, label) in zip(panels[0], labels.items(), strict=True):
            for number, kind in enumerate(kinds):
                own = [
                    row
                    for row in plain
                    if row["activation"] == name
                    and (row["learning_rate"], row["initial_bias"]) == kind
                ]
                _draw_shares(axes, gammas, own, number, len(kinds))
            if name == "relu":
                _draw_births(axes, gammas, summary["births"])
            axes.set(title=label, xlabel="gamma", ylim=(-0.02, 1.02))
            axes.set_xticks(range(len(gammas)), [f"{gamma:g}" for gamma in gammas])
        panels[0][0].set_ylabel("share of dead latents")
        handles = [
            Line2D([], [], color=COLOURS[i % 4], marker=MARKERS[i % 4], label=_kind_label(kind))
            for i, kind in enumerate(kinds)
        ]
        if summary["births"]:
            handles += [
                Line2D([], [], color="0.2", marker="x", linestyle="none", label="at birth"),
                Line2D([], [], color="0.2", linewidth=0.8, label="law at birth"),
            ]
        figure.legend(handles=handles, loc="outside upper center", ncols=3)
        births = (
            " At birth: a new ReLU encoder with bias 0, and the closed form of its share. "
            if summary["births"]
            else ""
        )
        write_caption(
            figure,
            f"{_caption(summary)}95 % intervals, clustered by seed; marks of one gamma stand side "
            f"by side.{births}",
        )
    return figure


def _kind_label(kind: tuple[float, float]) -> str:
    rate, bias = kind
    return f"end, rate {rate:g}" + (f", bias {bias:g}" if bias else "")


def _draw_shares(axes: Axes, gammas, rows, number: int, count: int):
    found = {row["scaling_dose"]: row["dead"] for row in rows}
    x = np.array([gammas.index(gamma) for gamma in found]) + 0.12 * (number - (count - 1) / 2)
    y = np.array([part["estimate"] for part in found.values()], float)
    low, high = np.array([part["interval"] for part in found.values()], float).T
    axes.errorbar(
        x,
        y,
        [y - low, high - y],
        color=COLOURS[number % 4],
        marker=MARKERS[number % 4],
        markersize=3,
        linewidth=0.8,
        elinewidth=0.7,
        capsize=1.5,
    )


def _draw_births(axes: Axes, gammas, births):
    if not births:
        return
    x = np.array([gammas.index(row["gamma"]) for row in births]) - 0.3
    y = np.array([row["estimate"] for row in births], float)
    low, high = np.array([row["interval"] for row in births], float).T
    style = {"color": "0.2", "marker": "x", "linestyle": "none", "markersize": 4}
    axes.errorbar(x, y, [y - low, high - y], elinewidth=0.7, zorder=3, **style)
    axes.plot(x, [row["law"] for row in births], color="0.2", linewidth=0.8)


def _caption(summary: Mapping) -> str:
    config = summary["config"]
    return (
        f"{tasks.label_of(config['task'])}, {config['hidden'][0]} latents, "
        f"{config['examples']:,} tokens in {config['dimension']} dimensions, batch "
        f"{config['batch_size']}, {config['steps']:,} steps of "
        f"{optimizers.label_of(config['optimizer'])}, n = {summary['seeds']} seeds. Dead: "
        "derivative by z exactly 0 on all training tokens (ReLU: z <= 0; top-k: never selected). "
        "Gamma: |mean| / |deviations| of the tokens. "
    )


def draw_revivals(summary: Mapping) -> Figure:
    """What every revival changes against the plain arm on the same seeds."""
    rows = summary["revivals"]
    panels = (
        ("dead", "dead latents", "change of share"),
        ("fvu", "FVU, held out", "x plain"),
        ("l0", "L0", "change per token"),
    )
    activations = list(dict.fromkeys(row["activation"] for row in rows))
    with plt.style.context(STYLE):
        figure, grid = plt.subplots(
            1,
            len(panels) + 1,
            figsize=(PAGE, 1.5 + 0.2 * len(rows)),
            sharey=True,
            gridspec_kw={"width_ratios": [1] * len(panels) + [0.7]},
        )
        for axes, (name, title, label) in zip(grid, panels, strict=False):
            for place, row in enumerate(rows):
                if row[name] is None:
                    continue
                number = activations.index(row["activation"])
                sure = name != "dead" or row["verdict"] == "confirmed"
                _draw_bar(axes, place, row[name]["estimate"], row[name]["interval"], number, sure)
            axes.axvline(0, color="0.6", linewidth=0.6, zorder=0)
            axes.set(title=title, xlabel=label)
            if name == "fvu":
                label_factors(axes, [2.0**power for power in range(-12, 13)])
        for place, row in enumerate(rows):
            number = activations.index(row["activation"])
            time = row["time"]
            _draw_bar(grid[-1], place, time["ratio"], time["interval"], number, True)
        grid[-1].axvline(1, color="0.6", linewidth=0.6, zorder=0)
        ratios = [row["time"]["ratio"] for row in rows]  # few rounds have intervals without end
        reach = min(ratios, default=1) / 1.5, max(ratios, default=1) * 1.5
        grid[-1].set(title="time per step", xlabel="x plain", xlim=reach)
        grid[0].set_yticks(range(len(rows)), [row["label"] for row in rows])
        grid[0].set_ylim(len(rows) - 0.5, -0.5)
        gammas = ", ".join(f"{entry['gamma']:g}" for entry in rows[0]["by_gamma"]) if rows else ""
        write_caption(
            figure,
            f"{_caption(summary)}Against the plain arm on the same seeds, mean over gamma "
            f"{gammas} and the learning rates; 95 % intervals, paired by seed. FVU: fraction of "
            "the variance that is not explained, geometric mean of the ratios; L0: latents that "
            "are not 0 per token, k for top-k. Filled: fewer dead latents survive the control of "
            "false discoveries (5 %); always filled: FVU, L0, time.",
        )
    return figure


def _draw_bar(axes: Axes, place: float, estimate: float, interval, number: int, sure: bool):
    colour = COLOURS[number % 4]
    axes.plot(interval, [place, place], color=colour, linewidth=0.8)
    axes.plot(
        estimate,
        place,
        marker=MARKERS[number % 4],
        color=colour,
        markersize=3.5,
        markerfacecolor=colour if sure else "white",
    )
