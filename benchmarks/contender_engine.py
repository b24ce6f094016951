"""This project's own engine as a contender, used as its users use it: a config, then a sweep."""

import functools
import inspect
import math
from dataclasses import replace

import jax
import numpy as np
from engine_streams import make_config
from workloads import STATISTICS, Workload, pack

from relu_dynamics import Grid, make_grid
from relu_dynamics.engine import keys, tasks, training
from relu_dynamics.sweeps import blocks, sweep

OWN_BATCHES = 100  # Steps whose batches are drawn together, where every run has its own.


class Engine:
    """The engine on all cores. With `statistics` it is `sweep`, as a user calls it, which records
    every unit's statistics at every step; without, the same block program with its history
    dropped, so that XLA prunes the statistics. With `own_batches` every run draws its own.
    `implementation` is the config's; the kernel computes its statistics in any case."""

    def __init__(self, statistics: bool, own_batches: bool = False, implementation: str = "plain"):
        self.statistics = statistics
        self.own_batches = own_batches
        self.implementation = implementation

    def prepare(self, work: Workload) -> None:
        self.work = work
        self.run()

    def _grid(self, steps: int | None) -> Grid:
        side = int(round(self.work.cells**0.5))
        axes = {
            "initial_bias": self.work.initial_bias[::side].tolist(),
            "learning_rate": self.work.learning_rate[:side].tolist(),
        }
        steps = self.work.steps if steps is None else steps
        config = replace(make_config(self.work.name, steps), implementation=self.implementation)
        if self.own_batches:  # The draws of all runs between two evaluations are in memory at once.
            every = math.gcd(steps, OWN_BATCHES)
            config = replace(config, batch_order="independent", probe_every=every)
        return make_grid(config, axes, self.work.seeds)

    def run(self, steps: int | None = None) -> dict[str, np.ndarray]:
        grid = self._grid(steps)
        self.last = grid
        if not self.statistics:
            for _ in blocks.run_blocks(grid, range(grid.blocks), program=_plain_program()):
                pass
            return {}
        result = sweep.sweep_grid(grid)
        order = ("seed", "initial_bias", "learning_rate", "unit")
        named = {
            "first_active": "batch_first_active",
            "sum_mean": "batch_mean_sum",
            "running_max": "batch_peak",
            "sum_fraction": "batch_active_sum",
        }
        shape = (self.work.seeds, self.work.cells, -1)
        values = {
            field: result[named[field]].transpose(*order).values.reshape(shape)
            for field in STATISTICS
        }
        never = values["first_active"] < 0
        values["first_active"] = np.where(never, grid.config.steps, values["first_active"])
        return values

    def complete(self, result: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The result of the last run with the final parameters, which a sweep does not keep: the
        same vmapped run once more, not timed."""
        grid = self.last

        @jax.jit
        def final(configs, key):
            task = tasks.make_task(configs, keys.purpose_key(key, "task"), None)
            return jax.vmap(training.run, in_axes=(0, None, None))(configs, task, key).state.params

        names = (
            ["hidden_1", "output"] if self.work.name == "w1" else ["hidden_1", "hidden_2", "output"]
        )
        found = []
        for block in range(grid.blocks):
            configs = blocks.block_configs(grid, grid.block_cells(block))
            params = final(configs, keys.run_key(grid.root_seed, grid.block_seed(block)))
            flat = [
                params[n][kind] for n in names for kind in ("kernel", "bias") if kind in params[n]
            ]
            found.append([np.asarray(p)[: grid.block_size(block)] for p in flat])
        joined = [np.concatenate(leaf) for leaf in zip(*found, strict=True)]
        shape = (self.work.seeds, self.work.cells)
        parameters = pack([leaf.reshape(*shape, -1) for leaf in joined])
        return {**result, "parameters": parameters}


@functools.cache
def _plain_program():
    """`blocks.block_program` without its history; compiled once per process."""
    program = inspect.unwrap(blocks.block_program)
    return jax.jit(
        lambda *arguments: program(*arguments)._replace(history=None),
        compiler_options=blocks.compiler_options(),
    )
