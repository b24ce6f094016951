"""Style: widths, colours, files and their provenance."""

import io
import pathlib
import textwrap
from collections.abc import Mapping
from importlib import resources
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from relu_dynamics import store
from relu_dynamics.engine import tasks
from relu_dynamics.statistics import estimates

COLUMN = 3.35

PAGE = 7.0

STYLE = str(resources.files("relu_dynamics.figures") / "relu_dynamics.mplstyle")

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
    text = " ".join(text.split()).replace(" %", "\N{NO-BREAK SPACE}%")
    if not text.startswith("n = "):
        text = text[:1].upper() + text[1:]
    figure.supxlabel(textwrap.fill(text, width), fontsize=6.5, color="0.25")


def what_ran(config: Mapping[str, Any]) -> str:
    """Task, network, optimizer, batch and steps of a run, as a caption says them."""
    hidden = "-".join(str(width) for width in config["hidden"])
    batch = "full batch" if config["batch_size"] is None else f"batch {config['batch_size']}"
    optimizer = config["optimizer"].replace("_", " ").replace("sgd", "SGD")
    return (
        f"{tasks.label_of(config['task'])}, hidden {hidden}, {optimizer}, {batch}, "
        f"{config['steps']:,} steps"
    )


def caption(result: xr.Dataset) -> str:
    """What was run, in a few lines: network, task, optimizer, counts, intervals, definition."""
    config = estimates.config_of(result)
    cells = int(np.prod([result.sizes[name] for name in estimates.axis_names(result)]))
    text = (
        f"{what_ran(config)}; {cells} cells x {result.sizes['seed']} seeds; "
        f"{config['definition']}: {estimates.judgement(result).short} "
        f"over {config['probe_size'] or config['examples']} examples. 95 % intervals: "
        f"Clopper-Pearson with effective trials, clustered by run, by seed where pooled; a "
        f"diverged run counts as neither recovered nor {config['definition']}. Hatched: under "
        f"{FEW_TRIALS} units or interval wider than {WIDE_INTERVAL}; grey: no unit at risk."
    )
    return textwrap.fill(text, 140)
