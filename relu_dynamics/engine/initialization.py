"""Initialization: the parameters of a network at step 0."""

from typing import Any

import jax
import jax.numpy as jnp

from relu_dynamics.config import Config
from relu_dynamics.engine.initializers import INITIALIZERS
from relu_dynamics.engine.models import (
    Params,
    apply,
    build,
    layer_name,
    with_shift,
    with_vector,
)
from relu_dynamics.engine.normalizations import normalization_of
from relu_dynamics.engine.tasks import input_dimension


def initialize(config: Config, key: jax.Array, inputs: jax.Array | None = None) -> Params:
    """Parameters at step 0. `key` is consumed. Every cell of a seed gets the same weights; only
    the shift of the `biased_units` first units of `biased_layer` has the cell's `initial_bias`.

    An initializer that is fitted to the data, as "data_dependent", does so on `inputs`
    [examples, dimension], and raises a ValueError without them.
    """
    initializer = INITIALIZERS[config.initializer]
    made: Any = build(config).init(key, jnp.zeros((2, input_dimension(config))))["params"]
    params = dict(made)
    if initializer.redraw is not None:
        own_key = jax.random.fold_in(key, 1)
        for i, name in enumerate(_affine_names(config)):
            params[name] = initializer.redraw(jax.random.fold_in(own_key, i), params[name])
    if config.weight_scale is not None:
        scale = lambda leaf: leaf * config.weight_scale if leaf.ndim == 2 else leaf  # noqa: E731
        params = jax.tree.map(scale, params)
    params = _with_own_norm(config, params)
    if initializer.fit is not None:
        if inputs is None:
            raise ValueError(
                f"inputs=None: the initializer {config.initializer!r} needs training inputs."
            )
        params = _fitted(config, initializer.fit, params, inputs)
    return with_shift(
        config, params, lambda shift: shift.at[: config.biased_units].add(config.initial_bias)
    )


def _affine_names(config: Config) -> list[str]:
    """The parameter groups of all affine maps, from the inputs on."""
    return [layer_name(layer) for layer in range(1, len(config.hidden) + 1)] + ["output"]


def _fitted(config, fit, params, inputs) -> Params:
    """The parameters with one hidden layer after the other fitted to what it sees."""
    for layer in range(1, len(config.hidden) + 1):
        name = layer_name(layer)
        seen = apply(config, params, inputs).inputs[layer - 1]
        params = _with_own_norm(config, {**params, name: fit(params[name], seen)})
    return params


def _with_own_norm(config: Config, params: Params) -> Params:
    """Weight normalization's scales as the norms of the weights: at step 0 a normalized network
    is the one without. Other parameters as they are."""
    row = normalization_of(config)
    if row.of_weights and row.scale is not None:
        for layer in range(1, len(config.hidden) + 1):
            norm = jnp.sqrt(jnp.sum(params[layer_name(layer)]["kernel"] ** 2, 0))
            params = with_vector(params, row.scale, layer, lambda _, norm=norm: norm)
    return params
