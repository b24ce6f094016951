"""Figures of single units: the life of one, what moved it, where gradient stops, a layer in motion.

Drawing functions of arrays and records; never trains. Pre-activations reach from hundredths to
hundreds within one life, so their axes are asinh: linear within +-1, logarithmic beyond.
"""

import pathlib
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from PIL import Image

from relu_dynamics.figures.style import COLUMN, PAGE, STYLE, provenance_note

ALIVE, DEAD, BACK = "#0072B2", "#D55E00", "#009E73"

GRADIENT = "#7B3294"

Z_TICKS = (-1000, -100, -10, -1, 0, 1, 10, 100, 1000)

CHANNEL_COLOURS = {
    "gradient": "#000000",
    "outside": "#999999",
    "residue": "#CC79A7",
    "decay": "#E69F00",
    "noise": "#56B4E9",
    "upstream": "#0072B2",
    "normalization": "#F0E442",
    "handover": "#BBBBBB",
}


def _caption(figure: Figure, text: str, width: int):
    figure.supxlabel(textwrap.fill(text, width), fontsize=6.5, color="0.25", x=0.02, ha="left")


def _signed(value: float, form: str) -> str:
    """A number with a true minus sign."""
    return format(value, form).replace("-", "\N{MINUS SIGN}")


def _z_axis(axis):
    """Makes an axis that of z, asinh with its ticks."""
    name = axis.axis_name
    getattr(axis.axes, f"set_{name}scale")("asinh", linear_width=1)
    low, high = getattr(axis.axes, f"get_{name}lim")()
    ticks = [tick for tick in Z_TICKS if low <= tick <= high]
    axis.set_ticks(ticks, [_signed(tick, "g") for tick in ticks])
    axis.set_ticks([], minor=True)


class Life(NamedTuple):
    """One unit's pre-activation z over the probe set at every evaluation; arrays [evaluations]."""

    step: np.ndarray
    margin: np.ndarray  # largest z
    mean: np.ndarray
    deviation: np.ndarray
    minimum: np.ndarray
    death: int  # step of the first evaluation that sees it dead
    recovery: int  # step of the first evaluation that sees it alive again


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
    _z_axis(axes.yaxis)
    deepest = deepest_look(life)
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
        f"deepest: {_signed(life.margin[deepest], '.2f')}, step {life.step[deepest]}",
        (life.step[deepest], life.margin[deepest]),
        xytext=((life.death + life.recovery) / 2, 2.0),
        ha="center",
        va="bottom",
        zorder=6,
        path_effects=[withStroke(linewidth=1.5, foreground="white")],
        arrowprops={"arrowstyle": "-", "linewidth": 0.5, "shrinkB": 3},
    )
    axes.set(xlabel="training step", ylabel="pre-activation z")


def deepest_look(life: Life) -> int:
    """The evaluation of the dead spell at which the margin is lowest (the first such)."""
    spell = (life.step >= life.death) & (life.step < life.recovery)
    return int(np.argmin(np.where(spell, life.margin, np.inf)))


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
        _caption(figure, caption, 142)
    return figure


