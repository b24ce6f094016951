"""Terms: the sources of one update, and what moves z."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from relu_dynamics.config import Config
from relu_dynamics.engine import models, optimizers
from relu_dynamics.engine.keys import noise_key
from relu_dynamics.engine.models import PRECISION
from relu_dynamics.engine.normalizations import NORM_EPSILON, normalization_of
from relu_dynamics.engine.optimizers import (
    ADAM_B2,
    ADAM_EPSILON,
    RMSPROP_DECAY,
    RMSPROP_EPSILON,
    Rule,
)
from relu_dynamics.engine.step import add_noise, scale_upstream, with_outside_gradient

SOURCES = ("gradient", "outside", "residue", "coupled_decay", "decoupled_decay", "noise")

# The fields under which the accounts were proved to sum to the change of z, and under which every
# arm of a fork changes what it says and nothing else; all others must stay at their defaults.
COVERED = frozenset(
    """
    learning_rate initial_bias bias_law bias_scale momentum weight_decay noise_scale upstream_rate
    outside_gradient
    clip_norm weight_scale scaling_dose killed_fraction target_scale
    task examples dimension input_scaling row_order hidden activation initializer normalization
    output_bias
    optimizer schedule warmup_steps decay_steps decay_kind decay_targets batch_size batch_order
    steps biased_layer biased_units probe_size probe_every tolerance sustain
    """.split()
)


class Parts(NamedTuple):
    """What one source moves z by, through each kind of the unit's own parameters; [..., units]."""

    weights: jax.Array
    bias: jax.Array  # of the affine map; with a normalization the shift is another parameter
    scale: jax.Array  # of the normalization; 0 without one
    shift: jax.Array  # likewise


class Terms(NamedTuple):
    """All that moves z, in its units; every leaf is [..., units]. Their sum is the change of z."""

    gradient: Parts
    outside: Parts
    residue: Parts
    coupled_decay: Parts
    decoupled_decay: Parts
    noise: Parts
    upstream: jax.Array  # dx.W
    cross: jax.Array  # dx.dW
    normalization: jax.Array  # the statistics' motion


class Balance(NamedTuple):
    """The account of z in one view; every leaf is [..., units]."""

    terms: Terms
    change: jax.Array  # z(t+1) - z(t), from the model's own forward passes
    residual: jax.Array  # change minus the sum of the terms: rounding


class Entry(NamedTuple):
    """The account of one step, or the sums over many; every leaf is [..., units]."""

    margin: Balance
    mean: Balance
    handover: jax.Array  # what the margin gained beyond it, when another example became highest


def update_terms(
    config: Config,
    gradients: models.Params,
    optimizer_state: optax.OptState,
    params: models.Params,
    key: jax.Array,
    step: jax.Array,
) -> dict[str, models.Params]:
    """The update of one step by source (`SOURCES`), each a tree like `params`; their sum is what
    `step.parameter_updates` gives, up to rounding.

    `gradients` and `optimizer_state` are what the optimizer gets, before its update; `key` is the
    run's. Sources that the config does not have are not there (see `present_sources`).
    """
    parts = {"gradient": gradients}
    if config.outside_gradient is not None:
        zeros = jax.tree.map(jnp.zeros_like, params)
        parts["outside"] = with_outside_gradient(config, zeros)
        parts["gradient"] = jax.tree.map(jnp.subtract, gradients, parts["outside"])
    total, decay = gradients, None
    if config.weight_decay is not None:
        decay = jax.tree.map(
            lambda p, decays: config.weight_decay * p if decays else jnp.zeros_like(p),
            params,
            optimizers.decay_mask(config, params),
        )
        if not optimizers.decay_is_decoupled(config):
            parts["coupled_decay"] = decay
            total = jax.tree.map(jnp.add, gradients, decay)
    now, earlier = _linear_maps(config, total, optimizer_state)
    terms = {name: now(part) for name, part in parts.items()}
    if earlier is not None:
        terms["residue"] = earlier
    if decay is not None and optimizers.decay_is_decoupled(config):
        terms["decoupled_decay"] = jax.tree.map(lambda d: -config.learning_rate * d, decay)
    if config.noise_scale is not None:
        zeros = jax.tree.map(jnp.zeros_like, params)
        terms["noise"] = add_noise(config, noise_key(key, step), zeros)
    if config.upstream_rate is not None:
        terms = {name: scale_upstream(config, tree) for name, tree in terms.items()}
    return {name: terms[name] for name in present_sources(config)}


