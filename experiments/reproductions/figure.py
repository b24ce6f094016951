"""One figure per reproduction, each from its summary."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from experiments.reproductions.drawing import COLOURS, draw_points, write_caption
from relu_dynamics import theory
from relu_dynamics.figures.style import COLUMN, PAGE, STYLE

NAMES = {"he": "He", "rai": "asym."}
Summary = Mapping[str, Any]


def draw_layers(summary: Summary) -> Figure:
    """Dead per layer before and after training, and recovery of what began dead."""
    rows = summary["rows"]
    rates = sorted({r["learning_rate"] for r in rows})
    with plt.style.context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.7))
        own = [r for r in rows if r["learning_rate"] == rates[0]]
        layers = np.array([r["layer"] for r in own])
        for kind, colour, shift in (
            ("dead_before", "#0072B2", -0.1),
            ("dead_after", "#D55E00", 0.1),
        ):
            label = kind.replace("dead_", "") + " training"
            draw_points(
                left,
                layers + shift,
                [r[kind] for r in own],
                color=colour,
                marker="o",
                linestyle="none",
                label=label,
            )
        left.set(
            ylabel="dead fraction",
            ylim=(0, 1.4 * left.get_ylim()[1]),
            title=f"as published, rate {rates[0]:g}",
        )
        for i, (rate, colour) in enumerate(zip(rates, COLOURS[2:], strict=False)):
            own = [r for r in rows if r["learning_rate"] == rate]
            own = [r for r in own if r["forced_recovered"]["trials"]]
            draw_points(
                right,
                np.array([r["layer"] for r in own]) + 0.1 * i,
                [r["forced_recovered"] for r in own],
                color=colour,
                marker="o",
                linestyle="none",
                label=f"rate {rate:g}",
            )
        certified = summary["certificates"]
        right.set(
            ylabel="P(recovers at some evaluation)",
            ylim=(-0.03, 1.25),
            yticks=np.arange(0, 1.01, 0.2),
            title="a quarter begins dead (layer 1: "
            f"{certified['never']}/{certified['dead']} certified)",
        )
        for axes in (left, right):
            axes.set(xlabel="hidden layer", xticks=layers, xlim=(0.5, layers.max() + 0.5))
            axes.legend(loc="upper left")
        asked = summary["options"]
        write_caption(
            figure,
            f"Digits, hidden {'-'.join(map(str, asked['hidden']))}, uniform initial weights and "
            f"biases, heavy-ball 0.9, batch 64, {asked['steps']} steps, {asked['seeds']} seeds; "
            "dead: max z <= 0 over 1,024 training examples. 95 % intervals clustered by seed. "
            "Right: initial biases "
            + ", ".join(f"{b:g}" for b in asked["initial_biases"])
            + " pooled.",
        )
    return figure


def draw_continual(summary: Summary) -> Figure:
    """Loss and dead share of every period, a column a task."""
    rows = summary["rows"]
    names = list(dict.fromkeys(r["task"] for r in rows))
    with plt.style.context(STYLE):
        figure, grid = plt.subplots(2, len(names), figsize=(PAGE, 4.0), squeeze=False, sharex="col")
        for j, name in enumerate(names):
            own = [r for r in rows if r["task"] == name and "loss" in r]
            for row, colour in zip(own, COLOURS, strict=False):
                for i, quantity in enumerate(("loss", "dead")):
                    mean, low, high = (np.array(part) for part in row[quantity])
                    periods = np.arange(1, len(mean) + 1)
                    axes = grid[i, j]
                    axes.plot(periods, mean, color=colour, label=f"{row['learning_rate']:g}")
                    axes.fill_between(periods, low, high, color=colour, alpha=0.2, linewidth=0)
            grid[0, j].set_title(name)
            grid[0, j].set_ylabel("mean training loss" + (" (nats)" if "digits" in name else ""))
            grid[1, j].set(ylabel="dead fraction", xlabel="period (one task each)", ylim=(0, None))
            grid[1, j].legend(title="step size", title_fontsize=7, labelspacing=0.2)
        asked = summary["options"]
        write_caption(
            figure,
            f"{asked['seeds']} seeds, bands: 95 %, clustered by seed. Regression: 20 bits, 5 "
            f"hidden units, one example per step, a bit flips every {asked['bit_period']:,} "
            f"steps. Digits: 32-32-32, batch 32, pixels permuted anew every "
            f"{asked['digit_period']} steps. Dead: max z <= 0 over the period's training examples. "
            + summary["reduced"]
            + ".",
        )
    return figure


def draw_autoencoder_birth(summary: Summary) -> Figure:
    """P(silent latent) over gamma, a curve a number of tokens, with the law."""
    rows = summary["rows"]
    positive = [r["gamma"] for r in rows if r["gamma"]]
    gammas = np.geomspace(min(positive), max(positive), 60)
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(figsize=(COLUMN, 3.0))
        for samples, colour in zip(sorted({r["samples"] for r in rows}), COLOURS, strict=False):
            own = [r for r in rows if r["samples"] == samples and r["gamma"] and r["estimate"] > 0]
            draw_points(
                axes,
                [r["gamma"] for r in own],
                own,
                color=colour,
                marker="o",
                linestyle="none",
                label=f"{samples:,}",
            )
            law = theory.autoencoder_dead_at_birth_finite(gammas, samples, summary["dimension"])
            axes.plot(gammas, law, color=colour, linewidth=0.8)
            limit = theory.autoencoder_dead_at_birth(gammas, samples)
            axes.plot(gammas, limit, color=colour, linewidth=0.7, linestyle=(0, (2, 1.5)))
        axes.axhline(0.5, color="0.6", linewidth=0.6)
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="gamma = |mean| / |deviations|",
            ylabel="P(silent on all tokens)",
            ylim=(1e-6, 1),
        )
        axes.legend(title="tokens", title_fontsize=7, loc="lower right")
        write_caption(
            figure,
            f"{rows[0]['trials']:,} latents per point, {rows[0]['seeds']} autoencoders in "
            f"{summary['dimension']} dimensions, 95 % intervals clustered by autoencoder. Lines: "
            "the law in as many dimensions; dashed: its limit. Points without a silent latent are "
            "not drawn.",
            64,
        )
    return figure


_CLASSES = (("still dead", "#3B4B7A"), ("recovered", "#F0C75E"), ("diverged", "#E6E6E6"))


def draw_boundary(summary: Summary) -> Figure:
    """A row an event: its images with the window of the next, and their box counts."""
    events = list(dict.fromkeys(image["event"] for image in summary["images"]))
    rows = [[i for i in summary["images"] if i["event"] == event] for event in events]
    columns = 1 + max(map(len, rows))
    label = summary["vertical"].replace("_", " ")
    with plt.style.context(STYLE):
        figure, grid = plt.subplots(
            len(events), columns, figsize=(PAGE, 0.9 + 1.75 * len(events)), squeeze=False
        )
        for event, images, line in zip(events, rows, grid, strict=True):
            for number, (axes, image) in enumerate(zip(line, images, strict=False)):
                _draw_image(axes, image)
                axes.set_title(f"{event}, x {summary['options']['zoom'] ** number:,.0f}")
                axes.set_xlabel("learning rate")
            line[0].set_ylabel(label)
            for axes in line[len(images) : -1]:
                axes.set_axis_off()
            _draw_box_counts(line[-1], images)
        figure.legend(
            handles=[Patch(color=colour, label=name) for name, colour in _CLASSES],
            loc="outside upper center",
            ncols=3,
        )
        asked = summary["options"]
        write_caption(
            figure,
            f"One network (seed {asked['seed']}), {summary['pixels']} x {summary['pixels']} runs "
            f"an image, {asked['steps']} full-batch steps. Recovered: one of four units, dead on "
            "the training inputs at step 0, is alive at some step (ever) or at the last one (end). "
            "White square: the next image, where most boundary lies. Box counts: sides in pixels, "
            "with the dimension of each image. One seed a pixel: an image has no interval.",
        )
    return figure


def _draw_image(axes: Axes, image: Mapping):
    classes = np.array([[int(c) for c in column] for column in image["classes"]])
    colours = ListedColormap([colour for _, colour in _CLASSES])
    axes.imshow(
        classes.T,
        origin="lower",
        extent=(0, 1, 0, 1),
        cmap=colours,
        vmin=-0.5,
        vmax=2.5,
        interpolation="nearest",
        aspect="equal",
    )
    if "next" in image:
        left, low, side = image["next"]
        axes.add_patch(Rectangle((left, low), side, side, fill=False, color="white", linewidth=1.2))
    for ends, setter in ((image["rates"], axes.set_xticks), (image["ends"], axes.set_yticks)):
        digits = 2 + max(0, int(np.ceil(-np.log10(abs(ends[1] - ends[0]) / abs(ends[1])))))
        setter([0, 1], [f"{end:.{digits}g}" for end in ends])
    axes.tick_params(labelsize=6, pad=1)
    axes.get_xticklabels()[0].set_horizontalalignment("left")
    axes.get_xticklabels()[1].set_horizontalalignment("right")
    for tick, place in zip(axes.get_yticklabels(), ("bottom", "top"), strict=True):
        tick.set_verticalalignment(place)
        tick.set_rotation(90)


def _draw_box_counts(axes: Axes, images: Sequence[Mapping]):
    for image, colour in zip(images, COLOURS, strict=False):
        found = image["recovery"]
        if found:
            text = f"{found['dimension']:.2f}"
            axes.plot(found["sides"], found["boxes"], "o-", color=colour, label=text)
    axes.set(xscale="log", yscale="log", xlabel="side", title="boxes")
    sides = next((image["recovery"]["sides"] for image in images if image["recovery"]), [])
    axes.set_xticks(sides, [str(side) for side in sides])
    axes.minorticks_off()
    if sides:
        axes.legend(handlelength=0.8, labelspacing=0.1, loc="upper right", fontsize=6)
