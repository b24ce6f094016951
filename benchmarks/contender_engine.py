"""This project's own engine as a contender, used as its users use it: a config, then a sweep."""

import atexit
import functools
import inspect
import math
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from engine_streams import make_config
from workloads import STATISTICS, Workload, pack

from relu_dynamics import Grid, make_grid
from relu_dynamics.engine import keys, tasks, training
from relu_dynamics.engine.native import build
from relu_dynamics.sweeps import blocks, sweep

OWN_BATCHES = 100  # Steps whose batches are drawn together, where every run has its own.
FEW_EXAMPLES = 16  # Of the two evaluations of a run without evaluations.
NAMED = {  # What a sweep's result calls the statistics, where that is something else.
    "first_active": "batch_first_active",
    "sum_mean": "batch_mean_sum",
    "running_max": "batch_peak",
    "sum_fraction": "batch_active_sum",
}
# The lines of kernel.cc that keep a unit's statistics, in networks and in networks of one unit;
# without them the compiler drops what they are computed from.
KEPT = tuple(
    re.escape(line) + r"[^;]*;"
    for line in (
        "store(s.mean + u,",
        "store(s.active + u,",
        "store(s.peak + u,",
        "std::memcpy(s.first + u,",
        "u.mean +=",
        "u.active +=",
        "u.peak =",
        "u.first =",
    )
)


class Engine:
    """The engine on all cores. With `statistics` it is `sweep`, as a user calls it, which records
    every unit's statistics at every step; without, a program that leaves them out: plain JAX with
    its history dropped, so that XLA prunes them, or the same sweep with a kernel compiled without
    the lines that keep them. With `own_batches` every run draws its own. Without `evaluations`
    there is one before the first step and one after the last, on few examples. `implementation` is
    the config's."""

    def __init__(
        self,
        statistics: bool = True,
        own_batches: bool = False,
        evaluations: bool = True,
        implementation: str = "plain",
    ):
        self.statistics = statistics
        self.own_batches = own_batches
        self.evaluations = evaluations
        self.implementation = implementation
        if implementation == "kernel" and not statistics:
            _leave_out_statistics()

    def prepare(self, work: Workload) -> None:
        self.work = work
        self.run()

    def _grid(self, steps: int | None) -> Grid:
        axes = {  # Sorted, as `axes_of` makes them.
            "initial_bias": np.unique(self.work.initial_bias).tolist(),
            "learning_rate": np.unique(self.work.learning_rate).tolist(),
        }
        steps = self.work.steps if steps is None else steps
        config = replace(make_config(self.work.name, steps), implementation=self.implementation)
        if self.own_batches:  # The draws of all runs between two evaluations are in memory at once.
            every = math.gcd(steps, OWN_BATCHES)
            config = replace(config, batch_order="independent", probe_every=every)
        if not self.evaluations:
            config = replace(config, probe_every=steps, probe_size=FEW_EXAMPLES)
        return make_grid(config, axes, self.work.seeds)

    def run(self, steps: int | None = None) -> dict[str, np.ndarray]:
        grid = self._grid(steps)
        self.last = grid
        if not self.statistics and self.implementation == "plain":
            for _ in blocks.run_blocks(grid, range(grid.blocks), program=_plain_program()):
                pass
            return {}
        result = sweep.sweep_grid(grid)
        if not self.statistics:
            return {}
        order = ("seed", "initial_bias", "learning_rate", "unit")
        shape = (self.work.seeds, self.work.cells, -1)
        values = {
            field: result[NAMED.get(field, field)].transpose(*order).values.reshape(shape)
            for field in (self.work.fields if self.evaluations else STATISTICS)
        }
        never = values["first_active"] < 0
        values["first_active"] = np.where(never, grid.config.steps, values["first_active"])
        return values

    def complete(self, result: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The result of the last run with the final parameters, which a sweep does not keep: the
        same vmapped run once more, not timed."""
        grid = self.last

        data = tasks.load_data(grid.config)

        @jax.jit
        def final(configs, key):
            task = tasks.make_task(configs, keys.purpose_key(key, "task"), data)
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


def without_statistics(source: str) -> str:
    """The kernel's source without the lines that keep statistics; raises a ValueError when it keeps
    them otherwise."""
    for line in KEPT:
        source, count = re.subn(line, ";", source)
        if count != 1:
            raise ValueError(f"kernel.cc has {count} lines {line!r}; look at contender_engine.KEPT")
    return source


def _leave_out_statistics() -> None:
    """Makes the kernel of this process one without statistics."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    source = folder / "kernel.cc"
    source.write_text(without_statistics(build.SOURCE.read_text()))
    build.SOURCE = source


@functools.cache
def _plain_program():
    """`blocks.block_program` without its history; compiled once per process."""
    program = inspect.unwrap(blocks.block_program)
    return jax.jit(
        lambda *arguments: program(*arguments)._replace(history=None),
        compiler_options=blocks.compiler_options(),
    )
