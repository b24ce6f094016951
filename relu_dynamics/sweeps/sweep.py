"""Sweeps: a grid trained block by block, in memory or to a folder that can be resumed."""

import functools
import os
import pathlib
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

import rich.console
import rich.progress
import xarray as xr

from relu_dynamics import store
from relu_dynamics.config import Config
from relu_dynamics.engine.models import Params
from relu_dynamics.engine.step import State
from relu_dynamics.grid import Grid, make_grid
from relu_dynamics.sweeps.blocks import BlockResult, Device, run_blocks
from relu_dynamics.sweeps.executors import RETRIES, AnyExecutor, run_blocks_on
from relu_dynamics.sweeps.plan import Plan, Shard, plan_sweep, print_resources, tally
from relu_dynamics.sweeps.same_bits import SameBits


def sweep(
    config: Config,
    axes: Mapping[str, Sequence[float]],
    seeds: int | Sequence[int],
    *,
    root_seed: int = 0,
    lanes: int | None = None,
    out: str | os.PathLike | None = None,
    progress: bool = False,
    shard: Shard = None,
    executor: AnyExecutor | None = None,
    state: State | Params | None = None,
) -> xr.Dataset:
    """Trains every run of a grid and returns the labelled result.

    Args:
      config: the base config; `axes` overrides its fields.
      axes: traced field -> values, such as `{"learning_rate": [0.01, 0.1]}`.
      seeds: seeds per cell, as their number or a list.
      root_seed: decides all noise together with the seed.
      lanes: runs of a block; by default as the config says. Part of the result's identity.
      out: a folder that keeps every finished block, so the same call continues after a
        stop, and the labelled result as `results.zarr`. None keeps everything in memory.
      progress: whether to draw a progress bar on standard error.
      shard: (i, n) or "i/n" trains only the blocks b with b % n == i; any number of processes, on
        any hosts, share one `out`. "auto" takes it from `jax.distributed` or a SLURM array. None
        is all blocks (of a `jax.distributed` process: its own).
      executor: trains on the workers of a `concurrent.futures.Executor` (or of those that a
        function returns) instead of this process's devices.
      state: what every run begins with instead of what the config initializes: parameters that you
        have, or a `State`, whose optimizer's memory is kept too. Seeds then differ in data and
        minibatches only, steps count from 0, and `initial_bias` is added as always (0 leaves the
        biases alone). A digest of it is part of the result's identity.

    None of `out`, `progress`, `shard` and `executor` changes a bit of the result.

    Raises a ValueError on bad input, before anything is traced or written, and an
    `UnfinishedError` when a shard is done and blocks of others are missing.
    """
    grid = make_grid(config, axes, seeds, root_seed=root_seed, lanes=lanes, state=state)
    return sweep_grid(grid, out=out, progress=progress, shard=shard, executor=executor)


def sweep_grid(
    grid: Grid,
    *,
    out: str | os.PathLike | None = None,
    progress: bool = False,
    shard: Shard = None,
    executor: AnyExecutor | None = None,
    devices: list[Device] | None = None,
) -> xr.Dataset:
    """`sweep` for a grid that is already made, on some of the local devices (all by default)."""
    plan = plan_sweep(grid, out=out, shard=shard, executor=executor, devices=devices)
    if progress:
        print_resources(plan)
    return (_sweep_in_memory if plan.folder is None else _sweep_to_folder)(plan, progress)


def _sweep_in_memory(plan: Plan, progress: bool) -> xr.Dataset:
    grid = plan.grid
    attributes = store.provenance(grid)
    trained = _train(plan, SameBits(grid), range(grid.blocks), 0, progress)
    blocks = ((block, store.flatten_result(result)) for block, result in trained)
    records = store.join(grid, blocks, 0, len(grid.seeds))
    return store.label(grid, records, grid.seeds).assign_attrs(attributes)


def _sweep_to_folder(plan: Plan, progress: bool) -> xr.Dataset:
    """Trains what is missing of a shard; the process that then finds all blocks makes the
    result."""
    report = rich.console.Console(stderr=True).print
    grid, folder = plan.grid, cast(pathlib.Path, plan.folder)
    number, shards = plan.shard
    attributes = store.provenance(grid)
    started = time.monotonic()
    trained = 0
    same = SameBits(grid, folder)
    for attempt in range(RETRIES + 1):
        with store.writing(folder):
            done = set(store.finished_blocks(folder, grid, report))
        missing = [b for b in range(number, grid.blocks, shards) if b not in done]
        blocks = _still_missing(grid, folder, missing)
        for block, result in _train(plan, same, blocks, len(done), progress):
            with store.writing(folder):
                store.write_block(folder, grid, block, result)
            trained += 1
        left = grid.blocks - len(store.stored_blocks(folder, grid))
        if left:
            raise store.UnfinishedError(
                f"shard {number}/{shards} is done; {left:,} of {grid.blocks:,} blocks are left to "
                "others. The last of them, or the same command without a shard, makes the result."
            )
        if not trained and store.result_is_whole(folder, grid):
            break
        attributes |= {
            "seconds_training": f"{time.monotonic() - started:.2f}",
            "blocks_trained": str(trained),
        }
        try:
            with store.writing(folder):
                store.build_result(folder, grid, attributes)
            break
        except store.BlockError as error:  # damaged since, or set aside by another process
            if attempt == RETRIES:
                raise
            report(f"{error}: checking the blocks again")
    return store.open_result(folder)


def _still_missing(grid: Grid, folder: pathlib.Path, missing: list[int]) -> Iterator[int]:
    """The missing blocks that no other process has finished when their turn comes.

    Every process begins at a random block, so several in one folder share the work.
    """
    first = secrets.randbelow(max(len(missing), 1))
    for block in missing[first:] + missing[:first]:
        if not store.is_done(folder, grid, block):
            yield block


def _train(
    plan: Plan, same: SameBits, blocks: Iterable[int], done: int, progress: bool
) -> Iterator[tuple[int, BlockResult]]:
    """Yields (block, result) from the devices or the executor under a progress bar: blocks, rate,
    time left, recovered so far."""
    grid = plan.grid
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
    word = grid.config.definition
    with rich.progress.Progress(*columns, console=console, disable=not progress) as bar:
        task = bar.add_task("training", total=grid.blocks, completed=done, facts="compiling")
        started = time.monotonic()
        train = functools.partial(run_blocks, grid, devices=plan.devices)
        if plan.executor is not None:
            source = run_blocks_on(plan.executor, grid, blocks, console.print, same)
        elif plan.folder is not None:
            source = same.run(train, blocks)
        else:
            source = train(blocks)
        for block, result in source:
            yield block, result
            if not progress:
                continue
            new_at_risk, new_recovered = tally(grid, result)
            runs += grid.block_size(block)
            at_risk, recovered = at_risk + new_at_risk, recovered + new_recovered
            rate = runs * grid.config.steps / (time.monotonic() - started)
            facts = f"{rate:,.0f} run-steps/s, {recovered:,} of {at_risk:,} {word} units recovered"
            bar.update(task, advance=1, facts=facts)
