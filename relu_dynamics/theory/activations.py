"""Activations and normalizations: where gradients vanish although z is not below 0."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import (
    lambertw,
    ndtr,
)

from relu_dynamics.theory._numerics import Real, checked, normal_density, plain, root_of, whole


def absorbing_shift(size: ArrayLike, *, centred: bool = True) -> Real:
    """Largest |normalized entry| possible: a unit with shift < -|scale| * this stays dead.

    `size` is the number of entries normalized over: units for "layer" and "rms", units of a group
    for "group", examples of a batch for "batch". sqrt(size - 1) where the mean is subtracted
    (`centred`), sqrt(size) where it is not, as in "rms". No input, weight or upstream change can
    fire such a unit (an eps only tightens it); only its own scale and shift could. Source:
    Samuelson 1968 (J. Am. Stat. Assoc. 63); derived for "rms".
    """
    size = whole("size", size, least=1)
    return plain(np.sqrt(size - 1 if centred else size))


def gelu_stationary_point() -> float:
    """The z = -0.751792 where exact GELU has slope 0; below it the slope is negative.

    A unit further down is pushed the wrong way by its own gradient. Source: derived: Phi(z) + z
    phi(z) = 0.
    """
    return root_of(lambda z: ndtr(z) + z * normal_density(z), -1.0, -0.5)


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
    depth = checked("preactivation", preactivation, rule, lambda z: np.isfinite(z) & (z <= 0))
    with np.errstate(over="ignore"):
        return plain(np.expm1(np.abs(depth)))
