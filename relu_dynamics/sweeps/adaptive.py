"""Adaptive sweeps: more seeds where the estimate is still uncertain.

A grid is trained in rounds. The first gives every cell the same few seeds; each later one gives
one more seed to the chunks of cells (a chunk is what one block trains of a seed) whose intervals
are widest. Nothing is assumed about the boundary's shape: it may fold, and seeds follow what was
seen, cell by cell. Using the data to decide where to continue breaks ordinary intervals, so these
are confidence sequences (`statistics.confidence_sequence`): all of a cell's intervals, at whatever
number of seeds the sweep stops, together hold the truth with the requested probability.

Blocks, keys and folder are those of `sweep` of the same grid: an adaptive sweep is a part of
the full one, bit for bit. What to train next is a function of what was found, so after a stop
the same call makes the same choices again and trains only what is missing.
"""

import json
import os
from collections.abc import Mapping, Sequence

import numpy as np
import rich.console
import rich.progress
import xarray as xr

from relu_dynamics import statistics, store
from relu_dynamics.checks import check_choice, short_repr
from relu_dynamics.config import Config
from relu_dynamics.engine.outcomes import DEFINITIONS
from relu_dynamics.grid import Grid, make_grid
from relu_dynamics.settings import check_jax
from relu_dynamics.statistics import estimates
from relu_dynamics.sweeps.blocks import run_blocks
from relu_dynamics.sweeps.plan import block_bytes, check_at_risk, open_sweep_folder
from relu_dynamics.sweeps.same_bits import SameBits

LANES = 16  # cells of a chunk: few, to put seeds where they are needed

ROUND_BLOCKS = 8  # at most, and of at most a quarter of the chunks; never by the number of devices


