"""Grids: vmapped runs in fixed blocks on every local device. The only file that knows of devices.

`block_program` is `jax.vmap` of a run over the lanes of a block. Whole blocks go to devices,
each running the same single-device program: what a run computes does not depend on how many
devices there are, on its neighbours in the block, or on the order of the blocks.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import queue
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.progress
import xarray as xr

from relu_dynamics import outcomes, store, tasks, training
from relu_dynamics.axes import Grid, VersionError, grid_from_identity, make_grid
from relu_dynamics.config import Config, check_path, told
from relu_dynamics.outcomes import History
from relu_dynamics.probes import LayerSummary

Device = Any  # a jax.Device
CLASSIFYING_BYTES = 8  # a unit: `outcomes.classify` holds seven conditions and the outcome


class OutOfMemoryError(ValueError):
    """A request, or a block, that does not fit into memory."""


class BlockResult(NamedTuple):
    """What a block returns; every leaf has a leading [lanes] axis."""

    history: History  # [lanes, units]; diverged_at [lanes]
    probe_layers: LayerSummary  # [lanes, probes + 1, layers]
    loss: jax.Array  # [lanes, probes] mean training loss between two looks
    held_loss: jax.Array  # [lanes]
    held_error: jax.Array  # [lanes]


def places() -> list[Device]:
    """The local devices on which blocks run at the same time: every accelerator once, CPU devices
    once a core of this process.

    Calls of one compiled program run side by side on a CPU device. A device a core would be as
    fast, but compile every program once a device.
    """
    devices = jax.local_devices()
    if devices[0].platform != "cpu":
        return devices
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [devices[i % len(devices)] for i in range(max(cores or 1, len(devices)))]


UNFIT_SETTINGS = {  # of JAX, and what they would do
    "jax_disable_jit": "other bits than any stored result has",
    "jax_enable_x64": "float64, and every result is float32",
    "jax_debug_nans": "a traceback where a run diverges, which is a legal outcome",
    "jax_debug_infs": "a traceback where a run diverges, which is a legal outcome",
}


def check_jax() -> None:
    """Raises a ValueError when JAX is set to do what no result was made with."""
    for setting, effect in UNFIT_SETTINGS.items():
        if getattr(jax.config, setting):
            raise ValueError(f"{setting.upper()}=1 would mean {effect}; unset it.")


def compiler_options() -> dict[str, int] | None:
    """LLVM's level 1 for a block's program: a fifth less to compile, the same bits wherever it was
    compared, and up to a fifth faster, for it leaves the short loops of small layers alone. A
    level that the environment asks for counts."""
    level = "xla_backend_optimization_level"
    return None if level in os.environ.get("XLA_FLAGS", "") else {level: 1}


@functools.partial(jax.jit, compiler_options=compiler_options())
def block_program(configs: Config, key: jax.Array, data: tuple | None) -> BlockResult:
    """Trains all lanes of a block: configs with [lanes] traced fields, one run key, raw data."""
    task, axis = _block_task(configs, key, data)
    runs = jax.vmap(training.run, in_axes=(0, axis, None))(configs, task, key)
    return BlockResult(
        runs.history, runs.trace.probe_layers, runs.trace.loss, runs.held_loss, runs.held_error
    )


def _block_task(configs: Config, key: jax.Array, data: tuple | None) -> tuple[tasks.Task, Any]:
    """The task of a block's lanes and its vmap axis: one for all, unless the axes change it."""
    make = functools.partial(tasks.make_task, key=training.purpose_key(key, "task"), data=data)
    if configs.scaling_dose is None and configs.target_scale is None:
        return make(configs), None
    return jax.vmap(make)(configs), 0


def block_configs(grid: Grid, cells: np.ndarray) -> Config:
    """The configs of the given cells: every traced field is a float32 array of their number."""
    base = jax.tree.map(lambda value: np.full(len(cells), value, np.float32), grid.config)
    return dataclasses.replace(base, **grid.values(cells))


def run_block(
    grid: Grid,
    block: int,
    device: Device | None = None,
    program: Callable[..., BlockResult] | None = None,
) -> BlockResult:
    """The result of one block as host arrays, padding removed. `program` stands in for
    `block_program`, with its arguments."""
    if not 0 <= block < grid.blocks:
        raise ValueError(f"block={told(block)} must be one of the grid's {grid.blocks}, from 0 on.")
    arguments = _arguments(grid, block, device)
    size = grid.block_size(block)
    with _memory_answered(grid, device):
        result = (program or block_program)(*arguments)
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:size], result)


