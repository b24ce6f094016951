"""Initializers and bias laws: the weights and the biases at step 0, one row each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from relu_dynamics.config import Config
from relu_dynamics.engine.normalizations import normalization_of

Affine = dict[str, jax.Array]  # one affine map: kernel [fan_in, units], and bias [units] if it has


class Initializer(NamedTuple):
    """What the rest of the project has to know of an initializer; a row of `INITIALIZERS`."""

    weights: Callable  # of (key, shape, dtype), as those of `jax.nn.initializers`
    redraw: Callable[[jax.Array, Affine], Affine] | None = None  # of (key, map), the output's too
    # Of (map, inputs [examples, fan_in]), for one hidden layer after the other.
    fit: Callable[[Affine, jax.Array], Affine] | None = None
    zero: bool = False  # all weights are 0
    aliases: tuple[str, ...] = ()  # what else it is called, for the hint at an unknown name


def _with_uniform_bias(key: jax.Array, affine: Affine) -> Affine:
    """The bias from U(-1, 1) / sqrt(fan_in)."""
    if "bias" not in affine:
        return affine
    fan_in, units = affine["kernel"].shape
    values = jax.random.uniform(key, (units,), minval=-1, maxval=1)
    return {**affine, "bias": values / fan_in**0.5}


def _randomized_asymmetric(key: jax.Array, affine: Affine) -> Affine:
    """Lu et al., arXiv 1903.06733: of each unit's weights and bias one, chosen at random, is drawn
    from Beta(2, 1) on [0, 1], the others from N(0, 0.6007^2 / fan_in)."""
    fan_in, units = affine["kernel"].shape
    normal_key, beta_key, place_key = (jax.random.fold_in(key, i) for i in range(3))
    rows = fan_in + ("bias" in affine)
    values = jax.random.normal(normal_key, (rows, units)) * (0.6007 / fan_in**0.5)
    positive = jnp.sqrt(jax.random.uniform(beta_key, (units,)))  # Beta(2, 1) by its inverse
    place = jax.random.randint(place_key, (units,), 0, rows)
    values = jnp.where(jnp.arange(rows)[:, None] == place[None, :], positive[None, :], values)
    kernel = {"kernel": values[:fan_in]}
    return kernel | {"bias": values[fan_in]} if rows > fan_in else kernel


def _standardized(affine: Affine, inputs: jax.Array) -> Affine:
    """Weights and bias scaled so the map has mean 0 and deviation 1 on the inputs (Salimans &
    Kingma 2016, arXiv 1602.07868, section 3). A unit that is constant there keeps its weights."""
    values = inputs @ affine["kernel"]
    deviation = values.std(0, keepdims=True)
    factor = jnp.where(deviation > 0, 1 / jnp.where(deviation > 0, deviation, 1), 1)
    kernel = affine["kernel"] * factor
    return {"kernel": kernel, **({"bias": -values.mean(0) * factor[0]} if "bias" in affine else {})}


_HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")

INITIALIZERS: dict[str, Initializer] = {
    "he_normal": Initializer(_HE_NORMAL, aliases=("kaiming normal", "kaiming", "msra")),
    "he_uniform": Initializer(nn.initializers.he_uniform(), aliases=("kaiming uniform",)),
    "xavier_normal": Initializer(
        nn.initializers.variance_scaling(1.0, "fan_avg", "normal"), aliases=("glorot normal",)
    ),
    "xavier_uniform": Initializer(
        nn.initializers.xavier_uniform(), aliases=("glorot uniform", "glorot", "xavier")
    ),
    "lecun_normal": Initializer(
        nn.initializers.variance_scaling(1.0, "fan_in", "normal"), aliases=("lecun",)
    ),
    "orthogonal": Initializer(nn.initializers.orthogonal(2**0.5)),
    "randomized_asymmetric": Initializer(
        nn.initializers.zeros, redraw=_randomized_asymmetric, aliases=("rai",)
    ),
    "data_dependent": Initializer(_HE_NORMAL, fit=_standardized),
    # U(-1, 1) / sqrt(fan_in) for weights and biases, the default of PyTorch's linear layers.
    "torch_default": Initializer(
        nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
        redraw=_with_uniform_bias,
        aliases=("pytorch", "torch", "pytorch default"),
    ),
    "too_small": Initializer(nn.initializers.variance_scaling(0.02, "fan_in", "normal")),
    "too_large": Initializer(nn.initializers.variance_scaling(200.0, "fan_in", "normal")),
    # Constants; `weight_scale` makes 0.5 or 0.01 of the 1.
    "zeros": Initializer(nn.initializers.zeros, zero=True),
    "ones": Initializer(nn.initializers.ones),
    "minus_ones": Initializer(nn.initializers.constant(-1.0)),
}


# The laws of the hidden layers' biases, of (key, shape), for `bias_scale` = 1; None: the biases
# stay as the initializer sets them.
BIAS_LAWS: dict[str, Callable[[jax.Array, tuple[int]], jax.Array] | None] = {
    "initializer": None,
    "constant": lambda key, shape: jnp.ones(shape),
    "normal": jax.random.normal,
    "uniform": lambda key, shape: jax.random.uniform(key, shape, minval=-1, maxval=1),
}


def _geometric_median(inputs: jax.Array) -> jax.Array:
    """The point of the least mean distance to the inputs, by 50 steps of Weiszfeld's algorithm."""

    def closer(_, point):
        distances = jnp.linalg.norm(inputs - point[None, :], axis=1, keepdims=True)
        weights = 1 / jnp.maximum(distances, 1e-6)
        return (weights * inputs).sum(0) / weights.sum()

    return jax.lax.fori_loop(0, 50, closer, inputs.mean(0))


# Where an autoencoder's decoder bias starts, of its training inputs [examples, dimension]; None: 0.
CENTRES: dict[str, Callable[[jax.Array], jax.Array] | None] = {
    "zero": None,
    "mean": lambda inputs: inputs.mean(0),
    "geometric_median": _geometric_median,
}


def per_layer(value: Any, layers: int) -> tuple:
    """A field that holds one value, or one per layer, as one per layer."""
    return value if isinstance(value, tuple) else (value,) * layers


def initializers_of(config: Config) -> tuple[Initializer, ...]:
    """The rows of `INITIALIZERS` that the config names, of the hidden layers and the output."""
    return tuple(INITIALIZERS[n] for n in per_layer(config.initializer, len(config.hidden) + 1))


def fits_inputs(config: Config) -> bool:
    """Whether something of the network's start is fitted to the training inputs."""
    if CENTRES[config.decoder_bias] is not None:
        return True
    return any(row.fit is not None for row in initializers_of(config)[:-1])


def has_shift(config: Config, layer: int) -> bool:
    """Whether the units of hidden layer `layer` (from 1) have a bias, or a normalization's shift
    in its place."""
    biases = per_layer(config.hidden_bias, len(config.hidden))
    return biases[layer - 1] or normalization_of(config).present
