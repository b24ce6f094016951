"""Grids: vmapped runs in fixed blocks on every local device. The only file that knows of devices.

`block_program` is `jax.vmap` of a run over the lanes of a block. Whole blocks go to devices,
each running the same single-device program: what a run computes does not depend on how many
devices there are, on its neighbours in the block, or on the order of the blocks.
"""

import concurrent.futures
import dataclasses
import os
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.progress
import xarray as xr

from relu_dynamics import outcomes, store, tasks, training
from relu_dynamics.axes import Grid, make_grid
from relu_dynamics.config import Config
from relu_dynamics.outcomes import History
from relu_dynamics.probes import LayerSummary


class BlockResult(NamedTuple):
    """What a block returns; every leaf has a leading [lanes] axis."""

    history: History  # [lanes, units]; diverged_at [lanes]
    probe_layers: LayerSummary  # [lanes, probes + 1, layers]
    loss: jax.Array  # [lanes, probes] mean training loss between two looks
    held_loss: jax.Array  # [lanes]
    held_error: jax.Array  # [lanes]


def use_all_cores() -> int:
    """Lets JAX see one CPU device a core, and returns how many local devices there are.

    Call it before the first JAX computation of a process; later it has no effect, since JAX
    fixes its devices at the first use. On an accelerator it changes nothing.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        jax.config.update("jax_num_cpu_devices", cores or 1)
    except RuntimeError:  # the backend already runs: it keeps its devices
        pass
    return jax.local_device_count()


@jax.jit
def block_program(configs: Config, key: jax.Array, data: tuple | None) -> BlockResult:
    """Trains all lanes of a block: configs with [lanes] traced fields, one run key, raw data."""
    task = tasks.make_task(configs, training.purpose_key(key, "task"), data)
    runs = jax.vmap(training.run, in_axes=(0, None, None))(configs, task, key)
    return BlockResult(
        runs.history, runs.trace.probe_layers, runs.trace.loss, runs.held_loss, runs.held_error
    )


def block_configs(grid: Grid, cells: np.ndarray) -> Config:
    """The configs of the given cells: every traced field is a float32 array of their number."""
    base = jax.tree.map(lambda value: np.full(len(cells), value, np.float32), grid.config)
    return dataclasses.replace(base, **grid.values(cells))


def run_block(
    grid: Grid,
    block: int,
    device: jax.Device | None = None,
    program: Callable[..., BlockResult] | None = None,
) -> BlockResult:
    """The result of one block as host arrays, padding removed. `program` stands in for
    `block_program`, with its arguments."""
    configs = block_configs(grid, grid.block_cells(block))
    key = training.run_key(grid.root_seed, grid.block_seed(block))
    arguments = jax.device_put((configs, key, tasks.load_data(grid.config)), device)
    size = grid.block_size(block)
    result = (program or block_program)(*arguments)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:size], result)


def run_blocks(
    grid: Grid,
    blocks: Iterable[int],
    devices: list[jax.Device] | None = None,
    program: Callable[..., BlockResult] | None = None,
) -> Iterator[tuple[int, BlockResult]]:
    """Yields (block, result) as blocks finish, on all local devices at once.

    When the caller stops early (or an exception such as Ctrl-C arrives) blocks not yet started
    are dropped and those under way are waited for.
    """
    devices = devices or jax.local_devices()
    free: queue.SimpleQueue = queue.SimpleQueue()
    for device in devices:
        free.put(device)

    def work(block):
        device = free.get()
        try:
            return run_block(grid, block, device, program)
        finally:
            free.put(device)

    waiting = iter(blocks)
    with concurrent.futures.ThreadPoolExecutor(len(devices)) as pool:
        # A short queue: results stay on the host only until the caller has taken them.
        running = {}
        try:
            while True:
                while (
                    len(running) < 2 * len(devices) and (block := next(waiting, None)) is not None
                ):
                    running[pool.submit(work, block)] = block
                if not running:
                    return
                done, _ = concurrent.futures.wait(
                    running, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    yield running.pop(future), future.result()
        finally:
            for future in running:
                future.cancel()


@jax.jit
def _dead_at_start(configs: Config, key: jax.Array, data: tuple | None) -> jax.Array:
    task = tasks.make_task(configs, training.purpose_key(key, "task"), data)

    def count(config):
        params = training.start(config, key).params
        statistics, _ = training.look(config, params, task.probe)
        return jnp.sum((statistics.margin <= 0)[biased_slice(config)])

    return jax.vmap(count)(configs)


def biased_slice(config: Config) -> slice:
    """Where the units with the initial bias stand on the axis of all units."""
    first = sum(config.hidden[: config.biased_layer - 1])
    return slice(first, first + config.biased_units)


def check_at_risk(grid: Grid) -> int:
    """How many units of the first seed are at risk; raises a ValueError when there are none
    in any cell of any seed. Costs one look at step 0, no training."""
    data = tasks.load_data(grid.config)
    total = 0
    for seed in grid.seeds:
        key = training.run_key(grid.root_seed, seed)
        for chunk in range(grid.chunks):
            configs = block_configs(grid, grid.block_cells(chunk))
            total += int(_dead_at_start(configs, key, data)[: grid.block_size(chunk)].sum())
        if total:
            return total
    raise ValueError(
        f"no unit is dead at step 0 in any of {grid.runs} runs, so there is nothing to recover; "
        f"use a more negative initial_bias than {_lowest_bias(grid)}."
    )


def _lowest_bias(grid: Grid) -> float:
    return min(dict(grid.axes).get("initial_bias", (grid.config.initial_bias,)))


def block_bytes(grid: Grid) -> int:
    """Bytes that one block's result holds, padding included."""
    configs = block_configs(grid, grid.block_cells(0))
    key = training.run_key(0, 0)
    shapes = jax.eval_shape(block_program, configs, key, tasks.load_data(grid.config))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def tally(grid: Grid, result: BlockResult) -> tuple[int, int]:
    """(at risk, recovered sustained) in one block, of the units that got the initial bias."""
    where = (slice(None), biased_slice(grid.config))
    codes = outcomes.classify(result.history)[where]
    at_risk = result.history.dead_at_start[where]
    sustained = codes == outcomes.Outcome.RECOVERED_SUSTAINED
    return int(at_risk.sum()), int(sustained.sum())


