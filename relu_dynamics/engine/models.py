"""Models: pure functions from parameters and inputs to outputs and every pre-activation.

The only file that imports flax. `apply` returns what it sees instead of tapping it: the
pre-activation z of every hidden layer is a normal return value, and jit prunes what is not used.

Axes: `batch` examples, `units` of one hidden layer. Layers are counted from 1 in names.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from relu_dynamics.config import Config
from relu_dynamics.engine.activations import ACTIVATIONS, PRELU_SLOPE, prelu
from relu_dynamics.engine.initializers import INITIALIZERS
from relu_dynamics.engine.normalizations import GROUP_SIZE, NORM_EPSILON
from relu_dynamics.engine.tasks import TASKS

Params = Any  # a tree of arrays: dicts by layer, then by name


class Forward(NamedTuple):
    """What one forward pass shows."""

    output: jax.Array  # [batch, outputs]
    preactivations: tuple[jax.Array, ...]  # one [batch, units] per hidden layer: what enters it
    inputs: tuple[jax.Array, ...]  # one [batch, fan_in] per hidden layer: what its weights see


class MLP(nn.Module):
    """A multilayer perceptron of any depth and width; one unit is its smallest case.

    A network of your own is a module with the same fields that returns a `Forward` and names its
    hidden layers' parameters as this one (`layer_name`); a row in `MODELS` gives it a name.
    """

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
            x = self.connect(x, self._activate(layer, z))
        output = nn.Dense(
            self.outputs, kernel_init=kernel_init, use_bias=self.output_bias, name="output"
        )(x)
        return Forward(output, tuple(preactivations), tuple(inputs))

    def connect(self, below: jax.Array, active: jax.Array) -> jax.Array:
        """What a layer outputs, from its input and its units' activations."""
        return active

    def _activate(self, layer: int, z: jax.Array) -> jax.Array:
        if self.activation != "prelu":
            return ACTIVATIONS[self.activation](z)
        constant = nn.initializers.constant(PRELU_SLOPE)
        return prelu(z, self.param(slope_name(layer), constant, (z.shape[-1],))[None, :])

    def _normalize(self, layer: int, z: jax.Array) -> jax.Array:
        name = norm_name(layer)
        if self.normalization == "weight":
            # Salimans & Kingma 2016, arXiv 1602.07868.
            kernel = self.get_variable("params", layer_name(layer))["kernel"]
            norm = jnp.sqrt(jnp.sum(kernel**2, axis=0))
            scale = self.param("scale_" + name, nn.initializers.ones, (z.shape[-1],))
            shift = self.param("shift_" + name, nn.initializers.zeros, (z.shape[-1],))
            return z * (scale / norm)[None, :] + shift[None, :]
        if self.normalization == "batch":
            # Statistics of the current batch, always (training mode): no running averages, so
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


class ResidualMLP(MLP):
    """An MLP whose layers add to what they got wherever the widths agree (skip connections)."""

    def connect(self, below: jax.Array, active: jax.Array) -> jax.Array:
        """The sum of both, where they have the same shape."""
        return below + active if below.shape == active.shape else active


MODELS: dict[str, type[MLP]] = {"mlp": MLP, "residual": ResidualMLP}


def layer_name(layer: int) -> str:
    """The parameter group of hidden layer `layer` (from 1)."""
    return f"hidden_{layer}"


def norm_name(layer: int) -> str:
    """The parameter group of the normalization of hidden layer `layer` (from 1)."""
    return f"norm_{layer}"


def slope_name(layer: int) -> str:
    """The parameter of the slopes below 0 of hidden layer `layer` (from 1), for "prelu"."""
    return f"slope_{layer}"


def build(config: Config) -> MLP:
    """The Flax module of a config."""
    return MODELS[config.model](
        hidden=config.hidden,
        outputs=TASKS[config.task].outputs,
        activation=config.activation,
        initializer=config.initializer,
        normalization=config.normalization,
        output_bias=config.output_bias,
    )


def slopes(config: Config, params: Params, layer: int, z: jax.Array) -> jax.Array:
    """The activation's derivative at the pre-activations z [batch, units] of hidden layer `layer`
    (from 1). Of "crelu" it is the sum of the sizes of both outputs' derivatives."""
    if config.activation == "prelu":
        return jnp.where(z > 0, 1, params[slope_name(layer)][None, :])
    active, pull_back = jax.vjp(ACTIVATIONS[config.activation], z)
    direction = jnp.ones_like(active)
    if config.activation == "crelu":  # the second output falls where it moves
        direction = direction.at[:, z.shape[1] :].set(-1)
    (slope,) = pull_back(direction)
    return slope


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
    forward: Any = build(config).apply({"params": params}, inputs)
    return forward


PRECISION = "highest"  # the question is the sign of z: no TF32 or bf16 products
