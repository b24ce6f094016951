"""What theory says of a run: the step of recovery, and P(recovered) under additive noise."""

from typing import cast

import numpy as np
from scipy.special import ive

from experiments.numerical_example.sources import Case, residue
from experiments.numerical_example.sweep import WEIGHT
from relu_dynamics import theory
from relu_dynamics.config import Config


def closed_form(case: Case) -> dict:
    """The step of recovery by theory, and the range of steps that float32 rounding allows.

    Every step rounds a bias of at most |initial_bias| by half a unit in its last place, 2^-26 for
    0.5, and always the same way when the steps are alike (at 1e-4 per step that makes up to half a
    step in 4,000). So the closed form is evaluated with z lifted and lowered by that much for
    every step up to its own (but steps too small to change the bias round nothing); 2^-22
    more covers the rounding of z itself and of those small steps together.
    """
    horizon = case.config.steps
    step = float(case.source.closed(case.config, np.zeros(1))[0])
    bias = np.float32(abs(case.config.initial_bias))
    rounding = float(np.spacing(np.nextafter(bias, np.float32(0)))) / 2
    moving = horizon
    if memory := case.source.memory(case.config):
        moving = np.count_nonzero(np.diff(residue(case.config, memory), prepend=0) > rounding / 4)
    slack = min(step, moving) * rounding + 2.0**-22
    low, high = case.source.closed(case.config, np.array([slack, -slack], float))
    censored = [np.inf if value > horizon else value for value in (step, low, high)]
    names = ("closed_step", "closed_low", "closed_high")
    return dict(zip(names, censored, strict=True), uncensored_step=step)


def noise_closed_form(config: Config, kind: str, rate: float, steps: np.ndarray) -> np.ndarray:
    """P(recovered within `steps`) under additive noise."""
    noise = cast(float, config.noise_scale)
    if kind == "bias alone":
        margin = -(max(WEIGHT, 0.0) + config.initial_bias)
        return theory.first_passage_probability(margin, rate, noise, steps)
    return wedge_passage_probability(WEIGHT, config.initial_bias, rate * noise, steps)


def wedge_passage_probability(weight, bias, step_deviation, steps, terms=400):
    """P(weight x + bias > 0 for some x in [0, 1] within `steps`) when both take independent
    Gaussian steps: first exit from the wedge {bias <= 0, weight + bias <= 0}, angle 3 pi / 4.

    The series of Metzler (Statistics & Probability Letters 80, 2010; after Iyengar 1985) for
    continuous time, with both sides moved out by 0.5826 step deviations for discrete steps
    (Siegmund 1979), as in `theory.first_passage_probability`. `steps` may be an array, >= 1.
    """
    outward = 0.5825971579390107 * step_deviation
    sides = np.array([-bias, -(weight + bias) / np.sqrt(2)]) + outward
    return wedge_exit_probability(sides, 0.75 * np.pi, step_deviation**2 * steps, terms)


def wedge_exit_probability(distances, angle, variance, terms=400):
    """P(planar Brownian motion has left a wedge) from its distances to the two sides, the angle
    between them and the variance reached (a number or an array)."""
    first, second = distances
    theta = np.arctan2(first * np.sin(angle), second + first * np.cos(angle))
    radius = first / np.sin(theta)
    q = radius**2 / (4 * np.asarray(variance, float)[..., None])
    odd = np.arange(1, 2 * terms, 2)
    order = odd * np.pi / angle
    series = np.sin(odd * theta * np.pi / angle) / odd
    series = series * (ive((order - 1) / 2, q) + ive((order + 1) / 2, q))
    staying = np.sqrt(8 * q[..., 0] / np.pi) * series.sum(-1)
    # The series needs about sqrt(8 q) terms; where it is cut off nothing has left yet.
    far = 8 * q[..., 0] > terms
    nearest = 2 * theory.active_probability(-min(distances), np.sqrt(variance))
    return np.where(far, np.minimum(nearest, 1.0), np.clip(1 - staying, 0.0, 1.0))
