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
from PIL import Image

from relu_dynamics.figures import COLUMN, PAGE, STYLE, provenance_note

ALIVE, DEAD, BACK = "#0072B2", "#D55E00", "#009E73"
GREY = "0.72"
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


def _z_axis(axis):
    """Makes an axis that of z, asinh with its ticks."""
    name = axis.axis_name
    getattr(axis.axes, f"set_{name}scale")("asinh", linear_width=1)
    low, high = getattr(axis.axes, f"get_{name}lim")()
    ticks = [tick for tick in Z_TICKS if low <= tick <= high]
    axis.set_ticks(ticks, [f"{tick:g}".replace("-", "\N{MINUS SIGN}") for tick in ticks])
    axis.set_ticks([], minor=True)


# The life of one unit -----------------------------------------------------------------------------


class Life(NamedTuple):
    """One unit's pre-activation z over the probe set at every look; arrays [looks]."""

    step: np.ndarray
    margin: np.ndarray  # largest z
    mean: np.ndarray
    deviation: np.ndarray
    minimum: np.ndarray
    death: int  # step of the first look that sees it dead
    recovery: int  # step of the first look that sees it alive again


def draw_ribbon(axes: Axes, life: Life):
    """Margin, mean +- deviation and min..max over the steps; the dead spell shaded, its two ends
    and the deepest margin marked."""
    axes.axvspan(life.death, life.recovery, color=DEAD, alpha=0.12, linewidth=0)
    axes.fill_between(life.step, life.minimum, life.margin, color=ALIVE, alpha=0.16, linewidth=0)
    axes.fill_between(
        life.step,
        life.mean - life.deviation,
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
        f"deepest margin {life.margin[deepest]:.2f}, step {life.step[deepest]}",
        (life.step[deepest], life.margin[deepest]),
        xytext=(8, 11),
        textcoords="offset points",
        va="bottom",
        arrowprops={"arrowstyle": "-", "linewidth": 0.5},
    )
    axes.set(xlabel="training step", ylabel="pre-activation z")


def deepest_look(life: Life) -> int:
    """The look of the dead spell at which the margin is lowest (the first such)."""
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
        _caption(figure, caption, 150)
    return figure


# The distribution as it dies and comes back -------------------------------------------------------


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
    """Steps of a ridgeline: before death, its first dead look, evenly through the spell to the
    last dead look, the first look back and beyond; each once, none outside [0, last]."""
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
        axes.fill_between(grid, base, upper, color="0.82", zorder=2 * row, linewidth=0)
        if sample.max() > 0:
            alive = grid > 0
            part = np.concatenate([[0.0], grid[alive]]), np.concatenate([[zero], height[alive]])
            if sample.min() > 0:
                part = grid, height
            axes.fill_between(
                part[0], base, base + overlap * part[1], color=ALIVE, zorder=2 * row, linewidth=0
            )
        axes.plot(grid, upper, color="white", linewidth=1.6, zorder=2 * row)
        colour = ALIVE if sample.max() > 0 else DEAD
        axes.plot(grid, upper, color="0.25", linewidth=0.6, zorder=2 * row + 1)
        axes.plot(
            sample.max(), base, "|", color=colour, markersize=5, zorder=3 * len(z), mew=1.2
        )
    axes.axvline(0, color="0.2", linewidth=0.7, zorder=3 * len(z))
    axes.set_yticks(range(len(z)), [str(step) for step in reversed(steps)])
    for label, sample in zip(axes.get_yticklabels(), z[::-1], strict=True):
        label.set_color(ALIVE if sample.max() > 0 else DEAD)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set(xlim=(min(1.3 * z.min(), -1.5), max(1.3 * z.max(), 1.5)), ylim=(-0.3, len(z) + 1.0))
    _z_axis(axes.xaxis)
    axes.set(xlabel="pre-activation z over the probe set", ylabel="training step")


