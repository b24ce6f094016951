"""Initialization: the parameters of a network at step 0."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from relu_dynamics.checks import check_choice, short_repr
from relu_dynamics.config import Config
from relu_dynamics.engine.activations import activation_of
from relu_dynamics.engine.initializers import (
    BIAS_LAWS,
    CENTRES,
    INITIALIZERS,
    fits_inputs,
    has_shift,
    initializers_of,
    per_layer,
)
from relu_dynamics.engine.models import (
    MODELS,
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
    made: Any = build(config).init(key, jnp.zeros((2, input_dimension(config))))["params"]
    params = dict(made)
    names_and_rows = zip(_affine_names(config), initializers_of(config), strict=True)
    for i, (name, row) in enumerate(names_and_rows):
        if row.redraw is not None:
            own_key = jax.random.fold_in(jax.random.fold_in(key, 1), i)
            params[name] = row.redraw(own_key, params[name])
    if config.weight_scale is not None:
        scale = lambda leaf: leaf * config.weight_scale if leaf.ndim == 2 else leaf  # noqa: E731
        params = jax.tree.map(scale, params)
    params = _with_own_norm(config, params)
    if fits_inputs(config):
        if inputs is None:
            raise ValueError(
                f"inputs=None: initializer={config.initializer!r} with "
                f"decoder_bias={config.decoder_bias!r} needs training inputs."
            )
        params = _fitted(config, _centred(config, params, inputs), inputs)
    if getattr(MODELS[config.model], "tied", False):
        rows = params[layer_name(1)]["kernel"].T
        rows = rows / jnp.maximum(jnp.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
        rows = jnp.tile(rows, (activation_of(config).outputs, 1))
        params = {**params, "output": {**params["output"], "kernel": rows}}
    return with_initial_bias(config, _with_bias_laws(config, key, params))


def with_initial_bias(config: Config, params: Params) -> Params:
    """The parameters with `initial_bias` added to the shift of the biased units."""
    if not has_shift(config, config.biased_layer):
        return params  # its initial bias is 0
    return with_shift(
        config, params, lambda shift: shift.at[: config.biased_units].add(config.initial_bias)
    )


def _with_bias_laws(config: Config, key: jax.Array, params: Params) -> Params:
    """The parameters with the shifts of hidden layers drawn from `bias_law`, where it has one."""
    laws = per_layer(config.bias_law, len(config.hidden))
    path, law_key = normalization_of(config).shift, jax.random.fold_in(key, 2)
    scale: Any = config.bias_scale  # a number wherever there is a law
    for layer, law in enumerate((BIAS_LAWS[name] for name in laws), start=1):
        if law is not None and has_shift(config, layer):
            drawn = scale * law(jax.random.fold_in(law_key, layer), (config.hidden[layer - 1],))
            params = with_vector(params, path, layer, lambda _, drawn=drawn: drawn)
    return params


def check_initialization(config: Config) -> dict[str, Any]:
    """The fields of the starting point that may differ between layers, lists as tuples; raises a
    ValueError for the first that cannot be or has no effect. All others have been checked."""
    found = {name: getattr(config, name) for name in ("initializer", "bias_law", "hidden_bias")}
    found = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
    config = dataclasses.replace(config, **found)
    layers = len(config.hidden)
    every = f"all {layers} hidden layers"
    for field, count, places, known in (
        ("initializer", layers + 1, f"{every} and the output", INITIALIZERS),
        ("bias_law", layers, every, BIAS_LAWS),
        ("hidden_bias", layers, every, None),
    ):
        value = getattr(config, field)
        if isinstance(value, tuple) and len(value) != count:
            raise ValueError(
                f"{field}={short_repr(value)} has {len(value)} values; give one, or {count}: of "
                f"{places}."
            )
        for each in per_layer(value, 1):
            if known is not None:
                check_choice(field, each, known)
            elif not isinstance(each, bool):
                raise ValueError(
                    f"{field}={short_repr(value)} must be True or False, or {layers} of them."
                )
    rows = initializers_of(config)
    if normalization_of(config).of_weights and any(row.zero for row in rows[:-1]):
        raise ValueError(
            f"initializer={config.initializer!r}: weights of norm 0 have no direction for "
            f"normalization={config.normalization!r}; use another."
        )
    _check_bias_law(config)
    layer = config.biased_layer
    if has_shift(config, layer):
        return found
    for field in ("initial_bias", "outside_gradient"):
        value, remedy = getattr(config, field), 0.0 if field == "initial_bias" else None
        if value not in (None, remedy):
            raise ValueError(
                f"{field}={value!r} needs a bias in biased_layer={layer}, and "
                f"hidden_bias={config.hidden_bias!r} leaves it without one; use {field}={remedy}."
            )
    return found


def _check_bias_law(config: Config) -> None:
    laws = per_layer(config.bias_law, len(config.hidden))
    drawn = [i for i, law in enumerate(laws, start=1) if BIAS_LAWS[law] is not None]
    if drawn and config.bias_scale is None:
        raise ValueError(
            f"bias_law={config.bias_law!r} needs a bias_scale; give one, such as bias_scale=0.1."
        )
    if config.bias_scale is not None and not drawn:
        raise ValueError(
            f"bias_scale={config.bias_scale!r} is not used by bias_law={config.bias_law!r}; use "
            "bias_law='constant', 'normal' or 'uniform', or bias_scale=None."
        )
    for layer in drawn:
        if not has_shift(config, layer):
            raise ValueError(
                f"bias_law={config.bias_law!r}: hidden_bias={config.hidden_bias!r} leaves layer "
                f"{layer} without a bias; use bias_law='initializer' there."
            )
        if initializers_of(config)[layer - 1].fit is not None:
            raise ValueError(
                f"bias_law={config.bias_law!r}: initializer={config.initializer!r} fits the biases "
                f"of layer {layer} to the inputs; use bias_law='initializer' there."
            )


def _affine_names(config: Config) -> list[str]:
    """The parameter groups of all affine maps, from the inputs on."""
    return [layer_name(layer) for layer in range(1, len(config.hidden) + 1)] + ["output"]


def _centred(config: Config, params: Params, inputs: jax.Array) -> Params:
    """The parameters with an autoencoder's decoder bias at the centre that the config names."""
    centre = CENTRES[config.decoder_bias]
    if centre is None:
        return params
    return {**params, "output": {**params["output"], "bias": centre(inputs)}}


def _fitted(config, params, inputs) -> Params:
    """The parameters with one hidden layer after the other fitted to what it sees, where its
    initializer does so."""
    for layer, row in enumerate(initializers_of(config)[:-1], start=1):
        if row.fit is not None:
            name = layer_name(layer)
            seen = apply(config, params, inputs).inputs[layer - 1]
            params = _with_own_norm(config, {**params, name: row.fit(params[name], seen)})
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
