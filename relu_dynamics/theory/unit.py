"""One unit at random inputs: how often it fires."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import (
    log_ndtr,
    ndtr,
)

from relu_dynamics.theory._numerics import (
    Real,
    broadcast,
    plain,
    standardized,
    whole,
)


def active_probability(bias: ArrayLike, weight_norm: ArrayLike) -> Real:
    """P(w.x + b > 0) = Phi(b / ||w||), the chance that a fresh input fires the unit.

    `weight_norm` is ||w|| >= 0. At ||w|| = 0 the unit is constant: 1 if b > 0, else 0.
    Source: z ~ N(b, ||w||^2).
    """
    return plain(ndtr(standardized(bias, weight_norm)))


def first_firing_probability(bias: ArrayLike, weight_norm: ArrayLike, samples: ArrayLike) -> Real:
    """P(the unit fires at least once in `samples` fresh inputs) = 1 - Phi(-b/||w||)^samples.

    `samples` is a whole number >= 0. Keeps its relative accuracy when it is tiny. Source:
    independence.
    """
    count, log_dead = broadcast(
        whole("samples", samples), log_ndtr(-standardized(bias, weight_norm))
    )
    # no sample, no chance to fire: 0, also for a unit that always fires (0 * -inf)
    log_silent = np.where(count > 0, np.maximum(count, 1) * log_dead, 0.0)
    return plain(0.0 - np.expm1(log_silent))
