"""Movement: how parameters move when no gradient reaches them."""

import math

import numpy as np

from relu_dynamics.certificates.case import TINY, Case, rule_of
from relu_dynamics.engine.normalizations import normalization_of
from relu_dynamics.engine.optimizers import ADAM_B2, ADAM_EPSILON, Rule


def decaying(case: Case) -> bool:
    return case.rules.decay > 0 and case.rate > 0


def keeps_sign(case: Case) -> bool:
    """Whether decay moves a parameter straight towards 0 and never past it."""
    direct = not case.rules.coupled or rule_of(case) is Rule.SGD
    return direct and case.rate * case.rules.decay < 1


def moves_alone(case: Case) -> bool:
    """Whether the unit's own parameters are all that moves z, each by itself and known."""
    free = not (normalization_of(case.config).present or case.rules.noisy)
    return free and case.fixed


def residue_left(case: Case, name: str) -> np.ndarray:
    """What the optimizer's state still moves the parameter, in all; its sign is the direction.

    Within `horizon` steps, none of which has a gradient. Heavy-ball: -rate mu / (1 - mu) trace,
    Nesterov mu times that; Adam the sum of -rate m / (sqrt(v) + eps), bounded from above by leaving
    out either term below. Widened for rounding: 1e-5 (momentum), 1e-3 (Adam: its bias correction
    1 - b2^count cancels to 4 digits in float32).
    """
    memory, mu, value = case.memory[name], case.rules.momentum, case.parameters[name]
    if "trace" in memory:
        factor = mu * (mu if rule_of(case) is Rule.NESTEROV else 1.0)
        total = factor * -np.expm1(case.horizon * np.log(mu)) / (1 - mu) if mu > 0 else 0.0
        return -case.rate * total * (1 + 1e-5) * memory["trace"]
    if "mu" in memory:
        if mu == 0:
            return np.zeros_like(value)
        steps = np.arange(1, min(case.horizon, _adam_steps(case)) + 1)
        first = mu**steps / -np.expm1((case.adam_steps + steps) * np.log(mu))
        spread = np.sqrt(ADAM_B2**steps / -np.expm1((case.adam_steps + steps) * np.log(ADAM_B2)))
        m, v = memory["mu"], memory["nu"]
        steady = (first / spread).sum() / np.sqrt(v)
        total = np.minimum(np.where(v > TINY, steady, np.inf), first.sum() / ADAM_EPSILON)
        return np.where(m == 0, 0.0, -case.rate * m * total * (1 + 1e-3))
    return np.zeros_like(value)


def _memory_factor(case: Case) -> float:
    """The factor by which the optimizer's steps shrink without gradients."""
    mu = case.rules.momentum
    return mu / math.sqrt(ADAM_B2) if rule_of(case) is Rule.ADAM else mu


def _adam_steps(case: Case) -> int:
    """Steps after which Adam's residue is below 2^-60 of its first step."""
    return _steps_until(_memory_factor(case), 2.0**-60, case.horizon)


def moving_steps(case: Case) -> int:
    """Steps in which residue moves a parameter by more than its widening allows for."""
    if rule_of(case) in (Rule.SGD, Rule.RMSPROP):
        return 0
    return _steps_until(_memory_factor(case), 2.0**-26 * 1e-3, case.horizon)


def _steps_until(factor: float, share: float, most: int) -> int:
    if factor <= 0:
        return min(1, most)
    return most if factor >= 1 else min(most, math.ceil(math.log(share) / math.log(factor)))