@contextlib.contextmanager
def _memory_answered(grid: Grid, device: Device | None) -> Iterator[None]:
    """Raises an `OutOfMemoryError` with the lanes that fit when memory runs out inside."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):
            raise
        raise OutOfMemoryError(_memory_remedy(grid, device)) from None


def _arguments(grid: Grid, block: int, device: Device | None) -> tuple:
    """What a block program is called with, on a device."""
    configs = block_configs(grid, grid.block_cells(block))
    key = training.run_key(grid.root_seed, grid.block_seed(block))
    return jax.device_put((configs, key, tasks.load_data(grid.config)), device)


def _memory_remedy(grid: Grid, device: Device | None) -> str:
    """What to do when a block does not fit: the most lanes that do. Never done by itself, since
    another number of lanes is another result."""
    room = _room(device)
    fits = [
        n for n in (2**i for i in range(20)) if n < grid.lanes and program_bytes(grid, n) < room
    ]
    if not fits:
        return (
            f"lanes={grid.lanes} do not fit into {room / 2**30:.2f} GiB, nor does one lane; "
            "use fewer examples, a smaller network or a machine with more memory."
        )
    return (
        f"lanes={grid.lanes} do not fit into {room / 2**30:.2f} GiB; use lanes={fits[-1]} or fewer "
        "(another number of lanes is another grid: choose another folder for it)."
    )


def _room(device: Device | None) -> int:
    """Bytes that a block program may use on a device."""
    limits = (device or jax.local_devices()[0]).memory_stats() or {}
    return limits.get("bytes_limit") or min(training.available_bytes(), _allowed_bytes())


def _allowed_bytes() -> int:
    """Address space that this process may still take (ulimit -v)."""
    try:
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):  # another system: no such limit
        return sys.maxsize
    if most == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(most - pages * os.sysconf("SC_PAGE_SIZE"), 0)


@functools.lru_cache(maxsize=64)
def _program_bytes(config: Config, axes: tuple[str, ...], lanes: int) -> int:
    grid = Grid(config, tuple((name, (1.0,)) for name in axes), (0,), 0, lanes)
    arguments = block_configs(grid, grid.block_cells(0)), training.run_key(0, 0)
    return _held_bytes(block_program.lower(*arguments, tasks.load_data(config)).compile())


def _held_bytes(program: Any) -> int:
    """Bytes that a compiled program holds while it runs; 0 where the platform does not say."""
    stats = program.memory_analysis()
    if stats is None:
        return 0
    return stats.temp_size_in_bytes + stats.argument_size_in_bytes + stats.output_size_in_bytes


def program_bytes(grid: Grid, lanes: int) -> int:
    """Bytes that a block program of so many lanes holds while it runs, as its compiler says of
    one and of two lanes."""
    names = tuple(name for name, _ in grid.axes)
    one, two = (_program_bytes(grid.config, names, n) for n in (1, 2))
    return one + (lanes - 1) * max(two - one, 0)


def run_blocks(
    grid: Grid,
    blocks: Iterable[int],
    devices: list[Device] | None = None,
    program: Callable[..., BlockResult] | None = None,
) -> Iterator[tuple[int, BlockResult]]:
    """Yields (block, result) as blocks finish, on all local devices (`places`) at once.

    When the caller stops early (or an exception such as Ctrl-C arrives) blocks not yet started
    are dropped and those under way are waited for.
    """
    devices = devices or places()
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
    pool = concurrent.futures.ThreadPoolExecutor(len(devices))
    # A short queue: results stay on the host only until the caller has taken them.
    running = {}
    try:
        while True:
            while len(running) < 2 * len(devices) and (block := next(waiting, None)) is not None:
                running[pool.submit(work, block)] = block
            if not running:
                return
            done, _ = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


# --- Other processes and machines: executors and shards -----------------------------------------

AnyExecutor = concurrent.futures.Executor | Callable[[], concurrent.futures.Executor]
IN_FLIGHT = 256  # blocks given to an executor at a time
RETRIES = 3  # of a block, and of an executor that broke


def block_task(grid: Grid, grid_hash: str, block: int) -> BlockResult:
    """The result of one block as host arrays: what an executor's worker runs.

    A pure function of its arguments, so that it may be run again anywhere. Raises a `VersionError`
    when the worker's own JAX or platform would give other numbers.
    """
    here = dataclasses.replace(grid)  # without what the sender has computed of it
    if here.hash != grid_hash:
        raise VersionError(
            f"a worker runs jax {jax.__version__} on {jax.default_backend()}, which is not what "
            "the sweep was started with; start workers in the same environment."
        )
    return run_block(here, block)


def run_blocks_on(
    executor: AnyExecutor,
    grid: Grid,
    blocks: Iterable[int],
    report: Callable[[str], None] = lambda line: None,
) -> Iterator[tuple[int, BlockResult]]:
    """Yields (block, result) as blocks finish on an executor's workers.

    A block that fails (its worker was lost, say) is tried again up to `RETRIES` times. When the
    executor itself breaks, a new one takes over if a function that makes them was given, else this
    process; either way the numbers are the same.
    """
    make = executor if not isinstance(executor, concurrent.futures.Executor) else None
    waiting = collections.deque()
    source = iter(blocks)
    tries: collections.Counter[int] = collections.Counter()
    for attempt in range(RETRIES + 1):
        pool = make() if make else executor
        try:
            yield from _on_pool(pool, grid, source, waiting, tries, report)
            return
        except concurrent.futures.BrokenExecutor as error:
            left = make is not None and attempt < RETRIES
            report(f"{_one_line(error)} {'starting workers anew' if left else 'going on here'}")
            if not left:
                break
        finally:
            if make:
                pool.shutdown(wait=False, cancel_futures=True)
    yield from run_blocks(grid, itertools.chain(waiting, source))


def _on_pool(pool, grid, source, waiting, tries, report):
    """Yields from one executor; on a `BrokenExecutor` what was not finished is in `waiting`."""
    running = {}
    try:
        while True:
            while len(running) < IN_FLIGHT:
                block = waiting.popleft() if waiting else next(source, None)
                if block is None:
                    break
                waiting.appendleft(block)  # not lost when submit itself fails
                running[pool.submit(block_task, grid, grid.hash, block)] = block
                waiting.popleft()
            if not running:
                return
            done, _ = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                try:
                    result = future.result()
                except (ValueError, concurrent.futures.BrokenExecutor):
                    raise  # bad input, or all workers gone
                except Exception as error:
                    block = running.pop(future)
                    tries[block] += 1
                    if tries[block] > RETRIES:
                        raise
                    report(f"block {block} is tried again: {_one_line(error)}")
                    waiting.append(block)
                else:
                    yield running.pop(future), result
    finally:
        for future, block in running.items():
            future.cancel()
            waiting.append(block)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


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
            raise ValueError(f'shard={told(shard)} must be i/n, such as 0/4, or "auto".')
        shard = int(match[1]), int(match[2])
    if not (
        isinstance(shard, tuple)
        and len(shard) == 2
        and all(isinstance(n, int) and not isinstance(n, bool) for n in shard)
        and 0 <= shard[0] < shard[1]
    ):
        raise ValueError(f"shard={told(text)} must be i/n with 0 <= i < n, such as 0/4 or 3/4.")
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


@jax.jit
def _dead_at_start(configs: Config, key: jax.Array, data: tuple | None) -> jax.Array:
    task, axis = _block_task(configs, key, data)

    def count(config, task):
        params = training.start(config, key).params
        statistics, _ = training.look(config, params, task.probe)
        return jnp.sum((statistics.margin <= 0)[biased_slice(config)])

    return jax.vmap(count, in_axes=(0, axis))(configs, task)


def biased_slice(config: Config) -> slice:
    """Where the units with the initial bias stand on the axis of all units."""
    first = sum(config.hidden[: config.biased_layer - 1])
    return slice(first, first + config.biased_units)


def check_at_risk(grid: Grid) -> int:
    """How many units of the first seed are at risk; raises a ValueError when there are none
    in any cell of any seed. Costs one look at step 0, no training. A grid whose initial biases
    are all 0 asks about death, not about recovery: it has no units at risk, and 0 is returned."""
    if not any(dict(grid.axes).get("initial_bias", (grid.config.initial_bias,))):
        return 0
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
    and one part of the labelled result, so that the number of seeds does not count.
    """
    size = block_bytes(grid)
    runs = grid.cells * (store.seeds_at_once(grid) if streams else len(grid.seeds))
    joined = runs * size // grid.lanes
    on_their_way = devices * (program + 2 * size) + 2 * size * streams  # and a block as a file
    while_training = on_their_way + joined * (not streams)
    labelled = joined + runs * grid.config.units * CLASSIFYING_BYTES
    return max(while_training, labelled)


