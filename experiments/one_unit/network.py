"""The small network: which one is shown, and what flows through it."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.one_unit.sweep import Options
from relu_dynamics.config import Config
from relu_dynamics.engine import models, tasks, training
from relu_dynamics.engine.activations import ACTIVATIONS
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.step import loss_gradients


class Network(NamedTuple):
    """Measured values of a small network; one list entry per layer of weights, the output's
    last."""

    weights: list[np.ndarray]  # [fan_in, fan_out]
    carried: list[np.ndarray]  # [fan_in, fan_out], mean over examples of |weight x activation|
    gradients: list[np.ndarray]  # [fan_in, fan_out], |loss gradient of the weight|
    activity: list[np.ndarray]  # [units] of inputs, hidden layers, output: mean |activation|
    bias_gradients: list[np.ndarray]  # [units], |loss gradient of the bias|
    dead: list[np.ndarray]  # [units] bool, a hidden layer


def measure_network(options: Options) -> tuple[int, Network]:
    """(seed, values on every edge) of the small network that the rule names, over all of its
    training examples; raises a ValueError when no seed fits."""
    config = options.network
    last = np.arange(config.units) >= config.units - config.hidden[-1]
    for seed in range(options.network_seeds):
        run = training.train(config, seed, root_seed=options.root_seed)
        dead = np.asarray(run.history.margin) <= 0
        born_alive = ~np.asarray(run.history.dead_at_start)
        if dead.sum() == 1 and (dead & last & born_alive).any():
            return seed, network_values(config, seed, options.root_seed, run.state.params)
    raise ValueError(
        f"no network of {options.network_seeds} seeds ended with exactly one dead unit, in its "
        f"last hidden layer; use more network_seeds."
    )


def network_values(config: Config, seed: int, root_seed: int, params: models.Params) -> Network:
    """What flows through a network forward and backward, over all training examples."""
    key = run_key(root_seed, seed)
    task = tasks.make_task(config, purpose_key(key, "task"), tasks.load_data(config))
    forward = models.apply(config, params, task.inputs)
    every = jnp.arange(config.examples)
    _, z, gradients = loss_gradients(config, task, every, params)
    hidden = [models.layer_name(layer) for layer in range(1, len(config.hidden) + 1)]
    seen = [*forward.inputs, ACTIVATIONS[config.activation](forward.preactivations[-1])]
    size = lambda values: np.abs(np.asarray(values))  # noqa: E731
    weights = [np.asarray(params[name]["kernel"]) for name in (*hidden, "output")]
    inflow = [size(x).mean(0) for x in seen]
    return Network(
        weights=weights,
        carried=[mean[:, None] * size(w) for mean, w in zip(inflow, weights, strict=True)],
        gradients=[size(gradients[name]["kernel"]) for name in (*hidden, "output")],
        activity=[*inflow, size(forward.output).mean(0)],
        bias_gradients=[size(gradients[name]["bias"]) for name in (*hidden, "output")],
        dead=[np.asarray(values.max(0) <= 0) for values in z],
    )
