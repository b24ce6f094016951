"""The plan of a sweep: what is refused, which blocks belong to this process, what it will take."""

import concurrent.futures
import dataclasses
import functools
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relu_dynamics import store
from relu_dynamics.checks import short_repr
from relu_dynamics.config import Config
from relu_dynamics.engine import outcomes, tasks, training
from relu_dynamics.engine.activations import activation_of
from relu_dynamics.engine.evaluation import evaluate_judged
from relu_dynamics.engine.keys import run_key
from relu_dynamics.engine.memory import check_memory, free_programs
from relu_dynamics.engine.starting import Given
from relu_dynamics.grid import Grid
from relu_dynamics.settings import check_jax
from relu_dynamics.sweeps.blocks import (
    BlockResult,
    Device,
    OutOfMemoryError,
    block_configs,
    block_devices,
    compile_program,
    make_block_task,
    program_of,
    quick_options,
)
from relu_dynamics.sweeps.executors import AnyExecutor

CLASSIFYING_BYTES = 8  # a unit: `outcomes.classify` holds seven conditions and the outcome

Shard = tuple[int, int] | str | None


def check_shard(shard: Shard) -> tuple[int, int] | None:
    """(number, of how many) of a shard given as a pair, as "i/n" or as "auto"; None: no shard.

    "auto" asks, in this order: `jax.distributed` when it is initialized (a process is a shard),
    then a SLURM array's variables (a task is a shard). Numbers begin at 0. Raises a ValueError
    that names what is wrong.
    """
    if shard is None or shard == "auto":
        return _process_shard() or (_slurm_shard() if shard == "auto" else None)
    text = shard
    if isinstance(shard, str):
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", shard)
        if not match:
            raise ValueError(f'shard={short_repr(shard)} must be i/n, such as 0/4, or "auto".')
        shard = int(match[1]), int(match[2])
    if not (
        isinstance(shard, tuple)
        and len(shard) == 2
        and all(isinstance(n, int) and not isinstance(n, bool) for n in shard)
        and 0 <= shard[0] < shard[1]
    ):
        raise ValueError(
            f"shard={short_repr(text)} must be i/n with 0 <= i < n, such as 0/4 or 3/4."
        )
    return shard


def _process_shard() -> tuple[int, int] | None:
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        return jax.process_index(), jax.process_count()
    return None


def _slurm_shard() -> tuple[int, int] | None:
    names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "STEP", "COUNT")]
    found = {name: os.environ[name] for name in names if os.environ.get(name)}
    if names[0] not in found:
        return None
    if not all(re.fullmatch("[0-9]{1,9}", text) for text in found.values()):
        raise ValueError(f"{found} must be whole numbers; give --shard i/n.")
    task = int(found[names[0]])
    first, last, step, count = (int(found[n]) if n in found else None for n in names[1:])
    step, first = step or 1, first or 0
    total = count if last is None else (last - first) // step + 1
    place = (task - first) // step
    if not total or (count or total) != total or (task - first) % step or not 0 <= place < total:
        raise ValueError(f"{found} is not an array of equal steps; give --shard i/n.")
    return place, total


def _dead_at_start(
    configs: Config, key: jax.Array, data: tuple | None, given: Given | None
) -> jax.Array:
    task, axis = make_block_task(configs, key, data)

    def count(config, task):
        params = training.start(config, key, given).params
        statistics, _ = evaluate_judged(config, params, task.probe)
        return jnp.sum((statistics.margin <= 0)[biased_slice(config)])

    return jax.vmap(count, in_axes=(0, axis))(configs, task)


@functools.cache
def _start_program() -> Callable[..., jax.Array]:
    return jax.jit(_dead_at_start, compiler_options=quick_options(0))


def biased_slice(config: Config) -> slice:
    """The place of the units with the initial bias on the axis of all units."""
    first = sum(config.hidden[: config.biased_layer - 1])
    return slice(first, first + config.biased_units)


def check_at_risk(grid: Grid) -> None:
    """Raises a ValueError when no unit is at risk in any cell of any seed. Costs an evaluation at
    step 0, mostly of one block, no training. A grid whose initial biases are all 0 asks about
    death, not about recovery: it has no units at risk."""
    if not any(dict(grid.axes).get("initial_bias", (grid.config.initial_bias,))):
        return
    if not any(_at_risk(grid, grid.config.definition)):
        raise ValueError(
            f"no unit is {grid.config.definition} at step 0 in any of {grid.runs} runs, so there "
            f"is nothing to recover; {_at_risk_remedy(grid)}"
        )


def _at_risk(grid: Grid, definition: str) -> Iterator[int]:
    """How many units with the initial bias are at risk by a definition, block by block."""
    data = tasks.load_data(grid.config)
    given = grid.start.arrays if grid.start else None
    for block in range(grid.blocks):
        key = run_key(grid.root_seed, grid.block_seed(block))
        configs = block_configs(grid, grid.block_cells(block))
        configs = dataclasses.replace(configs, definition=definition)
        counts = np.asarray(_start_program()(configs, key, data, given))
        yield int(counts[: grid.block_size(block)].sum())


def _at_risk_remedy(grid: Grid) -> str:
    """What puts units at risk: the side on which they are stuck decides."""
    biases = dict(grid.axes).get("initial_bias", (grid.config.initial_bias,))
    if not activation_of(grid.config).rectifies:  # else flat is dead
        if outcomes.DEFINITIONS[grid.config.definition].of_slopes:
            largest = max(map(abs, biases))
            return f"use an initial_bias larger in size than {largest}, negative or positive."
        flat = sum(_at_risk(grid, "flat"))
        if flat:
            return (
                f"{flat} units with the initial bias are flat at another z (their derivative is 0 "
                "on all probe examples, as at the top of relu6): use definition='flat'."
            )
    return f"use a more negative initial_bias than {min(biases)}."


