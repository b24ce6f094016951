"""One unit at random inputs: how often it fires, what it outputs, how long until it fires."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import (
    log_ndtr,
    ndtr,
)

from relu_dynamics.theory._numerics import (
    Real,
    broadcast,
    finite,
    normal_density,
    plain,
    standardized,
    tail_moments,
    whole,
)


def active_probability(bias: ArrayLike, weight_norm: ArrayLike) -> Real:
    """P(w.x + b > 0) = Phi(b / ||w||), the chance that a fresh input fires the unit.

    `weight_norm` is ||w|| >= 0. At ||w|| = 0 the unit is constant: 1 if b > 0, else 0.
    Source: z ~ N(b, ||w||^2).
    """
    return plain(ndtr(standardized(bias, weight_norm)))


def log_active_probability(bias: ArrayLike, weight_norm: ArrayLike) -> Real:
    """log P(w.x + b > 0), for units so deep that the probability itself underflows.

    -inf where a constant unit (||w|| = 0) is dead. Source: as `active_probability`.
    """
    return plain(log_ndtr(standardized(bias, weight_norm)))


def relu_mean(bias: ArrayLike, weight_norm: ArrayLike) -> Real:
    """E[relu(w.x + b)] = s phi(b/s) + b Phi(b/s), with s = ||w||.

    Both terms nearly cancel for b << -s; there the tail integral is used instead. Source: derived
    (first moment of a rectified Gaussian).
    """
    beta = standardized(bias, weight_norm)
    bias, weight_norm = broadcast(bias, weight_norm)
    direct = weight_norm * normal_density(beta) + bias * ndtr(beta)
    tail = weight_norm * tail_moments(beta)[0]
    return plain(np.where(beta < -2, tail, direct))


def relu_second_moment(bias: ArrayLike, weight_norm: ArrayLike) -> Real:
    """E[relu(w.x + b)^2] = (s^2 + b^2) Phi(b/s) + b s phi(b/s), with s = ||w||.

    Accurate in the far tail, as `relu_mean`. Source: derived (second moment of a rectified
    Gaussian).
    """
    beta = standardized(bias, weight_norm)
    bias, weight_norm = broadcast(bias, weight_norm)
    squares = weight_norm**2 + bias**2
    direct = squares * ndtr(beta) + bias * weight_norm * normal_density(beta)
    tail = weight_norm**2 * tail_moments(beta)[1]
    return plain(np.where(beta < -2, tail, direct))


def expected_gradient(
    weights: ArrayLike, bias: ArrayLike, target_weights: ArrayLike, target_bias: ArrayLike
) -> tuple[np.ndarray, Real]:
    """Population gradient (dw, db) of 1/2 (relu(w.x + b) - a.x - c)^2, for x ~ N(0, I).

    `weights` w and `target_weights` a are [..., d]; `bias` b and `target_bias` c are [...]. The
    gradient is E[(relu(z) - a.x - c) 1{z > 0} (x, 1)], so that a deep unit has a tiny one but never
    0. At w = 0 the unit is constant and fires always (b > 0) or never. Source: derived with Stein's
    lemma.
    """
    w, a = finite("weights", weights), finite("target_weights", target_weights)
    b, c = finite("bias", bias), finite("target_bias", target_bias)
    if w.ndim == 0 or a.ndim == 0 or w.shape[-1] != a.shape[-1]:
        raise ValueError(
            f"weights and target_weights must be [..., d] with one d, got {w.shape} and {a.shape}"
        )
    norm = np.sqrt(np.sum(w**2, axis=-1))
    beta = standardized(b, norm)
    active, density = ndtr(beta), normal_density(beta)
    # beta * density, without inf * 0 for a constant unit
    slope = np.where(np.isfinite(beta), beta, 0.0) * density
    direction = w / np.where(norm > 0, norm, 1.0)[..., None]
    along = np.sum(direction * a, axis=-1)

    dw = (w - a) * active[..., None] + direction * (slope * along - c * density)[..., None]
    db = relu_mean(b, norm) - density * along - c * active
    return dw, plain(db)


def dead_in_sample_probability(bias: ArrayLike, weight_norm: ArrayLike, samples: ArrayLike) -> Real:
    """P(z <= 0 on all of `samples` fresh independent inputs) = Phi(-b/||w||)^samples.

    `samples` is a whole number >= 0; with none it is dead by definition.
    Source: independence.
    """
    return plain(np.exp(_log_dead_in_sample(bias, weight_norm, samples)))


def first_firing_probability(bias: ArrayLike, weight_norm: ArrayLike, samples: ArrayLike) -> Real:
    """P(the unit fires at least once in `samples` fresh inputs) = 1 - Phi(-b/||w||)^samples.

    Keeps its relative accuracy when it is tiny. Source: complement of `dead_in_sample_probability`.
    """
    return plain(0.0 - np.expm1(_log_dead_in_sample(bias, weight_norm, samples)))


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
    return plain(np.exp(_log_batch_miss(active_examples, examples, batch_size, replacement)))


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
        return plain(1.0 / hit)


def _log_dead_in_sample(bias: ArrayLike, weight_norm: ArrayLike, samples: ArrayLike) -> np.ndarray:
    count, log_dead = broadcast(
        whole("samples", samples), log_ndtr(-standardized(bias, weight_norm))
    )
    # no sample, no chance to fire: 0, also for a unit that always fires (0 * -inf)
    return np.where(count > 0, np.maximum(count, 1) * log_dead, 0.0)


def _log_batch_miss(
    active_examples: ArrayLike, examples: ArrayLike, batch_size: ArrayLike, replacement: bool
) -> np.ndarray:
    active, total, size = np.broadcast_arrays(
        whole("active_examples", active_examples),
        whole("examples", examples, least=1),
        whole("batch_size", batch_size, least=1),
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
