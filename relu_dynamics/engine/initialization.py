"""Initialization: the parameters of a network at step 0."""

import jax
import jax.numpy as jnp

from relu_dynamics.config import Config
from relu_dynamics.engine.models import Params, apply, build, layer_name, norm_name, with_shift
from relu_dynamics.engine.tasks import input_dimension


def initialize(config: Config, key: jax.Array, inputs: jax.Array | None = None) -> Params:
    """Parameters at step 0. `key` is consumed. Every cell of a seed gets the same weights; only
    the shift of the `biased_units` first units of `biased_layer` has the cell's `initial_bias`.

    The initializer "data_dependent" gives every hidden unit mean 0 and deviation 1 on `inputs`
    [examples, dimension], and raises a ValueError without them.
    """
    params = build(config).init(key, jnp.zeros((2, input_dimension(config))))["params"]
    if config.initializer == "randomized_asymmetric":
        params = _randomized_asymmetric(config, params, jax.random.fold_in(key, 1))
    if config.initializer == "torch_default":
        params = _with_uniform_biases(config, params, jax.random.fold_in(key, 1))
    if config.weight_scale is not None:
        scale = lambda leaf: leaf * config.weight_scale if leaf.ndim == 2 else leaf  # noqa: E731
        params = jax.tree.map(scale, params)
    params = _with_own_norm(config, params)
    if config.initializer == "data_dependent":
        if inputs is None:
            raise ValueError("inputs=None: the initializer 'data_dependent' needs training inputs.")
        params = _data_dependent(config, params, inputs)
    return with_shift(
        config, params, lambda shift: shift.at[: config.biased_units].add(config.initial_bias)
    )


def _affine_names(config: Config) -> list[str]:
    """The parameter groups of all affine maps, from the inputs on."""
    return [layer_name(layer) for layer in range(1, len(config.hidden) + 1)] + ["output"]


def _with_uniform_biases(config: Config, params: Params, key: jax.Array) -> Params:
    """Every bias from U(-1, 1) / sqrt(fan_in)."""
    out = dict(params)
    for i, name in enumerate(_affine_names(config)):
        if "bias" in params[name]:
            fan_in, units = params[name]["kernel"].shape
            values = jax.random.uniform(jax.random.fold_in(key, i), (units,), minval=-1, maxval=1)
            out[name] = {**params[name], "bias": values / fan_in**0.5}
    return out


def _randomized_asymmetric(config: Config, params: Params, key: jax.Array) -> Params:
    """Lu et al., arXiv 1903.06733: of each unit's weights and bias one, chosen at random, is drawn
    from Beta(2, 1) on [0, 1], the others from N(0, 0.6007^2 / fan_in)."""
    out = dict(params)
    for i, name in enumerate(_affine_names(config)):
        fan_in, units = params[name]["kernel"].shape
        normal_key, beta_key, place_key = (
            jax.random.fold_in(jax.random.fold_in(key, i), j) for j in range(3)
        )
        rows = fan_in + ("bias" in params[name])
        values = jax.random.normal(normal_key, (rows, units)) * (0.6007 / fan_in**0.5)
        positive = jnp.sqrt(jax.random.uniform(beta_key, (units,)))  # Beta(2, 1) by its inverse
        place = jax.random.randint(place_key, (units,), 0, rows)
        values = jnp.where(jnp.arange(rows)[:, None] == place[None, :], positive[None, :], values)
        out[name] = {"kernel": values[:fan_in]}
        if rows > fan_in:
            out[name]["bias"] = values[fan_in]
    return out


def _data_dependent(config: Config, params: Params, inputs: jax.Array) -> Params:
    """Layer after layer, each unit's weights and bias so that its affine map has mean 0 and
    deviation 1 on the inputs (Salimans & Kingma 2016, arXiv 1602.07868, section 3). A unit that
    is constant on the inputs keeps its weights."""
    for layer in range(1, len(config.hidden) + 1):
        name = layer_name(layer)
        seen = apply(config, params, inputs).inputs[layer - 1]
        affine = seen @ params[name]["kernel"]
        deviation = affine.std(0, keepdims=True)
        factor = jnp.where(deviation > 0, 1 / jnp.where(deviation > 0, deviation, 1), 1)
        group = {
            "kernel": params[name]["kernel"] * factor,
            "bias": -affine.mean(0) * factor[0],
        }
        params = _with_own_norm(config, {**params, name: group})
    return params


def _with_own_norm(config: Config, params: Params) -> Params:
    """Weight normalization's scales as the norms of the weights, so that at step 0 a normalized
    network is the one without; other parameters as they are."""
    if config.normalization != "weight":
        return params
    layers = range(1, len(config.hidden) + 1)
    kernels = {layer: params[layer_name(layer)]["kernel"] for layer in layers}
    norms = {"scale_" + norm_name(i): jnp.sqrt(jnp.sum(k**2, 0)) for i, k in kernels.items()}
    return {**params, **norms}