def present_sources(config: Config) -> tuple[str, ...]:
    """The sources that the config's update has, in the order of `SOURCES`. A coefficient of 0 is
    there, None is not."""
    decays = config.weight_decay is not None
    has = {
        "gradient": True,
        "outside": config.outside_gradient is not None,
        "residue": optimizers.optimizer_of(config).memory is not None,
        "coupled_decay": decays and not optimizers.decay_is_decoupled(config),
        "decoupled_decay": decays and optimizers.decay_is_decoupled(config),
        "noise": config.noise_scale is not None,
    }
    return tuple(name for name in SOURCES if has[name])


def _linear_maps(config, total, optimizer_state):
    """(what a part of the gradient moves, what the first moment moves) at this step: the former a
    function of trees, the latter a tree or None. `total` is the whole gradient with decay."""
    rate = config.learning_rate
    momentum, optimizer = optimizers.momentum_of(config), optimizers.optimizer_of(config)
    scaled = lambda factor: lambda tree: jax.tree.map(lambda g: factor * g, tree)  # noqa: E731
    get = functools.partial(optax.tree.get, optimizer_state)
    memory = None if optimizer.memory is None else get(optimizer.memory)
    if optimizer.rule is Rule.SGD:
        return scaled(-rate), None
    if optimizer.rule is Rule.HEAVY_BALL:
        return scaled(-rate), scaled(-rate * momentum)(memory)
    if optimizer.rule is Rule.NESTEROV:  # update = g + mu (g + mu trace)
        return scaled(-rate * (1 + momentum)), scaled(-rate * momentum**2)(memory)
    second_moment = functools.partial(
        optax.tree.update_moment_per_elem_norm, total, get("nu"), order=2
    )
    if optimizer.rule is Rule.RMSPROP:
        second = second_moment(decay=RMSPROP_DECAY)
        steps = jax.tree.map(lambda v: -rate * jax.lax.rsqrt(v + RMSPROP_EPSILON), second)
        return functools.partial(jax.tree.map, jnp.multiply, steps), None
    if optimizer.rule is not Rule.ADAM:
        raise unknown_rule(config)
    done = get("count") + 1
    second = optax.tree.bias_correction(second_moment(decay=ADAM_B2), ADAM_B2, done)
    steps = jax.tree.map(lambda v: -rate / (jnp.sqrt(v) + ADAM_EPSILON), second)

    def move(factor, tree):
        moment = optax.tree.bias_correction(scaled(factor)(tree), momentum, done)
        return jax.tree.map(jnp.multiply, steps, moment)

    return functools.partial(move, 1 - momentum), move(momentum, memory)


def unknown_rule(config: Config) -> ValueError:
    return ValueError(
        f"optimizer={config.optimizer!r}: accounts know only the update rules in training.Rule; "
        "use an optimizer that has one."
    )


class Seen(NamedTuple):
    """What one hidden layer shows on the probe set."""

    inputs: jax.Array  # [batch, fan_in]
    affine: jax.Array  # [batch, units], before any normalization
    mean: jax.Array  # [batch, units], the normalization's; 0 where it has none
    inverse: jax.Array  # [batch, units], its 1 / deviation; 1 where it has none
    z: jax.Array  # [batch, units]


def normalization_statistics(config: Config, affine: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean, 1 / deviation) that the config's normalization subtracts from and multiplies onto
    the affine values [batch, units] of a hidden layer; both [batch, units]."""
    statistics = normalization_of(config).statistics
    if statistics is None:
        return jnp.zeros_like(affine), jnp.ones_like(affine)
    mean, variance = statistics(affine)
    inverse = jax.lax.rsqrt(variance + NORM_EPSILON)
    return jnp.broadcast_to(mean, affine.shape), jnp.broadcast_to(inverse, affine.shape)


def see_layers(config: Config, params: models.Params, inputs: jax.Array) -> tuple[Seen, ...]:
    """What every hidden layer shows on the probe set, with the model's own z."""
    with jax.default_matmul_precision(PRECISION):
        forward = models.apply(config, params, inputs)
        seen = []
        for layer, (x, z) in enumerate(
            zip(forward.inputs, forward.preactivations, strict=True), start=1
        ):
            group = params[models.layer_name(layer)]
            affine = x @ group["kernel"] + group["bias"][None, :]
            seen.append(Seen(x, affine, *normalization_statistics(config, affine), z))
    return tuple(seen)


