"""Units that are not there: a network without its killed units, and new networks of that size."""

import dataclasses
import io
import pathlib
from collections.abc import Mapping

import jax
import numpy as np

from experiments.consequences.sweep import SHARE, Options
from relu_dynamics import store
from relu_dynamics.config import Config
from relu_dynamics.engine import models, optimizers, tasks, training
from relu_dynamics.engine.keys import run_key
from relu_dynamics.engine.outcomes import NEVER
from relu_dynamics.engine.step import State
from relu_dynamics.engine.validation import validate
from relu_dynamics.grid import Grid
from relu_dynamics.sweeps import ensembles


def without_killed(config: Config, params: models.Params) -> tuple[Config, models.Params]:
    """The same network without its killed units: a config of the smaller widths, and the weights
    that the others had. Every layer must keep the same number of units or more than none."""
    alive = []
    for layer in range(1, len(config.hidden) + 1):
        group = params[models.layer_name(layer)]
        killed = ~np.any(np.asarray(group["kernel"]), axis=0) & (np.asarray(group["bias"]) == -1)
        alive.append(~killed)
    out, below = {}, slice(None)
    for layer, kept in enumerate(alive, start=1):
        group = params[models.layer_name(layer)]
        out[models.layer_name(layer)] = {
            "kernel": group["kernel"][below][:, kept],
            "bias": group["bias"][kept],
        }
        below = kept
    out["output"] = {**params["output"], "kernel": params["output"]["kernel"][below]}
    hidden = tuple(int(kept.sum()) for kept in alive)
    smaller = dataclasses.replace(config, hidden=hidden, killed_fraction=None, killed_at=0)
    return validate(smaller), out


def missing_difference(config: Config, seed: int = 0, root_seed: int = 0) -> dict[str, float]:
    """Trains a network with killed units, and the smaller one with the weights that the others had,
    on the same minibatches. Returns the largest difference between weights that both have after
    the last step, the largest of these weights, and the deviation of a second-layer weight at
    step 0 over that of a fresh network of the smaller size (He's)."""
    key = run_key(root_seed, seed)
    start = training.start(training.as_arrays(validate(config)), key)
    smaller, params = without_killed(config, start.params)
    state = State(start.step, params, optimizers.make_optimizer(smaller).init(params))
    # The key of the batches is the run's; a run from a given state takes no weights from it.
    with_dead = training.train(config, seed, root_seed=root_seed).state.params
    without = training.train(smaller, seed, root_seed=root_seed, state=state).state.params
    kept = without_killed(config, with_dead)[1]
    pairs = list(zip(jax.tree.leaves(kept), jax.tree.leaves(without), strict=True))
    second = np.asarray(params[models.layer_name(2)]["kernel"])
    return {
        "steps": config.steps,
        "largest_difference": max(float(np.abs(a - b).max()) for a, b in pairs),
        "largest_weight": max(float(np.abs(b).max()) for _, b in pairs),
        "scale_of_fresh": float(second.std() / np.sqrt(2 / smaller.hidden[0])),
        "expected_scale": float(np.sqrt(smaller.hidden[0] / config.hidden[0])),
    }


def widest_difference(options: Options) -> dict[str, float]:
    """`missing_difference` of the last width at the article's share, over five evaluations."""
    config = dataclasses.replace(
        options.config,
        hidden=(options.widths[-1],) * 2,
        killed_fraction=SHARE,
        steps=5 * options.config.probe_every,
    )
    return missing_difference(config)


# One cell of a small network is no work for a block of cells: its lanes are seeds, stored in one
# file per size.


def new_reading(config: Config, task: tasks.Task, run: training.Run) -> dict[str, jax.Array]:
    """What the analysis needs of one run."""
    return {
        "loss": run.held_loss,
        "error": run.held_error,
        "losses": run.trace.loss,
        "died": (run.history.margin <= 0).sum(),
        "diverged": run.history.diverged_at != NEVER,
    }


def train_new(new: Mapping[str, Grid], out: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
    """`new_reading` of all runs of new and smaller networks, [seeds, ...] each; stored in `out`,
    where a size that is done is not trained again."""
    found = {}
    for name, grid in new.items():
        path = out / f"{name}-{grid.hash[:12]}.npz"
        if not path.is_file():
            print(f"{name}: {grid.runs:,} runs of {grid.config.steps:,} steps", flush=True)
            read = ensembles.train_all(grid, new_reading, 25)
            held = io.BytesIO()
            np.savez(held, **{field: values[:, 0] for field, values in read.items()})
            store.write_whole(path, held.getvalue())
        with np.load(path) as stored:
            found[name] = {field: stored[field] for field in stored.files}
    return found
