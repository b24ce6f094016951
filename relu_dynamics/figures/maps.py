"""Maps and curves of estimates over the axes of a grid."""

import json
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecBase
from matplotlib.lines import Line2D

from relu_dynamics.config import LABELS
from relu_dynamics.figures.style import FEW_TRIALS, PAGE, STYLE, WIDE_INTERVAL, caption
from relu_dynamics.statistics import estimates


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
        best = estimates.pooled(result, "recovered", "learning_rate").estimate.fillna(0)
        chosen = {*np.linspace(0, len(rates) - 1, 5).astype(int), int(np.argmax(best.values))}
        cells = [{"learning_rate": rates[i], "initial_bias": bias} for i in sorted(chosen)]
        draw_incidence(below[1], result, cells, "learning_rate")
        below[1].set_title(f"Cumulative incidence at initial bias {bias:g}")
        below[1].legend(title="learning rate", loc="center left", bbox_to_anchor=(1, 0.5))
        figure.supxlabel(caption(result), fontsize=6.5, color="0.25")
    return figure


def informative_bias(result: xr.Dataset) -> float:
    """The largest initial bias at which most of the biased units are at risk: deep enough
    for a full denominator, shallow enough for recoveries."""
    pooled = estimates.pooled(result, "recovered", "initial_bias")
    enough = pooled.trials >= 0.6 * pooled.trials.max()
    return float(result.initial_bias.values[enough.values].max())


_RATE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

_VARIANT_LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)))

_VARIANT_LEGEND = {
    "loc": "upper left",
    "handlelength": 2.0,
    "labelspacing": 0.15,
    "borderaxespad": 0.1,
    "borderpad": 0.1,
}

_VERDICT_COLOURS = {"confirmed": "#00704F", "refuted": "#B3400A"}


def draw_numerical_example(result: xr.Dataset) -> Figure:
    """The largest z of the example's unit under every source of movement and rate, crossings
    against closed forms, P(recovered) under noise, and the verdict on each sentence."""
    panels = list(dict.fromkeys(result.panel.values.tolist()))
    rates = result.learning_rate.values
    with plt.style.context(STYLE):
        claims = json.loads(result.attrs["claims"])
        table = _LINE_INCHES * sum(_row_height(row) for row in _verdict_rows(claims))
        figure = plt.figure(figsize=(PAGE, 4.1 + table))
        top, bottom = figure.add_gridspec(2, 1, height_ratios=[3.6, table])
        grid = _axes(top.subgridspec(2, 4))
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw_crossings(axes, result.isel(case=result.panel.values == panel), rates)
            axes.set_title(panel)
        _draw_quoted(grid.flat[panels.index("outside push")], result, rates)
        zoomed = grid.flat[panels.index("momentum at threshold")]
        zoomed.set(xlim=(10, result.step.values[-1]), ylim=(-1.2e-4, 1.2e-4))
        zoomed.set_yticks((-1e-4, 0, 1e-4), ("-1e-4", "0", "1e-4"))
        _draw_noise_passage(grid.flat[len(panels)], result, rates)
        for axes in grid[:, 0]:
            axes.set_ylabel("largest z on [0, 1]")
        for axes in grid[1]:
            axes.set_xlabel("training step")
        _draw_verdicts(figure.add_subplot(bottom), claims)
        _label_rates(figure, rates)
        figure.supxlabel(
            "Lines end where the unit is back: from there on the loss moves it too. Closed forms "
            "hold within float32 rounding.",
            fontsize=7,
            color="0.25",
        )
    return figure


def _draw_quoted(axes: Axes, result: xr.Dataset, rates: np.ndarray):
    """The biases that the article quotes, as largest z: weight + bias."""
    weight = float(result.attrs["weight"])
    for rate, biases in json.loads(result.attrs["quoted"]):
        for known in np.flatnonzero(rates == rate):
            axes.plot(
                np.arange(1, len(biases)),
                np.array(biases[1:]) + weight,
                linestyle="none",
                marker="s",
                markersize=3,
                color=_RATE_COLOURS[known % len(_RATE_COLOURS)],
                clip_on=False,
            )


def _powers_of_ten(most: int) -> list[int]:
    """1, 100, 10,000, ... up to `most`."""
    return [10**power for power in range(0, len(str(most)), 2)]


def _draw_crossings(axes: Axes, cases: xr.Dataset, rates: np.ndarray):
    """Largest z over steps: colour by rate, dashes by variant; circles where the simulation comes
    alive, crosses where the closed form says so."""
    variants = list(dict.fromkeys(cases.variant.values.tolist()))
    steps = cases.step.values
    shown = np.unique(np.geomspace(1, steps[-1], 300).astype(int))
    for i in range(cases.sizes["case"]):
        case = cases.isel(case=i)
        line = _VARIANT_LINES[variants.index(str(case.variant.values))]
        known = np.flatnonzero(rates == float(case.case_rate))
        colour = _RATE_COLOURS[known[0] % len(_RATE_COLOURS)] if known.size else "0.6"
        at = float(case.simulated_step)
        back = 0 < at < np.inf
        marks = np.unique([*shown[shown < at], int(at)]) if back else shown
        z = case.largest_z.values[marks]
        axes.plot(marks, z, color=colour, linestyle=line, zorder=2 + known.size)
        style = {"color": colour, "clip_on": False, "zorder": 5, "linestyle": "none"}
        if back:
            axes.plot(at, 0, marker="o", markersize=4.5, markerfacecolor="none", **style)
        if np.isfinite(case.closed_step) and float(case.closed_step) > 0:
            axes.plot(float(case.closed_step), 0, marker="x", markersize=3.5, **style)
    axes.axhline(0, color="0.5", linewidth=0.6, zorder=1)
    axes.set(xscale="log", xlim=(1, steps[-1]), ylim=(-0.55, 0.5), yticks=(-0.5, 0, 0.5))
    axes.set_xticks(_powers_of_ten(steps[-1]))
    if len(variants) > 1:
        handles = [
            Line2D([], [], color="0.25", linestyle=line, label=variant)
            for line, variant in zip(_VARIANT_LINES, variants, strict=False)
        ]
        above = bool((cases.simulated_step == 0).any())  # lines that start above 0 need the top
        axes.legend(handles=handles, **(_VARIANT_LEGEND | ({"loc": (0.01, 0.28)} if above else {})))


