"""Optimizers: update rules, schedules and weight decay, one row each."""

import dataclasses
import enum
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from relu_dynamics.config import Config
from relu_dynamics.engine import models, resets


class Schedule(NamedTuple):
    """What the rest of the project has to know of a schedule; a row of `SCHEDULES`."""

    # Of (step, warmup_steps, decay_steps): the factor on the learning rate. None: always 1.
    factor: Callable[[jax.Array, int, int], Any] | None
    uses_warmup: bool = False
    uses_decay: bool = False
    aliases: tuple[str, ...] = ()  # what else it is called, for the hint at an unknown name


def _warmup(step, warmup, _):
    return optax.schedules.linear_schedule(0.0, 1.0, warmup)(step)


def _cosine(step, _, decay):
    return optax.schedules.cosine_decay_schedule(1.0, decay)(step)


def _warmup_cosine(step, warmup, decay):
    return optax.schedules.warmup_cosine_decay_schedule(0.0, 1.0, warmup, decay)(step)


SCHEDULES: dict[str, Schedule] = {
    "constant": Schedule(None, aliases=("none", "fixed")),
    "warmup": Schedule(_warmup, uses_warmup=True, aliases=("linear warmup",)),
    "cosine": Schedule(
        _cosine,
        uses_decay=True,
        aliases=("cosine decay", "cosine annealing", "cosine annealing lr"),
    ),
    "warmup_cosine": Schedule(
        _warmup_cosine,
        uses_warmup=True,
        uses_decay=True,
        aliases=("cosine warmup", "warmup cosine decay"),
    ),
}


def scheduled(config: Config, step: jax.Array) -> Config:
    """The config with the learning rate of a step. A schedule thereby also scales what the
    learning rate scales: decoupled decay and additive noise."""
    factor = SCHEDULES[config.schedule].factor
    if factor is None:
        return config
    now = factor(step, config.warmup_steps or 0, config.decay_steps or config.steps)
    return dataclasses.replace(config, learning_rate=config.learning_rate * now)


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
    aliases: tuple[str, ...] = ()  # what else it is called, for the hint at an unknown name

    @property
    def uses_decay_kind(self) -> bool:
        """Whether `decay_kind` says how weight decay enters."""
        return not self.decay_is_decoupled


DEFAULT_MOMENTUM = 0.9

# optax's own, which `OPTIMIZERS` leaves as they are.
ADAM_B2, ADAM_EPSILON = 0.999, 1e-8

RMSPROP_DECAY, RMSPROP_EPSILON = 0.9, 1e-8


def _adam(rate, momentum):
    return optax.adam(rate, b1=momentum)


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(
        lambda rate, _: optax.sgd(rate),
        Rule.SGD,
        uses_momentum=False,
        aliases=("gradient descent", "gd", "vanilla sgd"),
    ),
    "momentum": Optimizer(
        lambda rate, momentum: optax.sgd(rate, momentum=momentum),
        Rule.HEAVY_BALL,
        "trace",
        aliases=("heavy ball", "sgd momentum", "polyak"),
    ),
    "nesterov": Optimizer(
        lambda rate, momentum: optax.sgd(rate, momentum=momentum, nesterov=True),
        Rule.NESTEROV,
        "trace",
        aliases=("nag", "nesterov momentum", "sgd nesterov"),
    ),
    "adam": Optimizer(_adam, Rule.ADAM, "mu"),
    # AdamW is Adam and a decoupled decay; `make_optimizer` adds the decay, as for all others.
    "adamw": Optimizer(_adam, Rule.ADAM, "mu", decay_is_decoupled=True),
    # Its state scales the gradient and moves nothing by itself.
    "rmsprop": Optimizer(lambda rate, _: optax.rmsprop(rate), Rule.RMSPROP, uses_momentum=False),
}


# What figures call them, where that is more than the name in words. Beside the rows: what a row of
# your own is made of is part of the identity of its results.
LABELS = {
    "sgd": "SGD",
    "momentum": "SGD with momentum",
    "nesterov": "SGD with Nesterov momentum",
    "adam": "Adam",
    "adamw": "AdamW",
    "rmsprop": "RMSprop",
}


def label_of(name: str) -> str:
    """What figures call an optimizer."""
    return LABELS.get(name, name.replace("_", " "))


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
    """The optax optimizer of a config, built from its (traced) numbers; where its reset remembers
    units, what is remembered is the last part of the optimizer's state.

    Built inside the step rather than kept in the state: `optax.inject_hyperparams` rounds Adam's
    1 - b1 differently, and this is bit-equal to plain optax.
    """
    if resets.remembers(config):
        return optax.chain(_with_decay(config), resets.memory_element(config))
    return _with_decay(config)


def _with_decay(config: Config) -> optax.GradientTransformation:
    """The optimizer and the config's weight decay."""
    rate = config.learning_rate
    base = optimizer_of(config).make(rate, momentum_of(config))
    if config.weight_decay is None:
        return base
    mask = functools.partial(decay_mask, config)
    if config.decay_to_start:
        if decay_is_decoupled(config):
            return optax.chain(base, _pull_to_start(-rate * config.weight_decay, mask))
        return optax.chain(_pull_to_start(config.weight_decay, mask), base)
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


class Start(NamedTuple):
    """State of a pull to the start."""

    params: models.Params  # at step 0


def _pull_to_start(factor, mask) -> optax.GradientTransformation:
    """Adds factor * (parameter - its value at step 0) to the update, where it decays."""

    def update(updates, state, params=None):
        pull = lambda u, p, first, m: u + factor * (p - first) if m else u  # noqa: E731
        return jax.tree.map(pull, updates, params, state.params, mask(params)), state

    return optax.GradientTransformation(Start, update)


# What decays, by the number of axes: weights have two; biases, scales and shifts have one.
DECAY_TARGETS = {"all": (1, 2), "weights": (2,), "biases": (1,)}


def decay_mask(config: Config, params: models.Params) -> Any:
    """A tree of bools: which parameters decay under `config.decay_targets`."""
    wanted = DECAY_TARGETS[config.decay_targets]
    return jax.tree.map(lambda leaf: leaf.ndim in wanted, params)
