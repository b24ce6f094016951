"""Step 0 of every run: what the biased units see, and the certificates of all units."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from relu_dynamics import certificates
from relu_dynamics.config import Config
from relu_dynamics.engine import initialization, models, optimizers, tasks, training
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.step import State
from relu_dynamics.grid import Grid
from relu_dynamics.rows import row_keys


@jax.jit
def _born(config, key, data):
    task = tasks.make_task(config, purpose_key(key, "task"), data)
    return task, initialization.initialize(config, purpose_key(key, "init"))


def step_0(config: Config, root_seed: int, seed: int) -> tuple[tasks.Task, State]:
    """(task, state) at step 0 of a seed. Parameters do not depend on the optimizer: channels
    share the compiled program."""
    return _step_0(config, row_keys(config), root_seed, seed)


@functools.cache
def _step_0(config: Config, rows: tuple, root_seed: int, seed: int) -> tuple[tasks.Task, State]:
    kept = ("task", "examples", "input_scaling", "hidden", "normalization", "biased_units")
    kept += ("probe_size", "biased_layer", "initializer", "dimension")
    shared = Config(**{name: getattr(config, name) for name in kept}, initial_bias=0.0)
    key, data = run_key(root_seed, seed), tasks.load_data(config)
    task, params = _born(training.as_arrays(shared), key, data)
    return task, State(jnp.int32(0), params, optimizers.make_optimizer(config).init(params))


class Start(NamedTuple):
    """Step 0 of all seeds, before the initial bias is set; units are the biased ones."""

    projections: np.ndarray  # [seeds, probe, units] w.x, float64
    norms: np.ndarray  # [seeds, probe] ||x|| of what enters the layer


def start_of(config: Config, seeds: Iterable[int], root_seed: int) -> Start:
    """What the biased layer's units see at step 0, for the first layer only."""
    own = dataclasses.replace(config, initial_bias=0.0)
    projections, norms = [], []
    for seed in seeds:
        task, state = step_0(own, root_seed, seed)
        probe = np.asarray(task.probe, np.float64)
        weights = np.asarray(state.params[models.layer_name(1)]["kernel"], np.float64)
        projections.append(probe @ weights[:, : config.biased_units])
        norms.append(np.sqrt((probe**2).sum(1)))
    return Start(np.stack(projections), np.stack(norms))


class Certified(NamedTuple):
    """Certificates at step 0 of all cells of some seeds, beside what became of the units."""

    verdict: np.ndarray  # [rates, biases, seeds, units]
    theorem: np.ndarray  # [rates, biases, seeds, units]
    result: xr.Dataset  # the same runs


def certify_panel(result: xr.Dataset, grid: Grid, seeds: int) -> Certified:
    """Certificates of every hidden unit at step 0 in all cells of the first `seeds` seeds."""
    config = dataclasses.replace(grid.config, initial_bias=0.0)
    axes = dict(grid.axes)
    rates, biases = axes["learning_rate"], axes["initial_bias"]
    chosen = grid.seeds[:seeds]
    shape = (len(rates), len(biases), len(chosen), config.units)
    verdict, theorem = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for k, seed in enumerate(chosen):
        task, state = step_0(dataclasses.replace(config, learning_rate=0.0), grid.root_seed, seed)
        task = task._replace(inputs=np.asarray(task.inputs), probe=np.asarray(task.probe))
        for j, bias in enumerate(biases):
            bias = float(np.float32(bias))
            set_bias = lambda shift, b=bias: shift.at[: config.biased_units].set(b)  # noqa: E731
            placed = state._replace(params=models.with_shift(config, state.params, set_bias))
            placed = jax.tree.map(np.asarray, placed)
            for i, rate in enumerate(rates):
                cell = dataclasses.replace(config, learning_rate=rate, initial_bias=bias)
                found = certificates.certify(cell, task, placed, horizon=config.steps)
                verdict[i, j, k], theorem[i, j, k] = found.verdict, found.theorem
    return Certified(verdict, theorem, result.isel(seed=slice(0, len(chosen))))