def draw_ridges(steps: Sequence[int], z: np.ndarray, caption: str) -> Figure:
    """The distribution of one unit's z [rows, examples] as it dies and comes back."""
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(figsize=(COLUMN, 1.5 + 0.19 * len(z)))
        draw_ridgeline(axes, steps, z)
        _caption(figure, caption, 72)
    return figure


# What moved it ------------------------------------------------------------------------------------


class Phase(NamedTuple):
    """A stretch of a unit's life, its margin at both ends and what every channel moved it by."""

    name: str
    first: int  # step of the look at its start
    last: int  # step of the look at its end
    start: float  # margin there
    end: float
    moved: dict[str, float]  # by channel, in units of z

    @property
    def residual(self) -> float:
        """What the channels do not explain: rounding."""
        return self.end - self.start - sum(self.moved.values())


def life_phases(life: Life, channels: Sequence[str], moved: np.ndarray) -> list[Phase]:
    """The step that killed the unit (none for one dead at step 0), its way down to the deepest
    margin and its way back. `moved` is [steps, channels], row t what moved the margin from look t
    to look t + 1; looks are at every step."""
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
            start, end = (float(life.margin[look]) for look in (first, last))
            phases.append(Phase(name, first, last, start, end, dict(zip(channels, sums, strict=True))))
    return phases


def draw_waterfall(axes: Axes, phases: Sequence[Phase]):
    """Margins as lines, and between two of them a floating bar a channel; bars of a phase sum to
    its change of the margin, up to the residual."""
    place, ticks, labels = 0.0, [], []
    levels = [level for phase in phases for level in (phase.start, phase.end)]
    reached = []
    for number, phase in enumerate(phases):
        _total(axes, place, phase.first, phase.start)
        ticks.append(place)
        labels.append(f"step\n{phase.first}")
        level, begun = phase.start, place + 0.5
        for channel, amount in phase.moved.items():
            place += 1
            axes.bar(
                place, amount, 0.78, level, color=CHANNEL_COLOURS[channel], linewidth=0, zorder=2
            )
            axes.plot(
                [place - 0.89, place + 0.39], [level, level], color="0.45", linewidth=0.5, zorder=1
            )
            level += amount
            reached.append((place, level - amount, level, amount))
            ticks.append(place)
            labels.append(channel)
        place += 1
        axes.plot([place - 1.39, place], [level, level], color="0.45", linewidth=0.5, zorder=1)
        axes.axvspan(begun, place - 0.5, color="0.5", alpha=0.05 + 0.05 * (number % 2), linewidth=0)
        axes.text(
            (begun + place - 0.5) / 2,
            1.0,
            f"{phase.name}: {phase.end - phase.start:+.2f}",
            ha="center",
            va="bottom",
            transform=axes.get_xaxis_transform(),
            fontsize=8,
        )
    _total(axes, place, phases[-1].last, phases[-1].end)
    ticks.append(place)
    labels.append(f"step\n{phases[-1].last}")
    levels += [value for _, low, high, _ in reached for value in (low, high)]
    reach = max(levels) - min(levels) or 1.0
    for x, low, high, amount in reached:
        text = "0" if amount == 0 else f"{amount:+.2f}".replace("-", "\N{MINUS SIGN}")
        up = amount >= 0
        at = max(low, high) if up else min(low, high)
        axes.annotate(
            text,
            (x, at),
            xytext=(0, 1.5 if up else -1.5),
            textcoords="offset points",
            ha="center",
            va="bottom" if up else "top",
            fontsize=6.5,
            zorder=4,
        )
    axes.axhline(0, color="0.2", linewidth=0.7, zorder=3)
    axes.set(
        xlim=(-0.7, place + 0.7),
        ylim=(min(levels) - 0.1 * reach, max(levels) + 0.1 * reach),
        ylabel="margin: largest z",
    )
    axes.set_xticks(ticks, labels)
    for label, text in zip(axes.get_xticklabels(), labels, strict=True):
        if text in CHANNEL_COLOURS:
            label.set(rotation=60, ha="right", rotation_mode="anchor")
    axes.tick_params(axis="x", length=0)


