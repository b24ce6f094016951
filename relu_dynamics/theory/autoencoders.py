"""Autoencoders: latents that are dead at birth."""

from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import fminbound
from scipy.special import (
    log_ndtr,
)

from relu_dynamics.theory._numerics import SQRT_TAU, Real, at_least_zero, plain, root_of, whole


def autoencoder_dead_at_birth(gamma: ArrayLike, samples: ArrayLike) -> Real:
    """P(a sparse-autoencoder latent with a random direction is silent on `samples` tokens).

    E[Phi(-gamma a)^samples] over a ~ N(0, 1), with gamma = ||mean|| / ||deviations|| of the
    Gaussian tokens (sqrt(d) times one coordinate's deviation), >= 0, in the limit of many
    dimensions d. Exactly 1 / (samples + 1) at gamma = 1; 2^-samples at
    0; 1/2 in the limit. Source: derived (setting of Simon, Adams & Zou, arXiv 2605.31518), by
    quadrature to 1e-10.
    """
    gamma, samples = at_least_zero("gamma", gamma), whole("samples", samples)
    return plain(np.vectorize(_silent_latent, otypes=[float])(gamma, samples))


def autoencoder_dead_at_birth_finite(
    gamma: ArrayLike, samples: ArrayLike, dimension: ArrayLike
) -> Real:
    """`autoencoder_dead_at_birth` of latents in a finite `dimension` d >= 3.

    Tokens of deviation 1 in every direction have a mean of length gamma sqrt(d); a direction drawn
    at random has the cosine c with it, of density ~ (1 - c^2)^((d-3)/2), so E[Phi(-gamma
    sqrt(d) c)^samples] takes the place of the limit's normal average. Source: derived.
    """
    gamma, samples = at_least_zero("gamma", gamma), whole("samples", samples)
    dimension = whole("dimension", dimension, least=3)
    angles = np.linspace(0, np.pi, 200_001)[1:-1]  # of the direction with the mean

    def probability(gamma: float, samples: float, dimension: float) -> float:
        density = (dimension - 2) * np.log(np.sin(angles))  # but for a constant
        silent = samples * log_ndtr(-gamma * np.sqrt(dimension) * np.cos(angles))
        return float(np.exp(density + silent).sum() / np.exp(density).sum())

    return plain(np.vectorize(probability, otypes=[float])(gamma, samples, dimension))


def exceeds_sum(log_transform: Callable[[np.ndarray], np.ndarray], terms: float) -> float:
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
            lambda a: -0.5 * a**2 - np.log(SQRT_TAU) + samples * log_ndtr(-gamma * a),
            -deepest - 15,
            15.0,
        )
    # by parts: E[Phi(smallest of `samples` normals / gamma)]
    return _log_concave_integral(
        lambda u: (
            log_ndtr(u / gamma)
            + np.log(samples / SQRT_TAU)
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
    left = root_of(lambda x: log_density(x) - level, low, top)
    right = root_of(lambda x: log_density(x) - level, top, high)
    points = np.linspace(left, right, 4001)
    return float(np.trapezoid(np.exp(log_density(points)), points))