def density(z: np.ndarray, points: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """(z grid, density relative to its peak) of a sample of z, a Gaussian kernel estimate in
    asinh(z) with Silverman's bandwidth. The grid ends at the smallest and the largest z: a kernel's
    tail must not carry a dead unit over 0."""
    values = np.arcsinh(np.asarray(z, float))
    spread = min(values.std(), np.subtract(*np.percentile(values, [75, 25])) / 1.34)
    width = max(0.9 * (spread or values.std()) * values.size**-0.2, 0.02)
    grid = np.linspace(values.min(), values.max(), points)
    height = np.exp(-0.5 * ((grid[:, None] - values[None, :]) / width) ** 2).sum(1)
    return np.sinh(grid), height / height.max()


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
    _z_axis(axes.xaxis)
    axes.set(xlabel="pre-activation z over the probe set", ylabel="training step")


def draw_ridges(steps: Sequence[int], z: np.ndarray, caption: str) -> Figure:
    """The distribution of one unit's z [rows, examples] as it dies and comes back."""
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(figsize=(COLUMN, 1.5 + 0.19 * len(z)))
        draw_ridgeline(axes, steps, z)
        _caption(figure, caption, 64)
    return figure


class Phase(NamedTuple):
    """A stretch of a unit's life, its margin at both ends and what every channel moved it by."""

    name: str
    first: int  # step of the evaluation at its start
    last: int  # step of the evaluation at its end
    start: float  # margin there
    end: float
    moved: dict[str, float]  # by channel, in units of z

    @property
    def residual(self) -> float:
        """What the channels do not explain: rounding."""
        return self.end - self.start - sum(self.moved.values())


def life_phases(life: Life, channels: Sequence[str], moved: np.ndarray) -> list[Phase]:
    """The step that killed the unit (none for one dead at step 0), its way down to the deepest
    margin and its way back. `moved` is [steps, channels], row t what moved the margin from
    evaluation t to evaluation t + 1; evaluations are at every step."""
    deepest = deepest_look(life)
    ends = [
        ("killed", max(life.death - 1, 0), life.death),
        ("sinks", life.death, deepest),
        ("climbs", deepest, life.recovery),
    ]
    phases = []
    for name, first, last in ends:
        if first < last:
            sums = moved[first:last].astype(float).sum(0).tolist()
            start, end = (float(life.margin[evaluation]) for evaluation in (first, last))
            phases.append(
                Phase(name, first, last, start, end, dict(zip(channels, sums, strict=True)))
            )
    return phases


def draw_waterfall(axes: Axes, phases: Sequence[Phase]):
    """Margins as lines, and between two of them a floating bar a channel; bars of a phase sum to
    its change of the margin, up to the residual."""
    place, ticks, labels, bars = 0.0, [], [], []
    for number, phase in enumerate(phases):
        _total(axes, place, phase.start)
        ticks.append(place)
        labels.append(f"step\n{phase.first}")
        level, begun = phase.start, place + 0.62
        place += 0.25
        for channel, amount in phase.moved.items():
            place += 1
            colour = CHANNEL_COLOURS[channel]
            axes.bar(place, amount, 0.78, level, color=colour, linewidth=0, zorder=2)
            # An edge of its own, so that a bar of 0 is seen.
            ends = [place - 0.39, place + 0.39]
            axes.plot(ends, [level] * 2, color=colour, zorder=2, lw=1, solid_capstyle="butt")
            _link(axes, place - 0.61, level)
            bars.append((place, level, amount))
            level += amount
            ticks.append(place)
            labels.append(channel)
        _link(axes, place + 0.39, level)
        place += 1.25
        ended = place - 0.62
        axes.axvspan(begun, ended, color="0.5", alpha=0.05 + 0.05 * (number % 2), linewidth=0)
        steps = phase.last - phase.first
        axes.text(
            (begun + ended) / 2,
            1.0,
            f"{phase.name} in {steps} step{'s' * (steps > 1)}: "
            + _signed(phase.end - phase.start, "+.2f"),
            ha="center",
            va="bottom",
            transform=axes.get_xaxis_transform(),
            fontsize=8,
        )
    _total(axes, place, phases[-1].end)
    ticks.append(place)
    labels.append(f"step\n{phases[-1].last}")
    levels = [phase.start for phase in phases] + [phases[-1].end]
    levels += [level for _, start, amount in bars for level in (start, start + amount)]
    reach = max(levels) - min(levels) or 1.0
    for x, start, amount in bars:
        # A bar too low to see has its number above: below, the one before it may have its own.
        up = amount > -0.02 * reach
        axes.annotate(
            _amount(amount),
            (x, max(start, start + amount) if up else start + amount),
            xytext=(0, 2 if up else -2),
            textcoords="offset points",
            ha="center",
            va="bottom" if up else "top",
            fontsize=6.5,
            zorder=4,
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
        )
    axes.axhline(0, color="0.2", linewidth=0.7, zorder=3)
    axes.set(
        xlim=(-0.8, place + 0.8),
        ylim=(min(levels) - 0.1 * reach, max(levels) + 0.1 * reach),
        ylabel="margin: largest z",
    )
    axes.set_xticks(ticks, labels)
    for label, text in zip(axes.get_xticklabels(), labels, strict=True):
        if text in CHANNEL_COLOURS:
            label.set(rotation=60, ha="right", rotation_mode="anchor")
    axes.tick_params(axis="x", length=0)


def _total(axes: Axes, place: float, level: float):
    """A margin that was reached, as a line with its number."""
    colour = ALIVE if level > 0 else DEAD
    axes.plot([place - 0.5, place + 0.5], [level, level], color=colour, linewidth=2.2, zorder=3)
    axes.annotate(
        _signed(level, ".2f"),
        (place, level),
        xytext=(0, 3 if level > 0 else -3),
        textcoords="offset points",
        ha="center",
        va="bottom" if level > 0 else "top",
        color=colour,
        fontsize=7,
        fontweight="bold",
    )


def _amount(value: float) -> str:
    """A signed number with two decimals, or one digit where those are 0; 0 only when it is."""
    if value == 0:
        return "0"
    form = "+.2f" if abs(value) >= 0.005 else "+.3f" if abs(value) >= 5e-4 else "+.0e"
    return _signed(value, form).replace("0.", ".", 1) if abs(value) < 1 else _signed(value, form)


def _link(axes: Axes, left: float, level: float):
    """The running sum between two bars."""
    axes.plot([left, left + 0.22], [level, level], color="0.4", linewidth=0.6, zorder=1)


def draw_account(phases: Sequence[Phase], caption: str) -> Figure:
    """The exact account of a unit's dead spell as a waterfall."""
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(figsize=(PAGE, 3.3))
        draw_waterfall(axes, phases)
        _caption(figure, caption, 142)
    return figure


class Network(NamedTuple):
    """Measured values of a small network; one list entry per layer of weights, the output's
    last."""

    weights: list[np.ndarray]  # [fan_in, fan_out]
    carried: list[np.ndarray]  # [fan_in, fan_out], mean over examples of |weight x activation|
    gradients: list[np.ndarray]  # [fan_in, fan_out], |loss gradient of the weight|
    activity: list[np.ndarray]  # [units] of inputs, hidden layers, output: mean |activation|
    bias_gradients: list[np.ndarray]  # [units], |loss gradient of the bias|
    dead: list[np.ndarray]  # [units] bool, a hidden layer


def draw_flow(axes: Axes, network: Network, backward: bool):
    """The network with a number on every edge: what it carries forward, or (`backward`) the size
    of its weight's gradient. Edges that carry exactly 0 are dashed and crossed out."""
    power = gradient_power(network) if backward else 0
    size = lambda layers: [layer * 10.0**power for layer in layers]  # noqa: E731
    values = size(network.gradients if backward else network.carried)
    nodes = size(network.bias_gradients if backward else network.activity)
    widths = [len(values[0]), *(layer.shape[1] for layer in values)]
    dead = [np.zeros(widths[0], bool), *network.dead, np.zeros(widths[-1], bool)]
    place = lambda layer, unit: np.array([layer, (widths[layer] - 1) / 2 - unit])  # noqa: E731
    largest = max(layer.max() for layer in values) or 1.0
    for layer, edges in enumerate(values):
        sources, targets = edges.shape
        # n edges into each of many units: their numbers stand in one column at equal distances.
        share = sources / (sources + 1) if targets > 1 else 0.5
        for (i, j), value in np.ndenumerate(edges):
            start, end = place(layer, i), place(layer + 1, j)
            tint = GRADIENT if backward else ALIVE if network.weights[layer][i, j] > 0 else DEAD
            silent = value == 0
            axes.plot(
                *np.stack([start, end]).T,
                color="0.6" if silent else tint,
                linewidth=0.7 if silent else 0.4 + 3.2 * value / largest,
                linestyle=(0, (3, 2)) if silent else "-",
                alpha=1 if silent else 0.75,
                zorder=1,
            )
            middle = start + share * (end - start)
            axes.text(
                middle[0],
                middle[1],
                _short(value),
                fontsize=6,
                ha="center",
                va="center",
                zorder=3,
                color="0.3" if silent else "black",
                bbox={"boxstyle": "square,pad=0.06", "facecolor": "white", "linewidth": 0},
            )
            if silent:
                at = start + 0.5 * share * (end - start)
                axes.plot(*at, "x", color=DEAD, markersize=5, mew=1.3, zorder=4)
    for layer, width in enumerate(widths):
        for unit in range(width):
            at = place(layer, unit)
            gone = dead[layer][unit]
            face = "0.85" if gone else "white"
            axes.plot(*at, "o", markersize=15, color="0.2", markerfacecolor=face, mew=0.8, zorder=5)
            if layer or not backward:
                value = nodes[layer - backward][unit]
                axes.text(
                    at[0], at[1], _short(value), fontsize=6, ha="center", va="center", zorder=7
                )
            else:
                axes.text(
                    at[0], at[1], f"$x_{unit + 1}$", fontsize=7, ha="center", va="center", zorder=7
                )
            if gone:
                axes.text(at[0], at[1] - 0.3, "dead", color=DEAD, ha="center", va="center")
                axes.plot(*at, "x", color=DEAD, markersize=18, mew=1.6, alpha=0.75, zorder=6)
    names = ["inputs", *(f"hidden {k}" for k in range(1, len(widths) - 1)), "output"]
    bottom = -(max(widths) - 1) / 2 - 0.3
    for layer, name in enumerate(names):
        axes.text(layer, bottom, name, ha="center", va="top", fontsize=7)
    axes.set(xlim=(-0.25, len(values) + 0.25), ylim=(bottom - 0.25, -bottom))
    axes.set_axis_off()


def _short(value: float) -> str:
    """A number in at most four characters, without its leading 0; 0 only when it is."""
    if value == 0:
        return "0"
    if value < 0.005:
        return "<.01"
    if value < 0.995:
        return f"{value:.2f}".removeprefix("0")
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def gradient_power(network: Network) -> int:
    """The power of ten by which gradients are multiplied, so that the largest has two digits."""
    largest = max(layer.max() for layer in network.gradients)
    return 1 - int(np.floor(np.log10(largest))) if largest > 0 else 0


def draw_network(network: Network, caption: str) -> Figure:
    """Where activation flows and where gradient flows, beside each other, and where a dead unit
    stops both."""
    with plt.style.context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(PAGE, 3.9))
        for axes, backward in zip(panels, (False, True), strict=True):
            draw_flow(axes, network, backward)
        panels[0].set_title("Forward: what each edge carries \N{RIGHTWARDS ARROW}")
        power = gradient_power(network)
        panels[1].set_title(
            "\N{LEFTWARDS ARROW} Backward: gradient of each weight"
            + f", in $10^{{{-power}}}$" * bool(power)
        )
        handles = [
            Line2D([], [], color=ALIVE, linewidth=2, label="forward, weight > 0"),
            Line2D([], [], color=DEAD, linewidth=2, label="forward, weight < 0"),
            Line2D([], [], color=GRADIENT, linewidth=2, label="size of the gradient"),
            Line2D([], [], color=DEAD, marker="x", linestyle="none", label="dead unit; exactly 0"),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=4)
        _caption(figure, caption, 142)
    return figure


