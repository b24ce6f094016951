"""Closed forms for the birth, death and recovery of ReLU units.

Each function returns a number that a measurement can be held against, and names its source: a
paper, or "derived", which means derived for this package and compared in the tests with Monte
Carlo, quadrature, an exact recurrence or a real optax run.

Everything is NumPy in float64. Scalars in, a float out; arrays in, an array out, with broadcasting.
Unless a docstring says otherwise, inputs x are standard normal, x ~ N(0, I), a unit's
pre-activation is z = w.x + b, and "dead" means max z <= 0 over the examples in question. Steps are
returned as floats, because "never" is `inf`. A value outside its domain (NaN included) raises a
ValueError that names it.

Letters used in shapes: `...` batch, `d` input dimension, `n` probe examples.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq, fminbound
from scipy.special import (
    betainc,
    betaincc,
    erfcx,
    lambertw,
    log_ndtr,
    ndtr,
    spherical_jn,
    wofz,
    xlog1py,
    xlogy,
)

Real = Any
"""A float for scalar arguments, otherwise a float64 array; typed as NumPy types its ufuncs."""

DUST = 1e-9
"""Default `tolerance`, in units of z: a pre-activation up to here is rounding, not a recovery."""

# -zeta(1/2) / sqrt(2 pi): mean overshoot of a Gaussian walk, in standard deviations.
_OVERSHOOT = 0.5825971579390107
_SQRT_TAU = np.sqrt(2 * np.pi)


# One Gaussian unit ----------------------------------------------------------------------------


def active_probability(bias: ArrayLike, weight_norm: ArrayLike) -> Real:
    """P(w.x + b > 0) = Phi(b / ||w||), the chance that a fresh input fires the unit.

    `weight_norm` is ||w|| >= 0. At ||w|| = 0 the unit is constant: 1 if b > 0, else 0.
    Source: z ~ N(b, ||w||^2).
    """
    return _plain(ndtr(_standardized(bias, weight_norm)))


def log_active_probability(bias: ArrayLike, weight_norm: ArrayLike) -> Real:
    """log P(w.x + b > 0), for units so deep that the probability itself underflows.

    -inf where a constant unit (||w|| = 0) is dead. Source: as `active_probability`.
    """
    return _plain(log_ndtr(_standardized(bias, weight_norm)))


def relu_mean(bias: ArrayLike, weight_norm: ArrayLike) -> Real:
    """E[relu(w.x + b)] = s phi(b/s) + b Phi(b/s), with s = ||w||.

    Both terms nearly cancel for b << -s; there the tail integral is used instead. Source: derived
    (first moment of a rectified Gaussian).
    """
    beta = _standardized(bias, weight_norm)
    bias, weight_norm = _broadcast(bias, weight_norm)
    direct = weight_norm * _normal_density(beta) + bias * ndtr(beta)
    tail = weight_norm * _tail_moments(beta)[0]
    return _plain(np.where(beta < -2, tail, direct))


def relu_second_moment(bias: ArrayLike, weight_norm: ArrayLike) -> Real:
    """E[relu(w.x + b)^2] = (s^2 + b^2) Phi(b/s) + b s phi(b/s), with s = ||w||.

    Accurate in the far tail, as `relu_mean`. Source: derived (second moment of a rectified
    Gaussian).
    """
    beta = _standardized(bias, weight_norm)
    bias, weight_norm = _broadcast(bias, weight_norm)
    squares = weight_norm**2 + bias**2
    direct = squares * ndtr(beta) + bias * weight_norm * _normal_density(beta)
    tail = weight_norm**2 * _tail_moments(beta)[1]
    return _plain(np.where(beta < -2, tail, direct))


def expected_gradient(
    weights: ArrayLike, bias: ArrayLike, target_weights: ArrayLike, target_bias: ArrayLike
) -> tuple[np.ndarray, Real]:
    """Population gradient (dw, db) of 1/2 (relu(w.x + b) - a.x - c)^2, for x ~ N(0, I).

    `weights` w and `target_weights` a are [..., d]; `bias` b and `target_bias` c are [...]. The
    gradient is E[(relu(z) - a.x - c) 1{z > 0} (x, 1)], so that a deep unit has a tiny one but never
    0. At w = 0 the unit is constant and fires always (b > 0) or never. Source: derived with Stein's
    lemma.
    """
    w, a = _finite("weights", weights), _finite("target_weights", target_weights)
    b, c = _finite("bias", bias), _finite("target_bias", target_bias)
    if w.ndim == 0 or a.ndim == 0 or w.shape[-1] != a.shape[-1]:
        raise ValueError(
            f"weights and target_weights must be [..., d] with one d, got {w.shape} and {a.shape}"
        )
    norm = np.sqrt(np.sum(w**2, axis=-1))
    beta = _standardized(b, norm)
    active, density = ndtr(beta), _normal_density(beta)
    # beta * density, without inf * 0 for a constant unit
    slope = np.where(np.isfinite(beta), beta, 0.0) * density
    direction = w / np.where(norm > 0, norm, 1.0)[..., None]
    along = np.sum(direction * a, axis=-1)

    dw = (w - a) * active[..., None] + direction * (slope * along - c * density)[..., None]
    db = relu_mean(b, norm) - density * along - c * active
    return dw, _plain(db)


def dead_in_sample_probability(bias: ArrayLike, weight_norm: ArrayLike, samples: ArrayLike) -> Real:
    """P(z <= 0 on all of `samples` fresh independent inputs) = Phi(-b/||w||)^samples.

    `samples` is a whole number >= 0; with none it is dead by definition.
    Source: independence.
    """
    return _plain(np.exp(_log_dead_in_sample(bias, weight_norm, samples)))


def first_firing_probability(bias: ArrayLike, weight_norm: ArrayLike, samples: ArrayLike) -> Real:
    """P(the unit fires at least once in `samples` fresh inputs) = 1 - Phi(-b/||w||)^samples.

    Keeps its relative accuracy when it is tiny. Source: complement of `dead_in_sample_probability`.
    """
    return _plain(0.0 - np.expm1(_log_dead_in_sample(bias, weight_norm, samples)))


# Batches, drift and noise ---------------------------------------------------------------------


def batch_miss_probability(
    active_examples: ArrayLike,
    examples: ArrayLike,
    batch_size: ArrayLike,
    replacement: bool = False,
) -> Real:
    """P(a batch holds none of the examples on which the unit is active).

    k = `active_examples` of N = `examples`, B = `batch_size` drawn. Without replacement
    C(N-k, B) / C(N, B); with replacement (1 - k/N)^B. Source: hypergeometric, binomial.
    """
    return _plain(np.exp(_log_batch_miss(active_examples, examples, batch_size, replacement)))


def expected_wait(
    active_examples: ArrayLike,
    examples: ArrayLike,
    batch_size: ArrayLike,
    replacement: bool = False,
) -> Real:
    """Mean number of batches up to and with the first that holds an active example: 1 / (1 - miss).

    Batches are independent of each other; `replacement` is about the draws inside a batch.
    (Going through shuffled epochs waits less.) inf if no example is active. Source: geometric law.
    """
    hit = 0.0 - np.expm1(_log_batch_miss(active_examples, examples, batch_size, replacement))
    with np.errstate(divide="ignore"):
        return _plain(1.0 / hit)


def drift_crossing_step(margin: ArrayLike, drift_per_step: ArrayLike) -> Real:
    """First step t with t * drift_per_step > margin, for a unit of depth `margin` = -max z >= 0.

    inf if the drift is not upward. Reaching z = 0 exactly is not a crossing. Source: arithmetic.
    """
    depth, drift = np.broadcast_arrays(
        _non_negative("margin", margin), _finite("drift_per_step", drift_per_step)
    )
    speed = np.where(drift > 0, drift, 1.0)
    step = np.floor(depth / speed) + 1
    # the quotient may round across a whole number: the product decides
    step = np.where((step - 1) * speed > depth, step - 1, step)
    step = np.where(step * speed <= depth, step + 1, step)
    return _plain(np.where(drift > 0, step, np.inf))


def first_passage_probability(
    margin: ArrayLike, learning_rate: ArrayLike, noise_scale: ArrayLike, steps: ArrayLike
) -> Real:
    """P(additive noise alone lifts a dead unit above 0 within `steps`): corrected reflection law.

    `margin` is the depth -max z >= 0. The bias moves by learning_rate * noise_scale * N(0, 1) a
    step, with standard deviation sigma: 2 Phi(-(margin / sigma + 0.5826) / sqrt(steps)). (With
    noise on the weights too, for one example x, pass noise_scale * sqrt(1 + ||x||^2).) An
    approximation: for margin >= sigma the error is below 0.0035 from 20 steps on and 0.001 from
    100; for a shallower unit it is too large, by up to 0.022 at 20 steps and 0.01 at 100.
    Source: Siegmund 1979 (Adv. Appl. Probab. 11); the constant is -zeta(1/2) / sqrt(2 pi).
    """
    depth = _non_negative("margin", margin)
    rate = _non_negative("learning_rate", learning_rate)
    sigma = rate * _non_negative("noise_scale", noise_scale)
    steps = _whole("steps", steps)
    depth, sigma, steps = np.broadcast_arrays(depth, sigma, steps)
    moves = (sigma > 0) & (steps > 0)
    distance = depth / np.where(moves, sigma, 1.0) + _OVERSHOOT
    return _plain(np.where(moves, 2 * ndtr(-distance / np.sqrt(np.maximum(steps, 1))), 0.0))


# What an optimizer still does after the last nonzero gradient ---------------------------------


def heavy_ball_residue(
    trace: ArrayLike, learning_rate: ArrayLike, momentum: ArrayLike, steps: ArrayLike | None = None
) -> Real:
    """Movement of a parameter in `steps` updates with zero gradient, from momentum buffer `trace`.

    -learning_rate * trace * mu (1 - mu^steps) / (1 - mu), for `optax.sgd(momentum=mu)`, 0 <= mu <
    1; `steps=None` is the whole remaining movement. `trace` is optax's buffer after the last
    nonzero gradient. Partial sums by step: pass steps = 1, 2, ... Source: derived from optax's
    update.
    """
    mu = _in_unit_interval("momentum", momentum)
    return _plain(mu * _momentum_sum(trace, learning_rate, mu, steps))


def nesterov_residue(
    trace: ArrayLike, learning_rate: ArrayLike, momentum: ArrayLike, steps: ArrayLike | None = None
) -> Real:
    """As `heavy_ball_residue`, for `optax.sgd(momentum=mu, nesterov=True)`: mu times as far.

    With zero gradient optax's Nesterov update applies mu * (mu * trace). Source: derived from
    optax's update.
    """
    mu = _in_unit_interval("momentum", momentum)
    return _plain(mu**2 * _momentum_sum(trace, learning_rate, mu, steps))


def rmsprop_residue(nu: ArrayLike) -> Real:
    """Zero, of the shape of `nu`: RMSProp without momentum has no memory of direction.

    With `momentum=mu`, optax keeps a trace of already scaled updates, whose remaining movement is
    mu / (1 - mu) * trace; that is not this case. Source: optax's update.
    """
    return _plain(np.zeros_like(_non_negative("nu", nu)))


def adam_residue(
    mu: ArrayLike,
    nu: ArrayLike,
    count: ArrayLike,
    learning_rate: ArrayLike,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    steps: ArrayLike | None = None,
    eps_root: float = 0.0,
) -> Real:
    """Movement of a parameter in `steps` Adam updates with zero gradient, from (mu, nu, count).

    The sum over k = 1 ... steps of -learning_rate * m / (sqrt(v + eps_root) + eps), with m = mu
    b1^k / (1 - b1^(count+k)) and v = nu b2^k / (1 - b2^(count+k)): optax's `adam`, and `adamw` less
    its decay (not `nadam`, not a schedule). `count` is the state's, after the last nonzero
    gradient. `steps=None` sums to the end, for which b1^2 < b2 is required. Partial sums by step:
    pass steps = 1, 2, ... Source: derived from optax's update; terms below 1e-20 of the first are
    dropped.
    """
    mu, nu = _finite("mu", mu), _non_negative("nu", nu)
    count, rate = _whole("count", count), _non_negative("learning_rate", learning_rate)
    b1, b2 = _betas(b1, b2)
    eps, eps_root = float(_non_negative("eps", eps)), float(_non_negative("eps_root", eps_root))
    if steps is None and b1**2 >= b2:
        raise ValueError(f"the whole residue needs b1^2 < b2, got b1={b1}, b2={b2}; pass steps")
    limit = np.asarray(np.inf) if steps is None else _whole("steps", steps)
    if eps == 0 and eps_root == 0 and np.any((mu != 0) & (nu == 0)):
        raise ValueError("nu must be > 0 where mu is not 0 if eps and eps_root are 0, got 0.0")
    mu, nu, count, limit = np.broadcast_arrays(mu, nu, count, limit)

    total = np.zeros(mu.shape)
    silent = mu == 0  # 0 / 0 in a parameter that never saw a gradient is no movement
    for k in range(1, int(min(limit.max(initial=0), _adam_terms(b1, b2))) + 1):
        m = mu * b1**k / (1 - b1 ** (count + k))
        v = nu * b2**k / (1 - b2 ** (count + k))
        scale = np.where(silent, 1.0, np.sqrt(v + eps_root) + eps)
        total += np.where(k <= limit, m / scale, 0.0)
    return _plain(0.0 - rate * total)


def adam_residue_bound(learning_rate: ArrayLike, b1: float = 0.9, b2: float = 0.999) -> Real:
    """The farthest that Adam can still move one parameter after its last nonzero gradient.

    learning_rate * r/(1-r) * (1-b1) / sqrt((1-b2)(1-b1^2/b2)), r = b1/sqrt(b2): 65.7615 learning
    rates at (0.9, 0.999). It is the supremum over all gradient histories, any count and eps. If b2
    < b1 sqrt(2 - b1^2), early bias correction enlarges steps, and a factor sqrt(1-b2^2)/(1-b1^2)
    keeps it a bound, no longer sharp. Needs b1^2 < b2: otherwise there is none.
    Source: derived: Cauchy-Schwarz on the moving averages; the correction is largest at count 2.
    """
    b1, b2 = _betas(b1, b2)
    if b1**2 >= b2:
        raise ValueError(f"a bound exists only for b1^2 < b2, got b1={b1}, b2={b2}")
    r = b1 / np.sqrt(b2)
    ratio = (1 - b1) / np.sqrt((1 - b2) * (1 - b1**2 / b2))
    correction = max(1.0, np.sqrt(1 - b2**2) / (1 - b1**2))
    return _plain(_non_negative("learning_rate", learning_rate) * r / (1 - r) * ratio * correction)


# Weight decay, with no gradient from the data -------------------------------------------------
# A recovery is the first step t with max z > tolerance; 0 if that holds at once; inf for never.


def decoupled_decay_recovery_step(
    largest_projection: ArrayLike,
    bias: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
    tolerance: float = DUST,
) -> Real:
    """Step of recovery when weights and bias both decay: never (inf), for every rate.

    z shrinks by (1 - learning_rate * weight_decay)^t and keeps its sign. `largest_projection` is
    the largest w.x over the probe. Holds for AdamW and SGD from a zero optimizer state, for coupled
    L2 with plain SGD, and for learning_rate * weight_decay <= 1 (above it z changes sign). Source:
    derived.
    """
    projection = _finite("largest_projection", largest_projection)
    start = projection + _finite("bias", bias)
    product = _decay_product(learning_rate, weight_decay)
    return _plain(_geometric_crossing(start, np.zeros(()), product, tolerance))


def weight_decay_recovery_step(
    largest_projection: ArrayLike,
    bias: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
    tolerance: float = DUST,
) -> Real:
    """Step of recovery when only the weights decay: max z = s^t * largest_projection + bias.

    s = 1 - learning_rate * weight_decay, which must lie in [0, 1]. A dead unit recovers exactly if
    its bias is positive. `largest_projection` is the largest w.x over the probe. Source: derived.
    """
    projection, offset = _finite("largest_projection", largest_projection), _finite("bias", bias)
    product = _decay_product(learning_rate, weight_decay)
    return _plain(_geometric_crossing(projection, offset, product, tolerance))


def bias_decay_recovery_step(
    largest_projection: ArrayLike,
    bias: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
    tolerance: float = DUST,
) -> Real:
    """Step of recovery when only the bias decays: max z = largest_projection + s^t * bias.

    s = 1 - learning_rate * weight_decay, which must lie in [0, 1]. A dead unit recovers exactly if
    some w.x over the probe is positive. Source: derived.
    """
    projection, offset = _finite("largest_projection", largest_projection), _finite("bias", bias)
    product = _decay_product(learning_rate, weight_decay)
    return _plain(_geometric_crossing(offset, projection, product, tolerance))


def heavy_ball_sign_flip_threshold(momentum: ArrayLike) -> Real:
    """(1 - sqrt(momentum))^2: with learning_rate * weight_decay above it, z changes sign.

    For L2 in the gradient (coupled) with heavy-ball momentum, started at rest: below, the decay is
    overdamped and z keeps its sign for ever; above, it oscillates. Source: derived (discriminant of
    s[t+1] = (1 + momentum - learning_rate * weight_decay) s[t] - momentum s[t-1]).
    """
    mu = _in_unit_interval("momentum", momentum)
    return _plain(((1 - mu) / (1 + np.sqrt(mu))) ** 2)  # the same, without cancellation near 1


def heavy_ball_decay_recovery_step(
    largest_preactivation: ArrayLike,
    smallest_preactivation: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
    momentum: ArrayLike,
    tolerance: float = DUST,
) -> Real:
    """Step of recovery under coupled L2 on weights and bias with heavy-ball momentum, from rest.

    All parameters share one factor s[t], so z flips sign with it, and the deepest example fires
    first: max z = s * largest if s > 0, else s * smallest. `largest_preactivation` and
    `smallest_preactivation` are over the probe. inf when overdamped (see
    `heavy_ball_sign_flip_threshold`), or when the swing stays within the tolerance. Needs
    learning_rate * weight_decay <= 1; swings below 1e-300 count as 0.
    Source: derived; the recurrence itself is run.
    """
    tolerance = float(_non_negative("tolerance", tolerance))
    largest, smallest, product, mu = np.broadcast_arrays(
        _finite("largest_preactivation", largest_preactivation),
        _finite("smallest_preactivation", smallest_preactivation),
        _decay_product(learning_rate, weight_decay),
        _in_unit_interval("momentum", momentum),
    )
    if np.any(smallest > largest):
        raise ValueError("smallest_preactivation must be <= largest_preactivation, got more")
    found = np.where(largest > tolerance, 0.0, np.inf)
    last = _last_swing_above(tolerance, smallest, product, mu)

    factor, velocity = np.ones(found.shape), np.zeros(found.shape)
    for step in range(1, int(np.max(np.where(np.isinf(found), last, 0), initial=0)) + 1):
        velocity = mu * velocity + product * factor
        factor = factor - velocity
        margin = factor * np.where(factor > 0, largest, smallest)
        found = np.where(np.isinf(found) & (step <= last) & (margin > tolerance), step, found)
        if not np.any(np.isinf(found) & (step < last)):
            break
    return _plain(found)


def adam_decay_recovery_step(
    weights: ArrayLike,
    bias: ArrayLike,
    probe: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
    steps: int,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    tolerance: float = DUST,
) -> Real:
    """Step of recovery under coupled L2 on weights and bias with Adam, from a zero optimizer state.

    `weights` [..., d], `bias` [...], `probe` [n, d]; rate and decay broadcast against `bias`. Every
    parameter follows Adam on the gradient weight_decay * parameter: w and b reach 0 at different
    times and overshoot, which can lift z. inf means "not within `steps`", which is no proof of
    never: 0 is an unstable point once sqrt(nu) has decayed, so parameters of 1e-30 grow back to the
    learning rate's size after thousands of steps, in float64; in float32 they underflow and stay.
    Hence the tolerance.
    Source: derived; runs the recurrence of `optax.adam` after `optax.add_decayed_weights`.
    """
    w, b, x = _finite("weights", weights), _finite("bias", bias), _finite("probe", probe)
    if w.ndim == 0 or x.ndim != 2 or w.shape[-1] != x.shape[-1]:
        raise ValueError(f"weights must be [..., d] and probe [n, d], got {w.shape} and {x.shape}")
    rate = _non_negative("learning_rate", learning_rate)
    decay = _non_negative("weight_decay", weight_decay)
    b1, b2 = _betas(b1, b2)
    eps, tolerance = float(_non_negative("eps", eps)), float(_non_negative("tolerance", tolerance))
    horizon = int(_whole("steps", steps))

    batch = np.broadcast_shapes(w.shape[:-1], b.shape, rate.shape, decay.shape)
    parts = (np.broadcast_to(w, (*batch, w.shape[-1])), np.broadcast_to(b, batch)[..., None])
    parameters = np.concatenate(parts, axis=-1)  # [..., d + 1]
    design = np.concatenate([x, np.ones((len(x), 1))], axis=-1)  # [n, d + 1]
    mu, nu = np.zeros_like(parameters), np.zeros_like(parameters)
    found = np.where(np.max(parameters @ design.T, axis=-1) > tolerance, 0.0, np.inf)
    for step in range(1, horizon + 1):
        if np.all(np.isfinite(found)):
            break
        gradient = decay[..., None] * parameters
        mu = b1 * mu + (1 - b1) * gradient
        nu = b2 * nu + (1 - b2) * gradient**2
        scale = np.sqrt(nu / (1 - b2**step)) + eps
        direction = mu / (1 - b1**step) / np.where(mu == 0, 1.0, scale)
        parameters = parameters - rate[..., None] * direction
        margin = np.max(parameters @ design.T, axis=-1)
        found = np.where(np.isinf(found) & (margin > tolerance), step, found)
    return _plain(found)


# Normalization and depth ----------------------------------------------------------------------


def absorbing_shift(normalization: str, size: ArrayLike) -> Real:
    """Largest |normalized entry| possible: a unit with shift < -|scale| * this is dead for ever.

    `size` is the number of entries normalized over: units for "layer" and "rms", units of a group
    for "group", examples of a batch for "batch". sqrt(size - 1) where the mean is removed,
    sqrt(size) for "rms". No input, weight or upstream change can fire such a unit (an eps only
    tightens it); only its own scale and shift could. Source: Samuelson 1968
    (J. Am. Stat. Assoc. 63); derived for "rms".
    """
    if normalization not in ("layer", "rms", "group", "batch"):
        raise ValueError(
            f'normalization must be "layer", "rms", "group" or "batch", got {normalization!r}'
        )
    size = _whole("size", size, least=1)
    return _plain(np.sqrt(size if normalization == "rms" else size - 1))


def correlation_map(correlation: ArrayLike) -> Real:
    """Correlation of two inputs after one wide He-initialized ReLU layer (arc-cosine map).

    (sqrt(1-c^2) + c (pi - arccos c)) / pi, for c in [-1, 1]; the correlation is the uncentred one,
    x.y over the norms. Accurate at both ends. Source: Cho & Saul 2009 (NeurIPS 22), kernel of
    degree 1.
    """
    c = _correlation(correlation)
    # with a = pi - arccos c this is (sin a - a cos a) / pi = a^2 j1(a) / pi; 1 + c is exact near -1
    angle = 2 * np.arcsin(np.sqrt((1 + c) / 2))
    return _plain(np.minimum(angle**2 * spherical_jn(1, angle) / np.pi, 1.0))


def correlation_after(correlation: ArrayLike, layers: ArrayLike) -> Real:
    """Correlation of two inputs after `layers` wide He-initialized ReLU layers.

    Tends to 1 with depth, so that whole data sets come to share their active units. `layers` is a
    whole number >= 0. Source: `correlation_map`, iterated.
    """
    c, depth = np.broadcast_arrays(_correlation(correlation), _whole("layers", layers))
    for layer in range(1, int(depth.max(initial=0)) + 1):
        c = np.where(layer <= depth, correlation_map(c), c)
    return _plain(c)


# Born dead ------------------------------------------------------------------------------------


def born_dead_unit_probability(radius: ArrayLike, dimension: ArrayLike) -> Real:
    """P(a new unit is dead on the whole ball of `radius` in R^dimension), w and b iid N(0, s^2).

    P(t_d > radius sqrt(d)) for Student's t with d degrees of freedom; arctan(1/radius)/pi on the
    interval [-radius, radius] (d = 1). If b has another standard deviation, pass radius s_w / s_b.
    Source: derived: dead exactly if b + radius ||w|| <= 0.
    """
    radius = _at_least_zero("radius", radius)
    half = _whole("dimension", dimension, least=1) / 2
    # t^2 = radius^2 d: each incomplete beta function where its argument keeps the digits
    inner, outer = np.minimum(radius, 1.0) ** 2, np.maximum(radius, 1.0)
    near = betaincc(0.5, half, inner / (1 + inner))
    far = betainc(half, 0.5, outer**-2 / (1 + outer**-2))
    return _plain(0.5 * np.where(radius < 1, near, far))


def born_dead_unit_probability_box(half_width: ArrayLike, dimension: ArrayLike) -> Real:
    """P(a new unit is dead on the box [-half_width, half_width]^dimension), w and b iid Gaussian.

    Dead exactly if b + half_width * sum |w_i| <= 0. Relative accuracy 1e-12, also in the tail.
    Source: derived: a one-dimensional inversion integral, since E exp(-s |w|) = erfcx(s / sqrt 2).
    """
    half_width = _at_least_zero("half_width", half_width)
    dimension = _whole("dimension", dimension, least=1)

    def one(scale: float, terms: float) -> float:
        if np.isinf(scale):
            return 0.0
        return _exceeds_sum(lambda s: np.log(_complex_erfcx(scale * s / np.sqrt(2))), terms)

    return _plain(np.vectorize(one, otypes=[float])(half_width, dimension))


def born_dead_unit_probability_unit_box(dimension: ArrayLike) -> Real:
    """P(a new unit is dead on the box [0, 1]^dimension), w and b iid Gaussian.

    Dead exactly if b + sum max(w_i, 0) <= 0. Relative accuracy about 1e-12, also in the tail.
    Source: derived, as `born_dead_unit_probability_box`.
    """

    def one(terms: float) -> float:
        return _exceeds_sum(lambda s: np.log1p(_complex_erfcx(s / np.sqrt(2))) - np.log(2), terms)

    dimension = _whole("dimension", dimension, least=1)
    return _plain(np.vectorize(one, otypes=[float])(dimension))


def born_dead_unit_probability_orthant(dimension: ArrayLike) -> Real:
    """P(a new unit is dead on all x >= 0 in R^dimension) = 2^-(dimension + 1).

    Dead exactly if no weight and not the bias is positive, for any symmetric continuous law of
    independent parameters; no change in an upstream ReLU layer can then revive it. Source: Rister &
    Rubin (arXiv 2007.06192); derived.
    """
    return _plain(np.exp2(-(_whole("dimension", dimension, least=0) + 1)))


def born_dead_single_input_probability(width: ArrayLike, relu_layers: ArrayLike) -> Real:
    """P(one input is dead on arrival: some layer is silent on it) = 1 - (1 - 2^-width)^relu_layers.

    `relu_layers` layers of `width` units with symmetric weights. Source: Rister & Rubin (arXiv
    2007.06192).
    """
    width, layers = _whole("width", width, least=1), _whole("relu_layers", relu_layers)
    return _plain(_some_layer_silent(width, layers))


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
    return _plain(_network_lower_bound(width, layers))


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
    return _plain(_network_lower_bound(width, layers)), _plain(upper)


def autoencoder_dead_at_birth(gamma: ArrayLike, samples: ArrayLike) -> Real:
    """P(a sparse-autoencoder latent with a random direction is silent on `samples` tokens).

    E[Phi(-gamma a)^samples] over a ~ N(0, 1), with gamma = ||mean|| / ||deviations|| of the
    Gaussian tokens (sqrt(d) times one coordinate's deviation), >= 0, in the limit of many
    dimensions d. Exactly 1 / (samples + 1) at gamma = 1; 2^-samples at
    0; 1/2 in the limit. Source: derived (setting of Simon, Adams & Zou, arXiv 2605.31518), by
    quadrature to 1e-10.
    """
    gamma, samples = _at_least_zero("gamma", gamma), _whole("samples", samples)
    return _plain(np.vectorize(_silent_latent, otypes=[float])(gamma, samples))


def autoencoder_dead_at_birth_finite(
    gamma: ArrayLike, samples: ArrayLike, dimension: ArrayLike
) -> Real:
    """`autoencoder_dead_at_birth` of latents in a finite `dimension` d >= 3.

    Tokens of deviation 1 in every direction have a mean of length gamma sqrt(d); a direction drawn
    at random has the cosine c with it, of density ~ (1 - c^2)^((d-3)/2), so that E[Phi(-gamma
    sqrt(d) c)^samples] takes the place of the limit's normal average. Source: derived.
    """
    gamma, samples = _at_least_zero("gamma", gamma), _whole("samples", samples)
    dimension = _whole("dimension", dimension, least=3)
    angles = np.linspace(0, np.pi, 200_001)[1:-1]  # of the direction with the mean

    def probability(gamma: float, samples: float, dimension: float) -> float:
        density = (dimension - 2) * np.log(np.sin(angles))  # but for a constant
        silent = samples * log_ndtr(-gamma * np.sqrt(dimension) * np.cos(angles))
        return float(np.exp(density + silent).sum() / np.exp(density).sum())

    return _plain(np.vectorize(probability, otypes=[float])(gamma, samples, dimension))


# Other activations ----------------------------------------------------------------------------


def gelu_stationary_point() -> float:
    """The z = -0.751792 where exact GELU has slope 0; below it the slope is negative.

    A unit further down is pushed the wrong way by its own gradient. Source: derived: Phi(z) + z
    phi(z) = 0.
    """
    return _root(lambda z: ndtr(z) + z * _normal_density(z), -1.0, -0.5)


def silu_stationary_point() -> float:
    """The z = -1.278465 where SiLU has slope 0; below it the slope is negative.

    Source: derived: 1 + z + e^z = 0, so z = -1 - W(1/e) with Lambert's W.
    """
    return float(-1 - lambertw(np.exp(-1)).real)


def elu_surfacing_time(preactivation: ArrayLike) -> Real:
    """Time to reach z = 0 from z0 <= 0 under ELU, times rate and upward gradient: e^|z0| - 1.

    Divide by (learning_rate * gradient) for steps. Continuous time, gradient constant but for ELU's
    own slope e^z. Source: derived: dz/dt = e^z.
    """
    rule = "finite and <= 0"
    depth = _checked("preactivation", preactivation, rule, lambda z: np.isfinite(z) & (z <= 0))
    with np.errstate(over="ignore"):
        return _plain(np.expm1(np.abs(depth)))


# Arguments in, results out --------------------------------------------------------------------


def _checked(
    name: str, value: ArrayLike, rule: str, holds: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """`value` in float64; a rule is written as a comparison that holds, so that NaN breaks it."""
    array = np.asarray(value, dtype=np.float64)
    wrong = np.logical_not(holds(array))
    if np.any(wrong):
        raise ValueError(f"{name} must be {rule}, got {array[wrong].flat[0]}")
    return array


def _finite(name: str, value: ArrayLike) -> np.ndarray:
    return _checked(name, value, "finite", np.isfinite)


def _non_negative(name: str, value: ArrayLike) -> np.ndarray:
    return _checked(name, value, "finite and >= 0", lambda v: np.isfinite(v) & (v >= 0))


def _at_least_zero(name: str, value: ArrayLike) -> np.ndarray:
    return _checked(name, value, ">= 0", lambda v: v >= 0)


def _in_unit_interval(name: str, value: ArrayLike) -> np.ndarray:
    return _checked(name, value, "in [0, 1)", lambda v: (v >= 0) & (v < 1))


def _whole(name: str, value: ArrayLike, least: int = 0) -> np.ndarray:
    rule = f"a whole number >= {least}"
    return _checked(name, value, rule, lambda v: np.isfinite(v) & (v >= least) & (v == np.floor(v)))


def _correlation(value: ArrayLike) -> np.ndarray:
    return _checked("correlation", value, "in [-1, 1]", lambda c: np.abs(c) <= 1)


def _betas(b1: float, b2: float) -> tuple[float, float]:
    return float(_in_unit_interval("b1", b1)), float(_in_unit_interval("b2", b2))


def _network(width: ArrayLike, weight_layers: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    return _broadcast(
        _whole("width", width, least=1), _whole("weight_layers", weight_layers, least=2)
    )


def _decay_product(learning_rate: ArrayLike, weight_decay: ArrayLike) -> np.ndarray:
    rate = _non_negative("learning_rate", learning_rate)
    product = rate * _non_negative("weight_decay", weight_decay)
    rule = "<= 1 (above, decay itself flips the sign)"
    return _checked("learning_rate * weight_decay", product, rule, lambda v: v <= 1)


def _broadcast(one: ArrayLike, two: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    one, two = np.broadcast_arrays(np.asarray(one, np.float64), np.asarray(two, np.float64))
    return one, two


def _plain(value: ArrayLike) -> Real:
    """A float for a 0-d array, other arrays as they are."""
    return np.asarray(value, dtype=np.float64)[()]


# The numerics behind them ---------------------------------------------------------------------


def _standardized(bias: ArrayLike, weight_norm: ArrayLike) -> np.ndarray:
    """b / ||w||, with the constant unit (||w|| = 0) at +inf if it fires and -inf if not."""
    bias, norm = _broadcast(_finite("bias", bias), _non_negative("weight_norm", weight_norm))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        beta = bias / norm
    return np.where(norm > 0, beta, np.where(bias > 0, np.inf, -np.inf))


def _normal_density(x: ArrayLike) -> np.ndarray:
    return np.exp(-0.5 * np.square(x)) / _SQRT_TAU


def _tail_moments(beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E[(t - x)+] and E[(t - x)+^2] for t ~ N(0, 1) at x = -beta, meant for x >= 2.

    The moments obey I[n+1] = n I[n-1] - x I[n] and are its minimal solution, so their ratios follow
    from a continued fraction run downward (Gautschi 1967), which adds positive terms only.
    """
    x = np.maximum(-beta, 2.0)
    x = np.where(np.isfinite(x), x, 1e3)  # the density is 0 there anyway
    ratio = np.zeros_like(x)
    for n in range(120, 2, -1):
        ratio = n / (x + ratio)
    second = 2 / (x + ratio)
    first = 1 / (x + second)
    tail = np.exp(log_ndtr(-x))
    return tail * first, tail * first * second


def _log_dead_in_sample(bias: ArrayLike, weight_norm: ArrayLike, samples: ArrayLike) -> np.ndarray:
    count, log_dead = _broadcast(
        _whole("samples", samples), log_ndtr(-_standardized(bias, weight_norm))
    )
    # no sample, no chance to fire: 0, also for a unit that always fires (0 * -inf)
    return np.where(count > 0, np.maximum(count, 1) * log_dead, 0.0)


def _log_batch_miss(
    active_examples: ArrayLike, examples: ArrayLike, batch_size: ArrayLike, replacement: bool
) -> np.ndarray:
    active, total, size = np.broadcast_arrays(
        _whole("active_examples", active_examples),
        _whole("examples", examples, least=1),
        _whole("batch_size", batch_size, least=1),
    )
    if np.any(active > total):
        raise ValueError(
            f"active_examples must be <= examples, got {active[active > total].flat[0]:.0f}"
        )
    if replacement:
        with np.errstate(divide="ignore"):
            return size * np.log1p(-active / total)
    if np.any(size > total):
        raise ValueError(
            "batch_size must be <= examples without replacement, got "
            f"{size[size > total].flat[0]:.0f}"
        )
    return np.asarray(np.vectorize(_log_hypergeometric_miss, otypes=[float])(active, total, size))


def _log_hypergeometric_miss(active: float, total: float, size: float) -> float:
    """log of C(total - active, size) / C(total, size), symmetric in active and size."""
    few, many = sorted((active, size))
    if few + many > total or few * many > 800 * total:  # certain to hit, or a miss below exp(-800)
        return -np.inf
    return float(np.sum(np.log1p(-many / (total - np.arange(few)))))


def _momentum_sum(
    trace: ArrayLike, learning_rate: ArrayLike, mu: np.ndarray, steps: ArrayLike | None
) -> np.ndarray:
    """-learning_rate * trace * (1 + mu + ... + mu^(steps-1))."""
    count = np.asarray(np.inf) if steps is None else _whole("steps", steps)
    series = -np.expm1(xlogy(count, mu)) / (1 - mu)
    return 0.0 - _non_negative("learning_rate", learning_rate) * _finite("trace", trace) * series


def _adam_terms(b1: float, b2: float) -> float:
    """How many residue terms matter: they fall at least as fast as (b1 / sqrt b2)^k."""
    r = b1 / np.sqrt(b2) if b2 > 0 else np.inf
    if r == 0:
        return 1
    return np.inf if r >= 1 else np.ceil((np.log(1e-20) + np.log1p(-r)) / np.log(r))


def _geometric_crossing(
    decaying: np.ndarray, constant: np.ndarray, product: np.ndarray, tolerance: float
) -> np.ndarray:
    """First t >= 0 with constant + (1 - product)^t * decaying > tolerance, else inf."""
    tolerance = float(_non_negative("tolerance", tolerance))
    decaying, constant, product = np.broadcast_arrays(decaying, constant, product)
    already = decaying + constant > tolerance
    later = ~already & (constant > tolerance) & (product > 0)

    def margin(step: np.ndarray) -> np.ndarray:
        return constant + np.exp(xlog1py(step, -product)) * decaying

    with np.errstate(divide="ignore"):
        size = np.where(later, -decaying, 1.0)
        factor = np.where(later, (constant - tolerance) / size, 1.0)
        log_rate = np.where(later, np.log1p(-product), -1.0)
    step = np.floor(np.log(factor) / log_rate) + 1
    # the quotient may round across a whole number: the value itself decides
    step = np.where((step > 1) & (margin(step - 1) > tolerance), step - 1, step)
    step = np.where(margin(step) <= tolerance, step + 1, step)
    return np.where(already, 0.0, np.where(later, step, np.inf))


def _last_swing_above(
    tolerance: float, smallest: np.ndarray, product: np.ndarray, mu: np.ndarray
) -> np.ndarray:
    """Step after which s[t] * |smallest| stays within the tolerance; 0 if overdamped."""
    root = np.sqrt(mu)
    threshold = heavy_ball_sign_flip_threshold(mu)
    swings = (product > threshold) & (smallest < 0)
    # s[t] = mu^(t/2) (cos t theta + A sin t theta), with s[0] = 1 and s[1] = 1 - product
    root, gap = np.where(swings, root, 0.5), np.where(swings, product - threshold, 1.0)
    cosine = (1 + root**2 - np.where(swings, product, 0.5)) / (2 * root)
    sine = np.sqrt(gap * (4 * root - gap)) / (2 * root)
    amplitude = np.hypot(1.0, ((1 - product) / root - cosine) / sine)
    floor = np.maximum(tolerance / np.where(swings, -smallest, 1.0), 1e-300)
    last = np.ceil(np.log(floor / amplitude) / np.log(root))
    return np.where(swings, np.maximum(last, 0.0), 0.0)


def _some_layer_silent(width: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """1 - (1 - 2^-width)^layers, without cancellation."""
    return -np.expm1(layers * np.log1p(-np.exp2(-width)))


def _network_lower_bound(width: np.ndarray, layers: np.ndarray) -> np.ndarray:
    # one_sided: all first-layer units face the same way, and one half-line is silent at once
    one_sided = np.exp2(1 - width)
    silent = _some_layer_silent(width, layers - 2)
    return (1 - one_sided) * silent**2 + one_sided * silent


def _complex_erfcx(x: np.ndarray) -> np.ndarray:
    return erfcx(x) if np.isrealobj(x) else wofz(1j * x)


def _exceeds_sum(log_transform: Callable[[np.ndarray], np.ndarray], terms: float) -> float:
    """P(b > S_1 + ... + S_terms), b ~ N(0, 1), S_i >= 0 iid, log E exp(-s S) = log_transform(s).

    The inversion integral of E exp(s (b - sum S)) / s along Re s = c. At the saddle c the integrand
    has the size of the answer, so nothing cancels, and it is analytic and falls like a Gaussian, so
    that the trapezoidal rule is exact to rounding. The saddle lies in [1, sqrt(terms + 1)].
    """

    def exponent(s: np.ndarray) -> np.ndarray:
        return s**2 / 2 - np.log(s) + terms * log_transform(s)

    saddle = fminbound(exponent, 1.0, np.sqrt(terms + 1))
    spacing = 0.05
    heights = np.arange(0.0, 9.5, spacing)
    values = np.real(np.exp(exponent(saddle + 1j * heights)))
    return float(spacing / np.pi * (np.sum(values) - values[0] / 2))


def _silent_latent(gamma: float, samples: float) -> float:
    """E[Phi(-gamma a)^samples], by whichever of two forms has no feature sharper than exp(-x^2)."""
    if samples == 0:
        return 1.0
    if gamma == 0:
        return float(np.exp2(-samples))
    if np.isinf(gamma):
        return 0.5
    if gamma < 1:
        # the top lies above both -0.8 n gamma and where Phi^n is flat; 15 normal widths are plenty
        deepest = min(0.8 * samples * gamma, (np.sqrt(2 * np.log(samples)) + 10) / gamma)
        return _log_concave_integral(
            lambda a: -0.5 * a**2 - np.log(_SQRT_TAU) + samples * log_ndtr(-gamma * a),
            -deepest - 15,
            15.0,
        )
    # by parts: E[Phi(smallest of `samples` normals / gamma)]
    return _log_concave_integral(
        lambda u: (
            log_ndtr(u / gamma)
            + np.log(samples / _SQRT_TAU)
            - 0.5 * u**2
            + (samples - 1) * log_ndtr(-u)
        ),
        -40.0,
        40.0,
    )


def _log_concave_integral(
    log_density: Callable[[np.ndarray], np.ndarray], low: float, high: float
) -> float:
    """Integral of exp(log_density), by the trapezoidal rule down to e^-45 of its top."""
    top = cast(float, fminbound(lambda x: -log_density(x), low, high))
    level = log_density(np.asarray(top)) - 45
    left = _root(lambda x: log_density(x) - level, low, top)
    right = _root(lambda x: log_density(x) - level, top, high)
    points = np.linspace(left, right, 4001)
    return float(np.trapezoid(np.exp(log_density(points)), points))


def _root(function: Callable[[Any], Any], low: float, high: float) -> float:
    return cast(float, brentq(function, low, high, xtol=1e-15))
