"""Figures, from the summary alone: dose-response curves, the same by
layer, the contrasts of the claims, and the map of the strongest two causes."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from relu_dynamics.config import LABELS
from relu_dynamics.engine.tasks import label_of
from relu_dynamics.figures.style import PAGE, STYLE, write_caption

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
MARKERS = "os^Dv"
LAYER_COLOURS = ("#440154", "#21918C", "#D8A200", "#7A5195", "#EF5675")
AXIS_LABELS = LABELS | {  # what an axis means in these grids, where that is more than its field
    "weight_scale": "factor on He's initial weights",
    "initial_bias": "initial bias of a whole layer",
    "shifted": "mean of all features (deviations)",
    "one_bad_feature": "factor on one feature",
}
TITLES = {
    "weight_scale": "Weight initialization",
    "initial_bias": "Negative bias",
    "learning_rate": "Learning rate",
    "momentum": "Momentum",
    "shifted": "Shifted inputs",
    "one_bad_feature": "One badly scaled feature",
}


def _curve(summary: Mapping, task: str, cause: str) -> tuple[np.ndarray, list[Mapping]]:
    """(doses, rows of the summary) of a cause on a task, everything else at the reference."""
    dose = summary["doses"][cause]
    rest = {
        name: value
        for name, value in summary["reference"].items()
        if name in ("learning_rate", "momentum") and name != dose["axis"]
    }
    rows = [
        row
        for row in summary["cells"]
        if row["task"] == task
        and row["arm"] == dose["arm"]
        and all(np.isclose(row["cell"].get(name, value), value) for name, value in rest.items())
    ]
    rows.sort(key=lambda row: row["cell"][dose["axis"]])
    return np.array([row["cell"][dose["axis"]] for row in rows]), rows


def _scale(axes: Axes, cause: str, doses: np.ndarray):
    """A log axis for doses that are factors, a root-like one for shifts, straight otherwise."""
    if cause in ("weight_scale", "learning_rate", "one_bad_feature"):
        axes.set_xscale("log")
    elif cause == "shifted":
        axes.set_xscale("symlog", linthresh=1)
        ticks = [d for d in doses if d == 0 or d >= 1]
        axes.set_xticks(ticks, [f"{d:g}" for d in ticks])
        axes.minorticks_off()
    if cause == "initial_bias":
        axes.invert_xaxis()


def _band(axes: Axes, x: np.ndarray, estimates: list[Mapping], colour: str, **style):
    mean = np.array([e["estimate"] for e in estimates], float)
    low, high = np.array([e["interval"] for e in estimates], float).T
    low, high = (np.where(np.isnan(mean), np.nan, end) for end in (low, high))  # nothing counted
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, mean, color=colour, **style)


def _caption(summary: Mapping) -> str:
    config = summary["config"]
    hidden = "-".join(str(width) for width in config["hidden"])
    units = summary["seeds"] * sum(config["hidden"])
    return (
        f"Hidden {hidden}, SGD with momentum, batch {config['batch_size']}, {config['steps']} "
        f"steps, {summary['seeds']} seeds per cell (n = {units:,} units). Dead: max z <= 0 over "
        f"the {config['examples']} training examples, after the last step. 95 % intervals, "
        "clustered by seed. "
    )


def draw_dose_response(summary: Mapping) -> Figure:
    """Dead at the end, born dead and diverged over the dose of every cause, one colour per task."""
    causes = list(summary["doses"])
    down = -(-len(causes) // 3)
    with plt.style.context(STYLE):
        figure, grid = plt.subplots(
            down, 3, figsize=(PAGE, 0.9 + 1.65 * down), sharey=True, squeeze=False
        )
        for axes in grid.flat[len(causes) :]:
            axes.set_axis_off()
        for number, (axes, cause) in enumerate(zip(grid.flat, causes, strict=False)):
            for task, colour, marker in zip(summary["tasks"], COLOURS, MARKERS, strict=False):
                x, rows = _curve(summary, task, cause)
                _band(axes, x, [row["dead_where_finite"] for row in rows], colour, marker=marker)
                born = [row["born_dead"]["estimate"] for row in rows]
                axes.plot(x, born, color=colour, linestyle=(0, (1, 1.2)), linewidth=0.9)
                diverged = np.array([row["diverged"]["estimate"] for row in rows])
                some = diverged > 0
                axes.plot(x[some], diverged[some], color=colour, marker="x", linestyle="none")
            _scale(axes, cause, x)
            axes.axvline(summary["reference"][cause], color="0.8", linewidth=0.8, zorder=0)
            axes.set(xlabel=AXIS_LABELS[cause], title=TITLES[cause], ylim=(-0.03, 1.03))
            if number % 3 == 0:
                axes.set_ylabel("share of units (or runs)")
        handles = [
            Line2D([], [], color=colour, marker=marker, label=label_of(task))
            for task, colour, marker in zip(summary["tasks"], COLOURS, MARKERS, strict=False)
        ]
        grey: dict[str, Any] = {"color": "0.35"}
        handles += [
            Line2D([], [], **grey, label="dead at the end"),
            Line2D([], [], **grey, linestyle=(0, (1, 1.2)), label="born dead"),
            Line2D([], [], **grey, marker="x", linestyle="none", label="runs that diverged"),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        reference = summary["reference"]
        write_caption(
            figure,
            _caption(summary)
            + "Everything else at the reference (grey lines): He initialization, learning rate "
            f"{reference['learning_rate']:g}, momentum {reference['momentum']:g}, bias 0, "
            "standardized inputs. Dead at the end: of the units of runs that did not diverge (no "
            "mark where all did).",
        )
    return figure


def draw_layers(summary: Mapping) -> Figure:
    """The dead share of every layer at the end over the dose of every cause, a row a task."""
    causes = list(summary["doses"])
    tasks = summary["tasks"]
    with plt.style.context(STYLE):
        figure, grid = plt.subplots(
            len(tasks),
            len(causes),
            figsize=(PAGE, 1.0 + 1.2 * len(tasks)),
            sharey=True,
            sharex="col",
            squeeze=False,
        )
        short = {
            "weight_scale": "weight scale",
            "initial_bias": "bias, layer 2",
            "learning_rate": "learning rate",
            "momentum": "momentum",
            "shifted": "shift (deviations)",
            "one_bad_feature": "factor, 1 feature",
        }
        layers = range(len(summary["config"]["hidden"]))
        for row, task in enumerate(tasks):
            for column, cause in enumerate(causes):
                axes = grid[row, column]
                x, rows = _curve(summary, task, cause)
                for layer, colour, marker in zip(layers, LAYER_COLOURS, MARKERS, strict=False):
                    own = [r["layers"][layer]["dead_where_finite"] for r in rows]
                    _band(axes, x, own, colour, marker=marker, markersize=2, linewidth=0.9)
                axes.axvline(summary["reference"][cause], color="0.8", linewidth=0.8, zorder=0)
                axes.set_ylim(-0.03, 1.03)
                if row == len(tasks) - 1:
                    axes.set_xlabel(short[cause])
            grid[row, 0].set_ylabel(f"{label_of(task)}\nshare dead")
        for column, cause in enumerate(causes):
            doses = np.array(summary["doses"][cause]["doses"])
            _scale(grid[0, column], cause, doses)
            if cause == "shifted":
                grid[0, column].set_xticks((0, 1, 4, 16), ("0", "1", "4", "16"))
            if cause == "one_bad_feature":
                grid[0, column].set_xticks((1, 30, 1000), ("1", "30", "1000"))
                grid[0, column].minorticks_off()
        handles = [
            Line2D([], [], color=colour, marker=marker, label=f"layer {layer + 1}")
            for layer, colour, marker in zip(layers, LAYER_COLOURS, MARKERS, strict=False)
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        write_caption(
            figure,
            _caption(summary)
            + "Of the units of runs that did not diverge (no mark where all did); everything else "
            "at the reference (grey lines).",
        )
    return figure


def draw_effects(summary: Mapping) -> Figure:
    """The change of the dead share by every cause: one panel per condition, one colour per task."""
    rows = [row for row in summary["contrasts"] if row["task"] != "all"]
    names = list(dict.fromkeys(row["cause"] for row in rows))
    labels = {row["cause"]: row["label"] for row in rows}
    rates = list(dict.fromkeys(r["condition"] for r in rows if r["cause"] == "too_small"))
    other = [n for n in names if n in ("learning_rate", "momentum_matched")]
    main = [n for n in names if n not in other]
    with plt.style.context(STYLE):
        figure = plt.figure(figsize=(PAGE, 0.9 + 0.235 * (len(main) + 5)))
        grid = figure.add_gridspec(1, len(rates) + 1, width_ratios=[1] * len(rates) + [1])
        first = None
        for column, rate in enumerate(rates):
            axes = figure.add_subplot(grid[column], sharey=first)
            first = first or axes
            places = {name: i for i, name in enumerate(main)}
            _draw_contrasts(axes, summary, [r for r in rows if r["condition"] == rate], places)
            axes.set(title=rate, ylim=(len(main) - 0.5, -0.5))
            axes.set_yticks(range(len(main)), [labels[name] for name in main])
            if column:
                axes.tick_params(labelleft=False)
        axes = figure.add_subplot(grid[-1])
        places, texts = {}, []
        for name in other:
            for row in rows:
                if row["cause"] == name and (name, row["condition"]) not in places:
                    places[name, row["condition"]] = len(places)
                    what = "rate 3" if name == "learning_rate" else "mom. 0.9"
                    texts.append(f"{what}, {row['condition'].replace('momentum', 'mom.')}")
        _draw_contrasts(axes, summary, [r for r in rows if r["cause"] in other], places)
        axes.set_yticks(range(len(places)), texts)
        axes.yaxis.tick_right()
        axes.spines.right.set_visible(True)
        axes.spines.left.set_visible(False)
        axes.set(title="other contrasts", ylim=(len(places) - 0.5, -0.5))
        write_caption(
            figure,
            _caption(summary)
            + "Change of the dead share (units of diverged runs count as not dead) against the "
            "same cell without the cause, paired by seed, at three learning rates. Filled: "
            "survives the control of false discoveries (5 %) and matters. Last panel: rate 3 "
            "against 0.1 at each momentum; momentum 0.9 at a rate against plain SGD at ten times "
            "that rate (mom.: momentum).",
        )
        handles = [
            Line2D([], [], color=c, marker=m, linestyle="none", label=label_of(task))
            for task, c, m in zip(summary["tasks"], COLOURS, MARKERS, strict=False)
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _draw_contrasts(axes: Axes, summary: Mapping, rows: list[Mapping], places: Mapping):
    """Differences with intervals at their places (by cause, or by cause and condition)."""
    tasks = summary["tasks"]
    for row in rows:
        place = places.get(row["cause"], places.get((row["cause"], row["condition"])))
        if place is None:
            continue
        number = tasks.index(row["task"])
        y = place + 0.22 * (number - (len(tasks) - 1) / 2)
        colour = COLOURS[number % len(COLOURS)]
        low, high = row["interval"] or (np.nan, np.nan)
        axes.plot([low, high], [y, y], color=colour, linewidth=0.8)
        sure = row["verdict"] == "confirmed" or (row["verdict"] == "refuted" and high < 0)
        axes.plot(
            row["estimate"],
            y,
            marker=MARKERS[number],
            color=colour,
            markersize=3,
            markerfacecolor=colour if sure else "white",
        )
    axes.axvline(0, color="0.6", linewidth=0.6, zorder=0)
    for place in range(len(places) - 1):
        axes.axhline(place + 0.5, color="0.93", linewidth=0.5, zorder=0)
    axes.set(xlabel="change of share", xlim=(-0.7, 1.05))


def draw_pairwise_map(summary: Mapping) -> Figure:
    """The dead share at the end over the doses of the two strongest causes, a panel a task."""
    causes = summary["map"]["causes"]
    axes_names = [summary["doses"][name]["axis"] for name in causes]
    doses = [sorted(summary["doses"][name]["doses"]) for name in causes]
    with plt.style.context(STYLE):
        figure, grid = plt.subplots(
            1, len(summary["tasks"]), figsize=(PAGE, 2.75), sharey=True, squeeze=False
        )
        for axes, task in zip(grid[0], summary["tasks"], strict=True):
            values = np.full((len(doses[1]), len(doses[0])), np.nan)
            for row in summary["cells"]:
                if row["task"] != task or row["arm"] != "map":
                    continue
                x, y = (
                    known.index(row["cell"][name])
                    for known, name in zip(doses, axes_names, strict=True)
                )
                found = row["dead_where_finite"]
                if not found["trials"]:  # all runs diverged
                    continue
                values[y, x] = found["estimate"]
                wide = found["interval"][1] - found["interval"][0]
                text = f"{values[y, x]:.2f}".removeprefix("0") if values[y, x] < 1 else "1"
                axes.text(
                    x,
                    y,
                    text + ("?" if wide > 0.2 else ""),
                    ha="center",
                    va="center",
                    fontsize=6,
                    color="white" if values[y, x] < 0.6 else "black",
                )
            mesh = axes.imshow(values, vmin=0, vmax=1, origin="lower", aspect="auto")
            both = summary["map"]["by_task"][task]
            low, high = both["interval"]
            axes.set_title(
                f"{label_of(task)}\nbeyond chance {both['estimate']:+.2f} "
                f"[{low:+.2f}, {high:+.2f}]",
                fontsize=7.5,
            )
            axes.set_xticks(range(len(doses[0])), [f"{float(f'{d:.3g}'):g}" for d in doses[0]])
            axes.set_yticks(range(len(doses[1])), [f"{float(f'{d:.3g}'):g}" for d in doses[1]])
            axes.set_xlabel(AXIS_LABELS[causes[0]])
        grid[0, 0].set_ylabel(AXIS_LABELS[causes[1]])
        figure.colorbar(
            mesh, ax=list(grid[0]), fraction=0.03, pad=0.01, label="share dead at the end"
        )
        pair = " and ".join(f"{d:g}" for d in summary["map"]["doses"])
        write_caption(
            figure,
            _caption(summary)
            + "Cells: of the units of runs that did not diverge (empty where all did). "
            f"Beyond chance (units of diverged runs count as not dead): the dead share at {pair} "
            "beyond that of two causes that act independently. ?: interval wider than 0.2.",
        )
    return figure
