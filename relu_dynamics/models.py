"""Models: pure functions from parameters and inputs to outputs and every pre-activation.

The only file that imports flax. `apply` returns what it sees instead of tapping it: the
pre-activation z of every hidden layer is a normal return value, and jit prunes what nobody reads.

Axes: `batch` examples, `units` of one hidden layer. Layers are counted from 1 in names.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from relu_dynamics.config import Config
from relu_dynamics.tasks import TASKS, input_dimension

Params = dict[str, Any]

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    # jax.nn.relu has derivative 0 at 0; maximum(x, 0) would have 0.5 and revive units at z = 0.
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
    "identity": lambda x: x,
}

HOMOGENEOUS = ("relu", "leaky_relu", "identity")  # f(z) = f'(z) z

INITIALIZERS: dict[str, Callable] = {
    "he_normal": nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
    "he_uniform": nn.initializers.he_uniform(),
    "xavier_normal": nn.initializers.variance_scaling(1.0, "fan_avg", "normal"),
    "xavier_uniform": nn.initializers.xavier_uniform(),
    "lecun_normal": nn.initializers.variance_scaling(1.0, "fan_in", "normal"),
    "orthogonal": nn.initializers.orthogonal(2**0.5),
    "too_small": nn.initializers.variance_scaling(0.02, "fan_in", "normal"),
    "too_large": nn.initializers.variance_scaling(200.0, "fan_in", "normal"),
}

GROUP_SIZE = 4  # units a group in "group" normalization
NORM_EPSILON = 1e-6


class Forward(NamedTuple):
    """What one forward pass shows."""

    output: jax.Array  # [batch, outputs]
    preactivations: tuple[jax.Array, ...]  # one [batch, units] a hidden layer: what enters it
    inputs: tuple[jax.Array, ...]  # one [batch, fan_in] a hidden layer: what its weights see


class MLP(nn.Module):
    """A multilayer perceptron of any depth and width; one unit is its smallest case."""

    hidden: tuple[int, ...]
    outputs: int
    activation: str
    initializer: str
    normalization: str
    output_bias: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> Forward:
        kernel_init = INITIALIZERS[self.initializer]
        preactivations, inputs = [], []
        for layer, width in enumerate(self.hidden, start=1):
            inputs.append(x)
            z = nn.Dense(width, kernel_init=kernel_init, name=layer_name(layer))(x)
            z = self._normalize(layer, z)
            preactivations.append(z)
            x = ACTIVATIONS[self.activation](z)
        output = nn.Dense(
            self.outputs, kernel_init=kernel_init, use_bias=self.output_bias, name="output"
        )(x)
        return Forward(output, tuple(preactivations), tuple(inputs))

    def _normalize(self, layer: int, z: jax.Array) -> jax.Array:
        name = norm_name(layer)
        if self.normalization == "batch":
            # Statistics of the batch at hand, always (training mode): no running averages, so
            # that a forward pass stays a pure function of parameters and inputs.
            scale = self.param("scale_" + name, nn.initializers.ones, (z.shape[-1],))
            shift = self.param("shift_" + name, nn.initializers.zeros, (z.shape[-1],))
            mean, variance = z.mean(0, keepdims=True), z.var(0, keepdims=True)
            normal = (z - mean) * jax.lax.rsqrt(variance + NORM_EPSILON)
            return normal * scale[None, :] + shift[None, :]
        if self.normalization == "layer":
            return nn.LayerNorm(epsilon=NORM_EPSILON, use_fast_variance=False, name=name)(z)
        if self.normalization == "group":
            groups = nn.GroupNorm(
                num_groups=None,
                group_size=GROUP_SIZE,
                epsilon=NORM_EPSILON,
                use_fast_variance=False,
                name=name,
            )
            return groups(z)
        if self.normalization == "rms":
            shift = self.param("shift_" + name, nn.initializers.zeros, (z.shape[-1],))
            return nn.RMSNorm(epsilon=NORM_EPSILON, name=name)(z) + shift[None, :]
        return z


def layer_name(layer: int) -> str:
    """The parameter group of hidden layer `layer` (from 1)."""
    return f"hidden_{layer}"


def norm_name(layer: int) -> str:
    """The parameter group of the normalization of hidden layer `layer` (from 1)."""
    return f"norm_{layer}"


def build(config: Config) -> MLP:
    """The Flax module of a config."""
    return MLP(
        hidden=config.hidden,
        outputs=TASKS[config.task].outputs,
        activation=config.activation,
        initializer=config.initializer,
        normalization=config.normalization,
        output_bias=config.output_bias,
    )


def initialize(config: Config, key: jax.Array) -> Params:
    """Parameters at step 0. `key` is consumed. Every cell of a seed gets the same weights; only
    the shift of the `biased_units` first units of `biased_layer` is the cell's `initial_bias`."""
    inputs = jnp.zeros((2, input_dimension(config)))
    params = build(config).init(key, inputs)["params"]
    return with_shift(
        config, params, lambda shift: shift.at[: config.biased_units].set(config.initial_bias)
    )