def sweep(
    config: Config,
    axes: Mapping[str, Sequence[float]],
    seeds: int | Sequence[int],
    *,
    root_seed: int = 0,
    lanes: int | None = None,
    out: str | os.PathLike | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Trains every run of a grid and returns the labelled result.

    Args:
      config: the base config; `axes` overrides its fields.
      axes: traced field -> values, such as `{"learning_rate": [0.01, 0.1]}`.
      seeds: how many seeds a cell has, or their list.
      root_seed: decides all noise together with the seed.
      lanes: runs of a block; by default as the config says. Part of the result's identity.
      out: a folder that keeps every finished block, so that the same call continues after a
        stop, and the labelled result as `results.zarr`. None keeps everything in memory.
      progress: whether to draw a progress bar on standard error.

    Raises a ValueError on bad input, before anything is traced or written.
    """
    grid = make_grid(config, axes, seeds, root_seed=root_seed, lanes=lanes)
    return sweep_grid(grid, out=out, progress=progress)


def sweep_grid(
    grid: Grid, *, out: str | os.PathLike | None = None, progress: bool = False
) -> xr.Dataset:
    """`sweep` for a grid that is already made."""
    if out is None:
        needed = 3 * grid.blocks * block_bytes(grid)  # blocks, their join and its labelled copy
        training.check_memory(needed, "give out=FOLDER to stream blocks to disk, or fewer seeds")
    # A folder of another grid is refused first, and "nothing is dead" before a folder is made.
    if out is not None:
        store.check_folder(out, grid)
    check_at_risk(grid)
    attributes = store.provenance(grid)
    if out is None:
        blocks = {}
        for block, result in _watched(grid, range(grid.blocks), progress):
            blocks[block] = store.flatten_result(result)
        return store.join(grid, blocks.__getitem__, attributes)
    folder = store.open_folder(out, grid)
    console = rich.console.Console(stderr=True)
    done = set(store.finished_blocks(folder, grid, console.print))
    started = time.monotonic()
    missing = [block for block in range(grid.blocks) if block not in done]
    for block, result in _watched(grid, missing, progress, len(done)):
        store.write_block(folder, grid, block, result)
    if missing or not (folder / store.RESULT_FOLDER).is_dir():
        attributes |= {
            "seconds_training": f"{time.monotonic() - started:.2f}",
            "blocks_trained": str(len(missing)),
        }
        store.build_result(folder, grid, attributes)
    return store.open_result(folder)


def _watched(grid, blocks, progress, done=0):
    """Yields from `run_blocks` under a progress bar: blocks, rate, time left, recovered so far."""
    columns = [
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("blocks"),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.fields[facts]}"),
    ]
    console = rich.console.Console(stderr=True)
    runs = at_risk = recovered = 0
    with rich.progress.Progress(*columns, console=console, disable=not progress) as bar:
        task = bar.add_task("training", total=grid.blocks, completed=done, facts="compiling")
        started = time.monotonic()
        for block, result in run_blocks(grid, blocks):
            yield block, result
            new_at_risk, new_recovered = tally(grid, result)
            runs += grid.block_size(block)
            at_risk, recovered = at_risk + new_at_risk, recovered + new_recovered
            rate = runs * grid.config.steps / (time.monotonic() - started)
            facts = f"{rate:,.0f} run-steps/s, {recovered:,} of {at_risk:,} dead units recovered"
            bar.update(task, advance=1, facts=facts)
