"""What theory says of a panel, beside what happened in it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from experiments.channels.counts import at_risk, ordered
from experiments.channels.step_0 import Start
from relu_dynamics import theory
from relu_dynamics.config import Config
from relu_dynamics.engine.normalizations import NORMALIZATIONS
from relu_dynamics.engine.outcomes import NEVER
from relu_dynamics.grid import Grid


def _decay_boundary(config, start, rates, biases):
    reach = np.median(start.projections.max(1))
    step = theory.bias_decay_recovery_step(
        reach, biases, rates, config.weight_decay, config.tolerance
    )
    return (step <= config.steps).astype(float)


def _noise_boundary(config, start, rates, biases):
    # The highest example alone: a lower bound for the unit, and close to it only near the start.
    depth = np.maximum(-(np.median(start.projections.max(1)) + biases), 0)
    scale = config.noise_scale * np.sqrt(1 + np.mean(start.norms**2))
    return theory.first_passage_probability(depth, rates, scale, config.steps)


def _norm_boundary(config, start, rates, biases):
    over_batch = NORMALIZATIONS[config.normalization].over_batch
    size = config.examples if over_batch else config.hidden[0]
    above = biases > -theory.absorbing_shift(size)
    return np.broadcast_to(above.astype(float), np.broadcast_shapes(rates.shape, biases.shape))


class Boundary(NamedTuple):
    """P(recover) of a channel's typical unit, by theory."""

    label: str
    probability: Callable[[Config, Start, np.ndarray, np.ndarray], np.ndarray]
    """(config, start, rates [n, 1], biases [1, m]) -> [n, m]"""


BOUNDARIES = {
    "decay": Boundary("decay: median unit", _decay_boundary),
    "noise": Boundary("noise: approximate, first passage of one example", _noise_boundary),
    "layer_norm": Boundary("LayerNorm: absorbing shift", _norm_boundary),
}


def boundary_line(boundary: Boundary, grid: Grid, start: Start) -> dict[str, Any]:
    """Where a probability passes one half: a line over the map."""
    axes = dict(grid.axes)
    first, *_, last = axes["learning_rate"]
    rates = np.geomspace(first / 2, last * 2, 81)  # to the edges of the outer cells
    low, high = min(axes["initial_bias"]), max(axes["initial_bias"])
    biases = np.linspace(1.3 * low, high, 1201)
    inside = boundary.probability(grid.config, start, rates[:, None], biases[None]) >= 0.5
    lowest = np.where(inside.any(1), biases[inside.argmax(1)], np.nan)
    lowest[inside.all(1)] = np.nan  # beyond the map
    keep = np.isfinite(lowest)
    return {
        "label": boundary.label,
        "learning_rate": rates[keep].tolist(),
        "initial_bias": lowest[keep].tolist(),
    }


class DecaySteps(NamedTuple):
    """Steps of every unit in the decay panel, [rate, bias, seed, unit]; inf for never."""

    predicted: np.ndarray  # closed form: first step above 0
    fired: np.ndarray  # first step at which a minibatch example fired the unit
    looked: np.ndarray  # first evaluation that saw it alive
    counted: np.ndarray  # bool: at risk, in a run that did not diverge


def decay_steps(result: xr.Dataset, config: Config) -> DecaySteps:
    """What theory says of step 0 alone (margin less bias is the largest w.x), and what happened."""
    rates = result.learning_rate_float32.values.astype(np.float64)[:, None, None, None]
    biases = result.initial_bias_float32.values.astype(np.float64)[None, :, None, None]
    finite = ordered(result.diverged_at)[..., None] == NEVER
    counted = at_risk(result) & finite
    reach = np.where(counted, ordered(result.margin_at_start) - biases, 0.0)
    decay = float(np.float32(config.weight_decay))
    predicted = theory.bias_decay_recovery_step(reach, biases, rates, decay, config.tolerance)
    steps = (ordered(result[name]) for name in ("batch_first_active", "first_recovery"))
    fired, looked = (np.where(step == NEVER, np.inf, step) for step in steps)
    return DecaySteps(predicted, fired, looked, counted)


def within_an_evaluation(steps: DecaySteps, config: Config) -> np.ndarray:
    """Whether the unit was first seen above 0, in a minibatch or at an evaluation, at the predicted
    step or up to one evaluation later. From the first firing on, the loss moves the unit too: it
    may push it down again before the next evaluation."""
    seen = np.minimum(steps.fired, steps.looked)
    never = (steps.predicted > config.steps - config.probe_every) & np.isinf(seen)
    return never | ((seen >= steps.predicted - 1) & (seen <= steps.predicted + config.probe_every))


def noise_bracket(result: xr.Dataset, grid: Grid, start: Start) -> tuple[np.ndarray, np.ndarray]:
    """(lower, upper) bound of every cell's expected P(recover), [rate, bias], by first passage.

    A unit is back when any example is above 0. Lower: its likeliest example alone, seen at
    evaluations only. Upper: the sum over examples, seen at every step. Both hold until the unit
    first fires, and up to the closed form's own error.
    """
    config = grid.config
    scale = config.noise_scale * np.sqrt(1 + start.norms**2)[:, :, None]
    every = config.probe_every
    units = np.flatnonzero(result.biased.values)
    risk = at_risk(result)[..., units]
    bounds = np.full((2, *risk.shape[:2]), np.nan)
    for j, bias in enumerate(result.initial_bias.values):
        counted = risk[0, j]  # dead at step 0 whatever the rate
        if not counted.any():
            continue
        depth = np.maximum(-(start.projections + bias), 0)
        for i, rate in enumerate(result.learning_rate.values):
            passage = functools.partial(theory.first_passage_probability, depth, rate)
            least = passage(scale * np.sqrt(every), config.steps // every).max(1)
            most = np.minimum(passage(scale, config.steps).sum(1), 1)
            bounds[:, i, j] = least[counted].mean(), most[counted].mean()
    return bounds[0], bounds[1]
