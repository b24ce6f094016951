"""Style: widths, colours, files and their provenance."""

import io
import math
import pathlib
import re
import textwrap
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from relu_dynamics import store
from relu_dynamics.engine import optimizers, tasks
from relu_dynamics.statistics import estimates

COLUMN = 3.35

PAGE = 7.0

STYLE = str(resources.files("relu_dynamics.figures") / "relu_dynamics.mplstyle")

# Series differ by more than their colour, so that they stay apart in greyscale.
MARKERS = ("o", "s", "^", "D", "v", "P")

DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)))

LETTERS = 20  # of a caption in an inch

FEW_TRIALS = 8  # a cell with fewer units is hatched

WIDE_INTERVAL = 0.3  # and above this interval width


def save(figure: Figure, path: pathlib.Path, attributes: dict[str, str]) -> list[pathlib.Path]:
    """Writes a figure as PNG and PDF next to each other, with the result's grid hash, commit and
    command in both files' metadata, and returns their paths. A file is there whole or not at
    all."""
    note = provenance_note(attributes)
    paths = [path.with_suffix(".png"), path.with_suffix(".pdf")]
    with plt.style.context(STYLE):  # resolution and embedded fonts are decided when saving
        _write(figure, paths[0], {"Description": note, "Software": "relu_dynamics"})
        _write(figure, paths[1], {"Subject": note, "Creator": "relu_dynamics"})
    plt.close(figure)
    return paths


def _write(figure: Figure, path: pathlib.Path, metadata: dict[str, str]) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], metadata=metadata)
    store.write_whole(path, buffer.getvalue())


def provenance_note(attributes: Mapping[str, str]) -> str:
    """Grid hash, commit and command of a result as one line, for a file's metadata."""
    facts = ", ".join(f"{name}={attributes.get(name)}" for name in ("grid_hash", "git_commit"))
    return f"{facts}, command={attributes.get('command')}"


def write_caption(figure: Figure, text: str) -> None:
    """Writes what was run below a figure, in lines of the figure's width."""
    width = int(LETTERS * figure.get_figwidth())
    text = re.sub(r"[ \n]+", " ", text).strip().replace(" %", "\N{NO-BREAK SPACE}%")
    if not text.startswith("n = "):
        text = text[:1].upper() + text[1:]
    lines = textwrap.fill(text, width, break_on_hyphens=False)
    figure.supxlabel(lines, fontsize=6.5, color="0.25")


def ordered_colours(count: int) -> list[str]:
    """Colours of series that have an order, from dark to light: greyscale keeps it."""
    return [to_hex(colour) for colour in plt.get_cmap("viridis")(np.linspace(0, 0.85, count))]


def label_factors(axes: Axes, factors: Sequence[float]) -> None:
    """Ticks of a horizontal axis of natural logarithms, as the factors that lie within it."""
    low, high = axes.get_xlim()
    shown = [factor for factor in factors if low <= math.log(factor) <= high]
    axes.set_xticks([math.log(factor) for factor in shown], [f"{factor:g}" for factor in shown])


def what_ran(config: Mapping[str, Any]) -> str:
    """Task, network, optimizer, batch and steps of a run, as a caption says them."""
    hidden = "-".join(str(width) for width in config["hidden"])
    batch = "full batch" if config["batch_size"] is None else f"batch {config['batch_size']}"
    return (
        f"{tasks.label_of(config['task'])}, hidden {hidden}, "
        f"{optimizers.label_of(config['optimizer'])}, {batch}, {config['steps']:,} steps"
    )


def caption(result: xr.Dataset) -> str:
    """What was run, in a few lines: network, task, optimizer, counts, intervals, definition."""
    config = estimates.config_of(result)
    cells = int(np.prod([result.sizes[name] for name in estimates.axis_names(result)]))
    text = (
        f"{what_ran(config)}; {cells} cells x {result.sizes['seed']} seeds; "
        f"{config['definition']}: {estimates.judgement(result).short} "
        f"over {config['probe_size'] or config['examples']:,} examples. 95 % intervals: "
        f"Clopper-Pearson with effective trials, clustered by run, by seed where pooled; a "
        f"diverged run counts as neither recovered nor {config['definition']}. Hatched: under "
        f"{FEW_TRIALS} units or interval wider than {WIDE_INTERVAL}; grey: no unit at risk."
    )
    return textwrap.fill(text, 140, break_on_hyphens=False)
