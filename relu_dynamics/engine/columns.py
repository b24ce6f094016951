"""Columns: networks of one unit as columns of one matrix, the fast form under `jax.vmap`."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from relu_dynamics.config import Config
from relu_dynamics.engine import models, probes, terms
from relu_dynamics.engine.activations import activation_of
from relu_dynamics.engine.initializers import has_shift
from relu_dynamics.engine.models import PRECISION, Params, layer_name
from relu_dynamics.engine.normalizations import normalization_of
from relu_dynamics.engine.tasks import TASKS


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
        models.MODELS[config.model] is models.MLP
        and config.hidden == (1,)
        and activation_of(config).elementwise
        and not normalization_of(config).present
        and has_shift(config, 1)
        and not terms.present(config)
        and kind.outputs == 1
        and not kind.classes
    )


def to_columns(params: Params) -> Columns:
    """Parameters of one-unit networks with a leading [lanes] axis, as columns."""
    last = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), params)
    unit, output = last[layer_name(1)], last["output"]
    return Columns(
        weights=unit["kernel"][:, 0],
        bias=unit["bias"][0],
        output_weight=output["kernel"][0, 0],
        output_bias=output["bias"][0] if "bias" in output else None,
    )


def from_columns(columns: Columns) -> Params:
    """The inverse of `to_columns`."""
    output = {"kernel": columns.output_weight[None, None]}
    if columns.output_bias is not None:
        output["bias"] = columns.output_bias[None]
    unit = {"kernel": columns.weights[:, None], "bias": columns.bias[None]}
    params = {layer_name(1): unit, "output": output}
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), params)


def affine(columns: Columns, inputs: jax.Array) -> jax.Array:
    """z = w.x + b of every network at one input [fan_in], [lanes]."""
    return probes.halve(jnp.add, columns.weights * inputs[:, None]) + columns.bias


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
    function = activation_of(config)

    def outputs(z):
        output = function(z) * columns.output_weight[None, :]
        return output if columns.output_bias is None else output + columns.output_bias[None, :]

    with_one = jnp.concatenate([inputs, jnp.ones((batch, 1), inputs.dtype)], axis=1)
    weights = jnp.concatenate([columns.weights, columns.bias[None, :]])
    z = with_one @ weights
    active, pull_back = jax.vjp(function, z)
    error = (outputs(z) - targets) / batch
    (through,) = pull_back(error)
    # The weights' gradient but for the output weight. The barrier: XLA would make the transposition
    # part of the product, which then takes three times as long.
    towards = jax.lax.optimization_barrier(with_one.T) @ through
    both = columns.output_weight[None, :] * towards
    if function.homogeneous:
        output_gradient = probes.halve(jnp.add, weights * towards)
    else:
        output_gradient = probes.halve(jnp.add, error * active)
    output_bias = None if columns.output_bias is None else probes.halve(jnp.add, error)
    squares = probes.halve(jnp.add, z, targets, each=lambda z, y: (outputs(z) - y) ** 2)
    return squares * (0.5 / batch), z, Columns(both[:-1], both[-1], output_gradient, output_bias)


def all_units_at_once(config: Config, plain: Callable) -> Callable:
    """`plain` with a rule for `jax.vmap`: networks of one unit become columns of one matrix.

    Under `vmap`, XLA makes a matrix-vector product of every lane's single unit. With the lanes on
    the last axis the same mathematics is one product forward and one backward, and every
    reduction over the batch is a full-width vector instruction. Both agree to rounding (tested).
    """

    form = jax.custom_batching.custom_vmap(plain)

    @form.def_vmap
    def rule(lanes, batched, params, inputs, targets):
        if batched[1] or batched[2]:  # lanes with examples of their own: nothing to share
            axes = jax.tree.map(lambda b: 0 if b else None, tuple(batched))
            result = jax.vmap(plain, in_axes=axes)(params, inputs, targets)
        else:
            full = jax.tree.map(
                lambda p, b: p if b else jnp.broadcast_to(p, (lanes, *p.shape)), params, batched[0]
            )
            columns = to_columns(full)
            with jax.default_matmul_precision(PRECISION):
                losses, z, gradients = one_unit_gradients(config, columns, inputs, targets)
            # The mean of z by linearity: no pass over z.
            mean = affine(columns, inputs.mean(0))
            seen = probes.unit_statistics((z,))._replace(mean=mean)
            statistics = jax.tree.map(lambda s: s[:, None], seen)
            result = losses, statistics, from_columns(gradients)
        return result, jax.tree.map(lambda _: True, result)

    return form


def evaluate_columns(config: Config, plain: Callable, statistics_of: Callable) -> Callable:
    """`plain` with a rule for `jax.vmap`: networks of one unit are looked at as one layer, each a
    unit of it, of which `statistics_of` makes what `plain` returns. Both agree to rounding
    (tested)."""
    form = jax.custom_batching.custom_vmap(plain)

    @form.def_vmap
    def rule(lanes, batched, params, inputs):
        if batched[1] or not all(jax.tree.leaves(batched[0])):
            axes = jax.tree.map(lambda b: 0 if b else None, tuple(batched))
            result = jax.vmap(plain, in_axes=axes, axis_size=lanes)(params, inputs)
        else:
            columns = to_columns(params)
            with jax.default_matmul_precision(PRECISION):
                z = inputs @ columns.weights + columns.bias[None, :]
            group = {"kernel": columns.weights, "bias": columns.bias}
            forward = models.Forward(z, (z,), (inputs,))
            layer = statistics_of(config, {models.layer_name(1): group}, forward)
            result = jax.tree.map(lambda values: values[:, None], layer)
        return result, jax.tree.map(lambda _: True, result)

    return form


def scan_stretch(step: Callable, finish: Callable) -> Callable:
    """The steps between two evaluations as a function of (shared, carry, xs): finish(carry, out) of
    what `jax.lax.scan` makes of step(shared, carry, x). `finish` also takes arrays that end in an
    axis of lanes."""
    return lambda shared, carry, xs: finish(
        *jax.lax.scan(functools.partial(step, shared), carry, xs)
    )


def lanes_last(step: Callable, finish: Callable) -> Callable:
    """`scan_stretch` of a carry (State, anything) with a rule for `jax.vmap`: the lanes' axis is
    last. `step` and `finish` must not close over values that differ between lanes.

    `jax.vmap` of a scan puts the lanes first. Parameters of one-unit networks would then lie
    across the columns that `all_units_at_once` works on, and be transposed at every step.
    """
    plain = scan_stretch(step, finish)
    form = jax.custom_batching.custom_vmap(plain)

    @form.def_vmap
    def rule(lanes, batched, shared, carry, xs):
        first = lambda tree: jax.tree.map(lambda b: 0 if b else None, tree)  # noqa: E731
        everywhere = lambda tree: jax.tree.map(lambda _: True, tree)  # noqa: E731
        if any(jax.tree.leaves(batched[2])):  # batches that differ between lanes: nothing to share
            result = jax.vmap(plain, in_axes=tuple(map(first, batched)))(shared, carry, xs)
            return result, everywhere(result)
        # All lanes get arrays of their own, but a common count of steps stays one number.
        own = everywhere(carry)
        own = (own[0]._replace(step=batched[1][0].step), own[1])
        # Rows at multiples of 1 KiB would all meet in the same few places of the L1 cache.
        spare = 16 if lanes % 256 == 0 else 0

        def widen(leaf, is_batched):
            ends = [(0, spare)] + [(0, 0)] * (leaf.ndim - 1)
            return jnp.pad(leaf, ends, mode="edge") if is_batched and spare else leaf

        def turn(leaf, is_batched, is_own):
            if is_own and not is_batched:
                leaf = jnp.broadcast_to(leaf, (lanes, *leaf.shape))
            return jnp.moveaxis(widen(leaf, True), 0, -1) if is_own else leaf

        def back(leaf, is_own):
            return jnp.moveaxis(leaf[..., :lanes], -1, 0) if is_own else leaf

        axes = jax.tree.map(lambda is_own: -1 if is_own else None, own)
        all_lanes = scan_stretch(
            jax.vmap(step, in_axes=(first(batched[0]), axes, None), out_axes=(axes, -1)), finish
        )
        shared = jax.tree.map(widen, shared, batched[0])
        carry, out = all_lanes(shared, jax.tree.map(turn, carry, batched[1], own), xs)
        result = jax.tree.map(back, carry, own), jax.tree.map(back, out, everywhere(out))
        return result, (own, everywhere(out))

    return form
