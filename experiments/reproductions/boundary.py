"""The image of the recovery boundary, magnified, after Sohl-Dickstein (arXiv 2402.06184).

Claim under test: the boundary between the settings that bring a dead unit back and those that do
not is fractal, as that of convergence is. Every pixel is a run of the same network; each image is a
part of the one before, where most of the boundary lies. Writes summary.json and boundary.png/.pdf
to --out.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure as Drawing
from matplotlib.patches import Patch, Rectangle

from experiments.reproductions.box_counting import box_dimension, choose_zoom, edges
from experiments.reproductions.drawing import COLOURS
from experiments.reproductions.published import FULL, SOHL, check_counts, entry, report
from relu_dynamics import statistics
from relu_dynamics.checks import check_choice
from relu_dynamics.config import LABELS, Config
from relu_dynamics.engine import tasks
from relu_dynamics.engine.outcomes import NEVER
from relu_dynamics.experiment import Experiment, Figure
from relu_dynamics.experiment import Options as CommonOptions
from relu_dynamics.figures.style import MARKERS, PAGE, STYLE, write_caption
from relu_dynamics.grid import Grid, make_grid
from relu_dynamics.statistics.claims import Claim
from relu_dynamics.statistics.intervals import Interval
from relu_dynamics.sweeps.sweep import sweep_grid

# Sweep --------------------------------------------------------------------------------------------

DEAD, RECOVERED, DIVERGED = 0, 1, 2
EVENTS = {"ever": "alive at some later step", "end": "alive at the last step"}
VERTICAL = {"upstream_rate": (0.01, 100.0), "initial_bias": (-3.0, -0.5)}

Ends = tuple[float, float]  # of an axis


@dataclasses.dataclass(frozen=True)
class Options(CommonOptions):
    """An image of which runs bring a dead unit back, with zooms into its boundary."""

    vertical: str = "upstream_rate"
    """The second axis: upstream_rate (a rate of its own for the layer below) or initial_bias."""
    rates: tuple[float, float] = (0.03, 30.0)
    """Ends of the learning rate, on a logarithmic axis."""
    ends: tuple[float, float] | None = None
    """Ends of the second axis; by default 0.01 and 100 (logarithmic), or -3 and -0.5."""
    pixels: int = 128
    """Pixels along each axis of an image."""
    zooms: int = 3
    """Images after the first, each of a part of the one before."""
    zoom: float = 8.0
    """How many times each is enlarged along both axes."""
    steps: int = 200
    """Full-batch gradient-descent steps."""
    initial_bias: float = -1.0
    """Of half of the second hidden layer's units, where it is not the second axis."""
    seed: int = 5
    """The one network of all pixels; one in which some dead units come back somewhere."""


DEFAULTS = Options()
QUICK = Options(pixels=32, zooms=1, steps=100)


def vertical_ends(options: Options) -> Ends:
    """The ends of the second axis of the first image."""
    return options.ends or VERTICAL[options.vertical]


def make_grids(options: Options) -> dict[str, Grid]:
    """The grid of the first image; the others follow from what it shows. Raises a one-line
    ValueError for options that cannot run."""
    check_counts(steps=options.steps, zooms=options.zooms + 1)
    check_choice("vertical", options.vertical, tuple(VERTICAL))
    ends = vertical_ends(options)
    if options.pixels < 32 or options.zoom <= 1 or ends[0] >= ends[1]:
        raise ValueError(
            f"pixels={options.pixels}, zoom={options.zoom}, ends={ends}: use at least 32 pixels, a "
            "zoom above 1 and ascending ends."
        )
    if not 0 < options.rates[0] < options.rates[1]:
        raise ValueError(f"rates={options.rates} must be positive and ascending.")
    return {"whole": image_grid(options, options.rates, ends)}


