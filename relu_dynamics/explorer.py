"""Explorer: one self-contained HTML page of a result: click a cell of the map and see why.

    relu_dynamics.explore(result)                       # writes explorer.html
    python -m relu_dynamics.explorer FOLDER [FOLDER ...] [--out explorer.html]

The page needs no server and no network, and its Content-Security-Policy forbids both. All numbers
are those of `relu_dynamics.estimates`, computed before the page is written and rounded to 4
significant digits; BokehJS draws them, and explorer.js only hands them to what draws. The z ribbon
of one run a cell is not in a stored result: one seed is trained again, and a ribbon is shown only
where that run's history (every unit's events and margins) is the stored one, bit for bit.

Axes: `cells` are the points of a map, its second axis fastest; `looks` are those shown.
"""

import argparse
import base64
import functools
import hashlib
import html
import itertools
import json
import os
import pathlib
import string
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import xarray as xr

from relu_dynamics import cli, estimates, figures, grids, statistics, store, tasks, training
from relu_dynamics.axes import Grid, grid_from_identity
from relu_dynamics.config import LABELS, TRACED, Config, check_choice, told
from relu_dynamics.outcomes import NEVER, History, Outcome
from relu_dynamics.probes import UnitStatistics

MOST_CELLS = 4096  # of all maps of a page: about 18 MB
MOST_LOOKS = 100  # of a curve or ribbon; of longer runs every k-th look is shown
LEVEL = 0.95
OUTCOMES = {
    Outcome.RECOVERED_SUSTAINED: "recovered, sustained",
    Outcome.RECOVERED_UNCONFIRMED: "recovered, unconfirmed",
    Outcome.RECOVERED_TRANSIENT: "recovered, transient",
    Outcome.STILL_DEAD: "still dead",
    Outcome.DIVERGED: "diverged",
    Outcome.AMBIGUOUS: "ambiguous",
    Outcome.NOT_AT_RISK: "not at risk",
}
PROVENANCE = (
    "grid_hash", "git_commit", "command", "versions", "python", "device", "machine", "created",
    "definition_of_dead", "seed_sharing",
)  # fmt: skip
CONFIG_FIELDS = (
    "task", "hidden", "optimizer", "batch_size", "steps", "probe_size", "examples", "sustain",
)  # fmt: skip
UNIT_FIELDS = tuple(name for name in History._fields if name != "diverged_at")
DIMENSIONS = {
    **{name: ("seed", "unit") for name in (*UNIT_FIELDS, "outcome")},
    "diverged_at": ("seed",),
    **{name: ("unit",) for name in ("biased", "unit_layer", "unit_in_layer")},
    "probe_step": ("probe_step",),
    "seed": ("seed",),
}  # of what is read of a result, after the axes
GREEN, GREY, BLUE, RED = "#00704F", "#555555", "#0072B2", "#B3400A"  # at least 4.5:1 on white
FONT = "system-ui, sans-serif"


class MissingBokehError(ImportError, ValueError):
    """The extra `explorer` is not installed. A ValueError too, so that scripts end in one line."""


def explore(
    result: xr.Dataset | Mapping[str, xr.Dataset], path: str | os.PathLike = "explorer.html"
) -> pathlib.Path:
    """Writes a result as one HTML page to explore in a browser, and returns its path.

    Args:
      result: what `sweep` or `open_result` returned, or a mapping of names (channels, say) to such
        results, between which the page switches. The first two axes make the map; of further
        axes, every value is a map of its own.
      path: where the page is written; an existing file is replaced.

    One seed of every result is trained again for the z ribbons: the sweep's time over its number
    of seeds, and a compilation. Where that does not give the stored numbers (another JAX, platform
    or kind of processor) the page says so and has no ribbons.

    Raises a `MissingBokehError` without the extra `explorer`, and a ValueError for what is no
    result, for more than 4096 cells, and for a path that cannot be written.
    """
    check_bokeh()
    named = _check_results(result)
    maps = [each for name, one in named.items() for each in _maps(name, one.compute())]
    path = pathlib.Path(path)
    try:
        store.write_whole(path, _page(maps).encode())
    except OSError as error:
        raise store.NotWritableError(
            f"path={told(str(path))} cannot be written ({error.strerror}); choose another."
        ) from None
    return path


