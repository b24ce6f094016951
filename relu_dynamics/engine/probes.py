"""Probes: from pre-activations z to per-unit statistics and layer summaries.

Axes: `batch` examples, `units` of all hidden layers in order (the first layer's come first).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

UNIT_ROUNDOFF = 2.0**-24  # of float32


class UnitStatistics(NamedTuple):
    """Statistics of each unit's z over a batch; all [units], in the units of z but the first."""

    active_fraction: jax.Array  # fraction of examples with z > 0
    margin: jax.Array  # max of z: the unit is dead on the batch exactly when this is <= 0
    mean: jax.Array
    deviation: jax.Array  # standard deviation, 1/n
    minimum: jax.Array


class MarginBounds(NamedTuple):
    """Bounds on each unit's margin whatever z's rounding: [units], in the units of z.

    `lower` > 0: the unit is certainly active on some example; `upper` <= 0: certainly on none.
    """

    lower: jax.Array
    upper: jax.Array


class LayerSummary(NamedTuple):
    """One number per layer; all [layers]."""

    dead_fraction: jax.Array  # units with margin <= 0
    active_fraction: jax.Array  # mean over units of their active fraction
    margin_mean: jax.Array
    margin_min: jax.Array
    deviation_mean: jax.Array  # mean over units of the standard deviation of z
    flat_fraction: jax.Array  # units with derivative f'(z) = 0 for all examples; ReLU: the dead
    wrong_way_fraction: jax.Array  # share with negative slope, f'(z) < 0 (stored under this name)
    died: jax.Array  # fraction of units that died since the previous evaluation; 0 at the first
    recovered: jax.Array  # fraction of units that recovered since the previous evaluation, likewise


class SlopeStatistics(NamedTuple):
    """Statistics of each unit's derivative da/dz over a batch; all [units]."""

    flat: jax.Array  # bool, the derivative is 0 for all examples
    negative: jax.Array  # share of examples where it is negative
    largest: jax.Array  # of its sizes |da/dz|; not finite where z is not


ROWS = 32  # `halve` reduces so many wide rows in one pass,

GROUPS = 8  # and arrays of wide rows by so many groups of them

WIDE = 512  # numbers


def halve(
    op: Callable[[jax.Array, jax.Array], jax.Array],
    *arrays: jax.Array,
    each: Callable[..., jax.Array] = lambda z: z,
) -> jax.Array:
    """Reduces the leading axis by combining its two halves, again and again.

    The same reduction as `op.reduce(each(*arrays), axis=0)` of an elementwise `each`, which is
    given one row or more at a time. XLA turns this order into full-width vector instructions; on
    CPU it does not vectorize the plain reduce over short unit axes. Where rows are wide, several
    halvings are one pass that stores nothing between; the numbers are the same.
    """
    odd = []
    wide = math.prod(arrays[0].shape[1:]) >= WIDE
    while (size := arrays[0].shape[0]) > 1:
        parts = size if wide and size <= ROWS else GROUPS if wide and size % GROUPS == 0 else 2
        length, rest = divmod(size, parts)
        if rest:
            odd.append(each(*(a[-1:] for a in arrays)))
        slices = [slice(i * length, (i + 1) * length) for i in range(parts)]
        rows = [each(*(a[part] for a in arrays)) for part in slices]
        while len(rows) > 1:
            half, over = divmod(len(rows), 2)
            if over:
                odd.append(rows[-1])
            rows = [op(a, b) for a, b in zip(rows[:half], rows[half : 2 * half], strict=True)]
        arrays, each = (rows[0],), lambda z: z
    result = each(*arrays)
    for row in odd:
        result = op(result, row)
    return result[0]


def unit_statistics(preactivations: tuple[jax.Array, ...]) -> UnitStatistics:
    """Statistics of every unit of every layer over the batch, [units] each.

    `preactivations` is one [batch, units of the layer] per layer, as in `models.Forward`.
    """

    def of_layer(z):
        size = z.shape[0]
        mean = halve(jnp.add, z) / size
        return UnitStatistics(
            active_fraction=halve(jnp.add, z, each=lambda z: (z > 0).astype(z.dtype)) / size,
            margin=halve(jnp.maximum, z),
            mean=mean,
            # Two passes: E z^2 - (E z)^2 cancels when |mean| >> deviation, as in deeply dead units.
            deviation=jnp.sqrt(halve(jnp.add, z, each=lambda z: (z - mean[None, :]) ** 2) / size),
            minimum=halve(jnp.minimum, z),
        )

    layers = [of_layer(jax.lax.stop_gradient(z)) for z in preactivations]
    return UnitStatistics(*(jnp.concatenate(parts) for parts in zip(*layers, strict=True)))


def slope_statistics(slopes: tuple[jax.Array, ...], margin: jax.Array) -> SlopeStatistics:
    """Statistics of every unit's derivative, from one [batch, units of the layer] per layer, and
    the units' margins, [units]."""
    flat = [(slope == 0).all(0) for slope in slopes]
    wrong = [(slope < 0).astype(slope.dtype).mean(0) for slope in slopes]
    largest = [jnp.abs(slope).max(0) for slope in slopes]
    return SlopeStatistics(
        jnp.concatenate(flat),
        jnp.concatenate(wrong),
        jnp.where(jnp.isfinite(margin), jnp.concatenate(largest), margin),
    )


