"""Numerics that the closed forms share."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import (
    erfcx,
    wofz,
)

Real = Any
"""A float for scalar arguments, otherwise a float64 array; typed as NumPy types its ufuncs."""

DUST = 1e-9
"""Default `tolerance`, in units of z: a pre-activation up to here is rounding, not a recovery."""

# -zeta(1/2) / sqrt(2 pi): mean overshoot of a Gaussian walk, in standard deviations.
OVERSHOOT = 0.5825971579390107

SQRT_TAU = np.sqrt(2 * np.pi)


def checked(
    name: str, value: ArrayLike, rule: str, holds: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """`value` in float64; a rule is written as a comparison that holds, so NaN breaks it."""
    array = np.asarray(value, dtype=np.float64)
    wrong = np.logical_not(holds(array))
    if np.any(wrong):
        raise ValueError(f"{name} must be {rule}, got {array[wrong].flat[0]}")
    return array


def finite(name: str, value: ArrayLike) -> np.ndarray:
    return checked(name, value, "finite", np.isfinite)


def non_negative(name: str, value: ArrayLike) -> np.ndarray:
    return checked(name, value, "finite and >= 0", lambda v: np.isfinite(v) & (v >= 0))


def at_least_zero(name: str, value: ArrayLike) -> np.ndarray:
    return checked(name, value, ">= 0", lambda v: v >= 0)


def in_unit_interval(name: str, value: ArrayLike) -> np.ndarray:
    return checked(name, value, "in [0, 1)", lambda v: (v >= 0) & (v < 1))


def whole(name: str, value: ArrayLike, least: int = 0) -> np.ndarray:
    rule = f"a whole number >= {least}"
    return checked(name, value, rule, lambda v: np.isfinite(v) & (v >= least) & (v == np.floor(v)))


def betas(b1: float, b2: float) -> tuple[float, float]:
    return float(in_unit_interval("b1", b1)), float(in_unit_interval("b2", b2))


def broadcast(one: ArrayLike, two: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    one, two = np.broadcast_arrays(np.asarray(one, np.float64), np.asarray(two, np.float64))
    return one, two


def plain(value: ArrayLike) -> Real:
    """A float for a 0-d array, other arrays as they are."""
    return np.asarray(value, dtype=np.float64)[()]


def standardized(bias: ArrayLike, weight_norm: ArrayLike) -> np.ndarray:
    """b / ||w||, with the constant unit (||w|| = 0) at +inf if it fires and -inf if not."""
    bias, norm = broadcast(finite("bias", bias), non_negative("weight_norm", weight_norm))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        beta = bias / norm
    return np.where(norm > 0, beta, np.where(bias > 0, np.inf, -np.inf))


def normal_density(x: ArrayLike) -> np.ndarray:
    return np.exp(-0.5 * np.square(x)) / SQRT_TAU


def complex_erfcx(x: np.ndarray) -> np.ndarray:
    return erfcx(x) if np.isrealobj(x) else wofz(1j * x)


def root_of(function: Callable[[Any], Any], low: float, high: float) -> float:
    return cast(float, brentq(function, low, high, xtol=1e-15))
