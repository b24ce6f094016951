"""Scalings: how a task's inputs are scaled, by the training examples' own statistics."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from relu_dynamics.config import Config


class Scaling(NamedTuple):
    """How inputs are scaled; a row of `SCALINGS`."""

    # Of (inputs to scale, training inputs, dose); [examples, dimension] each but the dose.
    scale: Callable[[jax.Array, jax.Array, Any], jax.Array]
    dose: float | None = None  # the default of `scaling_dose`; None: there is no dose
    keeps_synthetic: bool = False  # synthetic inputs stay as they are made, at their natural scale
    aliases: tuple[str, ...] = ()  # what else it is called, for the hint at an unknown name


def _constant(train: jax.Array) -> jax.Array:
    """Which features are the same in all training rows, [1, dimension]. Asked of the values: the
    mean of equal numbers is rounded, so their deviation need not be 0."""
    return train.min(0, keepdims=True) == train.max(0, keepdims=True)


def _standardized(x: jax.Array, train: jax.Array, _: Any) -> jax.Array:
    mean, deviation = train.mean(0, keepdims=True), train.std(0, keepdims=True)
    # A constant feature has nothing to scale: it becomes 0, and by how much a held-out row differs
    # from the constant where one does.
    constant = _constant(train)
    centre = jnp.where(constant, train[:1], mean)
    return (x - centre) / jnp.where(constant | (deviation == 0), 1, deviation)


def _minmax(x: jax.Array, train: jax.Array, _: Any) -> jax.Array:
    low, high = train.min(0, keepdims=True), train.max(0, keepdims=True)
    return (x - low) / jnp.where(high > low, high - low, 1)


def _one_bad_feature(x: jax.Array, train: jax.Array, factor: Any) -> jax.Array:
    varying = jnp.argmax(~_constant(train)[0])  # the first pixel of digits, say, is always 0
    return _standardized(x, train, None).at[:, varying].multiply(factor)


SCALINGS: dict[str, Scaling] = {
    "standardized": Scaling(
        _standardized, keeps_synthetic=True, aliases=("standard", "standard scaler", "z score")
    ),
    "minmax": Scaling(_minmax, aliases=("min max scaler",)),
    "raw": Scaling(lambda x, train, _: x, aliases=("none", "unscaled")),
    # Every feature's mean in standard deviations.
    "shifted": Scaling(lambda x, train, shift: _standardized(x, train, None) + shift, dose=3.0),
    "one_bad_feature": Scaling(_one_bad_feature, dose=100.0),
}


def dosed_scalings() -> tuple[str, ...]:
    """The scalings that `scaling_dose` makes better or worse."""
    return tuple(name for name, row in SCALINGS.items() if row.dose is not None)


def scaled(config: Config, inputs: jax.Array, held: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scales both parts by the training part's own statistics, as one would in practice."""
    scaling = SCALINGS[config.input_scaling]
    dose = scaling.dose if config.scaling_dose is None else config.scaling_dose
    return scaling.scale(inputs, inputs, dose), scaling.scale(held, inputs, dose)
