"""What moved the unit: its exact account as a waterfall."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from experiments.one_unit.analysis import Phase
from experiments.one_unit.drawing import ALIVE, DEAD, signed, write_caption
from relu_dynamics.figures.style import PAGE, STYLE

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


def draw_account(phases: Sequence[Phase], caption: str) -> Figure:
    """The exact account of a unit's dead spell as a waterfall."""
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(figsize=(PAGE, 3.3))
        draw_waterfall(axes, phases)
        write_caption(figure, caption, 142)
    return figure


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
            + signed(phase.end - phase.start, "+.2f"),
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
            amount_text(amount),
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
        signed(level, ".2f"),
        (place, level),
        xytext=(0, 3 if level > 0 else -3),
        textcoords="offset points",
        ha="center",
        va="bottom" if level > 0 else "top",
        color=colour,
        fontsize=7,
        fontweight="bold",
    )


def amount_text(value: float) -> str:
    """A signed number with two decimals, or one digit where those are 0; 0 only when it is."""
    if value == 0:
        return "0"
    form = "+.2f" if abs(value) >= 0.005 else "+.3f" if abs(value) >= 5e-4 else "+.0e"
    return signed(value, form).replace("0.", ".", 1) if abs(value) < 1 else signed(value, form)


def _link(axes: Axes, left: float, level: float):
    """The running sum between two bars."""
    axes.plot([left, left + 0.22], [level, level], color="0.4", linewidth=0.6, zorder=1)
