"""Ensembles: many seeds in one compiled call, for networks so small that a seed alone is no work.

`relu_dynamics.sweeps` vmaps over the cells of one seed, which share data and batches; that is right
where a cell's network is large or cells are many. Here the lanes are seeds (and their cells): a
thousand networks of two units per layer cost little more than one. What a lane returns is a
function of its key, so the caller decides what is kept. Nothing is resumed: a stop loses the
call.
"""

import concurrent.futures
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relu_dynamics.config import Config
from relu_dynamics.engine import tasks, training
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.tasks import Task
from relu_dynamics.engine.training import Run
from relu_dynamics.grid import Grid
from relu_dynamics.sweeps.blocks import block_configs, block_devices


def map_lanes(function: Callable[..., Any], values: Any, lanes: int, shared: Any = ()) -> Any:
    """`function(value, *shared)` for every value of an array [values]; a tree of host arrays
    [values, ...].

    Compiled once for `lanes` values per call (the last call is padded and cut); calls go to the
    local devices (cores) in turn. The number of lanes may change the last bits of a result, the
    number of devices does not.
    """
    values = np.asarray(values)
    size, lanes = len(values), min(lanes, len(values))
    program = jax.jit(jax.vmap(function, in_axes=(0, *[None] * len(shared))))
    values = np.concatenate([values, np.repeat(values[-1:], -size % lanes, axis=0)])
    devices = block_devices()

    def call(number):
        part = values[number * lanes : (number + 1) * lanes]
        arguments = jax.device_put((part, *shared), devices[number % len(devices)])
        return jax.tree.map(np.asarray, program(*arguments))

    with concurrent.futures.ThreadPoolExecutor(len(devices)) as pool:
        parts = list(pool.map(call, range(len(values) // lanes)))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:size], *parts)


def map_keys(function: Callable[..., Any], keys: jax.Array, lanes: int, shared: Any = ()) -> Any:
    """`map_lanes` for an array of keys [keys]; the function consumes its key."""
    from_data = lambda data, *shared: function(jax.random.wrap_key_data(data), *shared)  # noqa: E731
    return map_lanes(from_data, jax.random.key_data(keys), lanes, shared)


def run_keys(root_seed: int, seeds: tuple[int, ...]) -> jax.Array:
    """The run keys of many seeds as one array [seeds]; those of `training.run_key`."""
    data = [jax.random.key_data(run_key(root_seed, seed)) for seed in seeds]
    return jax.random.wrap_key_data(jnp.stack(data))


def train_all(grid: Grid, read: Callable[[Config, Task, Run], Any], lanes: int) -> Any:
    """What `read(config, task, run)` returns of every run of a grid, as host arrays
    [seeds, cells, ...]; `lanes` seeds are trained in one call.

    The same runs as `sweep_grid` trains, up to float rounding (another batch shape).
    """
    configs = block_configs(grid, np.arange(grid.cells))
    keys = run_keys(grid.root_seed, grid.seeds)

    def of_seed(key, configs, data):
        def of_cell(config):
            task = tasks.make_task(config, purpose_key(key, "task"), data)
            return read(config, task, training.run(config, task, key))

        return jax.vmap(of_cell)(configs)

    return map_keys(of_seed, keys, lanes, (configs, tasks.load_data(grid.config)))