VIEWS = ("margin", "mean")


class _Record(NamedTuple):
    """An Entry as few arrays; only the sources and parts that the config has."""

    own: jax.Array  # [views, sources, parts, units]
    others: jax.Array  # [views, 3, units]: upstream, cross, normalization
    change: jax.Array  # [views, units]
    handover: jax.Array  # [units]


def layer_record(config, layer, params, sources, update, before, after) -> _Record:
    """The account of one hidden layer's step; `sources` is `update_terms` as a list of trees."""
    name, size = models.layer_name(layer), before.z.shape[0]
    highest = before.z.argmax(0), after.z.argmax(0)
    half = lambda pick: 0.5 * (pick(highest[0]) + pick(highest[1]))  # noqa: E731

    def views(values):  # [batch, units] -> [views, units]
        at = lambda example: jnp.take_along_axis(values, example[None, :], axis=0)[0]  # noqa: E731
        return jnp.stack([half(at), values.mean(0)])

    scale = models.scale(config, params, layer)
    factor = before.inverse if scale is None else scale[None, :] * before.inverse
    weight = views(factor)

    def weighted(values):  # [batch, fan_in], times factor -> [views, fan_in, units]
        if scale is None:  # the factor is 1
            average = jnp.tile(values.mean(0)[:, None], factor.shape[1])
            return jnp.stack([half(lambda example: values[example].T), average])
        own = lambda example: jnp.take_along_axis(factor, example[None, :], axis=0)  # noqa: E731
        with jax.default_matmul_precision(PRECISION):
            average = values.T @ factor / size
        return jnp.stack([half(lambda example: own(example) * values[example].T), average])

    inputs = weighted(before.inputs)
    moves = layer > 1  # the network's inputs stay as they are
    drift = weighted(after.inputs - before.inputs) if moves else jnp.zeros_like(inputs)
    stack = lambda get: jnp.stack([get(tree) for tree in sources])  # noqa: E731
    kernels, biases = (stack(lambda tree, k=k: tree[name][k]) for k in ("kernel", "bias"))
    parts = [
        jnp.sum(inputs[:, None] * kernels[None], axis=2),
        weight[:, None] * biases[None],
    ]
    motion = jnp.zeros_like(before.z)
    if scale is not None:
        centred = after.affine - after.mean
        motion = scale[None, :] * (
            centred * (after.inverse - before.inverse) - before.inverse * (after.mean - before.mean)
        )
        scales = stack(lambda tree: models.scale(config, tree, layer))
        shifts = stack(lambda tree: models.shift(config, tree, layer))
        moved = views(centred * after.inverse)[:, None] * scales[None]
        parts += [moved, jnp.broadcast_to(shifts[None], moved.shape)]
    below = [jnp.sum(drift * tree[name]["kernel"][None], axis=1) for tree in (params, update)]
    return _Record(
        own=jnp.stack(parts, axis=2),
        others=jnp.stack([*below, views(motion)], axis=1),
        change=views(after.z - before.z),
        handover=after.z.max(0) - before.z.max(0) - views(after.z - before.z)[0],
    )


def named_entry(config: Config, record: _Record) -> Entry:
    """The named account of records with any leading axes, [..., views, sources, parts, units]."""
    zeros = jnp.zeros_like(record.handover)
    found = present_sources(config)

    def parts(view, source):
        if source not in found:
            return Parts(zeros, zeros, zeros, zeros)
        own = record.own[..., view, found.index(source), :, :]
        own = [own[..., part, :] for part in range(own.shape[-2])]
        return Parts._make([*own, *[zeros] * (4 - len(own))])

    def balance(view):
        others = (record.others[..., view, i, :] for i in range(3))
        terms = Terms._make([*(parts(view, source) for source in SOURCES), *others])
        change = record.change[..., view, :]
        return Balance(terms, change, change - sum(jax.tree.leaves(terms)))

    return Entry(balance(0), balance(1), record.handover)


def empty_record(config: Config) -> _Record:
    """A _Record of zeros for all units."""
    zeros = functools.partial(jnp.zeros, dtype=jax.dtypes.canonicalize_dtype(float))
    units, parts = config.units, 4 if normalization_of(config).present else 2
    own = zeros((len(VIEWS), len(present_sources(config)), parts, units))
    return _Record(own, zeros((len(VIEWS), 3, units)), zeros((len(VIEWS), units)), zeros(units))
