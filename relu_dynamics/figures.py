"""Figures: stored results -> axes. Never trains, so a figure is redrawn wherever its result is.

Widths are those of a paper: COLUMN for one column, PAGE for the text width, in inches.
"""

import pathlib
from collections.abc import Sequence
from importlib import resources

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from relu_dynamics import estimates

COLUMN = 3.35
PAGE = 7.0
STYLE = str(resources.files("relu_dynamics") / "relu_dynamics.mplstyle")
FEW_TRIALS = 8  # below this many units a cell is hatched
WIDE_INTERVAL = 0.3  # and above this interval width

LABELS = {
    "learning_rate": "learning rate",
    "initial_bias": "initial bias",
    "momentum": "momentum",
    "weight_decay": "weight decay",
    "noise_scale": "noise scale",
    "upstream_rate": "upstream rate factor",
}


def save(figure: Figure, path: pathlib.Path, attributes: dict[str, str]) -> list[pathlib.Path]:
    """Writes a figure as PNG and PDF next to each other, with the result's grid hash, commit and
    command in both files' metadata, and returns their paths."""
    facts = ", ".join(f"{name}={attributes.get(name)}" for name in ("grid_hash", "git_commit"))
    note = f"{facts}, command={attributes.get('command')}"
    paths = [path.with_suffix(".png"), path.with_suffix(".pdf")]
    figure.savefig(paths[0], metadata={"Description": note, "Software": "relu_dynamics"})
    figure.savefig(paths[1], metadata={"Subject": note, "Creator": "relu_dynamics"})
    plt.close(figure)
    return paths


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
    axes.set_facecolor("0.88")
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
    """Draws cumulative incidence of first recovery with pointwise 95 % bands, one curve a cell,
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
    """Draws an `estimates.pooled` dataset over its axis with 95 % intervals."""
    (axis,) = pooled.estimate.dims
    x = pooled[axis].values
    estimate = pooled.estimate.values
    reach = [estimate - pooled.low.values, pooled.high.values - estimate]
    axes.errorbar(
        x, estimate, reach, marker=marker, color=colour, label=label, elinewidth=0.7, capsize=1.5
    )
    if _is_log(x):
        axes.set_xscale("log")
    axes.set(xlabel=LABELS[axis], ylim=(-0.02, 1.02))


def draw_recovery_map(result: xr.Dataset) -> Figure:
    """The recovery, death and divergence maps, the window over the learning rate, and the
    cumulative incidence at the bias in the middle of the informative ones."""
    with plt.style.context(STYLE):
        figure = plt.figure(figsize=(PAGE, 4.7))
        top = figure.add_gridspec(2, 1, height_ratios=[1.12, 1])
        maps = top[0].subgridspec(1, 3).subplots(sharey=True)
        below = top[1].subgridspec(1, 2, width_ratios=[1, 1]).subplots()
        titles = {
            "recovered": "P(dead unit recovers for good)",
            "died": "P(living unit dies)",
            "diverged": "P(run diverges)",
        }
        for axes, (measure, title) in zip(maps, titles.items(), strict=True):
            mesh = draw_map(axes, estimates.cells(result, measure), title)
        for axes in maps[1:]:
            axes.set_ylabel("")
        figure.colorbar(mesh, ax=list(maps), fraction=0.035, pad=0.015, label="probability")
        colours = {"recovered": "#009E73", "died": "#D55E00", "diverged": "#555555"}
        markers = {"recovered": "o", "died": "s", "diverged": "^"}
        labels = {
            "recovered": "dead unit recovers",
            "died": "living unit dies",
            "diverged": "run diverges",
        }
        for measure in titles:
            pooled = estimates.pooled(result, measure, "learning_rate")
            draw_pooled(below[0], pooled, labels[measure], colours[measure], markers[measure])
        below[0].set(ylabel="probability, all biases pooled", title="A window, not a slope")
        below[0].legend(loc="upper left")
        bias = informative_bias(result)
        rates = result.learning_rate.values
        chosen = rates[np.unique(np.linspace(0, len(rates) - 1, 6).astype(int))]
        cells = [{"learning_rate": rate, "initial_bias": bias} for rate in chosen]
        draw_incidence(below[1], result, cells, "learning_rate")
        below[1].set_title(f"Cumulative incidence at initial bias {bias:g}")
        below[1].legend(title="learning rate", ncols=2, loc="upper left")
        figure.suptitle(caption(result), fontsize=6.5, y=-0.005, va="top", color="0.25")
    return figure


def informative_bias(result: xr.Dataset) -> float:
    """The initial bias with the most recoveries among those where most biased units are at risk;
    where there is none, the one with the most units at risk."""
    pooled = estimates.pooled(result, "recovered", "initial_bias")
    most = pooled.trials.max()
    score = pooled.successes.where(pooled.trials >= 0.8 * most, -1)
    return float(result.initial_bias.values[np.argmax(score.values)])


def caption(result: xr.Dataset) -> str:
    """One line of what was run: network, task, optimizer, counts, intervals, definition."""
    config = estimates.config_of(result)
    data = "-".join(str(width) for width in config["hidden"])
    cells = int(np.prod([result.sizes[name] for name in estimates.axis_names(result)]))
    return (
        f"{config['task']}, hidden {data}, {config['optimizer']}, batch {config['batch_size']}, "
        f"{config['steps']} steps; {cells} cells x {result.sizes['seed']} seeds; dead: max z <= 0 "
        f"over {config['probe_size'] or config['examples']} examples.\n"
        f"95 % intervals (Clopper-Pearson with effective trials, clustered by run, by seed where "
        f"pooled). Hatched: under {FEW_TRIALS} units or interval wider than {WIDE_INTERVAL}; "
        f"grey: no unit at risk."
    )
