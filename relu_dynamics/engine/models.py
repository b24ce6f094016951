"""Models: pure functions from parameters and inputs to outputs and every pre-activation.

The only file that imports flax. `apply` returns what it sees instead of tapping it: the
pre-activation z of every hidden layer is a normal return value, and jit prunes what is not used.

Axes: `batch` examples, `units` of one hidden layer. Layers are counted from 1 in names.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from relu_dynamics.config import Config, differs
from relu_dynamics.engine.activations import ACTIVATIONS, activation_of
from relu_dynamics.engine.initializers import INITIALIZERS, has_shift, per_layer
from relu_dynamics.engine.normalizations import (
    NORM_EPSILON,
    NORMALIZATIONS,
    location,
    normalization_of,
)
from relu_dynamics.engine.tasks import output_dimension

Params = Any  # a tree of arrays: dicts by layer, then by name


class Forward(NamedTuple):
    """What one forward pass shows."""

    output: jax.Array  # [batch, outputs]
    preactivations: tuple[jax.Array, ...]  # one [batch, units] per hidden layer: what enters it
    inputs: tuple[jax.Array, ...]  # one [batch, fan_in] per hidden layer: what its weights see


class MLP(nn.Module):
    """A multilayer perceptron of any depth and width; one unit is its smallest case.

    `aliases` are its other names, for the hint at an unknown one.

    A network of your own is a module with the same fields that returns a `Forward` and names its
    hidden layers' parameters as this one (`layer_name`); a row in `MODELS` gives it a name.
    """

    hidden: tuple[int, ...]
    outputs: int
    activation: str
    initializer: str | tuple[str, ...]
    normalization: str
    output_bias: bool
    hidden_bias: bool | tuple[bool, ...] = True
    top_k: int | None = None

    aliases: ClassVar[tuple[str, ...]] = ("fully connected", "dense", "feedforward", "perceptron")
    autoencodes: ClassVar[bool] = False  # has as many outputs as inputs, and one hidden layer
    tied: ClassVar[bool] = False  # its decoder starts as its encoder, each row of length 1

    @nn.compact
    def __call__(self, x: jax.Array) -> Forward:
        names = per_layer(self.initializer, len(self.hidden) + 1)
        kernel_inits = [INITIALIZERS[name].weights for name in names]
        biases = per_layer(self.hidden_bias, len(self.hidden))
        preactivations, inputs = [], []
        for layer, width in enumerate(self.hidden, start=1):
            inputs.append(x)
            z = nn.Dense(
                width,
                use_bias=biases[layer - 1],
                kernel_init=kernel_inits[layer - 1],
                name=layer_name(layer),
            )(x)
            z, active = self._activate(layer, self._normalize(layer, z))
            preactivations.append(z)
            x = self.connect(x, active)
        output = nn.Dense(
            self.outputs, kernel_init=kernel_inits[-1], use_bias=self.output_bias, name="output"
        )(x)
        return Forward(output, tuple(preactivations), tuple(inputs))

    @staticmethod
    def has_effect(entering: Sequence[int], leaving: Sequence[int]) -> bool:
        """Whether the network differs from an MLP, from the widths of what enters and leaves every
        hidden layer; a config whose network does not is refused."""
        return True

    @classmethod
    def owns_outgoing(cls) -> bool:
        """Whether a row of the weights above a hidden layer belongs to one of its units alone, so
        that a unit can be cut off by setting it to 0. Say so in a forward pass of your own."""
        return cls.connect is MLP.connect and cls.__call__ is MLP.__call__

    def connect(self, below: jax.Array, active: jax.Array) -> jax.Array:
        """What a layer outputs, from its input and its units' activations."""
        return active

    def _activate(self, layer: int, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(z as the activation counts it, what the units output)."""
        activation = ACTIVATIONS[self.activation]
        if activation.learned is None:
            return z, activation(z, k=self.top_k)
        if activation.learned_slope is not None:
            constant = nn.initializers.constant(activation.learned_slope)
            return z, activation(z, self.param(slope_name(layer), constant, z.shape[-1:])[None, :])
        constant = nn.initializers.constant(math.log(activation.learned))
        threshold = jnp.exp(self.param(threshold_name(layer), constant, z.shape[-1:]))[None, :]
        return z - threshold, activation(z - threshold, threshold)

    def _normalize(self, layer: int, z: jax.Array) -> jax.Array:
        row = NORMALIZATIONS[self.normalization]
        if row.scale is None:
            return z
        scale, shift = self._scale_and_shift(row.scale, row.shift, layer, z.shape[-1])
        if row.of_weights:
            kernel = self.get_variable("params", layer_name(layer))["kernel"]
            norm = jnp.sqrt(jnp.sum(kernel**2, axis=0))
            return z * (scale / norm)[None, :] + shift[None, :]
        assert row.statistics is not None
        mean, variance = row.statistics(z)
        inverse = jax.lax.rsqrt(variance + NORM_EPSILON)
        # The products in the order that stored runs have, in which float32 rounds otherwise.
        if row.over_batch:
            return (z - mean) * inverse * scale[None, :] + shift[None, :]
        return (z - mean) * (inverse * scale[None, :]) + shift[None, :]

    def _scale_and_shift(
        self, scale: str, shift: str, layer: int, units: int
    ) -> tuple[jax.Array, jax.Array]:
        places = [location(path, layer) for path in (scale, shift)]
        groups = {group: _Group(name=group) for group in {group for group, _ in places} if group}
        initial = nn.initializers.ones, nn.initializers.zeros
        made = [
            groups[group](name, init, (units,)) if group else self.param(name, init, (units,))
            for (group, name), init in zip(places, initial, strict=True)
        ]
        return made[0], made[1]


class _Group(nn.Module):
    """Parameters in a group of their own."""

    @nn.compact
    def __call__(self, name: str, init: Callable, shape: tuple[int, ...]) -> jax.Array:
        return self.param(name, init, shape)


class ResidualMLP(MLP):
    """An MLP whose layers add to what they got wherever the widths agree (skip connections)."""

    aliases: ClassVar[tuple[str, ...]] = ("resnet", "skip")

    @staticmethod
    def has_effect(entering: Sequence[int], leaving: Sequence[int]) -> bool:
        """Whether a layer adds to what it gets, from the widths of what enters and leaves each."""
        return any(a == b for a, b in zip(entering, leaving, strict=True))

    def connect(self, below: jax.Array, active: jax.Array) -> jax.Array:
        """The sum of both, where they have the same shape."""
        return below + active if below.shape == active.shape else active


class Autoencoder(MLP):
    """A sparse autoencoder: latents f(W_e (x - c) + b), reconstruction W_d latents + c.

    The decoder's bias c is the network's output bias (Bricken et al. 2023, Towards
    Monosemanticity); `output_bias=False` leaves it out. The lengths of the decoder's rows are free.
    """

    aliases: ClassVar[tuple[str, ...]] = ("sae", "sparse autoencoder", "dictionary")
    autoencodes: ClassVar[bool] = True

    @classmethod
    def owns_outgoing(cls) -> bool:
        """Every row of the decoder belongs to one latent."""
        return True

    @nn.compact
    def __call__(self, x: jax.Array) -> Forward:
        (width,) = self.hidden
        names = per_layer(self.initializer, 2)
        encoder, decoder = (INITIALIZERS[name].weights for name in names)
        bias = per_layer(self.hidden_bias, 1)[0]
        output = _Group(name="output")
        centre = jnp.zeros(self.outputs)
        if self.output_bias:
            centre = output("bias", nn.initializers.zeros, (self.outputs,))
        seen = x - centre[None, :]
        z = nn.Dense(width, use_bias=bias, kernel_init=encoder, name=layer_name(1))(seen)
        z, active = self._activate(1, self._normalize(1, z))
        kernel = output("kernel", decoder, (active.shape[1], self.outputs))
        return Forward(active @ kernel + centre[None, :], (z,), (seen,))


class TiedAutoencoder(Autoencoder):
    """An autoencoder whose decoder starts as its encoder's transpose, each row of length 1 (Gao et
    al. 2024, arXiv 2406.04093). They are free from then on."""

    aliases: ClassVar[tuple[str, ...]] = ("tied sae",)
    tied: ClassVar[bool] = True


MODELS: dict[str, type[MLP]] = {
    "mlp": MLP,
    "residual": ResidualMLP,
    "autoencoder": Autoencoder,
    "tied_autoencoder": TiedAutoencoder,
}


def layer_name(layer: int) -> str:
    """The parameter group of hidden layer `layer` (from 1)."""
    return f"hidden_{layer}"


def slope_name(layer: int) -> str:
    """The parameter of the slopes below 0 of hidden layer `layer` (from 1), where they are
    learned."""
    return f"slope_{layer}"


def threshold_name(layer: int) -> str:
    """The parameter of the logarithms of the thresholds of hidden layer `layer` (from 1), where
    they are learned."""
    return f"log_threshold_{layer}"


def learned_name(config: Config, layer: int) -> str | None:
    """The parameter [units] of what the activation of hidden layer `layer` learns; None where it
    learns nothing."""
    activation = activation_of(config)
    if activation.learned is None:
        return None
    return (slope_name if activation.learned_threshold is None else threshold_name)(layer)


def learned(config: Config, params: Params, layer: int) -> jax.Array | None:
    """The slopes or thresholds of hidden layer `layer`, [1, units]; None where none are learned."""
    name = learned_name(config, layer)
    if name is None:
        return None
    of_threshold = activation_of(config).learned_threshold is not None
    return (jnp.exp(params[name]) if of_threshold else params[name])[None, :]


def build(config: Config) -> MLP:
    """The Flax module of a config."""
    # A network of a user's own need not know the fields that came later.
    later = [name for name in ("hidden_bias", "top_k") if differs(config, name)]
    return MODELS[config.model](
        hidden=config.hidden,
        outputs=output_dimension(config),
        activation=config.activation,
        initializer=config.initializer,
        normalization=config.normalization,
        output_bias=config.output_bias,
        **{name: getattr(config, name) for name in later},
    )


def activate(config: Config, params: Params, layer: int, z: jax.Array) -> jax.Array:
    """What the units of hidden layer `layer` (from 1) output at the pre-activations z [batch,
    units]: [batch, outputs * units]."""
    return activation_of(config)(z, learned(config, params, layer), k=config.top_k)


def slopes(config: Config, params: Params, layer: int, z: jax.Array) -> jax.Array:
    """The activation's derivative at the pre-activations z [batch, units] of hidden layer `layer`
    (from 1), which is that of a unit's output by its own z. With several outputs per unit it is the
    sum of the sizes of their derivatives."""
    activation = activation_of(config)
    if activation.learned_slope is not None:
        return jnp.where(z > 0, 1, params[slope_name(layer)][None, :])
    own = learned(config, params, layer)
    active, pull_back = jax.vjp(lambda z: activation(z, own, k=config.top_k), z)
    if activation.outputs == 1:
        return pull_back(jnp.ones_like(active))[0]
    place = jnp.arange(active.shape[1])[None, :] // z.shape[1]
    of_output = lambda i: jnp.broadcast_to(place == i, active.shape).astype(z.dtype)  # noqa: E731
    sizes = [jnp.abs(pull_back(of_output(i))[0]) for i in range(activation.outputs)]
    return jnp.stack(sizes).sum(0)


def with_shift(config: Config, params: Params, change: Callable[[jax.Array], jax.Array]) -> Params:
    """A copy of a parameter-shaped tree with the biased layer's shift [units] changed."""
    return with_vector(params, normalization_of(config).shift, config.biased_layer, change)


