"""Ensembles: the same numbers as one run at a time, in the order of the values."""

import jax
import numpy as np
import pytest

from relu_dynamics.config import Config
from relu_dynamics.engine import tasks, training
from relu_dynamics.engine.keys import run_key
from relu_dynamics.grid import make_grid
from relu_dynamics.sweeps import ensembles

TINY = Config(
    task="abs", hidden=(3, 3), examples=8, batch_size=None, steps=20, probe_every=10,
    initial_bias=0.0, biased_layer=1, biased_units=1,
)  # fmt: skip


def test_every_value_once_and_in_order_with_padding():
    found = ensembles.map_lanes(lambda x, y: (x * x, x + y), np.arange(7.0), 3, (2.0,))
    np.testing.assert_array_equal(found[0], np.arange(7.0) ** 2)
    np.testing.assert_array_equal(found[1], np.arange(7.0) + 2)


def test_keys_are_those_of_single_runs():
    keys = ensembles.run_keys(5, (0, 3, 2**40))
    for key, seed in zip(keys, (0, 3, 2**40), strict=True):
        assert (jax.random.key_data(key) == jax.random.key_data(run_key(5, seed))).all()
    drawn = ensembles.map_keys(lambda key: jax.random.uniform(key), keys, 2)
    np.testing.assert_array_equal(drawn, [jax.random.uniform(key) for key in keys])


@pytest.mark.slow
def test_an_ensemble_trains_the_runs_of_its_grid():
    grid = make_grid(TINY, {"learning_rate": [0.01, 0.1], "target_scale": [1.0, 2.0]}, 3)
    read = lambda config, task, run: (run.held_loss, run.state.params["output"]["bias"][0])  # noqa: E731
    loss, bias = ensembles.train_all(grid, read, 2)
    assert loss.shape == bias.shape == (3, 4)
    values = grid.values(np.arange(4))
    for seed, cell in ((0, 0), (2, 3)):
        one = Config(**{**TINY.__dict__, **{n: float(v[cell]) for n, v in values.items()}})
        run = training.train(one, seed)
        np.testing.assert_allclose(loss[seed, cell], run.held_loss, rtol=1e-4)


def test_target_scale_multiplies_regression_targets():
    key = jax.random.key(0)
    plain = tasks.make_task(TINY, key, None)
    scaled = tasks.make_task(Config(**{**TINY.__dict__, "target_scale": 3.0}), key, None)
    np.testing.assert_allclose(scaled.targets, 3 * plain.targets, rtol=1e-6)
    np.testing.assert_array_equal(scaled.inputs, plain.inputs)
