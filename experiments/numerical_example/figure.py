"""The figure: crossings by source and learning rate, and noise. The verdicts are claims of the
summary: docs/claims.md has them as text."""

import json

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from relu_dynamics.figures.style import PAGE, STYLE, ordered_colours, write_caption

VARIANT_LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)))
VARIANT_LEGEND = {
    "loc": "upper left",
    "handlelength": 2.0,
    "labelspacing": 0.15,
    "borderaxespad": 0.1,
    "borderpad": 0.1,
}


def draw_numerical_example(result: xr.Dataset) -> Figure:
    """The largest z of the example's unit under every source of movement and rate, crossings
    against closed forms, and P(recovered) under noise."""
    panels = list(dict.fromkeys(result.panel.values.tolist()))
    rates = result.learning_rate.values
    with plt.style.context(STYLE):
        figure, grid = plt.subplots(2, 4, figsize=(PAGE, 4.5))
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw_crossings(axes, result.isel(case=result.panel.values == panel), rates)
            axes.set_title(panel)
        _draw_quoted(grid.flat[panels.index("outside push")], result, rates)
        zoomed = grid.flat[panels.index("momentum at threshold")]
        zoomed.set(xlim=(10, result.step.values[-1]), ylim=(-1.2e-4, 1.2e-4))
        zoomed.set_yticks((-1e-4, 0, 1e-4), ("-1e-4", "0", "1e-4"))
        zoomed.minorticks_off()
        _draw_noise_passage(grid.flat[len(panels)], result, rates)
        for axes in grid[:, 0]:
            axes.set_ylabel("largest z on [0, 1]")
        for axes in grid[1]:
            axes.set_xlabel("training step")
        _label_rates(figure, rates)
        write_caption(
            figure,
            "One unit, z = 0.1 x - 0.5 on x in [0, 1]; dead: largest z <= 0. One run of "
            f"{result.step.values[-1]:,} full-batch steps per line, without noise; additive noise: "
            f"n = {result.sizes['seed']:,} runs (seeds) per curve. Circles: first step with z > 0; "
            "crosses: the same by the closed form; squares: what the article quotes. Lines end "
            "where the unit is back: from there on the loss moves it too.",
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
                color=ordered_colours(len(rates))[known],
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
        line = VARIANT_LINES[variants.index(str(case.variant.values))]
        known = np.flatnonzero(rates == float(case.case_rate))
        colour = ordered_colours(len(rates))[known[0]] if known.size else "0.6"
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
            for line, variant in zip(VARIANT_LINES, variants, strict=False)
        ]
        above = bool((cases.simulated_step == 0).any())  # lines that start above 0 need the top
        axes.legend(handles=handles, **(VARIANT_LEGEND | ({"loc": (0.01, 0.28)} if above else {})))


def _draw_noise_passage(axes: Axes, result: xr.Dataset, rates: np.ndarray):
    """Share of noisy runs that have come back by each step, with its closed form in black."""
    horizon = result.step.values[-1]
    for kind, line in zip(result.noise_kind.values, VARIANT_LINES, strict=False):
        for rate, colour in zip(rates, ordered_colours(len(rates)), strict=True):
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
        for kind, line in zip(result.noise_kind.values, VARIANT_LINES, strict=False)
    ]
    handles.append(Line2D([], [], color="black", linewidth=0.6, label="closed form"))
    axes.legend(handles=handles, **VARIANT_LEGEND)


def _label_rates(figure: Figure, rates: np.ndarray):
    handles = [
        Line2D([], [], color=colour, label=f"rate {rate:g}")
        for rate, colour in zip(rates, ordered_colours(len(rates)), strict=True)
    ]
    for label, marker in {"simulated": "o", "closed form": "x", "as quoted": "s"}.items():
        face = "none" if marker == "o" else "0.25"
        style = {"color": "0.25", "markerfacecolor": face, "markersize": 4, "linestyle": "none"}
        handles.append(Line2D([], [], marker=marker, label=label, **style))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