def with_vector(
    params: Params, path: str, layer: int, change: Callable[[jax.Array], jax.Array]
) -> Params:
    """A copy of a parameter-shaped tree with one normalization parameter [units] of hidden layer
    `layer` changed; `path` is that of a row of `NORMALIZATIONS`."""
    group, name = location(path, layer)
    if not group:
        return {**params, name: change(params[name])}
    return {**params, group: {**params[group], name: change(params[group][name])}}


def shift(config: Config, params: Params, layer: int) -> jax.Array:
    """The additive shift of hidden layer `layer`'s pre-activations, [units]; without a
    normalization it is the layer's bias, and 0 where it has none."""
    if not has_shift(config, layer):
        return jnp.zeros(config.hidden[layer - 1])
    return _vector(params, normalization_of(config).shift, layer)


def scale(config: Config, params: Params, layer: int) -> jax.Array | None:
    """The normalization's scale of hidden layer `layer`, [units]; None without a normalization."""
    path = normalization_of(config).scale
    return None if path is None else _vector(params, path, layer)


def _vector(params: Params, path: str, layer: int) -> jax.Array:
    group, name = location(path, layer)
    return (params[group] if group else params)[name]


def apply(config: Config, params: Params, inputs: jax.Array) -> Forward:
    """Outputs and every pre-activation for inputs [batch, dimension]."""
    forward: Any = build(config).apply({"params": params}, inputs)
    return forward


PRECISION = "highest"  # the question is the sign of z: no TF32 or bf16 products