def with_shift(config: Config, params: Params, change: Callable[[jax.Array], jax.Array]) -> Params:
    """A copy of a parameter-shaped tree with the biased layer's shift [units] changed."""
    group, name = shift_location(config)
    if not group:
        return {**params, name: change(params[name])}
    return {**params, group: {**params[group], name: change(params[group][name])}}


def shift_location(config: Config, layer: int | None = None) -> tuple[str, str]:
    """(group, name) of the additive shift of a hidden layer's pre-activations (of the biased
    layer by default); the group is "" at the top level. Without a normalization it is the
    layer's bias."""
    layer = config.biased_layer if layer is None else layer
    if config.normalization == "none":
        return layer_name(layer), "bias"
    if config.normalization in ("layer", "group"):
        return norm_name(layer), "bias"
    return "", "shift_" + norm_name(layer)


def shift(config: Config, params: Params, layer: int) -> jax.Array:
    """The additive shift of hidden layer `layer`'s pre-activations, [units]."""
    group, name = shift_location(config, layer)
    return (params[group] if group else params)[name]


def apply(config: Config, params: Params, inputs: jax.Array) -> Forward:
    """Outputs and every pre-activation for inputs [batch, dimension]."""
    return build(config).apply({"params": params}, inputs)


# --- Networks of one unit, many at once -----------------------------------------------------------


class Columns(NamedTuple):
    """The parameters of many one-unit networks, a network a column."""

    weights: jax.Array  # [fan_in, lanes]
    bias: jax.Array  # [lanes]
    output_weight: jax.Array  # [lanes]
    output_bias: jax.Array | None  # [lanes]


def is_one_unit(config: Config) -> bool:
    """Whether the config's network is z = w.x + b, output v f(z) + c, trained by regression."""
    kind = TASKS[config.task]
    return (
        config.hidden == (1,)
        and config.normalization == "none"
        and kind.outputs == 1
        and not kind.classes
    )


def to_columns(params: Params) -> Columns:
    """Parameters of one-unit networks with a leading [lanes] axis, as columns."""
    unit, output = params[layer_name(1)], params["output"]
    return Columns(
        weights=unit["kernel"][:, :, 0].T,
        bias=unit["bias"][:, 0],
        output_weight=output["kernel"][:, 0, 0],
        output_bias=output["bias"][:, 0] if "bias" in output else None,
    )


def from_columns(columns: Columns) -> Params:
    """The inverse of `to_columns`."""
    output = {"kernel": columns.output_weight[:, None, None]}
    if columns.output_bias is not None:
        output["bias"] = columns.output_bias[:, None]
    unit = {"kernel": columns.weights.T[:, :, None], "bias": columns.bias[:, None]}
    return {layer_name(1): unit, "output": output}


def one_unit_gradients(
    config: Config, columns: Columns, inputs: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array, Columns]:
    """(losses [lanes], pre-activations [batch, lanes], gradients) of one-unit networks on shared
    inputs [batch, fan_in] and targets [batch, 1], for half the mean squared error.

    By hand rather than by `jax.grad`, so that weights and bias are one matrix product forward and
    one backward; the tests compare it with `jax.grad` of `apply`. For an activation with
    f(z) = f'(z) z, as ReLU, the output weight's gradient needs no pass over the batch of its own:
    sum_i e_i f(z_i) = sum_i e_i f'(z_i) (x_i.w + b), which is the inner product of the weights
    with their own gradient (Euler's theorem on homogeneous functions).
    """
    batch = inputs.shape[0]
    with_one = jnp.concatenate([inputs, jnp.ones((batch, 1), inputs.dtype)], axis=1)
    weights = jnp.concatenate([columns.weights, columns.bias[None, :]])
    z = with_one @ weights
    active, pull_back = jax.vjp(ACTIVATIONS[config.activation], z)
    output = active * columns.output_weight[None, :]
    if columns.output_bias is not None:
        output = output + columns.output_bias[None, :]
    error = output - targets
    losses = 0.5 * jnp.mean(error * error, axis=0)
    error = error / batch
    (through,) = pull_back(error)
    towards = with_one.T @ through  # the weights' gradient but for the output weight
    homogeneous = config.activation in HOMOGENEOUS
    both = columns.output_weight[None, :] * towards
    gradients = Columns(
        weights=both[:-1],
        bias=both[-1],
        output_weight=jnp.sum(weights * towards if homogeneous else error * active, axis=0),
        output_bias=None if columns.output_bias is None else jnp.sum(error, axis=0),
    )
    return losses, z, gradients
