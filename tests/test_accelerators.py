"""Programs for accelerators, without one: JAX lowers them here for CUDA, ROCm and TPU."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
import pytest
from jax import export

from relu_dynamics import Config, inspection, make_grid
from relu_dynamics.engine import (
    activations,
    interventions,
    keys,
    models,
    normalizations,
    optimizers,
    resets,
    step,
    tasks,
    terms,
    training,
)
from relu_dynamics.engine.native.coverage import decided
from relu_dynamics.engine.validation import validate
from relu_dynamics.sweeps import blocks

PLATFORMS = ("cuda", "rocm", "tpu")
# With as many targets as inputs, which autoencoders need, and a layer that a residual can skip.
TINY = Config(
    task="sparse_features", examples=8, dimension=4, hidden=(8, 8), biased_layer=1, batch_size=4,
    steps=2, probe_every=1, probe_size=4, sustain=1, biased_units=1,
)  # fmt: skip
AUTOENCODER = dict(model="autoencoder", hidden=(8,))
TABLES = {
    "optimizer": (optimizers.OPTIMIZERS, dict(weight_decay=0.01)),
    "reset": (resets.RESETS, dict(reset_every=1)),
    "normalization": (normalizations.NORMALIZATIONS, {}),
    "activation": (activations.ACTIVATIONS, {}),
    "model": (models.MODELS, {}),
    "penalty": (terms.PENALTIES, dict(penalty_scale=0.01)),
    "revival": (terms.REVIVALS, AUTOENCODER),
    "schedule": (optimizers.SCHEDULES, dict(warmup_steps=1)),
}
FAST = ("optimizer", "reset")  # Together they have every memory and every change of a state.


def lowered(function, *arguments):
    """Lowers for every platform at once, which raises where a primitive has no rule."""
    made = export.export(function, platforms=PLATFORMS)(*arguments)
    assert made.platforms == PLATFORMS
    return made


def rows():
    for field, (table, more) in TABLES.items():
        for name, row in table.items():
            needs = {} if name in ("none", "constant") else dict(more)
            if getattr(row, "autoencodes", False):
                needs |= AUTOENCODER
            if getattr(row, "of_threshold", False):
                needs |= dict(activation="jump_relu")
            if field == "schedule" and not row.uses_warmup:
                needs = {}
            marks = () if field in FAST else pytest.mark.slow
            yield pytest.param(needs | {field: name}, id=f"{field}-{name}", marks=marks)


@pytest.mark.parametrize("change", rows())
def test_every_row_lowers_for_every_accelerator(change):
    config = training.as_arrays(validate(dataclasses.replace(TINY, **change)))
    changed = interventions.with_interventions(step.train_step)

    @jax.jit
    def one(config, key):
        task = tasks.make_task(config, keys.purpose_key(key, "task"), None)
        return changed(config, task, key, training.start(config, key))

    lowered(one, config, jax.random.key(0))


def test_a_block_lowers_for_every_accelerator():
    config = dataclasses.replace(TINY, implementation="plain")
    grid = make_grid(config, {"learning_rate": [0.1, 0.2]}, 1)
    arguments = blocks.block_configs(grid, grid.block_cells(0)), keys.run_key(0, 0)
    made = lowered(blocks.block_program, *arguments, tasks.load_data(config))
    assert {value.shape[0] for value in made.out_avals} == {grid.lanes}


def test_a_watched_step_lowers_for_every_accelerator():
    params, x = {"w": jnp.ones((3, 5)), "v": jnp.ones((5, 1))}, jnp.ones((8, 3))
    tx = optax.adam(0.1)

    def train(params, memory, x):
        loss = lambda p: ((jax.nn.relu(x @ p["w"]) @ p["v"]) ** 2).mean()  # noqa: E731
        updates, memory = tx.update(jax.grad(loss)(params), memory, params)
        return optax.apply_updates(params, updates), memory

    watched = jax.jit(inspection.watch(train))
    plain = len(jax.tree.leaves(jax.eval_shape(train, params, tx.init(params), x)))
    assert len(lowered(watched, params, tx.init(params), x).out_avals) > plain


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_auto_is_plain_on_an_accelerator(monkeypatch, platform):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert decided(Config(implementation="auto")) == "plain"