def _total(axes: Axes, place: float, step: int, level: float):
    colour = ALIVE if level > 0 else DEAD
    axes.plot([place - 0.45, place + 0.45], [level, level], color=colour, linewidth=2.2, zorder=3)
    axes.annotate(
        f"{level:.2f}".replace("-", "\N{MINUS SIGN}"),
        (place, level),
        xytext=(0, 3 if level > 0 else -3),
        textcoords="offset points",
        ha="center",
        va="bottom" if level > 0 else "top",
        color=colour,
        fontsize=7,
        fontweight="bold",
    )


def draw_account(phases: Sequence[Phase], caption: str) -> Figure:
    """The exact account of a unit's dead spell as a waterfall."""
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(figsize=(PAGE, 3.3))
        draw_waterfall(axes, phases)
        _caption(figure, caption, 150)
    return figure


# Where gradient flows -----------------------------------------------------------------------------


class Network(NamedTuple):
    """Measured values of a small network; a list entry a layer of weights, the output's last."""

    weights: list[np.ndarray]  # [fan_in, fan_out]
    carried: list[np.ndarray]  # [fan_in, fan_out], mean over examples of |weight x activation|
    gradients: list[np.ndarray]  # [fan_in, fan_out], |loss gradient of the weight|
    activity: list[np.ndarray]  # [units] of inputs, hidden layers, output: mean |activation|
    bias_gradients: list[np.ndarray]  # [units], |loss gradient of the bias|
    dead: list[np.ndarray]  # [units] bool, a hidden layer


def draw_flow(axes: Axes, network: Network, backward: bool):
    """The network with a number on every edge: what it carries forward, or (`backward`) the size
    of its weight's gradient. Edges that carry exactly 0 are dashed and crossed out."""
    values = network.gradients if backward else network.carried
    nodes = network.bias_gradients if backward else network.activity
    widths = [len(values[0]), *(layer.shape[1] for layer in values)]
    dead = [np.zeros(widths[0], bool), *network.dead, np.zeros(widths[-1], bool)]
    height = lambda layer, unit: (widths[layer] - 1) / 2 - unit  # noqa: E731
    largest = max(layer.max() for layer in values)
    for layer, edges in enumerate(values):
        spread = 1.25 if widths[layer + 1] == 1 else 1.0
        for (i, j), value in np.ndenumerate(edges):
            start, end = np.array([layer, height(layer, i)]), np.array([layer + 1, height(layer + 1, j)])
            colour = "#7B3294" if backward else (ALIVE if network.weights[layer][i, j] > 0 else DEAD)
            silent = value == 0
            axes.plot(
                *np.stack([start, end]).T,
                color="0.6" if silent else colour,
                linewidth=0.7 if silent else 0.4 + 3.2 * value / largest,
                linestyle=(0, (3, 2)) if silent else "-",
                alpha=1 if silent else 0.75,
                zorder=1,
            )
            # Labels near the node where few edges meet, each on its own height.
            near = 0.66 / spread if i % 2 else 0.74 / spread
            at = start + near * (end - start)
            axes.text(
                *at,
                "0" if silent else _short(value),
                fontsize=6,
                ha="center",
                va="center",
                zorder=3,
                color="0.3" if silent else "black",
                bbox={"boxstyle": "square,pad=0.08", "facecolor": "white", "linewidth": 0, "alpha": 0.85},
            )
            if silent:
                axes.plot(*(start + 0.42 * (end - start)), "x", color=DEAD, markersize=5, mew=1.3, zorder=4)
    for layer, width in enumerate(widths):
        for unit in range(width):
            at = layer, height(layer, unit)
            gone = dead[layer][unit]
            face = "0.85" if gone else "white"
            axes.plot(*at, "o", markersize=19, color="0.2", markerfacecolor=face, mew=0.8, zorder=5)
            value = None
            if not (backward and layer == 0):
                value = nodes[layer - backward][unit]
                axes.text(*at, _short(value), fontsize=6, ha="center", va="center", zorder=7)
            if gone:
                axes.plot(*at, "x", color=DEAD, markersize=20, mew=1.6, alpha=0.75, zorder=6)
    names = ["inputs", *(f"hidden {k}" for k in range(1, len(widths) - 1)), "output"]
    bottom = -(max(widths) - 1) / 2 - 0.62
    for layer, name in enumerate(names):
        axes.text(layer, bottom, name, ha="center", va="top", fontsize=7)
    axes.set(xlim=(-0.25, len(values) + 0.25), ylim=(bottom - 0.25, -bottom))
    axes.set_axis_off()