class _Gif(PillowWriter):
    """Frames on one palette (a palette a frame flickers and costs space), with a comment."""

    def __init__(self, fps: int, comment: str):
        super().__init__(fps=fps)
        self.comment = comment

    def finish(self):
        frames = [frame.convert("RGB") for frame in self._frames]  # pyright: ignore[reportAttributeAccessIssue]
        palette = frames[len(frames) // 2].quantize(48, method=Image.Quantize.MAXCOVERAGE)
        plain = [f.quantize(palette=palette, dither=Image.Dither.NONE) for f in frames]
        duration = [int(1000 / self.fps)] * len(plain)
        duration[0] = duration[-1] = 1500  # time to read
        plain[0].save(
            self.outfile,
            save_all=True,
            append_images=plain[1:],
            duration=duration,
            loop=0,
            comment=self.comment.encode(),
            optimize=True,
        )


def draw_layer(axes: Axes, z: np.ndarray):
    """Densities of z [units, examples] side by side, the part above 0 coloured; dead units named
    so on the axis."""
    for unit, sample in enumerate(z):
        grid, height = density(sample, 80)
        left, right = unit - 0.42 * height, unit + 0.42 * height
        axes.fill_betweenx(
            grid, left, right, color="0.8" if sample.max() > 0 else "#F2C6A6", linewidth=0
        )
        if sample.max() > 0:
            zero = 0.42 * np.interp(0.0, grid, height)
            alive = grid > 0
            if sample.min() > 0:
                edges = grid, left, right
            else:
                edges = (
                    np.concatenate([[0.0], grid[alive]]),
                    np.concatenate([[unit - zero], left[alive]]),
                    np.concatenate([[unit + zero], right[alive]]),
                )
            axes.fill_betweenx(*edges, color=ALIVE, linewidth=0)
        colour = ALIVE if sample.max() > 0 else DEAD
        axes.plot([unit - 0.42, unit + 0.42], [sample.max()] * 2, color=colour, linewidth=1.4)
    axes.axhline(0, color="0.2", linewidth=0.8)


def animate_layer(
    path: pathlib.Path,
    steps: np.ndarray,
    z: np.ndarray,
    evaluations: np.ndarray,
    dead: np.ndarray,
    units: Sequence[int],
    marked: int,
    caption: str,
    attributes: dict[str, str],
    fps: int = 12,
) -> pathlib.Path:
    """Writes a GIF of z over the probe set for all units of a layer.

    steps [frames], z [frames, units, examples]; below, the number of dead units at every evaluation
    (evaluations, dead: [evaluations]). `units` names the units, `marked` is the one of the other
    figures.
    """
    with plt.style.context(STYLE):
        figure, (top, below) = plt.subplots(
            2, 1, figsize=(6.4, 4.1), dpi=130, height_ratios=[3.4, 1], layout="constrained"
        )
        _caption(figure, caption, 118)
        low, high = min(1.4 * z.min(), -2), max(1.4 * z.max(), 2)
        below.step(evaluations, dead, where="post", color="0.6")
        now = below.axvline(steps[0], color="black", linewidth=1)
        below.set(xlim=(evaluations[0], evaluations[-1]), ylim=(0, max(dead.max(), 1) * 1.1))
        below.set(xlabel="training step", ylabel="dead units")

        def frame(number):
            top.clear()
            draw_layer(top, z[number])
            top.set(xlim=(-0.8, len(units) - 0.2), ylim=(low, high), ylabel="pre-activation z")
            _z_axis(top.yaxis)
            gone = z[number].max(1) <= 0
            top.set_xticks(range(len(units)), [str(unit) for unit in units])
            for tick, is_dead, unit in zip(top.get_xticklabels(), gone, units, strict=True):
                tick.set(color=DEAD if is_dead else ALIVE, weight="bold" if is_dead else "normal")
                if unit == marked:
                    tick.set(bbox={"facecolor": "none", "edgecolor": "0.2", "pad": 1.2})
            top.set_title(f"step {steps[number]}: {gone.sum()} of {len(units)} units dead")
            top.set_xlabel("unit (orange: dead)")
            now.set_xdata([steps[number]] * 2)

        writer = _Gif(fps, provenance_note(attributes))
        with writer.saving(figure, str(path), dpi=130):
            for number in range(len(steps)):
                frame(number)
                if number == 0:
                    figure.canvas.draw()
                    figure.set_layout_engine("none")  # the frame stands still from here on
                writer.grab_frame()
    plt.close(figure)
    return path
