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


def _noise_bound(config, start, rates, biases, bound):
    found = np.zeros(np.broadcast_shapes(rates.shape, biases.shape))
    for place in np.ndindex(found.shape):
        rate, bias = (float(np.broadcast_to(part, found.shape)[place]) for part in (rates, biases))
        dead = start.projections.max(1) + bias <= 0
        least_or_most = noise_bounds(config, start, rate, bias)[bound]
        found[place] = least_or_most[dead].mean() if dead.any() else 1.0
    return found


def _noise_lower(config, start, rates, biases):
    return _noise_bound(config, start, rates, biases, 0)


def _noise_upper(config, start, rates, biases):
    return _noise_bound(config, start, rates, biases, 1)


def _norm_boundary(config, start, rates, biases):
    over_batch = NORMALIZATIONS[config.normalization].over_batch
    size = config.examples if over_batch else config.hidden[0]
    above = biases > -theory.absorbing_shift(size)
    return np.broadcast_to(above.astype(float), np.broadcast_shapes(rates.shape, biases.shape))


class Boundary(NamedTuple):
    """P(recover) of a channel's typical unit, by theory."""

    label: str
    probability: Callable[[Config, Start, np.ndarray, np.ndarray], np.ndarray]
    """(config, start, rates [n], biases [n]) -> [n]"""


BOUNDARIES = {
    "decay": (Boundary("decay: the median unit", _decay_boundary),),
    # A unit is back when any example is: its likeliest example alone misses most recoveries.
    "noise": (
        Boundary("noise, right: the likeliest example alone", _noise_lower),
        Boundary("noise, left: the sum over examples", _noise_upper),
    ),
    "layer_norm": (Boundary("LayerNorm: the absorbing shift", _norm_boundary),),
}


def boundary_line(boundary: Boundary, grid: Grid, start: Start) -> dict[str, Any]:
    """Where a probability, which rises with the bias, passes one half: a line over the map."""
    axes = dict(grid.axes)
    first, *_, last = axes["learning_rate"]
    rates = np.geomspace(first / 2, last * 2, 41)  # to the edges of the outer cells
    ends = 1.3 * min(axes["initial_bias"]), max(axes["initial_bias"])
    reached = lambda bias: boundary.probability(grid.config, start, rates, bias) >= 0.5  # noqa: E731
    low, high = (np.full(rates.shape, end) for end in ends)
    keep = reached(high) & ~reached(low)  # elsewhere the line is beyond the map
    for _ in range(12):  # to a thousandth of the map
        middle = (low + high) / 2
        above = reached(middle)
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return {
        "label": boundary.label,
        "learning_rate": rates[keep].tolist(),
        "initial_bias": high[keep].tolist(),
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
    units = np.flatnonzero(result.biased.values)
    risk = at_risk(result)[..., units]
    bounds = np.full((2, *risk.shape[:2]), np.nan)
    for j, bias in enumerate(result.initial_bias.values):
        counted = risk[0, j]  # dead at step 0 whatever the rate
        if not counted.any():
            continue
        for i, rate in enumerate(result.learning_rate.values):
            least, most = noise_bounds(grid.config, start, rate, bias)
            bounds[:, i, j] = least[counted].mean(), most[counted].mean()
    return bounds[0], bounds[1]


def noise_bounds(
    config: Config, start: Start, rate: float, bias: float
) -> tuple[np.ndarray, np.ndarray]:
    """(lower, upper) bound of P(recover) of every unit, [seeds, units]; see `noise_bracket`."""
    scale = config.noise_scale * np.sqrt(1 + start.norms**2)[:, :, None]
    every = config.probe_every
    depth = np.maximum(-(start.projections + bias), 0)
    passage = functools.partial(theory.first_passage_probability, depth, rate)
    least = passage(scale * np.sqrt(every), config.steps // every).max(1)
    return least, np.minimum(passage(scale, config.steps).sum(1), 1)