def image_grid(options: Options, rates: Ends, ends: Ends) -> Grid:
    """The grid of one image: a cell per pixel."""
    base = Config(
        task="teacher_student",
        dimension=4,
        examples=16,
        hidden=(8, 8),
        steps=options.steps,
        probe_every=max(options.steps // 10, 1),
        **{**FULL, "biased_layer": 2, "biased_units": 4, "initial_bias": options.initial_bias},
    )
    axes = {
        "learning_rate": axis_points(rates, options.pixels).tolist(),
        options.vertical: axis_points(ends, options.pixels).tolist(),
    }
    return make_grid(base, axes, [options.seed], root_seed=options.root_seed)


def axis_points(ends: Ends, pixels: int) -> np.ndarray:
    """Pixel centres between the ends, evenly on the axis' scale (logarithmic where positive)."""
    places = (np.arange(pixels) + 0.5) / pixels
    if ends[0] > 0:
        return np.exp(np.log(ends[0]) + places * np.log(ends[1] / ends[0]))
    return ends[0] + places * (ends[1] - ends[0])


def part_of(ends: Ends, first: float, last: float) -> Ends:
    """The part of an axis from the share `first` to the share `last` of its length."""
    if ends[0] > 0:
        width = np.log(ends[1] / ends[0])
        return (float(ends[0] * np.exp(first * width)), float(ends[0] * np.exp(last * width)))
    width = ends[1] - ends[0]
    return (float(ends[0] + first * width), float(ends[0] + last * width))


class Image(NamedTuple):
    """The runs of a part of the axes."""

    event: str  # of EVENTS
    rates: Ends
    ends: Ends
    classes: np.ndarray  # int [x, y]: DEAD, RECOVERED or DIVERGED
    corner: tuple[float, float] | None  # left and lower end of the next, as shares of this one


def train(options: Options, grids: Mapping[str, Grid], out: pathlib.Path) -> list[Image]:
    """The images of both events."""
    return [image for event in EVENTS for image in zoomed_images(options, event)]


def zoomed_images(options: Options, event: str) -> list[Image]:
    """The image of an event over the whole axes, and its zooms into where most boundary lies."""
    images: list[Image] = []
    rates, ends, side = options.rates, vertical_ends(options), 1 / options.zoom
    for number in range(options.zooms + 1):
        classes = boundary_image(image_grid(options, rates, ends), event)
        print(f"{event}, image {number}: dead, recovered, diverged {shares(classes)}", flush=True)
        line = edges(classes, DEAD, RECOVERED)
        corner = choose_zoom(line, options.zoom) if line.any() else None
        images.append(Image(event, rates, ends, classes, corner))
        if corner is None:
            break
        left, low = corner
        rates, ends = part_of(rates, left, left + side), part_of(ends, low, low + side)
    return images


def shares(classes: np.ndarray) -> list[float]:
    """The shares of the three classes."""
    return [float((classes == kind).mean()) for kind in (DEAD, RECOVERED, DIVERGED)]


def boundary_image(grid: Grid, event: str) -> np.ndarray:
    """The class of every pixel [x, y] of a grid of one seed."""
    result = sweep_grid(grid, progress=True)
    names = [name for name, _ in grid.axes]
    cells = result.isel(seed=0)
    biased = cells.isel(unit=np.flatnonzero(result.biased.values))
    if not bool(biased.dead_at_start.any()):
        raise ValueError("seed: no biased unit is dead at step 0 in any pixel; use another seed.")
    # Batches are the whole training set: seen at every step, not only at evaluations.
    alive = biased.alive if event == "end" else biased.batch_first_active != NEVER
    back = (biased.dead_at_start & alive).any("unit").transpose(*names).values
    diverged = (cells.diverged_at != NEVER).transpose(*names).values
    return np.where(diverged, DIVERGED, np.where(back, RECOVERED, DEAD))


# Analysis -----------------------------------------------------------------------------------------

SMOOTH = 1.1  # what box counting gives at most for smooth curves at this resolution (tested)


def summarize(options: Options, found: Sequence[Image]) -> dict[str, Any]:
    """Every image with the dimensions of its boundaries, and the claims."""
    images = [image_row(options, image) for image in found]
    return {
        "definition": "one of four units, dead on the training inputs at step 0, is alive at "
        "some later step (ever) or at the last one (end); diverged: a loss or margin that was "
        "not finite; one network for all pixels",
        "interval": "t over the images; the local slopes are the range within one image",
        "vertical": options.vertical,
        "pixels": options.pixels,
        "images": images,
        "table": published_table(images),
        "claims": [boundary_claim(images, options, event) for event in EVENTS],
    }


def image_row(options: Options, image: Image) -> dict[str, Any]:
    """An image as plain values, with the dimensions of its boundaries."""
    row = {
        "event": image.event,
        "rates": list(image.rates),
        "ends": list(image.ends),
        "classes": ["".join(map(str, column)) for column in image.classes.tolist()],
        "share": shares(image.classes),
        "recovery": box_dimension(edges(image.classes, DEAD, RECOVERED)),
        "divergence": box_dimension(edges((image.classes == DIVERGED).astype(int), 0, 1)),
    }
    return row if image.corner is None else row | {"next": [*image.corner, 1 / options.zoom]}


def boundary_dimension(images: Sequence[Mapping], event: str) -> Interval | None:
    """Mean dimension of an event's boundary over its images, t over images."""
    own = [image["recovery"] for image in images if image["event"] == event]
    found = [dimension["dimension"] for dimension in own if dimension]
    if len(found) < 2:
        return None
    return statistics.seed_clustered_mean(np.array(found), bounds=None)


def published_table(images: Sequence[Mapping]) -> list[dict]:
    """Sohl-Dickstein's range of dimensions (of another boundary) beside ours."""
    out = []
    for event, words in EVENTS.items():
        mean = boundary_dimension(images, event)
        if mean is not None:
            quantity = f"box-counting dimension (there: of convergence; here: {words})"
            verdict = "conditional: another boundary"
            out.append(entry(SOHL, quantity, "1.17 to 1.98", mean.as_json(), verdict))
    return out


def boundary_claim(images: Sequence[Mapping], options: Options, event: str) -> Claim:
    """Whether the dimension is above that of a smooth curve."""
    mean = boundary_dimension(images, event)
    ends = (np.nan, np.nan) if mean is None else (float(mean.low), float(mean.high))
    verdict = "undecided"
    if ends[0] > SMOOTH:
        verdict = "confirmed"
    elif ends[1] < SMOOTH:
        verdict = "refuted"
    own = [image["recovery"] for image in images if image["event"] == event]
    each = ", ".join("none" if found is None else f"{found['dimension']:.2f}" for found in own)
    return Claim(
        claim=f"The boundary of recovery is fractal ({EVENTS[event]})",
        source=SOHL,
        verdict=verdict,
        finding=f"Box-counting dimensions of the images, each enlarged {options.zoom:g} times: "
        f"{each}. A smooth curve gives up to {SMOOTH:g} at {options.pixels} pixels. An image of "
        f"finite resolution after {options.steps} steps decides for these scales only.",
        estimate=None if mean is None else float(mean.estimate),
        interval=None if mean is None else ends,
        count=f"{len(own)} images of {options.pixels} x {options.pixels} runs, one network",
        definition=f"boundary between pixels where a unit that began dead is {EVENTS[event]} and "
        "those where none is, without those that diverged; zooms are where most boundary lies, "
        "which favours rough parts",
        figure="boundary",
    )


# Figure -------------------------------------------------------------------------------------------

SHORT = {"ever": "at some step", "end": "at the end"}
CLASSES = (("still dead", "#3B4B7A"), ("recovered", "#F0C75E"), ("diverged", "#E6E6E6"))


def draw_boundary(summary: Mapping) -> Drawing:
    """A row per event: its images with the window of the next, and their box counts."""
    events = list(dict.fromkeys(image["event"] for image in summary["images"]))
    rows = [[i for i in summary["images"] if i["event"] == event] for event in events]
    columns = 1 + max(map(len, rows))
    label = LABELS[summary["vertical"]]
    with plt.style.context(STYLE):
        figure, grid = plt.subplots(
            len(events), columns, figsize=(PAGE, 0.9 + 1.75 * len(events)), squeeze=False
        )
        for event, images, line in zip(events, rows, grid, strict=True):
            for number, (axes, image) in enumerate(zip(line, images, strict=False)):
                _draw_image(axes, image)
                axes.set_title(f"{SHORT[event]}, x {summary['options']['zoom'] ** number:,.0f}")
                axes.set_xlabel("learning rate")
            line[0].set_ylabel(label)
            for axes in line[len(images) : -1]:
                axes.set_axis_off()
            _draw_box_counts(line[-1], images, summary["options"]["zoom"])
        figure.legend(
            handles=[Patch(color=colour, label=name) for name, colour in CLASSES],
            loc="outside upper center",
            ncols=3,
        )
        asked = summary["options"]
        write_caption(
            figure,
            f"{tasks.label_of('teacher_student')}, one network (8-8, seed {asked['seed']}), "
            f"n = {summary['pixels']} x {summary['pixels']} runs per image, {asked['steps']} "
            "full-batch steps of SGD. Recovered: one of four units, dead (max z <= 0 over the "
            "training inputs) at step 0, is alive at some step (above) or at the last one (below). "
            "White square: the next image, where most boundary lies. Right: boxes of a side that "
            "meet the boundary, and the box-counting dimension of each image. One seed per pixel: "
            "an image has no interval.",
        )
    return figure


def _draw_image(axes: Axes, image: Mapping):
    classes = np.array([[int(c) for c in column] for column in image["classes"]])
    colours = ListedColormap([colour for _, colour in CLASSES])
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


def _draw_box_counts(axes: Axes, images: Sequence[Mapping], zoom: float):
    for number, (image, colour, marker) in enumerate(zip(images, COLOURS, MARKERS, strict=False)):
        found = image["recovery"]
        if found:
            text = f"x {zoom**number:,.0f}: {found['dimension']:.2f}"
            axes.plot(found["sides"], found["boxes"], marker=marker, color=colour, label=text)
    axes.set(xscale="log", yscale="log", xlabel="side of a box (pixels)", title="boundary boxes")
    counts = [n for image in images if image["recovery"] for n in image["recovery"]["boxes"]]
    if counts:  # room for the legend
        axes.set_ylim(top=max(counts) * 30)
    sides = next((image["recovery"]["sides"] for image in images if image["recovery"]), [])
    axes.set_xticks(sides, [str(side) for side in sides])
    axes.minorticks_off()
    if sides:
        axes.legend(
            title="image: dimension",
            title_fontsize=6,
            handlelength=0.8,
            labelspacing=0.1,
            loc="upper right",
            fontsize=6,
        )


EXPERIMENT = Experiment(
    name="boundary",
    question="is the boundary of recovery fractal?",
    description=__doc__ or "",
    defaults=DEFAULTS,
    quick=QUICK,
    grids=make_grids,
    also_decides=lambda options: (options.zooms, options.zoom),
    train=train,
    analyse=summarize,
    report=report,
    figures={"boundary": Figure("The boundary of recovery, magnified.", draw_boundary)},
)