def check_bokeh() -> None:
    """Raises a `MissingBokehError` when bokeh is not installed."""
    try:
        import bokeh  # noqa: F401
    except ImportError:
        raise MissingBokehError(
            "the explorer needs bokeh; install it: pip install 'relu-dynamics[explorer]'."
        ) from None


# --- What may be explored ------------------------------------------------------------------------


def _check_results(result: Any) -> dict[str, xr.Dataset]:
    """Results by name; raises a ValueError that names what is wrong."""
    if isinstance(result, xr.Dataset):
        named = {"result": result}
    elif isinstance(result, Mapping) and result:
        named = {str(name): one for name, one in result.items()}
    else:
        raise ValueError(
            f"result={told(result)} must be a result of sweep or open_result, or a mapping of "
            "names to them."
        )
    cells = 0
    for name, one in named.items():
        _check_result(name, one)
        cells += int(np.prod([one.sizes[axis] for axis in estimates.axis_names(one)]))
    if cells > MOST_CELLS:
        raise ValueError(
            f"result has {cells} cells; a page holds at most {MOST_CELLS}: explore a part, such "
            "as result.isel(learning_rate=slice(0, 32))."
        )
    return named


def _check_result(name: str, result: Any) -> None:
    if not isinstance(result, xr.Dataset) or "identity" not in result.attrs:
        raise ValueError(
            f"{told(name)} has no attribute `identity`; give what sweep or open_result returned."
        )
    try:
        identity = json.loads(result.attrs["identity"])
        axes = [axis for axis, _ in identity["axes"]]
        missing = [field for field in CONFIG_FIELDS if field not in identity["config"]]
    except (TypeError, ValueError, KeyError, RecursionError):
        raise ValueError(
            f"{told(name)}: its attribute `identity` is not a grid's; give what sweep or "
            "open_result returned."
        ) from None
    if missing or not axes:
        raise ValueError(f"{told(name)}: its identity lacks {', '.join(missing) or 'axes'}.")
    for axis in axes:
        check_choice("axis", axis, TRACED)
        if axis not in result.dims:
            raise ValueError(
                f"{told(name)}: its axis {axis} is no dimension; keep it, as in "
                f"result.isel({axis}=[0])."
            )
    for variable, dimensions in DIMENSIONS.items():
        wanted = {*dimensions, *(axes if "seed" in dimensions and variable != "seed" else ())}
        if variable not in result.variables or set(result[variable].dims) != wanted:
            raise ValueError(
                f"{told(name)} lacks {variable} over {', '.join(sorted(wanted))}; give what sweep "
                "or open_result returned."
            )
    if not all(result.sizes[dimension] for dimension in (*axes, "seed", "unit")):
        raise ValueError(f"{told(name)} holds no run; select at least one cell and one seed.")


# --- Numbers of the page -------------------------------------------------------------------------


def _maps(name: str, result: xr.Dataset) -> list[dict]:
    """One map for every value of the axes beyond the second, as plain values for JSON."""
    axes = estimates.axis_names(result)
    ribbons, note = _ribbons(result)
    maps = []
    for place in itertools.product(*(range(result.sizes[axis]) for axis in axes[2:])):
        part = result.isel({axis: [i] for axis, i in zip(axes[2:], place, strict=True)})
        values = [f"{LABELS[axis]} {part[axis].values[0]:g}" for axis in axes[2:]]
        maps.append(
            {
                "name": ", ".join([name, *values]),
                "axes": [_axis(part, axis) for axis in axes[:2]],
                "measures": {measure: _measure(part, measure) for measure in estimates.MEASURES},
                "incidence": _incidence(part),
                "outcomes": _outcomes(part),
                "steps": estimates.config_of(result)["steps"],
                "looks": _looks(result).tolist(),
                "ribbons": ribbons[(..., *place)].ravel().tolist(),
                "ribbon_note": note,
                "caption": _caption(result),
                "provenance": [[key, str(result.attrs.get(key, "unknown"))] for key in PROVENANCE],
            }
        )
    return maps


