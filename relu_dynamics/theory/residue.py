"""Residue: what an optimizer still moves after the last gradient."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import (
    xlogy,
)

from relu_dynamics.theory._numerics import (
    Real,
    betas,
    finite,
    in_unit_interval,
    non_negative,
    plain,
    whole,
)


def heavy_ball_residue(
    trace: ArrayLike, learning_rate: ArrayLike, momentum: ArrayLike, steps: ArrayLike | None = None
) -> Real:
    """Movement of a parameter in `steps` updates with zero gradient, from momentum buffer `trace`.

    -learning_rate * trace * mu (1 - mu^steps) / (1 - mu), for `optax.sgd(momentum=mu)`, 0 <= mu <
    1; `steps=None` is the whole remaining movement. `trace` is optax's buffer after the last
    nonzero gradient. Partial sums by step: pass steps = 1, 2, ... Source: derived from optax's
    update.
    """
    mu = in_unit_interval("momentum", momentum)
    return plain(mu * _momentum_sum(trace, learning_rate, mu, steps))


def nesterov_residue(
    trace: ArrayLike, learning_rate: ArrayLike, momentum: ArrayLike, steps: ArrayLike | None = None
) -> Real:
    """As `heavy_ball_residue`, for `optax.sgd(momentum=mu, nesterov=True)`: mu times as far.

    With zero gradient optax's Nesterov update applies mu * (mu * trace). Source: derived from
    optax's update.
    """
    mu = in_unit_interval("momentum", momentum)
    return plain(mu**2 * _momentum_sum(trace, learning_rate, mu, steps))


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
    mu, nu = finite("mu", mu), non_negative("nu", nu)
    count, rate = whole("count", count), non_negative("learning_rate", learning_rate)
    b1, b2 = betas(b1, b2)
    eps, eps_root = float(non_negative("eps", eps)), float(non_negative("eps_root", eps_root))
    if steps is None and b1**2 >= b2:
        raise ValueError(f"the whole residue needs b1^2 < b2, got b1={b1}, b2={b2}; pass steps")
    limit = np.asarray(np.inf) if steps is None else whole("steps", steps)
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
    return plain(0.0 - rate * total)


def adam_residue_bound(learning_rate: ArrayLike, b1: float = 0.9, b2: float = 0.999) -> Real:
    """The farthest that Adam can still move one parameter after its last nonzero gradient.

    learning_rate * r/(1-r) * (1-b1) / sqrt((1-b2)(1-b1^2/b2)), r = b1/sqrt(b2): 65.7615 learning
    rates at (0.9, 0.999). It is the supremum over all gradient histories, any count and eps. If b2
    < b1 sqrt(2 - b1^2), early bias correction enlarges steps, and a factor sqrt(1-b2^2)/(1-b1^2)
    keeps it a bound, no longer sharp. Needs b1^2 < b2: otherwise there is none.
    Source: derived: Cauchy-Schwarz on the moving averages; the correction is largest at count 2.
    """
    b1, b2 = betas(b1, b2)
    if b1**2 >= b2:
        raise ValueError(f"a bound exists only for b1^2 < b2, got b1={b1}, b2={b2}")
    r = b1 / np.sqrt(b2)
    ratio = (1 - b1) / np.sqrt((1 - b2) * (1 - b1**2 / b2))
    correction = max(1.0, np.sqrt(1 - b2**2) / (1 - b1**2))
    return plain(non_negative("learning_rate", learning_rate) * r / (1 - r) * ratio * correction)


def _momentum_sum(
    trace: ArrayLike, learning_rate: ArrayLike, mu: np.ndarray, steps: ArrayLike | None
) -> np.ndarray:
    """-learning_rate * trace * (1 + mu + ... + mu^(steps-1))."""
    count = np.asarray(np.inf) if steps is None else whole("steps", steps)
    series = -np.expm1(xlogy(count, mu)) / (1 - mu)
    return 0.0 - non_negative("learning_rate", learning_rate) * finite("trace", trace) * series


def _adam_terms(b1: float, b2: float) -> float:
    """How many residue terms matter: they fall at least as fast as (b1 / sqrt b2)^k."""
    r = b1 / np.sqrt(b2) if b2 > 0 else np.inf
    if r == 0:
        return 1
    return np.inf if r >= 1 else np.ceil((np.log(1e-20) + np.log1p(-r)) / np.log(r))
