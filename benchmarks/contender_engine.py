"""This project's own engine as a contender, used as its users use it: a config, then a sweep.

The engine draws its own data, so the workload is made by it too: `streams` replays what a sweep
of the same config trains on, and every other contender gets those arrays.
"""

import math
import os
from dataclasses import replace

import numpy as np
from workloads import MOMENTUM, STATISTICS, Workload, pack

BATCH = {"w1": 32, "w2": 64}
EXAMPLES = 4096
OWN_BATCHES = 100  # Steps whose batches are drawn together, where every run has its own.


def make_config(name: str, steps: int):
    """The config of a workload: the smallest network, or 16-32-32-1."""
    from relu_dynamics import Config

    unit = dict(dimension=4, hidden=(1,), output_bias=False, biased_layer=1, biased_units=1)
    mlp = dict(dimension=16, hidden=(32, 32), biased_layer=2, biased_units=16)
    return Config(
        task="teacher_student", examples=EXAMPLES, batch_size=BATCH[name], optimizer="momentum",
        momentum=MOMENTUM, steps=steps, probe_every=steps, probe_size=64, sustain=steps,
        **(unit if name == "w1" else mlp),
    )  # fmt: skip


def streams(name: str, seeds: int, steps: int) -> dict[str, np.ndarray]:
    """Minibatches [seeds, steps, batch, ...] and initial weights [seeds, ...] of every seed."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import jax.numpy as jnp

    from relu_dynamics.engine import keys, step, tasks, training

    config = training.as_arrays(make_config(name, steps))

    @jax.jit
    def one(key):
        task = tasks.make_task(config, keys.purpose_key(key, "task"), None)
        drawn = jax.vmap(lambda t: step.draw_batch(config, key, t))(jnp.arange(steps))
        params = training.start(config, key).params
        groups = ["hidden_1", "output"] if name == "w1" else ["hidden_1", "hidden_2", "output"]
        kernels = [params[group]["kernel"] for group in groups]
        return task.inputs[drawn], task.targets[drawn][..., 0], kernels

    parts = [jax.device_get(one(keys.run_key(0, seed))) for seed in range(seeds)]
    inputs, targets, kernels = zip(*parts, strict=True)
    weights = [np.stack(layer) for layer in zip(*kernels, strict=True)]
    weights[-1] = weights[-1][..., 0, 0] if name == "w1" else weights[-1][..., 0]
    if name == "w1":
        weights[0] = weights[0][..., 0]
    return {"inputs": np.stack(inputs), "targets": np.stack(targets), "weights": weights}


class Engine:
    """The engine on all cores. With `statistics` it is `sweep`, as a user calls it, which records
    every unit's statistics at every step; without, the same block program with its history
    dropped, so that XLA prunes the statistics. With `own_batches` every run draws its own."""

    def __init__(self, statistics: bool, own_batches: bool = False):
        self.statistics = statistics
        self.own_batches = own_batches

    def prepare(self, work: Workload) -> None:
        self.work = work
        self.run()

    def _grid(self, steps: int | None):
        from relu_dynamics import make_grid

        side = int(round(self.work.cells**0.5))
        axes = {
            "initial_bias": self.work.initial_bias[::side].tolist(),
            "learning_rate": self.work.learning_rate[:side].tolist(),
        }
        steps = self.work.steps if steps is None else steps
        config = make_config(self.work.name, steps)
        if self.own_batches:  # The draws of all runs between two evaluations are in memory at once.
            every = math.gcd(steps, OWN_BATCHES)
            config = replace(config, batch_order="independent", probe_every=every)
        return make_grid(config, axes, self.work.seeds)

    def run(self, steps: int | None = None) -> dict[str, np.ndarray]:
        from relu_dynamics.sweeps import blocks, sweep

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
        import jax

        from relu_dynamics.engine import keys, tasks, training
        from relu_dynamics.sweeps import blocks

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


_plain = []


def _plain_program():
    """`blocks.block_program` without its history; compiled once per process."""
    import jax

    from relu_dynamics.sweeps import blocks

    if not _plain:
        program = blocks.block_program.__wrapped__
        plain = lambda *arguments: program(*arguments)._replace(history=None)  # noqa: E731
        _plain.append(jax.jit(plain, compiler_options=blocks.compiler_options()))
    return _plain[0]