def _draw_noise_passage(axes: Axes, result: xr.Dataset, rates: np.ndarray):
    """Share of noisy runs that have come back by each step, with its closed form in black."""
    horizon = result.step.values[-1]
    for kind, line in zip(result.noise_kind.values, _VARIANT_LINES, strict=False):
        for rate, colour in zip(rates, _RATE_COLOURS, strict=False):
            at = result.sel(noise_kind=kind, learning_rate=rate)
            first = np.sort(at.noise_recovery_step.values)
            share = np.searchsorted(first, result.noise_step.values, side="right") / len(first)
            axes.plot(result.noise_step, share, color=colour, linestyle=line, linewidth=1.6)
            axes.plot(
                result.noise_step, at.noise_closed, color="black", linestyle=line, linewidth=0.6
            )
    axes.set(xscale="log", xlim=(1, horizon), ylim=(-0.02, 1.65), title="additive noise")
    axes.set(ylabel="P(back by step)", yticks=(0, 0.5, 1), xticks=_powers_of_ten(horizon))
    handles = [
        Line2D([], [], color="0.6", linewidth=1.6, linestyle=line, label=str(kind))
        for kind, line in zip(result.noise_kind.values, _VARIANT_LINES, strict=False)
    ]
    handles.append(Line2D([], [], color="black", linewidth=0.6, label="closed form"))
    axes.legend(handles=handles, **_VARIANT_LEGEND)


def _label_rates(figure: Figure, rates: np.ndarray):
    handles = [
        Line2D([], [], color=colour, label=f"rate {rate:g}")
        for rate, colour in zip(rates, _RATE_COLOURS, strict=False)
    ]
    for label, marker in {"simulated": "o", "closed form": "x", "as quoted": "s"}.items():
        face = "none" if marker == "o" else "0.25"
        style = {"color": "0.25", "markerfacecolor": face, "markersize": 4, "linestyle": "none"}
        handles.append(Line2D([], [], marker=marker, label=label, **style))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))


_LINE_INCHES = 0.125  # of 7 pt type with its leading


def _verdict_rows(claims: list[dict]) -> list[tuple[list[str], list[str], list[str]]]:
    return [
        (
            textwrap.wrap(claim["claim"], 34),
            textwrap.wrap(claim["verdict"], 12),
            textwrap.wrap(claim["finding"], 76),
        )
        for claim in claims
    ]


def _row_height(row: tuple[list[str], ...]) -> float:
    return max(map(len, row)) + 0.6  # in lines


def _draw_verdicts(axes: Axes, claims: list[dict]):
    """Rows of sentence, verdict and condition, as text."""
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    rows = _verdict_rows(claims)
    line = 1 / sum(map(_row_height, rows))
    y = 1.0
    for claim, row in zip(claims, rows, strict=True):
        colour = _VERDICT_COLOURS.get(claim["verdict"], "#8A6100")
        for x, lines, tint in zip((0, 0.3, 0.41), row, ("0", colour, "0"), strict=True):
            axes.text(x, y, "\n".join(lines), va="top", color=tint, fontsize=7, linespacing=1.15)
        y -= _row_height(row) * line
        axes.axhline(y + 0.3 * line, color="0.8", linewidth=0.4)


_ARM_LABELS = {
    "upstream_frozen": "upstream frozen",
    "residue_zeroed": "residue zeroed",
    "decay_off": "decay off",
    "noise_off": "noise off",
}

_SERIES_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def draw_channels(results: Mapping[str, xr.Dataset], panels: Sequence[Mapping]) -> Figure:
    """One map of P(recover | learning rate, initial bias) a channel, with the line where its
    closed form passes one half.

    `panels` say name, title, measure and boundary (label and both coordinates, or None).
    """
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


def draw_channel_forks(forks: Sequence[Mapping], collapse: Mapping | None) -> Figure:
    """What each channel does to P(recover) by causal forks, which share of the climb it has by
    accounts, and P(recovered by K / rate) over the rate."""
    arms = list(dict.fromkeys(row["arm"] for fork in forks for row in fork["rows"][1:]))
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(
            1, 3, figsize=(PAGE, 2.6), gridspec_kw={"width_ratios": [1, 0.9, 1.25]}
        )
        for number, fork in enumerate(forks):
            colour, shift = _SERIES_COLOURS[number], 0.16 * (number - (len(forks) - 1) / 2)
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
        axes[0].set_yticklabels([_ARM_LABELS.get(arm, arm) for arm in arms])
        axes[1].set_yticklabels([])
        axes[0].set(xlabel="change of P(recover)", title="Causal forks, one cohort")
        axes[1].set(xlabel="share of the climb", title="Exact accounts")
        _draw_collapse(axes[2], collapse)
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
