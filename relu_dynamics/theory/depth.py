"""Units and networks born dead."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import (
    betainc,
    betaincc,
)

from relu_dynamics.theory._numerics import (
    Real,
    at_least_zero,
    broadcast,
    complex_erfcx,
    plain,
    whole,
)
from relu_dynamics.theory.autoencoders import exceeds_sum


def born_dead_unit_probability(radius: ArrayLike, dimension: ArrayLike) -> Real:
    """P(a new unit is dead on the whole ball of `radius` in R^dimension), w and b iid N(0, s^2).

    P(t_d > radius sqrt(d)) for Student's t with d degrees of freedom; arctan(1/radius)/pi on the
    interval [-radius, radius] (d = 1). If b has another standard deviation, pass radius s_w / s_b.
    Source: derived: dead exactly if b + radius ||w|| <= 0.
    """
    radius = at_least_zero("radius", radius)
    half = whole("dimension", dimension, least=1) / 2
    # t^2 = radius^2 d: each incomplete beta function where its argument keeps the digits
    inner, outer = np.minimum(radius, 1.0) ** 2, np.maximum(radius, 1.0)
    near = betaincc(0.5, half, inner / (1 + inner))
    far = betainc(half, 0.5, outer**-2 / (1 + outer**-2))
    return plain(0.5 * np.where(radius < 1, near, far))


def born_dead_unit_probability_box(half_width: ArrayLike, dimension: ArrayLike) -> Real:
    """P(a new unit is dead on the box [-half_width, half_width]^dimension), w and b iid Gaussian.

    Dead exactly if b + half_width * sum |w_i| <= 0. Relative accuracy 1e-12, also in the tail.
    Source: derived: a one-dimensional inversion integral, since E exp(-s |w|) = erfcx(s / sqrt 2).
    """
    half_width = at_least_zero("half_width", half_width)
    dimension = whole("dimension", dimension, least=1)

    def one(scale: float, terms: float) -> float:
        if np.isinf(scale):
            return 0.0
        return exceeds_sum(lambda s: np.log(complex_erfcx(scale * s / np.sqrt(2))), terms)

    return plain(np.vectorize(one, otypes=[float])(half_width, dimension))


def born_dead_unit_probability_unit_box(dimension: ArrayLike) -> Real:
    """P(a new unit is dead on the box [0, 1]^dimension), w and b iid Gaussian.

    Dead exactly if b + sum max(w_i, 0) <= 0. Relative accuracy about 1e-12, also in the tail.
    Source: derived, as `born_dead_unit_probability_box`.
    """

    def one(terms: float) -> float:
        return exceeds_sum(lambda s: np.log1p(complex_erfcx(s / np.sqrt(2))) - np.log(2), terms)

    dimension = whole("dimension", dimension, least=1)
    return plain(np.vectorize(one, otypes=[float])(dimension))


def born_dead_unit_probability_orthant(dimension: ArrayLike) -> Real:
    """P(a new unit is dead on all x >= 0 in R^dimension) = 2^-(dimension + 1).

    Dead exactly if no weight and not the bias is positive, for any symmetric continuous law of
    independent parameters; no change in an upstream ReLU layer can then revive it. Source: Rister &
    Rubin (arXiv 2007.06192); derived.
    """
    return plain(np.exp2(-(whole("dimension", dimension, least=0) + 1)))


def born_dead_network_probability(width: ArrayLike, weight_layers: ArrayLike) -> Real:
    """P(a new zero-bias network on a symmetric 1-D domain is constant), where exactly known.

    `weight_layers` L counts weight matrices, so L - 1 ReLU layers of `width` N units: 0 for L = 2;
    2^(1-N) 2^-N + (1 - 2^(1-N)) 4^-N for L = 3; 1 - 2^(2-L) for N = 1. Elsewhere a ValueError: use
    `born_dead_network_bounds`. Source: derived; Lu et al. (arXiv 1903.06733) as a lower bound.
    """
    width, layers = _network(width, weight_layers)
    unknown = (layers > 3) & (width > 1)
    if np.any(unknown):
        raise ValueError(
            "weight_layers must be 2 or 3 (or width 1) for an exact form, got "
            f"{layers[unknown].flat[0]:.0f} at width {width[unknown].flat[0]:.0f}; "
            "use born_dead_network_bounds"
        )
    return plain(_network_lower_bound(width, layers))


def born_dead_network_bounds(width: ArrayLike, weight_layers: ArrayLike) -> tuple[Real, Real]:
    """(lower, upper) bounds of P(a new zero-bias network on a symmetric 1-D domain is constant).

    With a = 1 - 2^-N and m = L - 2: (1-2^(1-N)) (1-a^m)^2 + 2^(1-N) (1-a^m) <= P <= 1 - a^m.
    `width` N, `weight_layers` L >= 2, iid Gaussian weights of any scale. The lower bound is exact
    for L <= 3 and the two meet at N = 1. Source: derived, tighter than Lu et al. (arXiv
    1903.06733): the first layer never silences both half-lines, and sends them to disjoint units;
    later, nonnegative correlation can only help both to die together.
    """
    width, layers = _network(width, weight_layers)
    upper = _some_layer_silent(width, layers - 2)
    return plain(_network_lower_bound(width, layers)), plain(upper)


def _network(width: ArrayLike, weight_layers: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    return broadcast(whole("width", width, least=1), whole("weight_layers", weight_layers, least=2))


def _some_layer_silent(width: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """1 - (1 - 2^-width)^layers, without cancellation."""
    return -np.expm1(layers * np.log1p(-np.exp2(-width)))


def _network_lower_bound(width: np.ndarray, layers: np.ndarray) -> np.ndarray:
    # one_sided: all first-layer units face the same way, and one half-line is silent at once
    one_sided = np.exp2(1 - width)
    silent = _some_layer_silent(width, layers - 2)
    return (1 - one_sided) * silent**2 + one_sided * silent