def _axis(result: xr.Dataset, axis: str) -> dict:
    values = [f"{value:g}" for value in result[axis].values]
    if len(set(values)) < len(values):
        values = [repr(float(value)) for value in result[axis].values]
    return {"label": LABELS[axis], "values": values}


def _rounded(values: Any) -> Any:
    """Nested lists of numbers of 4 significant digits; None where a number is not finite."""
    if isinstance(values, np.ndarray):
        return _rounded(values.tolist())
    if isinstance(values, list):
        return [_rounded(value) for value in values]
    if isinstance(values, int):
        return values
    return float(f"{values:.4g}") if np.isfinite(values) else None


def _measure(result: xr.Dataset, measure: str) -> dict:
    """Rows [cells] of the numbers of `estimates.cells`, and which cells are doubtful."""
    found = estimates.cells(result, measure, level=LEVEL)
    names = ("estimate", "low", "high", "successes", "trials", "runs")
    rows = {name: _rounded(found[name].values.ravel()) for name in names}
    doubtful = (found.trials < figures.FEW_TRIALS) | (
        found.high - found.low > figures.WIDE_INTERVAL
    )
    rows["doubtful"] = (doubtful & (found.trials > 0)).values.ravel().tolist()
    return rows | {"method": found.attrs["method"]}


def _looks(result: xr.Dataset) -> np.ndarray:
    """Steps of the looks that are shown: the first, every k-th and the last."""
    steps = result.probe_step.values
    return steps[_shown(len(steps))]


def _shown(looks: int) -> np.ndarray:
    every = -(-looks // MOST_LOOKS)
    return np.unique([*range(0, looks, every), looks - 1])


def _cells_of(result: xr.Dataset) -> list[dict[str, float]]:
    axes = estimates.axis_names(result)
    values = [result[axis].values.tolist() for axis in axes]
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*values)]


def _incidence(result: xr.Dataset) -> list[dict]:
    """For every cell, the cumulative incidence of both causes with intervals, [looks] each."""
    few = result[["first_recovery", "diverged_at", "dead_at_start", "near_zero_at_start"]]
    looks = _looks(result)
    return [_curves(few, cell, looks) for cell in _cells_of(result)]


def _curves(result: xr.Dataset, cell: dict[str, float], looks: np.ndarray) -> dict:
    found = estimates.incidence(result, cell, looks)
    bands = [list(part) for part in zip(found.incidence, found.low, found.high, strict=True)]
    if len(bands) < 2:  # no run diverged: the interval of a count of 0 of the same runs
        none = statistics.clustered_interval(*_nothing(result, cell), LEVEL)
        bands.append([np.full(len(looks), end) for end in (none.estimate, none.low, none.high)])
    return {
        "recovered": _rounded([row.tolist() for row in bands[0]]),
        "diverged": _rounded([row.tolist() for row in bands[1]]),
        "observed": found.at_risk.tolist(),
        "trials": int(found.trials),
        "runs": int(found.clusters),
        "method": found.method,
    }


