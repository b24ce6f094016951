"""A pre-activation that drifts or is pushed by noise: when it crosses 0."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import (
    ndtr,
)

from relu_dynamics.theory._numerics import OVERSHOOT, Real, finite, non_negative, plain, whole


def drift_crossing_step(margin: ArrayLike, drift_per_step: ArrayLike) -> Real:
    """First step t with t * drift_per_step > margin, for a unit of depth `margin` = -max z >= 0.

    inf if the drift is not upward. Reaching z = 0 exactly is not a crossing. Source: arithmetic.
    """
    depth, drift = np.broadcast_arrays(
        non_negative("margin", margin), finite("drift_per_step", drift_per_step)
    )
    speed = np.where(drift > 0, drift, 1.0)
    step = np.floor(depth / speed) + 1
    # the quotient may round across a whole number: the product decides
    step = np.where((step - 1) * speed > depth, step - 1, step)
    step = np.where(step * speed <= depth, step + 1, step)
    return plain(np.where(drift > 0, step, np.inf))


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
    depth = non_negative("margin", margin)
    rate = non_negative("learning_rate", learning_rate)
    sigma = rate * non_negative("noise_scale", noise_scale)
    steps = whole("steps", steps)
    depth, sigma, steps = np.broadcast_arrays(depth, sigma, steps)
    moves = (sigma > 0) & (steps > 0)
    distance = depth / np.where(moves, sigma, 1.0) + OVERSHOOT
    return plain(np.where(moves, 2 * ndtr(-distance / np.sqrt(np.maximum(steps, 1))), 0.0))
