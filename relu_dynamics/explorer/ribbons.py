"""Ribbons: z over the probe set of one telling unit per cell, trained again."""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import xarray as xr

from relu_dynamics import store
from relu_dynamics.checks import short_repr
from relu_dynamics.config import Config
from relu_dynamics.engine import tasks, training
from relu_dynamics.engine.keys import purpose_key
from relu_dynamics.engine.memory import check_memory, trace_bytes
from relu_dynamics.engine.models import Params
from relu_dynamics.engine.outcomes import NEVER, History, Outcome
from relu_dynamics.engine.probes import UnitStatistics
from relu_dynamics.engine.starting import Given
from relu_dynamics.engine.step import State
from relu_dynamics.explorer.numbers import OUTCOMES, at_risk, cells_of, rounded, shown_evaluations
from relu_dynamics.grid import Grid, grid_from_identity
from relu_dynamics.statistics import estimates
from relu_dynamics.sweeps.blocks import run_blocks

RIBBON_RULE = (
    "Seed {seed} in every cell: the one that has recoveries in the most cells. Of its units with "
    "the initial bias, the first that recovered for good; else the first that recovered; else the "
    "one at risk that began nearest to 0. Chosen to show what happens, not because it is typical. "
    "Trained again for this page: every stored event and margin of {which} came out the same, bit "
    "for bit."
)


def trace_ribbons(
    result: xr.Dataset, state: State | Params | None = None
) -> tuple[np.ndarray, str]:
    """(a ribbon or None for every cell, [axes...]; what a reader must know of them). `state` is
    what the sweep's runs began with, if it was given one."""
    axes = estimates.axis_names(result)
    run = result.isel(seed=_telling_seed(result)).transpose(*axes, ...)
    shape = tuple(run.sizes[axis] for axis in axes)
    ribbons = np.full(shape, None, object)
    units = _telling_units(run)
    try:
        grid = grid_from_identity(json.loads(result.attrs["identity"]), state)
        traced = _trace_cells(grid, int(run.seed), cells_of(result), units)
    except ValueError as error:
        return ribbons, f"No ribbon: the run cannot be trained again here. {error}"
    cells = [run.isel(dict(zip(axes, place, strict=True))) for place in np.ndindex(shape)]
    shown = shown_evaluations(run.sizes["probe_step"])
    for place, cell, unit, trace in zip(np.ndindex(shape), cells, units, traced, strict=True):
        if _is_stored(trace.history, cell):
            rows = {name: rounded(row[shown]) for name, row in trace.units._asdict().items()}
            ribbons[place] = {"unit": _describe_unit(cell.isel(unit=unit)), **rows}
    return ribbons, _note(result, int(run.seed), sum(ribbon is None for ribbon in ribbons.flat))


def _note(result: xr.Dataset, seed: int, lost: int) -> str:
    """What a reader must know of a map's ribbons, when so many cells have none."""
    count = int(np.prod([result.sizes[axis] for axis in estimates.axis_names(result)]))
    why = f"trained again here, other numbers came out: {store.result_differences(result)}."
    if lost == count:
        return f"No ribbon: {why}"
    if not lost:
        return RIBBON_RULE.format(seed=seed, which="these runs")
    rule = RIBBON_RULE.format(seed=seed, which=f"the {count - lost} runs with a ribbon")
    return f"{rule} {lost} cells have no ribbon: {why}"


def _telling_seed(result: xr.Dataset) -> int:
    """The position of the seed that has lasting recoveries in the most cells."""
    recovers = ((result.outcome == Outcome.RECOVERED_SUSTAINED) & result.biased).any("unit")
    return int(np.argmax(recovers.sum(estimates.axis_names(result)).values))


def _telling_units(run: xr.Dataset) -> np.ndarray:
    """The unit of every cell of one seed that RIBBON_RULE chooses, [cells]."""
    recovered = at_risk(run) & (run.first_recovery != NEVER)
    rank = xr.where(run.outcome == Outcome.RECOVERED_SUSTAINED, 0, xr.where(recovered, 1, 2))
    rank = xr.where(at_risk(run), rank, xr.where(run.biased, 3, 4))
    then = xr.where(rank < 2, run.first_recovery, -run.margin_at_start)
    rank, then = (
        row.transpose(*run.margin.dims).values.reshape(-1, run.sizes["unit"])
        for row in (rank, then)
    )
    return np.lexsort((then, rank))[:, 0]


class _Traced(NamedTuple):
    history: History  # [units], of a block [lanes, units]
    units: UnitStatistics  # one unit's [evaluations], of a block [lanes, evaluations, units]


@jax.jit
def _block_traces(
    configs: Config, key: jax.Array, data: tuple | None, given: Given | None
) -> _Traced:
    """`blocks.block_program`, returning every unit's record at every evaluation."""
    task = tasks.make_task(configs, purpose_key(key, "task"), data)
    traced = functools.partial(training.run, trace_units=True, given=given)
    runs = jax.vmap(traced, in_axes=(0, None, None))(configs, task, key)
    return _Traced(runs.history, cast(UnitStatistics, runs.trace.probe_units))


def _trace_cells(
    grid: Grid, seed: int, cells: Sequence[Mapping[str, float]], units: np.ndarray
) -> list[_Traced]:
    """The records of one seed's cells, trained in the blocks that the sweep trained them in."""
    if seed not in grid.seeds:
        raise ValueError(f"seed={seed} is not one of its grid.")
    needed = grid.lanes * trace_bytes(grid.config, True)
    check_memory(needed, "use a machine with more memory")
    numbers = [_cell_number(grid, cell) for cell in cells]
    first = grid.seeds.index(seed) * grid.chunks
    blocks = sorted({first + number // grid.lanes for number in numbers})
    found: dict[int, _Traced] = {}
    wanted = dict(zip(numbers, units.tolist(), strict=True))
    for block, result in run_blocks(grid, blocks, program=cast(Any, _block_traces)):
        for lane in range(grid.block_size(block)):
            number = (block - first) * grid.lanes + lane
            if number in wanted:
                found[number] = _one_unit(cast(_Traced, result), lane, wanted[number])
    return [found[number] for number in numbers]


def _cell_number(grid: Grid, cell: Mapping[str, float]) -> int:
    for name, values in grid.axes:
        if cell[name] not in values:
            raise ValueError(f"{name}={short_repr(cell[name])} is not one of its grid.")
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