def block_bytes(grid: Grid) -> int:
    """Bytes that one block's result holds, padding included."""
    configs = block_configs(grid, grid.block_cells(0))
    key = run_key(0, 0)
    shapes = jax.eval_shape(program_of(grid.config), configs, key, tasks.load_data(grid.config))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def process_bytes() -> tuple[int, int]:
    """(now, at most so far) bytes that this process holds in memory; zeros where there is no
    /proc."""
    try:
        status = pathlib.Path("/proc/self/status").read_text()
    except OSError:
        return 0, 0
    now, most = (re.search(rf"{name}:\s*([0-9]+) kB", status) for name in ("VmRSS", "VmHWM"))
    return (1024 * int(now[1]), 1024 * int(most[1])) if now and most else (0, 0)


def sweep_bytes(grid: Grid, program: int, devices: int, *, streams: bool) -> int:
    """Bytes that a sweep takes at its most, beyond the code of its programs, with `program` bytes
    on each of so many devices.

    In memory it holds all runs; when it streams to a folder, no more than the blocks on their way
    and one part of the labelled result, so the number of seeds does not count.
    """
    size = block_bytes(grid)
    runs = grid.cells * (store.seeds_at_once(grid) if streams else len(grid.seeds))
    joined = runs * size // grid.lanes
    on_their_way = devices * (program + 2 * size) + 2 * size * streams  # and a block as a file
    while_training = on_their_way + joined * (not streams)
    labelled = joined + runs * grid.config.units * CLASSIFYING_BYTES
    return max(while_training, labelled)


class Plan(NamedTuple):
    """A sweep that nothing refuses any more: what `sweep_grid` walks through."""

    grid: Grid
    folder: pathlib.Path | None  # open, of this grid; None: everything stays in memory
    shard: tuple[int, int]  # (number, of how many): the blocks b with b % of == number
    executor: AnyExecutor | None
    devices: list[Device] | None  # None: all local ones
    blocks: int  # that this process has to train, at most
    disk: int  # bytes that they and a labelled copy take; 0 in memory


def plan_sweep(
    grid: Grid,
    *,
    out: str | os.PathLike | None = None,
    shard: Shard = None,
    executor: AnyExecutor | None = None,
    devices: list[Device] | None = None,
) -> Plan:
    """The plan of a sweep, after everything that may be refused has been looked at: JAX's settings,
    shard, executor, folder, disk or memory, and that units are at risk. Only then is a folder made.

    Raises a ValueError that names what is wrong.
    """
    check_jax()
    free_programs()
    part = check_shard(shard)
    _check_executor(executor)
    if out is None:
        if part and part[1] > 1 and shard is not None:
            raise ValueError(f"shard={part[0]}/{part[1]} needs out=FOLDER, which all shards share.")
        needed = sweep_bytes(grid, 0, len(devices or block_devices()), streams=False)
        try:
            check_memory(needed, "give out=FOLDER to stream blocks to disk, or fewer seeds")
        except ValueError as error:
            raise OutOfMemoryError(str(error)) from None
        check_at_risk(grid)
        return Plan(grid, None, (0, 1), executor, devices, grid.blocks, 0)
    part = part or (0, 1)
    missing = grid.blocks - len(store.stored_blocks(store.check_folder(out, grid), grid))
    own = -(-missing // part[1])
    disk = (own + grid.blocks * (missing > 0)) * block_bytes(grid)  # and a labelled copy
    return Plan(grid, open_sweep_folder(out, grid, disk), part, executor, devices, own, disk)


def open_sweep_folder(out: str | os.PathLike, grid: Grid, needed: int) -> pathlib.Path:
    """The folder of a grid with `needed` free bytes, made if missing. The folder of another grid
    is refused first, and "nothing is dead" before a folder is made."""
    store.check_room(store.check_folder(out, grid), needed)
    check_at_risk(grid)
    return store.open_folder(out, grid)


def _check_executor(executor: AnyExecutor | None) -> None:
    if executor is None or isinstance(executor, concurrent.futures.Executor) or callable(executor):
        return
    raise ValueError(
        f"executor={short_repr(executor)} must be a concurrent.futures.Executor, or a function "
        "that makes one."
    )


def print_resources(plan: Plan) -> None:
    """Says on standard error what a sweep will take: the most memory that this process will have
    held by its end, and the disk.

    Compiles first, for the compiler's own memory is a good part of a small sweep's: what it took
    is then known, and so is what its program needs. (Blocks find the compiled program.)
    """
    grid, streams = plan.grid, plan.folder is not None
    devices = [] if plan.executor else (plan.devices or block_devices())[: plan.blocks]
    program = compile_program(grid, devices)
    now, most = process_bytes()
    memory = max(most, now + sweep_bytes(grid, program, len(devices), streams=streams))
    text = f"memory about {memory / 2**20:,.0f} MiB"
    text += f", disk at most {-(-plan.disk // 2**20):,} MiB" if streams else ""
    blocks = f"{plan.blocks:,} blocks of {grid.lanes:,} runs"
    by = "plain JAX" if grid.config.implementation == "plain" else "the C++ kernel"
    print(f"training {blocks} by {by}; {text}", file=sys.stderr, flush=True)


def tally(grid: Grid, result: BlockResult) -> tuple[int, int]:
    """(at risk, recovered sustained) in one block, of the units that got the initial bias."""
    where = (slice(None), biased_slice(grid.config))
    codes = outcomes.classify(result.history)[where]
    at_risk = result.history.dead_at_start[where]
    sustained = codes == outcomes.Outcome.RECOVERED_SUSTAINED
    return int(at_risk.sum()), int(sustained.sum())
