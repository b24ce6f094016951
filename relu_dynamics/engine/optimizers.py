"""Optimizers: update rules, schedules and weight decay, one row each."""

import dataclasses
import enum
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from relu_dynamics.config import Config
from relu_dynamics.engine import models


def scheduled(config: Config, step: jax.Array) -> Config:
    """The config with the learning rate of a step. A schedule thereby also scales what the
    learning rate scales: decoupled decay and additive noise."""
    if config.schedule == "constant":
        return config
    warmup, decay = config.warmup_steps or 0, config.decay_steps or config.steps
    factor = {
        "warmup": lambda: optax.schedules.linear_schedule(0.0, 1.0, warmup),
        "cosine": lambda: optax.schedules.cosine_decay_schedule(1.0, decay),
        "warmup_cosine": lambda: optax.schedules.warmup_cosine_decay_schedule(
            0.0, 1.0, warmup, decay
        ),
    }[config.schedule]()(step)
    return dataclasses.replace(config, learning_rate=config.learning_rate * factor)


class Rule(enum.Enum):
    """The update rules whose mathematics accounts and certificates know."""

    SGD = enum.auto()
    HEAVY_BALL = enum.auto()
    NESTEROV = enum.auto()
    ADAM = enum.auto()
    RMSPROP = enum.auto()


class Optimizer(NamedTuple):
    """What the rest of the project has to know of an optimizer; a row of `OPTIMIZERS`."""

    make: Callable[..., optax.GradientTransformation]  # of (rate, momentum), both traced
    rule: Rule | None = None  # None: accounts and certificates refuse it
    memory: str | None = None  # the part of its state that moves a unit without a gradient
    uses_momentum: bool = True
    decay_is_decoupled: bool = False  # whatever `decay_kind` says


DEFAULT_MOMENTUM = 0.9

# optax's own, which `OPTIMIZERS` leaves as they are.
ADAM_B2, ADAM_EPSILON = 0.999, 1e-8

RMSPROP_DECAY, RMSPROP_EPSILON = 0.9, 1e-8


def _adam(rate, momentum):
    return optax.adam(rate, b1=momentum)


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(lambda rate, _: optax.sgd(rate), Rule.SGD, uses_momentum=False),
    "momentum": Optimizer(
        lambda rate, momentum: optax.sgd(rate, momentum=momentum), Rule.HEAVY_BALL, "trace"
    ),
    "nesterov": Optimizer(
        lambda rate, momentum: optax.sgd(rate, momentum=momentum, nesterov=True),
        Rule.NESTEROV,
        "trace",
    ),
    "adam": Optimizer(_adam, Rule.ADAM, "mu"),
    # AdamW is Adam and a decoupled decay; `make_optimizer` adds the decay, as for all others.
    "adamw": Optimizer(_adam, Rule.ADAM, "mu", decay_is_decoupled=True),
    # Its state scales the gradient and moves nothing by itself.
    "rmsprop": Optimizer(lambda rate, _: optax.rmsprop(rate), Rule.RMSPROP, uses_momentum=False),
}


def optimizer_of(config: Config) -> Optimizer:
    """The row of `OPTIMIZERS` that the config names."""
    return OPTIMIZERS[config.optimizer]


def momentum_of(config: Config) -> float | jax.Array:
    """The (traced) momentum, or Adam's b1, that the optimizer gets."""
    return DEFAULT_MOMENTUM if config.momentum is None else config.momentum


def decay_is_decoupled(config: Config) -> bool:
    """Whether weight decay is subtracted after the optimizer rather than added to the gradient."""
    return config.decay_kind == "decoupled" or optimizer_of(config).decay_is_decoupled


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """The optax optimizer of a config, built from its (traced) numbers.

    Built inside the step rather than kept in the state: `optax.inject_hyperparams` rounds Adam's
    1 - b1 differently, and this is bit-equal to plain optax.
    """
    rate = config.learning_rate
    base = optimizer_of(config).make(rate, momentum_of(config))
    if config.weight_decay is None:
        return base
    mask = functools.partial(decay_mask, config)
    if decay_is_decoupled(config):
        return optax.chain(base, _decoupled_decay(config.weight_decay, rate, mask))
    return optax.chain(optax.add_decayed_weights(config.weight_decay, mask), base)


def _decoupled_decay(decay, rate, mask) -> optax.GradientTransformation:
    """Subtracts rate * decay * parameter from the update, after the optimizer (AdamW's form)."""

    def update(updates, state, params=None):
        decayed = jax.tree.map(
            lambda u, p, m: u - rate * decay * p if m else u, updates, params, mask(params)
        )
        return decayed, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def decay_mask(config: Config, params: models.Params) -> Any:
    """A tree of bools: which parameters decay under `config.decay_targets`. Weights are arrays
    of two axes; biases, scales and shifts have one."""
    wanted = {"all": (1, 2), "weights": (2,), "biases": (1,)}[config.decay_targets]
    return jax.tree.map(lambda leaf: leaf.ndim in wanted, params)
