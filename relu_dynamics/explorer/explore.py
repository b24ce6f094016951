"""Explore: a result is checked, turned into numbers and ribbons, and written as one page."""

import itertools
import os
import pathlib
from collections.abc import Mapping

import xarray as xr

from relu_dynamics import store
from relu_dynamics.checks import short_repr
from relu_dynamics.config import LABELS
from relu_dynamics.engine.models import Params
from relu_dynamics.engine.step import State
from relu_dynamics.explorer.checks import check_bokeh, check_results
from relu_dynamics.explorer.numbers import (
    PROVENANCE,
    axis_of,
    caption,
    incidence,
    measure_of,
    outcomes,
    shown_steps,
)
from relu_dynamics.explorer.page import render
from relu_dynamics.explorer.ribbons import trace_ribbons
from relu_dynamics.statistics import estimates


def explore(
    result: xr.Dataset | Mapping[str, xr.Dataset],
    path: str | os.PathLike = "explorer.html",
    state: State | Params | None = None,
) -> pathlib.Path:
    """Writes a result as one HTML page to explore in a browser, and returns its path.

    Args:
      result: what `sweep` or `open_result` returned, or a mapping of names (channels, say) to such
        results, between which the page switches. The first two axes make the map; of further
        axes, every value is a map of its own.
      path: where the page is written; an existing file is replaced.
      state: what the sweeps' runs began with, if they were given a state.

    One seed of every result is trained again for the z ribbons: the sweep's time over its number
    of seeds, and a compilation. Where that does not give the stored numbers (another JAX, platform
    or kind of processor) the page says so and has no ribbons.

    Raises a `MissingBokehError` without the extra `explorer`, and a ValueError for what is no
    result, for more than 4096 cells, and for a path that cannot be written.
    """
    check_bokeh()
    named = check_results(result)
    maps = [each for name, one in named.items() for each in build_maps(name, one.compute(), state)]
    path = pathlib.Path(path)
    try:
        store.write_whole(path, render(maps).encode())
    except OSError as error:
        raise store.NotWritableError(
            f"path={short_repr(str(path))} cannot be written ({error.strerror}); choose another."
        ) from None
    return path


def build_maps(name: str, result: xr.Dataset, state: State | Params | None = None) -> list[dict]:
    """One map for every value of the axes beyond the second, as plain values for JSON."""
    axes = estimates.axis_names(result)
    ribbons, note = trace_ribbons(result, state)
    maps = []
    for place in itertools.product(*(range(result.sizes[axis]) for axis in axes[2:])):
        part = result.isel({axis: [i] for axis, i in zip(axes[2:], place, strict=True)})
        values = [f"{LABELS[axis]} {part[axis].values[0]:g}" for axis in axes[2:]]
        maps.append(
            {
                "definition": estimates.config_of(result)["definition"],
                "name": ", ".join([name, *values]),
                "axes": [axis_of(part, axis) for axis in axes[:2]],
                "measures": {measure: measure_of(part, measure) for measure in estimates.MEASURES},
                "incidence": incidence(part),
                "outcomes": outcomes(part),
                "steps": estimates.config_of(result)["steps"],
                "evaluations": shown_steps(result).tolist(),
                "ribbons": ribbons[(..., *place)].ravel().tolist(),
                "ribbon_note": note,
                "caption": caption(result),
                "provenance": [[key, str(result.attrs.get(key, "unknown"))] for key in PROVENANCE],
            }
        )
    return maps