def _nothing(result: xr.Dataset, cell: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """(zeros, units at risk) of the runs of a cell, [seeds]."""
    chosen = result.sel(cell)
    units = _at_risk(chosen).sum("unit").values.ravel()
    return np.zeros_like(units), units


def _outcomes(result: xr.Dataset) -> dict:
    """For every outcome, rows [cells] of its count and of its share with its interval."""
    axes = estimates.axis_names(result)
    biased = result.outcome.isel(unit=np.flatnonzero(result.biased.values))
    rows = {}
    for outcome in OUTCOMES:
        counts = (biased == outcome).sum("unit").transpose(*axes, "seed").values
        share = statistics.clustered_interval(counts, biased.sizes["unit"], LEVEL)
        rows[OUTCOMES[outcome]] = {
            "count": counts.sum(-1).ravel().tolist(),
            "share": _rounded([part.ravel().tolist() for part in share[:3]]),
        }
    return {"rows": rows, "units": biased.sizes["unit"] * result.sizes["seed"]}


def _caption(result: xr.Dataset) -> str:
    """What was run, in one sentence."""
    config = estimates.config_of(result)
    cells = np.prod([result.sizes[axis] for axis in estimates.axis_names(result)])
    batch = "all examples" if config["batch_size"] is None else f"batch {config['batch_size']}"
    return (
        f"Task {config['task']}, hidden layers {'-'.join(map(str, config['hidden']))}, "
        f"{config['optimizer']}, {batch}, {config['steps']} steps; {cells} cells, "
        f"{result.sizes['seed']} seeds each. Dead: largest pre-activation z over "
        f"{config['probe_size'] or config['examples']} probe examples is at most 0. "
        f"For good: for {config['sustain']} steps."
    )


# --- z ribbons: one seed of every cell, trained again ---------------------------------------------

RIBBON_RULE = (
    "Seed {seed} in every cell: the one that has recoveries in the most cells. Of its units with "
    "the initial bias, the first that recovered for good; else the first that recovered; else the "
    "one at risk that began nearest to 0. Chosen to show what happens, not because it is typical. "
    "Trained again for this page: every stored event and margin came out the same, bit for bit."
)


def _ribbons(result: xr.Dataset) -> tuple[np.ndarray, str]:
    """(a ribbon or None for every cell, [axes...]; what a reader must know of them)."""
    axes = estimates.axis_names(result)
    run = result.isel(seed=_telling_seed(result)).transpose(*axes, ...)
    shape = tuple(run.sizes[axis] for axis in axes)
    ribbons = np.full(shape, None, object)
    units = _telling_units(run)
    try:
        grid = grid_from_identity(json.loads(result.attrs["identity"]))
        traced = _trace_cells(grid, int(run.seed), _cells_of(result), units)
    except ValueError as error:
        return ribbons, f"No ribbon: the run cannot be trained again here. {error}"
    cells = [run.isel(dict(zip(axes, place, strict=True))) for place in np.ndindex(shape)]
    shown = _shown(run.sizes["probe_step"])
    for place, cell, unit, trace in zip(np.ndindex(shape), cells, units, traced, strict=True):
        if _is_stored(trace.history, cell):
            rows = {name: _rounded(row[shown]) for name, row in trace.units._asdict().items()}
            ribbons[place] = {"unit": _describe_unit(cell.isel(unit=unit)), **rows}
    note = RIBBON_RULE.format(seed=int(run.seed))
    lost = sum(ribbon is None for ribbon in ribbons.flat)
    if lost:
        note += f" {lost} cells have no ribbon: trained again here, other numbers came out."
    return ribbons, note


def _at_risk(result: xr.Dataset) -> xr.DataArray:
    return result.dead_at_start & ~result.near_zero_at_start & result.biased


def _telling_seed(result: xr.Dataset) -> int:
    """The position of the seed that has lasting recoveries in the most cells."""
    recovers = ((result.outcome == Outcome.RECOVERED_SUSTAINED) & result.biased).any("unit")
    return int(np.argmax(recovers.sum(estimates.axis_names(result)).values))


def _telling_units(run: xr.Dataset) -> np.ndarray:
    """The unit of every cell of one seed that RIBBON_RULE chooses, [cells]."""
    recovered = _at_risk(run) & (run.first_recovery != NEVER)
    rank = xr.where(run.outcome == Outcome.RECOVERED_SUSTAINED, 0, xr.where(recovered, 1, 2))
    rank = xr.where(_at_risk(run), rank, xr.where(run.biased, 3, 4))
    then = xr.where(rank < 2, run.first_recovery, -run.margin_at_start)
    rank, then = (
        row.transpose(*run.margin.dims).values.reshape(-1, run.sizes["unit"])
        for row in (rank, then)
    )
    return np.lexsort((then, rank))[:, 0]


class _Traced(NamedTuple):
    history: History  # [units], of a block [lanes, units]
    units: UnitStatistics  # one unit's [looks], of a block [lanes, looks, units]


@jax.jit
def _block_traces(configs: Config, key: jax.Array, data: tuple | None) -> _Traced:
    """`grids.block_program`, returning every unit's record at every look."""
    task = tasks.make_task(configs, training.purpose_key(key, "task"), data)
    traced = functools.partial(training.run, trace_units=True)
    runs = jax.vmap(traced, in_axes=(0, None, None))(configs, task, key)
    return _Traced(runs.history, cast(UnitStatistics, runs.trace.probe_units))


def _trace_cells(
    grid: Grid, seed: int, cells: Sequence[Mapping[str, float]], units: np.ndarray
) -> list[_Traced]:
    """The records of one seed's cells, trained in the blocks that the sweep trained them in."""
    if seed not in grid.seeds:
        raise ValueError(f"seed={seed} is not one of its grid.")
    needed = grid.lanes * training.trace_bytes(grid.config, True)
    training.check_memory(needed, "use a machine with more memory")
    numbers = [_cell_number(grid, cell) for cell in cells]
    first = grid.seeds.index(seed) * grid.chunks
    blocks = sorted({first + number // grid.lanes for number in numbers})
    found: dict[int, _Traced] = {}
    wanted = dict(zip(numbers, units.tolist(), strict=True))
    for block, result in grids.run_blocks(grid, blocks, program=cast(Any, _block_traces)):
        for lane in range(grid.block_size(block)):
            number = (block - first) * grid.lanes + lane
            if number in wanted:
                found[number] = _one_unit(cast(_Traced, result), lane, wanted[number])
    return [found[number] for number in numbers]


def _cell_number(grid: Grid, cell: Mapping[str, float]) -> int:
    for name, values in grid.axes:
        if cell[name] not in values:
            raise ValueError(f"{name}={told(cell[name])} is not one of its grid.")
    place = [values.index(cell[name]) for name, values in grid.axes]
    return int(np.ravel_multi_index(place, grid.shape))


def _one_unit(block: _Traced, lane: int, unit: int) -> _Traced:
    """One run and one of its units; copied, so that the block's memory is free again."""
    return _Traced(
        jax.tree.map(lambda leaf: leaf[lane].copy(), block.history),
        jax.tree.map(lambda leaf: leaf[lane, :, unit].copy(), block.units),
    )


def _is_stored(history: History, cell: xr.Dataset) -> bool:
    """Whether a history is the stored one of a cell and seed, bit for bit."""
    return all(
        np.asarray(value).tobytes() == cell[name].values.tobytes()
        for name, value in history._asdict().items()
    )


def _describe_unit(unit: xr.Dataset) -> str:
    """Which unit it is and what became of it."""
    place = f"Unit {int(unit.unit_in_layer)} (from 0) of layer {int(unit.unit_layer)}"
    text = f"{place}, seed {int(unit.seed)}: {OUTCOMES[Outcome(int(unit.outcome))]}"
    for event, variable in (
        ("first alive again", "first_recovery"),
        ("first dead", "first_death"),
        ("run diverged", "diverged_at"),
    ):
        if int(unit[variable]) != NEVER:
            text += f", {event} at step {int(unit[variable])}"
    return text + (", no z after it" if int(unit.diverged_at) != NEVER else "")


# --- The page ------------------------------------------------------------------------------------


def _page(maps: list[dict]) -> str:
    from bokeh.resources import Resources

    data = {
        "maps": maps,
        "measures": {
            name: {
                "label": measure.label or name.replace("_", " "),
                "definition": measure.definition,
                "of_runs": measure.among is None,
            }
            for name, measure in estimates.MEASURES.items()
        },
        "few_trials": figures.FEW_TRIALS,
        "wide_interval": figures.WIDE_INTERVAL,
    }
    files = resources.files("relu_dynamics")
    scripts = [
        *Resources(mode="inline", components=["bokeh"]).js_raw,
        (files / "explorer.js").read_text(encoding="utf-8"),
    ]
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    page = string.Template((files / "explorer.html").read_text(encoding="utf-8"))
    return page.substitute(
        policy=f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'",
        title=html.escape(_title(maps)),
        data=_script_json(data),
        plots=_script_json(_plots()),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _title(maps: list[dict]) -> str:
    names = list(dict.fromkeys(" over ".join(a["label"] for a in each["axes"]) for each in maps))
    return "ReLU units that die and recover: " + "; ".join(names)


def _script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plots() -> dict[str, Any]:
    """The four empty plots by the id of the element that shows them; explorer.js fills their
    sources, which it finds by name."""
    from bokeh.embed import json_item

    made = {
        "map": _map_plot(),
        "incidence": _incidence_plot(),
        "outcomes": _outcome_plot(),
        "ribbon": _ribbon_plot(),
    }
    return {name: json_item(plot) for name, plot in made.items()}


def _source(name: str, *columns: str, rows: int = 0):
    from bokeh.models import ColumnDataSource

    return ColumnDataSource({column: [0] * rows for column in columns}, name=name)


def _plot(**settings: Any):
    """An empty plot that fills the width of its element, without tools that would take the
    page's own gestures."""
    from bokeh.plotting import figure

    plot = figure(
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools="",
        min_border_right=12,
        **settings,
    )
    plot.outline_line_color = None
    for axis in plot.axis:
        axis.update(
            axis_label_text_font=FONT,
            axis_label_text_font_style="normal",
            axis_label_text_font_size="13px",
            axis_label_text_color="#222222",
            major_label_text_font=FONT,
            major_label_text_font_size="12px",
            major_label_text_color="#222222",
            minor_tick_line_color=None,
        )
    plot.grid.grid_line_color = "#e4e4e4"
    return plot


def _hover(renderer, *lines: str, along: bool = False):
    """A tooltip of these lines, in the page's own type: Bokeh's default is too pale to read.
    `along`: anywhere above or below a point of a line."""
    from bokeh.models import HoverTool

    text = "<br>".join(lines)
    return HoverTool(
        renderers=[renderer],
        mode="vline" if along else "mouse",
        line_policy="prev",
        tooltips=f'<div style="font: 13px {FONT}; color: #1a1a1a">{text}</div>',
    )


def _map_plot():
    from bokeh.models import (
        ColorBar,
        FactorRange,
        FixedTicker,
        LinearColorMapper,
        TapTool,
    )
    from bokeh.palettes import Viridis256

    plot = _plot(
        x_range=FactorRange(name="x"), y_range=FactorRange(name="y"), height=430, name="map_plot"
    )
    cells = _source("cells", "x", "y", "value", "where", "estimate", "counts")
    colours = LinearColorMapper(palette=Viridis256, low=0, high=1, nan_color="#dcdcdc")
    size = {"x": "x", "y": "y", "width": 1, "height": 1}
    squares = plot.rect(
        **size,
        source=cells,
        fill_color={"field": "value", "transform": colours},
        line_color="white",
        line_width=0.5,
    )
    squares.nonselection_glyph = squares.selection_glyph = None
    plot.rect(
        **size,
        source=_source("doubtful", "x", "y"),
        fill_alpha=0,
        line_alpha=0,
        hatch_pattern="right_diagonal_line",
        hatch_color="white",
        hatch_alpha=0.6,
        hatch_scale=8,
        hatch_weight=1,
    )
    chosen = _source("chosen", "x", "y")
    for colour, width in (("white", 6), ("black", 2.5)):
        plot.rect(**size, source=chosen, fill_alpha=0, line_color=colour, line_width=width)
    plot.grid.grid_line_color = None
    plot.xaxis.major_label_orientation = "vertical"
    plot.xaxis.name, plot.yaxis.name = "x_axis", "y_axis"
    bar = ColorBar(
        color_mapper=colours,
        width=12,
        padding=6,
        ticker=FixedTicker(ticks=[0, 0.25, 0.5, 0.75, 1]),
        major_label_text_font=FONT,
        major_label_text_font_size="12px",
        major_label_text_color="#222222",
    )
    plot.add_layout(bar, "right")
    plot.add_tools(
        TapTool(renderers=[squares]),
        _hover(squares, "<b>@where</b>", "@estimate", "@counts"),
    )
    return plot


def _incidence_plot():
    from bokeh.models import Range1d

    plot = _plot(
        x_range=Range1d(start=0, end=1, name="steps"),
        y_range=Range1d(start=0, end=1),
        height=250,
    )
    curves = _source(
        "curves", "step", "observed",
        *(f"{cause}{end}" for cause in ("recovered", "diverged") for end in ("", "_low", "_high")),
        rows=2,  # an empty VAreaStep never returns from drawing (bokeh 3.9.2)
    )  # fmt: skip
    for cause, colour, dash in (("recovered", GREEN, "solid"), ("diverged", GREY, "dashed")):
        plot.varea_step(
            "step", f"{cause}_low", f"{cause}_high", source=curves, step_mode="after",
            fill_color=colour, fill_alpha=0.18,
        )  # fmt: skip
        plot.step(
            "step", cause, source=curves, mode="after", line_color=colour, line_dash=dash,
            line_width=2,
        )  # fmt: skip
    line = plot.line("step", "recovered", source=curves, line_alpha=0)  # steps feel no hovering
    interval = "{0}: @{0}{{0.000}} [@{0}_low{{0.000}}, @{0}_high{{0.000}}]"
    told = [interval.format(cause) for cause in ("recovered", "diverged")]
    plot.add_tools(
        _hover(line, "<b>step @step</b>", *told, "@observed units still observed", along=True)
    )
    plot.xaxis.axis_label, plot.yaxis.axis_label = "training step", "P(event by step)"
    return plot


def _outcome_plot():
    from bokeh.core.properties import value
    from bokeh.models import FactorRange, Range1d

    names = list(OUTCOMES.values())
    plot = _plot(
        x_range=Range1d(start=0, end=1.32), y_range=FactorRange(factors=names[::-1]), height=250
    )
    bars = _source("bars", "outcome", "share", "low", "high", "label", "numbers")
    drawn = plot.hbar(
        y="outcome", right="share", height=0.62, source=bars, fill_color="#56A0D3", line_color=None
    )
    plot.segment("low", "outcome", "high", "outcome", source=bars, line_color="black", line_width=2)
    plot.text(
        "high", "outcome", "label", source=bars, x_offset=8, text_baseline="middle",
        text_font=value(FONT), text_font_size="12px", text_color="#222222",
    )  # fmt: skip
    plot.xaxis.axis_label = "share of these units"
    plot.xaxis.ticker = [0, 0.25, 0.5, 0.75, 1]
    plot.ygrid.grid_line_color = None
    plot.add_tools(_hover(drawn, "<b>@outcome</b>", "@numbers"))
    return plot


def _ribbon_plot():
    from bokeh.models import Range1d, Span

    plot = _plot(x_range=Range1d(start=0, end=1, name="steps"), height=270)
    # Rows, so that the vertical range has something to begin with.
    looks = _source(
        "looks", "step", "margin", "mean", "minimum", "above", "below", "active", rows=2
    )
    plot.varea("step", "minimum", "margin", source=looks, fill_color=BLUE, fill_alpha=0.16)
    plot.varea("step", "below", "above", source=looks, fill_color=BLUE, fill_alpha=0.35)
    plot.line("step", "mean", source=looks, line_color=BLUE, line_width=2)
    margin = plot.line("step", "margin", source=looks, line_color=RED, line_width=2)
    plot.scatter("step", "margin", source=looks, size=4, color=RED)
    plot.add_layout(Span(location=0, dimension="width", line_color="black", line_dash="dashed"))
    plot.add_tools(
        _hover(
            margin,
            "<b>step @step</b>",
            "largest z @margin{0.000 a}",
            "mean @mean{0.000 a}",
            "smallest z @minimum{0.000 a}",
            "active on @active{0.0 %} of the examples",
            along=True,
        )
    )
    plot.xaxis.axis_label, plot.yaxis.axis_label = "training step", "z over the probe set"
    return plot


# --- The command ---------------------------------------------------------------------------------


def _open(folders: Sequence[str]) -> dict[str, xr.Dataset]:
    """Results by the last name of their folder, or by all that was given where two are alike."""
    names = [pathlib.Path(folder).resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = list(folders)
    return {name: store.open_result(f) for name, f in zip(names, folders, strict=True)}


def main() -> None:
    """Writes the page of stored results."""
    parser = argparse.ArgumentParser(
        prog="python -m relu_dynamics.explorer",
        description="Writes one self-contained HTML page to explore stored results.",
    )
    parser.add_argument(
        "folders", nargs="+", metavar="FOLDER", help="a sweep's output folder; several: channels"
    )
    parser.add_argument("--out", default="explorer.html", help="the page (default: %(default)s)")
    given = parser.parse_args()

    def write():
        path = explore(_open(given.folders), given.out)
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")

    cli.guard(write)


if __name__ == "__main__":
    main()