def rectified_slopes(margin: jax.Array) -> SlopeStatistics:
    """`slope_statistics` of max(z, 0), from the units' margins alone, [units]."""
    largest = (margin > 0).astype(margin.dtype)
    return SlopeStatistics(
        margin <= 0, jnp.zeros_like(margin), jnp.where(jnp.isfinite(margin), largest, margin)
    )


def layer_summary(
    statistics: UnitStatistics,
    hidden: tuple[int, ...],
    slopes: SlopeStatistics,
    died: jax.Array,
    recovered: jax.Array,
) -> LayerSummary:
    """Summaries for layers of the given widths, [layers] each. All else is [units]: statistics,
    those of the slopes, and whether (or how often) the unit died and recovered since the last
    evaluation.
    """

    def by_layer(values, reduce):
        start, out = 0, []
        for width in hidden:
            out.append(reduce(values[start : start + width]))
            start += width
        return jnp.stack(out)

    return LayerSummary(
        dead_fraction=by_layer((statistics.margin <= 0).astype(jnp.float32), jnp.mean),
        active_fraction=by_layer(statistics.active_fraction, jnp.mean),
        margin_mean=by_layer(statistics.margin, jnp.mean),
        margin_min=by_layer(statistics.margin, jnp.min),
        deviation_mean=by_layer(statistics.deviation, jnp.mean),
        flat_fraction=by_layer(slopes.flat.astype(jnp.float32), jnp.mean),
        wrong_way_fraction=by_layer(slopes.negative, jnp.mean),
        died=by_layer(died.astype(jnp.float32), jnp.mean),
        recovered=by_layer(recovered.astype(jnp.float32), jnp.mean),
    )


def margin_bounds(
    weights: jax.Array, bias: jax.Array, inputs: jax.Array, z: jax.Array
) -> MarginBounds:
    """Bounds on the margins of z = x.w + b, [units] each, from float32's z [batch, units].

    weights [fan_in, units], bias [units], inputs [batch, fan_in]. Any order of summation errs on
    an example by at most (fan_in + 2) u (sum |w_i x_i| + |b|) to first order in the unit roundoff
    u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). Where all terms
    have one sign, z is far larger than that, and where all are 0 there is no error: such signs
    are exact. Where the norms (Cauchy-Schwarz) decide the sign of every margin, they bound the
    sums; else the sums are computed. The bounds speak of this layer's arithmetic, inputs taken as
    given, and a product that underflows counts as 0, as it does in z.
    """
    input_norm = jnp.sqrt(jnp.max(jnp.sum(inputs**2, axis=1)))
    weight_norm = jnp.sqrt(jnp.sum(weights**2, axis=0))
    error = _allowance(weights) * (weight_norm * input_norm + jnp.abs(bias))
    margin = halve(jnp.maximum, z)
    return _narrowed(MarginBounds(margin - error, margin + error), weights, bias, inputs, z)


def _allowance(weights: jax.Array) -> float:
    return (weights.shape[0] + 2) * UNIT_ROUNDOFF


def _narrow(bounds, weights, bias, inputs, z):
    """The bounds, narrowed by the rounding of every example's own sum."""
    with jax.default_matmul_precision("highest"):
        size = jnp.abs(inputs) @ jnp.abs(weights) + jnp.abs(bias)[None, :]
    error = _allowance(weights) * size
    return MarginBounds(
        lower=jnp.maximum(bounds.lower, halve(jnp.maximum, z - error)),
        upper=jnp.minimum(bounds.upper, halve(jnp.maximum, z + error)),
    )


def _if_undecided(narrow, bounds, *layer):
    undecided = (bounds.lower <= 0) & (bounds.upper > 0)
    return jax.lax.cond(undecided.any(), narrow, lambda bounds, *_: bounds, bounds, *layer)


@jax.custom_batching.custom_vmap
def _narrowed(bounds, weights, bias, inputs, z):
    return _if_undecided(_narrow, bounds, weights, bias, inputs, z)


@_narrowed.def_vmap
def _narrowed_lanes(lanes, batched, *arguments):
    # jax.vmap of a condition would compute both sides in every lane, at every evaluation.
    axes = jax.tree.map(lambda b: 0 if b else None, tuple(batched))
    narrow = jax.vmap(_narrow, in_axes=axes, axis_size=lanes)
    result = _if_undecided(narrow, *arguments)
    return result, jax.tree.map(lambda _: True, result)


def normalized_margin_bounds(shift: jax.Array, z: jax.Array, fan_in: int) -> MarginBounds:
    """`margin_bounds` of normalized z [batch, units]: an estimate of the rounding error, no bound.

    The normalization divides the affine map's error by a deviation that is of the size of the
    map itself, so the error is taken relative to the normalized values' own size.
    """
    size = jnp.max(jnp.abs(z - shift[None, :]), axis=0) + jnp.abs(shift)
    error = 4 * (fan_in + 2) * UNIT_ROUNDOFF * size
    margin = halve(jnp.maximum, z)
    return MarginBounds(margin - error, margin + error)
