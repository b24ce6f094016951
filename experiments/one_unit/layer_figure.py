"""The whole layer in motion, as a GIF."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from experiments.one_unit.drawing import ALIVE, DEAD, density, set_z_axis, write_caption
from relu_dynamics.figures.style import STYLE, provenance_note


class Animation(NamedTuple):
    """A figure and how to draw its frames."""

    figure: Figure
    frame: Callable[[int], None]  # draws the frame of a number
    frames: int
    fps: int = 12


def animate_layer(
    steps: np.ndarray,
    z: np.ndarray,
    evaluations: np.ndarray,
    dead: np.ndarray,
    units: Sequence[int],
    marked: int,
    caption: str,
) -> Animation:
    """z over the probe set of all units of a layer, in motion.

    steps [frames], z [frames, units, examples]; below, the number of dead units at every evaluation
    (evaluations, dead: [evaluations]). `units` names the units, `marked` is the one of the other
    figures.
    """
    with plt.style.context(STYLE):
        figure, (top, below) = plt.subplots(
            2, 1, figsize=(6.4, 4.1), dpi=130, height_ratios=[3.4, 1], layout="constrained"
        )
        write_caption(figure, caption, 118)
        low, high = min(1.4 * z.min(), -2), max(1.4 * z.max(), 2)
        below.step(evaluations, dead, where="post", color="0.6")
        now = below.axvline(steps[0], color="black", linewidth=1)
        below.set(xlim=(evaluations[0], evaluations[-1]), ylim=(0, max(dead.max(), 1) * 1.1))
        below.set(xlabel="training step", ylabel="dead units")

        def frame(number):
            top.clear()
            draw_layer(top, z[number])
            top.set(xlim=(-0.8, len(units) - 0.2), ylim=(low, high), ylabel="pre-activation z")
            set_z_axis(top.yaxis)
            gone = z[number].max(1) <= 0
            top.set_xticks(range(len(units)), [str(unit) for unit in units])
            for tick, is_dead, unit in zip(top.get_xticklabels(), gone, units, strict=True):
                tick.set(color=DEAD if is_dead else ALIVE, weight="bold" if is_dead else "normal")
                if unit == marked:
                    tick.set(bbox={"facecolor": "none", "edgecolor": "0.2", "pad": 1.2})
            top.set_title(f"step {steps[number]}: {gone.sum()} of {len(units)} units dead")
            top.set_xlabel("unit (orange: dead)")
            now.set_xdata([steps[number]] * 2)

    return Animation(figure, frame, len(steps))


def save_animation(
    animation: Animation, path: pathlib.Path, attributes: Mapping[str, str]
) -> list[pathlib.Path]:
    """Writes an animation as a GIF, with the result's grid hash, commit and command as its comment,
    and returns its path."""
    path, figure = path.with_suffix(".gif"), animation.figure
    writer = _Gif(animation.fps, provenance_note(attributes))
    with plt.style.context(STYLE), writer.saving(figure, str(path), dpi=130):
        for number in range(animation.frames):
            animation.frame(number)
            if number == 0:
                figure.canvas.draw()
                figure.set_layout_engine("none")  # the frame stands still from here on
            writer.grab_frame()
    plt.close(figure)
    return [path]


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