def _short(value: float) -> str:
    """A number in at most four characters, without its leading 0; 0 only when it is."""
    if value == 0:
        return "0"
    if value < 0.0095:
        return f"{value:.0e}".replace("e-0", "e\N{MINUS SIGN}")
    return f"{value:.2f}".removeprefix("0") if value < 9.995 else f"{value:.0f}"


def draw_network(network: Network, caption: str) -> Figure:
    """Where activation flows and where gradient flows, beside each other, and where a dead unit
    stops both."""
    with plt.style.context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(PAGE, 3.5))
        for axes, backward in zip(panels, (False, True), strict=True):
            draw_flow(axes, network, backward)
        panels[0].set_title("Forward: what each edge carries \N{RIGHTWARDS ARROW}")
        panels[1].set_title("\N{LEFTWARDS ARROW} Backward: gradient of each weight")
        handles = [
            Line2D([], [], color=ALIVE, linewidth=2, label="forward, weight > 0"),
            Line2D([], [], color=DEAD, linewidth=2, label="forward, weight < 0"),
            Line2D([], [], color="#7B3294", linewidth=2, label="size of the gradient"),
            Line2D([], [], color=DEAD, marker="x", linestyle="none", label="dead unit; exactly 0"),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=4)
        _caption(figure, caption, 150)
    return figure


# A layer in motion --------------------------------------------------------------------------------


class _Gif(PillowWriter):
    """Frames on one palette (a palette a frame flickers and costs space), with a comment."""

    def __init__(self, fps: int, comment: str):
        super().__init__(fps=fps)
        self.comment = comment

    def finish(self):
        frames = [frame.convert("RGB") for frame in self._frames]
        palette = frames[len(frames) // 2].quantize(48, method=Image.Quantize.MEDIANCUT)
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
        axes.fill_betweenx(grid, left, right, color="0.78", linewidth=0)
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
    looks: np.ndarray,
    dead: np.ndarray,
    units: Sequence[int],
    marked: int,
    caption: str,
    attributes: dict[str, str],
    fps: int = 12,
) -> pathlib.Path:
    """Writes a GIF of z over the probe set for all units of a layer.

    steps [frames], z [frames, units, examples]; below, the number of dead units at every look
    (looks, dead: [looks]). `units` names the units, `marked` is the one of the other figures.
    """
    with plt.style.context(STYLE):
        figure, (top, below) = plt.subplots(
            2, 1, figsize=(6.4, 4.1), dpi=100, height_ratios=[3.4, 1], layout="constrained"
        )
        _caption(figure, caption, 118)
        low, high = min(1.4 * z.min(), -2), max(1.4 * z.max(), 2)
        below.step(looks, dead, where="post", color="0.6")
        now = below.axvline(steps[0], color="black", linewidth=1)
        below.set(xlim=(looks[0], looks[-1]), ylim=(0, max(dead.max(), 1) * 1.1))
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
            now.set_xdata([steps[number]] * 2)

        writer = _Gif(fps, provenance_note(attributes))
        with writer.saving(figure, str(path), dpi=100):
            for number in range(len(steps)):
                frame(number)
                if number == 0:
                    figure.canvas.draw()
                    figure.set_layout_engine("none")  # the frame stands still from here on
                writer.grab_frame()
    plt.close(figure)
    return path