def announce(
    grid: Grid,
    blocks: int,
    executor: AnyExecutor | None,
    devices: list[Device] | None,
    disk: int | None = None,
) -> None:
    """Says on standard error what a sweep of so many blocks will take: the most memory that this
    process will have held by its end, and the disk.

    Compiles first, for the compiler's own memory is a good part of a small sweep's: what it took
    is then known, and so is what its program needs. (Blocks find the compiled program.)
    """
    devices = [] if executor else (devices or places())[:blocks]
    program = _compile(grid, devices)
    now, most = process_bytes()
    memory = max(most, now + sweep_bytes(grid, program, len(devices), streams=disk is not None))
    text = f"memory about {memory / 2**20:,.0f} MiB"
    text += "" if disk is None else f", disk at most {-(-disk // 2**20):,} MiB"
    print(f"training {blocks:,} blocks of {grid.lanes:,} runs; {text}", file=sys.stderr, flush=True)


def _compile(grid: Grid, devices: Iterable[Device]) -> int:
    """Compiles the block program for every device, all at once, and returns its bytes on one."""
    devices = set(devices)

    def compiled(device):
        with _memory_answered(grid, device):
            return _held_bytes(block_program.lower(*_arguments(grid, 0, device)).compile())

    pool = concurrent.futures.ThreadPoolExecutor(max(len(devices), 1))
    try:
        futures = [pool.submit(compiled, device) for device in devices]
        return max((future.result() for future in futures), default=0)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # a signal is not kept waiting


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
    shard: Shard = None,
    executor: AnyExecutor | None = None,
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
      shard: (i, n) or "i/n" trains only the blocks b with b % n == i; any number of processes, on
        any hosts, share one `out`. "auto" takes it from `jax.distributed` or a SLURM array. None
        is all blocks (of a `jax.distributed` process: its own).
      executor: trains on the workers of a `concurrent.futures.Executor` (or of those that a
        function returns) instead of this process's devices.

    None of `out`, `progress`, `shard` and `executor` changes a bit of the result.

    Raises a ValueError on bad input, before anything is traced or written, and an
    `UnfinishedError` when a shard is done and blocks of others are missing.
    """
    grid = make_grid(config, axes, seeds, root_seed=root_seed, lanes=lanes)
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
    check_jax()
    part = check_shard(shard)
    if executor is not None and not (
        isinstance(executor, concurrent.futures.Executor) or callable(executor)
    ):
        raise ValueError(
            f"executor={told(executor)} must be a concurrent.futures.Executor, or a function that "
            "makes one."
        )
    if out is None:
        if part and part[1] > 1 and shard is not None:
            raise ValueError(f"shard={part[0]}/{part[1]} needs out=FOLDER, which all shards share.")
        return _sweep_in_memory(grid, progress, executor, devices)
    # A folder of another grid is refused first, and "nothing is dead" before a folder is made.
    folder = store.check_folder(out, grid)
    size = block_bytes(grid)
    missing = grid.blocks - len(store.stored_blocks(folder, grid))
    own = -(-missing // (part or (0, 1))[1])
    needed = (own + grid.blocks * (missing > 0)) * size  # and a labelled copy
    store.check_room(folder, needed)
    check_at_risk(grid)
    folder = store.open_folder(out, grid)
    if progress:
        announce(grid, own, executor, devices, disk=needed)
    return _sweep_to_folder(grid, folder, progress, part or (0, 1), executor, devices)


def _sweep_in_memory(grid, progress, executor, devices):
    needed = sweep_bytes(grid, 0, len(devices or places()), streams=False)
    try:
        training.check_memory(needed, "give out=FOLDER to stream blocks to disk, or fewer seeds")
    except ValueError as error:
        raise OutOfMemoryError(str(error)) from None
    check_at_risk(grid)
    if progress:
        announce(grid, grid.blocks, executor, devices)
    attributes = store.provenance(grid)
    watched = _watched(grid, range(grid.blocks), progress, 0, executor, devices)
    blocks = ((block, store.flatten_result(result)) for block, result in watched)
    records = store.join(grid, blocks, 0, len(grid.seeds))
    return store.label(grid, records, grid.seeds).assign_attrs(attributes)


def _sweep_to_folder(grid, folder, progress, part, executor, devices):
    """Trains what is missing of a shard; whoever then finds all blocks makes the result."""
    report = rich.console.Console(stderr=True).print
    number, shards = part
    attributes = store.provenance(grid)
    started = time.monotonic()
    trained = 0
    for attempt in range(RETRIES + 1):
        with store.writing(folder):
            done = set(store.finished_blocks(folder, grid, report))
        missing = [b for b in range(number, grid.blocks, shards) if b not in done]
        blocks = _still_missing(grid, folder, missing)
        for block, result in _watched(grid, blocks, progress, len(done), executor, devices):
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
        except store.BlockError as error:  # damaged since, or set aside by another driver
            if attempt == RETRIES:
                raise
            report(f"{error}: looking again")
    return store.open_result(folder)


def _still_missing(grid: Grid, folder: pathlib.Path, missing: list[int]) -> Iterator[int]:
    """The missing blocks that nobody else has finished by the time that it is their turn.

    Every driver begins elsewhere, so that several in one folder share the work.
    """
    first = secrets.randbelow(max(len(missing), 1))
    for block in missing[first:] + missing[:first]:
        if not store.is_done(folder, grid, block):
            yield block


def _watched(grid, blocks, progress, done, executor, devices):
    """Yields from the devices or the executor under a progress bar: blocks, rate, time left,
    recovered so far."""
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
        source = (
            run_blocks(grid, blocks, devices)
            if executor is None
            else run_blocks_on(executor, grid, blocks, console.print)
        )
        for block, result in source:
            yield block, result
            if not progress:
                continue
            new_at_risk, new_recovered = tally(grid, result)
            runs += grid.block_size(block)
            at_risk, recovered = at_risk + new_at_risk, recovered + new_recovered
            rate = runs * grid.config.steps / (time.monotonic() - started)
            facts = f"{rate:,.0f} run-steps/s, {recovered:,} of {at_risk:,} dead units recovered"
            bar.update(task, advance=1, facts=facts)


# --- Replay: a stored cell again -----------------------------------------------------------------


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
) -> Replay:
    """Trains one stored cell again, from what is stored alone, and checks that the numbers are
    the stored ones, bit for bit.

    Args:
      source: a sweep's output folder, or the labelled result that it returned.
      cell: the value of every axis, such as `{"learning_rate": 0.1, "initial_bias": -4.0}`.
      seed: one of the stored seeds.
      trace_units: whether to train the run alone too, with every unit's record at every step.
        A run alone is another program than a block, so that it agrees with the stored numbers to
        rounding only.

    Raises a ValueError when there is no such cell, when versions or platform differ from those
    that made the result, and when a number differs.
    """
    folder = None if isinstance(source, xr.Dataset) else check_path("source", source)
    grid = grid_from_identity(_stored_identity(source, folder))
    number = _cell_number(grid, cell)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed not in grid.seeds:
        raise ValueError(f"seed={told(seed)} is not stored; use one of {told(grid.seeds)}.")
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
            f"cell {dict(cell)}, seed {seed}: {', '.join(differing)} differ from what is stored; "
            "was it made on another kind of processor, or changed?"
        )
    values = {name: float(value[0]) for name, value in grid.values(np.array([number])).items()}
    config = dataclasses.replace(grid.config, **values)
    run = None
    if trace_units:
        run = training.train(config, int(seed), root_seed=grid.root_seed, trace_units=True)
    return Replay(config, int(seed), block, lane, result, run)


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
        raise ValueError(f"cell={told(cell)} must give a value of each axis: {', '.join(names)}.")
    for name, values in grid.axes:
        if cell[name] not in values:
            raise ValueError(f"{name}={told(cell[name])} is not stored; use one of {told(values)}.")
    place = [values.index(cell[name]) for name, values in grid.axes]
    return int(np.ravel_multi_index(place, grid.shape))