def sweep(
    config: Config,
    axes: Mapping[str, Sequence[float]],
    seeds: int,
    *,
    blocks: int,
    first_seeds: int = 4,
    measure: str = "recovered",
    root_seed: int = 0,
    lanes: int = LANES,
    level: float = 0.95,
    out: str | os.PathLike | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Trains the part of a grid that a budget allows, where its estimates are most uncertain.

    Args:
      config, axes, root_seed, lanes: as in `sweep`.
      seeds: the most seeds that a cell may get.
      blocks: how many blocks may be trained; a block is `lanes` neighbouring cells of one seed.
      first_seeds: seeds that every cell gets, whatever is found.
      measure: of `estimates.MEASURES`.
      level: of the intervals of a cell together, at all numbers of seeds.
      out: a folder that keeps every finished block; the same call, or one with a larger budget,
        resumes there. None keeps everything in memory.
      progress: whether to draw a progress bar on standard error.

    Returns:
      estimate, low, high [axes...]: the mean over seeds of a run's proportion, with its confidence
      sequence; runs [axes...] that it rests on, trials [axes...] units of them; and proportion
      [axes..., seed], nan where there is no run or no unit in the denominator.

    Raises a ValueError on bad input, before anything is traced or written.
    """
    check_jax()
    check_choice("measure", measure, tuple(estimates.MEASURES))
    if isinstance(seeds, bool) or not isinstance(seeds, int | np.integer):
        raise ValueError(f"seeds={short_repr(seeds)} must be the most seeds that a cell may get.")
    grid = make_grid(config, axes, int(seeds), root_seed=root_seed, lanes=lanes)
    statistics.confidence_sequence(0.0, 0, level)  # refuses a bad level
    for name, value in (("first_seeds", first_seeds), ("blocks", blocks)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise ValueError(f"{name}={short_repr(value)} must be a whole number.")
    if not 1 <= first_seeds <= seeds:
        raise ValueError(
            f"first_seeds={short_repr(first_seeds)} must be between 1 and seeds={seeds}."
        )
    if not first_seeds * grid.chunks <= blocks <= grid.blocks:
        raise ValueError(
            f"blocks={short_repr(blocks)} must be between first_seeds * chunks = "
            f"{first_seeds * grid.chunks} and all {grid.blocks} of the grid."
        )
    if out is None:
        folder = None
        check_at_risk(grid)
    else:
        folder = open_sweep_folder(out, grid, blocks * block_bytes(grid))
        store.finished_blocks(folder, grid, rich.console.Console(stderr=True).print)
    return _train(grid, folder, blocks, first_seeds, measure, level, progress)


def _train(grid, folder, budget, first_seeds, measure, level, progress) -> xr.Dataset:
    shape = (grid.cells, len(grid.seeds))
    successes, trials = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)  # -1: not trained
    done = np.zeros(grid.chunks, int)  # seeds of every chunk
    same = SameBits(grid, folder)
    turn = [chunk for _ in range(first_seeds) for chunk in range(grid.chunks)]
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(console=console, disable=not progress) as bar:
        task = bar.add_task("training", total=budget)
        while turn:
            wanted = []
            for chunk in turn:
                wanted.append(int(done[chunk] * grid.chunks + chunk))
                done[chunk] += 1
            for block, arrays in _obtain(same, wanted):
                cells = grid.block_cells(block)[: grid.block_size(block)]
                seed = block // grid.chunks
                successes[cells, seed], trials[cells, seed] = _counts(grid, block, arrays, measure)
                bar.advance(task)
            interval = _intervals(successes, trials, level)
            room = min(ROUND_BLOCKS, -(-grid.chunks // 4), budget - int(done.sum()))
            turn = _widest(grid, interval.high - interval.low, done)[:room]
    return _labelled(grid, successes, trials, interval, measure, level)


def _widest(grid: Grid, widths: np.ndarray, done: np.ndarray) -> list[int]:
    """The chunks with seeds left, those first whose cells' intervals are widest in sum."""
    chunks = np.arange(grid.cells) // grid.lanes
    total = np.bincount(chunks, widths, grid.chunks)
    return [int(c) for c in np.argsort(-total, kind="stable") if done[c] < len(grid.seeds)]


def _obtain(same: SameBits, blocks: list[int]):
    """Yields (block, flat arrays) of all blocks: read where they are stored, else trained."""
    grid, folder = same.grid, same.folder
    missing = []
    for block in blocks:
        if folder is not None and store.is_done(folder, grid, block):
            yield block, store.read_block(folder, grid, block)
        else:
            missing.append(block)
    for block, result in same.run(lambda blocks: run_blocks(grid, blocks), missing):
        if folder is not None:
            with store.writing(folder):
                store.write_block(folder, grid, block, result)
        yield block, store.flatten_result(result)


def _counts(grid: Grid, block: int, arrays, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """(successes, trials) of a measure in every lane of a block that is not padding."""
    lanes = tuple(map(float, range(grid.block_size(block))))
    row = Grid(grid.config, (("learning_rate", lanes),), (grid.block_seed(block),), 0, grid.lanes)
    result = store.label(row, arrays, row.seeds)
    result.attrs["identity"] = json.dumps(row.identity)
    successes, trials = estimates.counts(result, measure)
    return successes[:, 0], trials[:, 0]


def _intervals(successes: np.ndarray, trials: np.ndarray, level: float) -> statistics.Interval:
    counted = trials > 0
    proportion = np.where(counted, successes / np.maximum(trials, 1), 0.0)
    return statistics.confidence_sequence(proportion.sum(-1), counted.sum(-1), level)


def _labelled(grid, successes, trials, interval, measure, level) -> xr.Dataset:
    names = tuple(name for name, _ in grid.axes)
    shaped = lambda values: (names, values.reshape(grid.shape))  # noqa: E731
    proportion = np.where(trials > 0, successes / np.maximum(trials, 1), np.nan)
    data = {
        "estimate": shaped(interval.estimate),
        "low": shaped(interval.low),
        "high": shaped(interval.high),
        "runs": shaped((trials >= 0).sum(-1)),
        "trials": shaped(np.maximum(trials, 0).sum(-1)),
        "proportion": ((*names, "seed"), proportion.reshape(*grid.shape, -1)),
    }
    coordinates = {name: list(values) for name, values in grid.axes} | {"seed": list(grid.seeds)}
    attributes = {
        "measure": measure,
        "definition": DEFINITIONS[grid.config.definition].say(
            estimates.MEASURES[measure].definition
        ),
        "level": level,
        "method": interval.method,
        "identity": json.dumps(grid.identity),
    }
    return xr.Dataset(data, coordinates, attributes | store.provenance(grid))
