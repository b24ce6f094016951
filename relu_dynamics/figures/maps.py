"""Maps and curves of estimates over the axes of a grid."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecBase

from relu_dynamics.config import LABELS
from relu_dynamics.figures.style import (
    FEW_TRIALS,
    PAGE,
    STYLE,
    WIDE_INTERVAL,
    caption,
    write_caption,
)
from relu_dynamics.statistics import estimates

EMPTY = ListedColormap(["0.88"])


def _edges(values: np.ndarray, log: bool) -> np.ndarray:
    """Edges halfway between centres (on a log axis: their geometric means)."""
    centres = np.log(values) if log else np.asarray(values, float)
    if len(centres) == 1:
        return values * np.array([0.5, 2.0]) if log else centres + np.array([-0.5, 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    edges = np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])
    return np.exp(edges) if log else edges


def _is_log(values: np.ndarray) -> bool:
    return bool(np.all(values > 0)) and len(values) > 2 and values.max() / values.min() > 20


def draw_map(axes: Axes, cells: xr.Dataset, title: str, cmap: str = "viridis"):
    """Draws a two-axis map of an `estimates.cells` dataset and returns its colour mesh.

    The grid's first axis is horizontal. Cells with few trials or a wide interval are hatched;
    cells without any unit in the denominator are grey.
    """
    horizontal, vertical = cells.estimate.dims
    x, y = cells[horizontal].values, cells[vertical].values
    x_edges, y_edges = _edges(x, _is_log(x)), _edges(y, _is_log(y))
    values = np.ma.masked_invalid(cells.estimate.values.T)
    # Grey behind the cells only: beyond the grid there is nothing to be at risk.
    axes.pcolormesh(x_edges, y_edges, np.zeros(values.shape), cmap=EMPTY, rasterized=True)
    mesh = axes.pcolormesh(x_edges, y_edges, values, vmin=0, vmax=1, cmap=cmap, rasterized=True)
    doubtful = (cells.trials < FEW_TRIALS) | (cells.high - cells.low > WIDE_INTERVAL)
    doubtful = (doubtful & (cells.trials > 0)).values.T
    if doubtful.any():
        axes.pcolor(
            x_edges,
            y_edges,
            np.ma.masked_where(~doubtful, np.ones_like(values)),
            hatch="////",
            facecolor="none",
            edgecolor=(1, 1, 1, 0.55),
            linewidth=0,
            cmap=None,
        )
    if _is_log(x):
        axes.set_xscale("log")
    if _is_log(y):
        axes.set_yscale("log")
    axes.set(xlabel=LABELS[horizontal], ylabel=LABELS[vertical], title=title)
    return mesh


def draw_incidence(axes: Axes, result: xr.Dataset, cells: Sequence[dict[str, float]], axis: str):
    """Draws cumulative incidence of first recovery with pointwise 95 % bands, one curve per cell,
    labelled by its value on `axis`."""
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(cells)))
    steps = estimates.config_of(result)["steps"]
    for cell, colour in zip(cells, colours, strict=True):
        curve = estimates.incidence(result, cell)
        times = np.concatenate([[0], curve.times, [steps]])
        extend = lambda row: np.concatenate([[0], row, row[-1:]])  # noqa: E731
        if len(curve.times) == 0:
            axes.plot([0, steps], [0, 0], color=colour, label=f"{cell[axis]:.2g}")
            continue
        axes.step(
            times, extend(curve.incidence[0]), where="post", color=colour, label=f"{cell[axis]:.2g}"
        )
        axes.fill_between(
            times,
            extend(curve.low[0]),
            extend(curve.high[0]),
            step="post",
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
    axes.set(
        xlim=(0, steps), ylim=(0, 1), xlabel="training step", ylabel="P(first recovery by step)"
    )


def draw_pooled(axes: Axes, pooled: xr.Dataset, label: str, colour: str, marker: str = "o"):
    """Draws an `estimates.pooled` dataset over its axis with 95 % intervals: pale where nothing was
    counted, so that the long bar of a 0 hides no other point."""
    (axis,) = pooled.estimate.dims
    x = pooled[axis].values
    estimate = pooled.estimate.values
    reach = np.array([estimate - pooled.low.values, pooled.high.values - estimate])
    none = estimate == 0
    looks: tuple[dict[str, Any], ...] = (
        {"alpha": 0.3, "elinewidth": 1.6, "zorder": 1.5},
        {"elinewidth": 0.7, "capsize": 1.5, "zorder": 3},
    )
    for shown, style in zip((none, ~none), looks, strict=True):
        bars = np.where(shown, reach, np.nan)
        axes.errorbar(x, np.where(shown, estimate, np.nan), bars, color=colour, fmt="none", **style)
    axes.plot(x, estimate, marker=marker, color=colour, label=label, zorder=2.5)
    axes.plot(x[none], estimate[none], marker, color=colour, markerfacecolor="white", zorder=2.6)
    if _is_log(x):
        axes.set_xscale("log")
    axes.set(xlabel=LABELS[axis], ylim=(-0.02, 1.02))


def _axes(grid: GridSpecBase, sharey: bool = False) -> np.ndarray:
    """The axes of a grid of panels, always [rows, columns]."""
    return np.asarray(grid.subplots(squeeze=False, sharey=sharey))


def draw_recovery_map(result: xr.Dataset) -> Figure:
    """The recovery, death and divergence maps, the window over the learning rate, and the
    cumulative incidence at the bias in the middle of the informative ones."""
    with plt.style.context(STYLE):
        figure = plt.figure(figsize=(PAGE, 4.7))
        top = figure.add_gridspec(2, 1, height_ratios=[1.12, 1])
        maps = _axes(top[0].subgridspec(1, 3), sharey=True)[0]
        below = _axes(top[1].subgridspec(1, 2, width_ratios=[1, 1]))[0]
        titles = {name: estimates.label(result, name) for name in ("recovered", "died", "diverged")}
        for axes, (measure, title) in zip(maps, titles.items(), strict=True):
            mesh = draw_map(axes, estimates.cells(result, measure), title)
        for axes in maps[1:]:
            axes.set_ylabel("")
        figure.colorbar(mesh, ax=list(maps), fraction=0.035, pad=0.015, label="probability")
        colours = {"recovered": "#009E73", "died": "#D55E00", "diverged": "#555555"}
        markers = {"recovered": "o", "died": "s", "diverged": "^"}
        labels = {
            "recovered": "dead unit recovers for good",
            "died": "living unit dies",
            "diverged": "run diverges",
        }
        for measure in titles:
            pooled = estimates.pooled(result, measure, "learning_rate")
            label = estimates.judgement(result).say(labels[measure])
            draw_pooled(below[0], pooled, label, colours[measure], markers[measure])
        below[0].set(ylabel="probability", title="All initial biases pooled")
        below[0].legend(loc="upper left")
        bias = informative_bias(result)
        rates = result.learning_rate.values
        best = estimates.pooled(result, "recovered", "learning_rate").estimate.fillna(0)
        chosen = {*np.linspace(0, len(rates) - 1, 5).astype(int), int(np.argmax(best.values))}
        cells = [{"learning_rate": rates[i], "initial_bias": bias} for i in sorted(chosen)]
        draw_incidence(below[1], result, cells, "learning_rate")
        below[1].set_title(f"First recovery, at initial bias {bias:g}")
        below[1].legend(title="learning rate", loc="center left", bbox_to_anchor=(1, 0.5))
        write_caption(figure, f"{caption(result)} {_counts_and_words(result)}")
    return figure


def _counts_and_words(result: xr.Dataset) -> str:
    """The numbers of units at risk, and what "for good" and "first" mean."""
    risk = {name: estimates.counts(result, name)[1].sum() for name in ("recovered", "died")}
    sustain = estimates.config_of(result)["sustain"]
    return estimates.judgement(result).say(
        f"n = {risk['recovered']:,} units dead and {risk['died']:,} alive at step 0. For good: "
        f"alive at every evaluation for {sustain} steps or more; a first recovery (below right) "
        "may be shorter. Hollow marks: none seen."
    )


def informative_bias(result: xr.Dataset) -> float:
    """The largest initial bias at which most of the biased units are at risk: deep enough
    for a full denominator, shallow enough for recoveries."""
    pooled = estimates.pooled(result, "recovered", "initial_bias")
    enough = pooled.trials >= 0.6 * pooled.trials.max()
    return float(result.initial_bias.values[enough.values].max())


def draw_unit(axes: Axes, statistics, unit: int, every: int = 1):
    """Draws one unit's z over the evaluations of one run: largest, mean and smallest over the probe
    set. Evaluations at which it is dead (largest z <= 0) are shaded.

    `statistics` has the fields of `probes.UnitStatistics`, [evaluations, units]; `every` is the
    number of steps between two evaluations.
    """
    largest, mean, smallest = (
        np.asarray(part)[:, unit]
        for part in (statistics.margin, statistics.mean, statistics.minimum)
    )
    steps = np.arange(len(largest)) * every
    axes.fill_between(steps, smallest, largest, color="#56B4E9", alpha=0.3, linewidth=0)
    axes.plot(steps, largest, color="#0072B2", label="largest z (margin)")
    axes.plot(steps, mean, color="0.35", linestyle=(0, (4, 1.5)), label="mean z")
    axes.fill_between(
        steps,
        0,
        1,
        where=largest <= 0,
        step="post",
        transform=axes.get_xaxis_transform(),
        color="#D55E00",
        alpha=0.2,
        linewidth=0,
        label="dead",
    )
    axes.axhline(0, color="0.5", linewidth=0.6)
    axes.set(xlim=(0, steps[-1]), xlabel="training step", ylabel="z over the probe set")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
