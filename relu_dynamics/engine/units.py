"""Units: which numbers of a network belong to which of its hidden units."""

import jax
import jax.numpy as jnp

from relu_dynamics.config import Config
from relu_dynamics.engine import models
from relu_dynamics.engine.activations import activation_of
from relu_dynamics.engine.normalizations import location, normalization_of


def by_layer(config: Config, values: jax.Array) -> list[jax.Array]:
    """Values [units] of every hidden layer by itself."""
    starts = [sum(config.hidden[:layer]) for layer in range(len(config.hidden))]
    return [values[a : a + width] for a, width in zip(starts, config.hidden, strict=True)]


def outputs(config: Config, params: models.Params, forward: models.Forward) -> list[jax.Array]:
    """|h| of every hidden layer in a forward pass, [batch, units]; of a unit with several outputs
    the sum of theirs."""
    return [
        jnp.abs(models.activate(config, params, layer, z)).reshape(len(z), -1, z.shape[1]).sum(1)
        for layer, z in enumerate(forward.preactivations, start=1)
    ]


def sizes(config: Config, params: models.Params, forward: models.Forward) -> jax.Array:
    """E|h| over the examples of a forward pass, [units]."""
    return jnp.concatenate([h.mean(0) for h in outputs(config, params, forward)])


def outgoing(config: Config, params: models.Params) -> list[jax.Array]:
    """The outgoing weights of every hidden layer, [units, outputs of the layer above]; of a unit
    with several outputs those of all of them side by side."""
    several = activation_of(config).outputs
    kernels = [params[name]["kernel"] for name in _names_above(config)]
    return [
        kernel.reshape(several, width, -1).transpose(1, 0, 2).reshape(width, -1)
        for kernel, width in zip(kernels, config.hidden, strict=True)
    ]


def _names_above(config: Config) -> list[str]:
    layers = range(2, len(config.hidden) + 1)
    return [models.layer_name(layer) for layer in layers] + ["output"]


def masks(
    config: Config, params: models.Params, units: jax.Array
) -> tuple[models.Params, models.Params]:
    """Two trees like the parameters, of bools: what feeds the chosen units (their own kernel
    columns, biases, scales, shifts and learned numbers), and what they feed, their outgoing
    weights. `units` is bool [units]."""
    none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), params)
    feeding, fed = dict(none), dict(none)
    row, several = normalization_of(config), activation_of(config).outputs
    layers = zip(by_layer(config, units), _names_above(config), strict=True)
    for layer, (own, above) in enumerate(layers, start=1):
        name = models.layer_name(layer)
        spread = lambda leaf, own=own: jnp.broadcast_to(own, leaf.shape)  # noqa: E731
        feeding[name] = jax.tree.map(spread, none[name])
        rows = none[above]["kernel"] | jnp.tile(own, several)[:, None]
        fed[above] = {**none[above], "kernel": rows}
        vectors = [row.shift, row.scale] if row.present else []
        if (learned := models.learned_name(config, layer)) is not None:
            vectors.append(learned)
        for path in vectors:
            group, part = location(path, layer)
            feeding |= {group: {**feeding[group], part: own}} if group else {part: own}
    return feeding, fed
