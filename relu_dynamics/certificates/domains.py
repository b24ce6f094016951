"""Domains: bounds on every unit's z over all inputs of a box or a ball."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from relu_dynamics import theory
from relu_dynamics.certificates.case import (
    forward_error,
    layer_leaves,
    no_positive_term,
    norm_size,
    norm_slack,
    sum_error,
)
from relu_dynamics.config import Config
from relu_dynamics.engine import models
from relu_dynamics.engine.activations import activation_of
from relu_dynamics.engine.normalizations import normalization_of
from relu_dynamics.engine.probes import UNIT_ROUNDOFF


class DomainBound(NamedTuple):
    """Largest z on a domain of inputs; NumPy, [units] each."""

    dead: np.ndarray  # bool, upper <= 0: the unit is silent on the whole domain
    upper: np.ndarray  # float64, no z on the domain is larger, nor its rounding bound in float32


def dead_on_box(
    config: Config,
    params: models.Params,
    low: ArrayLike,
    high: ArrayLike,
    *,
    relaxation: bool = True,
) -> DomainBound:
    """Upper bounds of every unit's z over all inputs low <= x <= high, elementwise; [dimension].

    The first layer is exact up to rounding. Deeper layers are bounded by interval arithmetic and,
    with `relaxation`, by linear bounds carried backward to the box (CROWN: Zhang et al. 2018, arXiv
    1811.00866); the smaller counts. A normalization bounds its layer by itself: no entry exceeds
    `theory.absorbing_shift`. Raises a ValueError for low > high, NaN, a wrong shape, another
    activation than relu, and batch normalization, where z depends on the rest of the batch.
    """
    _check_domain(config)
    normalization = normalization_of(config)
    if normalization.over_batch:
        raise ValueError(
            f"normalization={config.normalization!r}: z depends on the batch, not on one input's "
            "box."
        )
    layers = [layer_leaves(config, params, layer) for layer in range(1, len(config.hidden) + 1)]
    dimension = layers[0]["weights"].shape[0]
    low, high = (_point(name, x, dimension) for name, x in (("low", low), ("high", high)))
    if (low > high).any():
        at = int(np.argmax(low > high))
        raise ValueError(f"low={low[at]} is above high={high[at]} in entry {at} of the box.")

    inputs = seen = (low, high)  # what goes into a layer: of real numbers, and in float32
    relaxed = []  # (weights, bias, lower, upper) of the affine layers so far
    error, uppers = np.zeros(dimension), []
    for leaves in layers:
        weights, bias = leaves["weights"], leaves["bias"]
        lower, upper = _interval(weights, bias, *inputs)
        if normalization.present:
            size = norm_size(config, len(bias), 0)
            reach = np.abs(leaves["scale"]) * theory.absorbing_shift(
                size, centred=normalization.centred
            )
            reach = reach * (1 + norm_slack(config))
            lower, upper = leaves["shift"] - reach, leaves["shift"] + reach
            error = 4 * UNIT_ROUNDOFF * (np.abs(leaves["shift"]) + reach)
            seen = lower - error, upper + error
        else:
            seen = _seen(weights, bias, *seen)
            if relaxation and relaxed:
                upper = np.minimum(upper, _backward(relaxed, weights, bias, low, high))
                lower = np.maximum(lower, -_backward(relaxed, -weights, -bias, low, high))
            largest = np.maximum(np.abs(inputs[0]), np.abs(inputs[1]))
            error = forward_error(largest[None], weights, bias, error)[0]
            relaxed.append((weights, bias, lower, upper))
            # Two ways to the same bound: layer by layer in float32, or the real one and its error.
            seen = np.maximum(seen[0], lower - error), np.minimum(seen[1], upper + 2 * error)
            error = np.where(np.maximum(upper, seen[1]) <= 0, 0, error)  # max(z, 0) is 0 in both
        uppers.append(seen[1])
        inputs, seen = (
            tuple(np.maximum(end, 0) for end in ends) for ends in ((lower, upper), seen)
        )
    upper = np.concatenate(uppers)
    return DomainBound(upper <= 0, upper)


def dead_on_ball(
    config: Config, params: models.Params, centre: ArrayLike, radius: float
) -> DomainBound:
    """Largest z of the first layer's units over all inputs within `radius` of `centre`, [units].

    w.centre + b + radius ||w||, which is attained. Raises a ValueError for a negative or non-finite
    radius, a wrong shape, another activation than relu, or a normalization.
    """
    _check_domain(config)
    if normalization_of(config).present:
        raise ValueError(f"normalization={config.normalization!r}: the ball is exact for 'none'.")
    leaves = layer_leaves(config, params, 1)
    weights, bias = leaves["weights"], leaves["bias"]
    centre = _point("centre", centre, weights.shape[0])
    if np.ndim(radius) != 0 or not (math.isfinite(radius) and radius >= 0):
        raise ValueError(f"radius={radius!r} must be one finite number >= 0.")
    norm = np.sqrt((weights**2).sum(0))
    furthest = np.abs(centre) + radius
    error = sum_error(furthest @ np.abs(weights) + np.abs(bias), len(centre))
    upper = centre @ weights + bias + radius * norm + 2 * error
    negative = no_positive_term(weights, bias, centre - radius, centre + radius)
    upper = np.where(negative, np.minimum(upper, 0), upper)
    return DomainBound(upper <= 0, upper)


def _check_domain(config: Config) -> None:
    if not activation_of(config).rectifies:
        raise ValueError(f"activation={config.activation!r}: the bounds hold for 'relu'.")


def _point(name: str, value: ArrayLike, dimension: int) -> np.ndarray:
    point = np.asarray(value, np.float64)
    if point.shape != (dimension,):
        raise ValueError(
            f"{name} has shape {point.shape}; the network's inputs need ({dimension},)."
        )
    if not np.isfinite(point).all():
        raise ValueError(f"{name}={value!r} must be finite in every entry.")
    return point


def _interval(weights, bias, low, high) -> tuple[np.ndarray, np.ndarray]:
    """(lower, upper) of x.w + b over low <= x <= high, [units]."""
    positive, negative = np.maximum(weights, 0), np.minimum(weights, 0)
    lower = low @ positive + high @ negative + bias
    return lower, high @ positive + low @ negative + bias


def _seen(weights, bias, low, high) -> tuple[np.ndarray, np.ndarray]:
    """(lower, upper) of x.w + b over the box as an evaluation in float32 may bound it, [units]."""
    return -_seen_upper(-weights, -bias, low, high), _seen_upper(weights, bias, low, high)


def _seen_upper(weights, bias, low, high):
    # Every term is largest at one end, and rounding grows with its size at that end.
    _, upper = _interval(weights, bias, low, high)
    size = np.abs(high) @ np.maximum(weights, 0) - np.abs(low) @ np.minimum(weights, 0)
    upper = upper + 2 * sum_error(size + np.abs(bias), len(weights))
    negative = no_positive_term(weights, bias, low, high)
    return np.where(negative, np.minimum(upper, 0), upper)


def _backward(layers, weights, bias, low, high) -> np.ndarray:
    """Upper bounds of relu(...).w + b over the box, carried back through `layers` to the inputs.

    relu(z) lies below the chord from (lower, 0) to (upper, upper), and above 0 and z: a positive
    coefficient takes the chord, a negative one whichever line lies nearer.
    """
    slopes, offset = weights, bias
    for layer_weights, layer_bias, lower, upper in reversed(layers):
        split = (lower < 0) & (upper > 0)
        width = np.where(split, upper - lower, 1.0)
        chord = np.where(split, upper / width, upper > 0)[:, None]
        rise = np.where(split, -lower * upper / width, 0.0)
        line = np.where(split, upper > -lower, upper > 0)[:, None]
        positive, negative = np.maximum(slopes, 0), np.minimum(slopes, 0)
        offset = offset + rise @ positive
        slopes = positive * chord + negative * line
        offset = offset + layer_bias @ slopes
        slopes = layer_weights @ slopes
    return _interval(slopes, offset, low, high)[1]
