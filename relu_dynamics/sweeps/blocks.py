"""Blocks: one compiled call of a fixed number of lanes."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import inspect
import os
import pathlib
import queue
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from relu_dynamics.checks import short_repr
from relu_dynamics.config import Config
from relu_dynamics.engine import memory, tasks, training
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.outcomes import History
from relu_dynamics.engine.probes import LayerSummary
from relu_dynamics.engine.starting import Given
from relu_dynamics.grid import Grid
from relu_dynamics.rows import row_keys
from relu_dynamics.settings import cores

Device = Any  # a jax.Device


class OutOfMemoryError(ValueError):
    """A request, or a block, that does not fit into memory."""


class BlockResult(NamedTuple):
    """What a block returns; every leaf has a leading [lanes] axis."""

    history: History  # [lanes, units]; diverged_at [lanes]
    probe_layers: LayerSummary  # [lanes, probes + 1, layers]
    loss: jax.Array  # [lanes, probes] mean training loss between two evaluations
    held_loss: jax.Array  # [lanes]
    held_error: jax.Array  # [lanes]


def block_devices() -> list[Device]:
    """The local devices on which blocks run at the same time: every accelerator once, CPU devices
    once per core of this process.

    Calls of one compiled program run side by side on a CPU device. One device per core would be as
    fast, but every program would be compiled once per device.
    """
    devices = jax.local_devices()
    if devices[0].platform != "cpu":
        return devices
    return [devices[i % len(devices)] for i in range(max(cores(), len(devices)))]


_LEVEL, _EMITTERS = "xla_backend_optimization_level", "xla_cpu_use_fusion_emitters"


def compiler_options() -> dict[str, int] | None:
    """LLVM's level 1 for a block's program: a fifth less to compile, the same bits wherever it was
    compared, and up to a fifth faster, for it leaves the short loops of small layers alone. A
    level that the environment asks for counts."""
    return None if _LEVEL in os.environ.get("XLA_FLAGS", "") else {_LEVEL: 1}


@functools.cache
def quick_options(level: int) -> dict[str, int | bool]:
    """What compiles a program in half the time and less, for other last bits than
    `compiler_options`: this level of LLVM, and on CPU no compiler of its own for every fused loop.
    What the environment asks for counts, and what this jaxlib does not know is left out."""
    wanted = {_LEVEL: level, _EMITTERS: False}
    asked = os.environ.get("XLA_FLAGS", "")
    options = {name: value for name, value in wanted.items() if name not in asked}
    if _EMITTERS in options:
        try:
            jax.jit(lambda: 0, compiler_options={_EMITTERS: False}).lower().compile()
        except RuntimeError:  # only some jaxlibs have a choice
            del options[_EMITTERS]
    return options


@functools.partial(jax.jit, compiler_options=compiler_options())
def block_program(
    configs: Config, key: jax.Array, data: tuple | None, given: Given | None = None
) -> BlockResult:
    """Trains all lanes of a block: configs with [lanes] traced fields, one run key, raw data, and
    the state that a user gave for all of them."""
    task, axis = make_block_task(configs, key, data)
    run = functools.partial(training.run, given=given)
    runs = jax.vmap(run, in_axes=(0, axis, None))(configs, task, key)
    return BlockResult(
        runs.history, runs.trace.probe_layers, runs.trace.loss, runs.held_loss, runs.held_error
    )


@functools.cache
def _kernel_program() -> Callable[..., BlockResult]:
    """`block_program` where the kernel trains: what is left to XLA is little, so compile it
    quickly."""
    return jax.jit(inspect.unwrap(block_program), compiler_options=quick_options(1))


def program_of(config: Config) -> Any:
    """The jitted program of the config's blocks, with the arguments of `block_program`."""
    return _kernel_program() if config.implementation == "kernel" else block_program


def make_block_task(configs: Config, key: jax.Array, data: tuple | None) -> tuple[tasks.Task, Any]:
    """The task of a block's lanes and its vmap axis: one for all, unless the axes change it."""
    make = functools.partial(tasks.make_task, key=purpose_key(key, "task"), data=data)
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
    `program_of` the config, with its arguments."""
    if not 0 <= block < grid.blocks:
        raise ValueError(
            f"block={short_repr(block)} must be one of the grid's {grid.blocks}, from 0 on."
        )
    arguments = _arguments(grid, block, device)
    size = grid.block_size(block)
    with _memory_answered(grid, device):
        result = (program or program_of(grid.config))(*arguments)
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:size], result)


@contextlib.contextmanager
def _memory_answered(grid: Grid, device: Device | None) -> Iterator[None]:
    """Raises an `OutOfMemoryError` with the lanes that fit when memory runs out inside, or with
    what else to do when the compiler's runs out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if memory.ran_out(error):
            raise OutOfMemoryError(_memory_remedy(grid, device)) from None
        remedy = memory.explain_exhausted(error)
        if remedy is None:
            raise
        raise OutOfMemoryError(remedy) from None


def _arguments(grid: Grid, block: int, device: Device | None) -> tuple:
    """What a block program is called with, on a device."""
    configs = block_configs(grid, grid.block_cells(block))
    key = run_key(grid.root_seed, grid.block_seed(block))
    given = grid.start.arrays if grid.start else None
    return jax.device_put((configs, key, tasks.load_data(grid.config), given), device)


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
    return limits.get("bytes_limit") or min(memory.available_bytes(), _allowed_bytes())


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
def _program_bytes(config: Config, rows: tuple, axes: tuple[str, ...], lanes: int) -> int:
    grid = Grid(config, tuple((name, (1.0,)) for name in axes), (0,), 0, lanes)
    arguments = block_configs(grid, grid.block_cells(0)), run_key(0, 0)
    program = program_of(config)
    return _held_bytes(program.lower(*arguments, tasks.load_data(config)).compile())


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
    rows = row_keys(grid.config)
    one, two = (_program_bytes(grid.config, rows, names, n) for n in (1, 2))
    return one + (lanes - 1) * max(two - one, 0)


def run_blocks(
    grid: Grid,
    blocks: Iterable[int],
    devices: list[Device] | None = None,
    program: Callable[..., BlockResult] | None = None,
) -> Iterator[tuple[int, BlockResult]]:
    """Yields (block, result) as blocks finish, on all local devices (`block_devices`) at once.

    When the caller stops early (or an exception such as Ctrl-C arrives) blocks not yet started
    are dropped and those under way are waited for.
    """
    devices = devices or block_devices()
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


def compile_program(grid: Grid, devices: Iterable[Device]) -> int:
    """Compiles the block program for every device, all at once, and returns its bytes on one."""
    devices = set(devices)

    def compiled(device):
        with _memory_answered(grid, device):
            return _held_bytes(
                program_of(grid.config).lower(*_arguments(grid, 0, device)).compile()
            )

    pool = concurrent.futures.ThreadPoolExecutor(max(len(devices), 1))
    try:
        futures = [pool.submit(compiled, device) for device in devices]
        return max((future.result() for future in futures), default=0)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # a signal is not kept waiting
