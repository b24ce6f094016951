"""Replay: single stored runs trained again with every unit's trace."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
import xarray as xr

from relu_dynamics import store
from relu_dynamics.checks import check_path, short_repr
from relu_dynamics.config import Config
from relu_dynamics.engine import training
from relu_dynamics.engine.models import Params
from relu_dynamics.engine.step import State
from relu_dynamics.grid import Grid, grid_from_identity
from relu_dynamics.sweeps.blocks import BlockResult, run_block


class Replay(NamedTuple):
    """A stored cell, trained again by the program that trained it."""

    config: Config  # of the cell
    seed: int
    block: int
    lane: int
    result: BlockResult  # the cell's own leaves, without [lanes]: the stored numbers, bit for bit
    run: training.Run | None  # the same run alone: agrees to rounding, not bit for bit


def replay(
    source: str | os.PathLike | xr.Dataset,
    cell: Mapping[str, float],
    seed: int,
    *,
    trace_units: bool = False,
    state: State | Params | None = None,
) -> Replay:
    """Trains one stored cell again, from the stored folder alone, and checks that the numbers are
    the stored ones, bit for bit.

    Args:
      source: a sweep's output folder, or the labelled result that it returned.
      cell: the value of every axis, such as `{"learning_rate": 0.1, "initial_bias": -4.0}`.
      seed: one of the stored seeds.
      trace_units: whether to train the run alone too, with every unit's record at every step.
        A run alone is another program than a block, so it agrees with the stored numbers to
        rounding only.
      state: what the sweep's runs began with, if it was given one.

    Raises a ValueError when there is no such cell, when versions or platform differ from those
    that made the result, and when a number differs.
    """
    folder = None if isinstance(source, xr.Dataset) else check_path("source", source)
    grid = grid_from_identity(_stored_identity(source, folder), state)
    number = _cell_number(grid, cell)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed not in grid.seeds:
        raise ValueError(
            f"seed={short_repr(seed)} is not stored; use one of {short_repr(grid.seeds)}."
        )
    block = grid.seeds.index(int(seed)) * grid.chunks + number // grid.lanes
    lane = number % grid.lanes
    result = jax.tree.map(lambda leaf: leaf[lane], run_block(grid, block))
    if isinstance(source, xr.Dataset):
        stored = store.cell_records(_selected(source, {**cell, "seed": seed}))
    else:
        arrays = store.read_block(pathlib.Path(source), grid, block)
        stored = {name: value[lane] for name, value in arrays.items()}
    found = store.flatten_result(result)
    differing = [n for n in found if np.asarray(found[n]).tobytes() != stored[n].tobytes()]
    if differing:
        raise ValueError(
            f"cell {dict(cell)}, seed {seed}: {', '.join(differing)} differ from the stored ones: "
            f"{_made_otherwise(source, folder, grid)}."
        )
    values = {name: float(value[0]) for name, value in grid.values(np.array([number])).items()}
    config = dataclasses.replace(grid.config, **values)
    run = None
    if trace_units:
        run = training.train(
            config, int(seed), root_seed=grid.root_seed, state=grid.start, trace_units=True
        )
    return Replay(config, int(seed), block, lane, result, run)


def _made_otherwise(source, folder: pathlib.Path | None, grid: Grid) -> str:
    if folder is None:
        return store.result_differences(source)
    canary = store.read_canary(folder, grid)
    return store.told_differences({} if canary is None else canary.made_with)


def _selected(result: xr.Dataset, cell: Mapping[str, float]) -> xr.Dataset:
    """One cell and seed of a labelled result, which may be a part of what its sweep returned."""
    try:
        return result.sel(cell)
    except KeyError:
        raise ValueError(f"{dict(cell)} is not in this part of the result.") from None


def _stored_identity(source, folder: pathlib.Path | None):
    if folder is not None:
        return store.read_identity(folder)
    if not isinstance(source.attrs.get("identity"), str):
        raise ValueError("the result has no attribute `identity`; give one that a sweep returned.")
    return json.loads(source.attrs["identity"])


def _cell_number(grid: Grid, cell: Mapping[str, float]) -> int:
    """The number of the cell with exactly these values of all axes."""
    names = [name for name, _ in grid.axes]
    if not isinstance(cell, Mapping) or sorted(cell) != sorted(names):
        raise ValueError(
            f"cell={short_repr(cell)} must give a value of each axis: {', '.join(names)}."
        )
    for name, values in grid.axes:
        if cell[name] not in values:
            raise ValueError(
                f"{name}={short_repr(cell[name])} is not stored; use one of {short_repr(values)}."
            )
    place = [values.index(cell[name]) for name, values in grid.axes]
    return int(np.ravel_multi_index(place, grid.shape))
