"""A case: one layer of a network in a state, as the theorems read it."""

import enum
import math
from typing import Any, NamedTuple

import numpy as np
import optax

from relu_dynamics.config import Config
from relu_dynamics.engine import models, optimizers
from relu_dynamics.engine.normalizations import NORM_EPSILON, Normalization, normalization_of
from relu_dynamics.engine.optimizers import DECAY_TARGETS, Rule
from relu_dynamics.engine.probes import UNIT_ROUNDOFF
from relu_dynamics.engine.step import State
from relu_dynamics.engine.tasks import Task

DUST = 1e-30  # depths below this may underflow in float32, and underflow can have either sign

HUGE = 1e15  # beyond, float32's squares come near overflow: a diverging run

TINY = 1e-37  # what float32 loses when it flushes a subnormal number to 0

CHUNK = 4_000_000  # numbers held at once


class Verdict(enum.IntEnum):
    """What is known of one unit's future."""

    NOT_DEAD = 0  # alive on the training set: nothing to certify
    POSSIBLE = 1  # no theorem decides
    CERTIFIED_NEVER = 2  # dead on every training example at every step up to the horizon
    CERTIFIED_AT = 3  # dead until `step`, where an evaluation on the probe set sees it alive


class _Rules(NamedTuple):
    """How parameters move without a gradient from the data; float32 values, held in float64."""

    momentum: float  # heavy-ball or Nesterov momentum, or Adam's b1
    decay: float  # 0 when there is none
    coupled: bool  # the decay goes through the optimizer
    decays: dict[str, bool]  # by kind of parameter
    noisy: bool


class Case(NamedTuple):
    """One layer of a network in a state: what a theorem may read. NumPy, float64."""

    config: Config
    rules: _Rules
    layer: int  # from 1
    step: int
    horizon: int
    rate: float  # learning rate, times the upstream rate where that applies
    inputs: np.ndarray  # [rows, fan_in] what the weights see
    input_error: float  # rounding of these
    probe: slice  # of the rows
    parameters: dict[str, np.ndarray]  # weights [fan_in, units], bias, and scale, shift [units]
    memory: dict[str, dict[str, np.ndarray]]  # optimizer state: trace, or mu and nu, by parameter
    adam_steps: int  # Adam's count
    z: np.ndarray  # [rows, units]
    error: np.ndarray  # [units] rounding of z
    lower: np.ndarray  # [units] above 0: every evaluation sees z > 0 on some row, for certain
    upper: np.ndarray  # [units] at most 0: every evaluation sees z <= 0 on all rows, for certain
    pushed: np.ndarray  # [units] a push from outside the loss moves the unit
    tame: np.ndarray  # [units] its numbers are finite and far from overflow
    readable: bool  # what an evaluation or a batch sees of the unit is in `z`
    alone: bool  # a dead unit's own parameters get no gradient
    fixed: bool  # the inputs never change
    immobile: bool  # no parameter of this layer ever changes
    gated: bool  # ... because no gradient passes this layer or one above it


class Claim(NamedTuple):
    """What a theorem says of a layer's units; [units] each. POSSIBLE: it does not decide."""

    verdict: np.ndarray
    step: np.ndarray
    bound: np.ndarray
    slack: np.ndarray


def rule_of(case: Case) -> Rule | None:
    return optimizers.optimizer_of(case.config).rule


def is_tame(leaves: dict[str, np.ndarray], x: np.ndarray, z: np.ndarray) -> np.ndarray:
    sizes = [np.abs(np.atleast_2d(leaf)).max(0) for leaf in leaves.values()]
    return (np.maximum.reduce([*sizes, np.abs(z).max(0)]) < HUGE) & (np.abs(x).max() < HUGE)


def rules_of(config: Config) -> _Rules:
    decay = 0.0 if config.weight_decay is None else float(np.float32(config.weight_decay))
    noise = 0.0 if config.noise_scale is None else float(config.noise_scale)
    decays = {axes: axes in DECAY_TARGETS[config.decay_targets] for axes in (1, 2)}
    return _Rules(
        momentum=float(np.float32(optimizers.momentum_of(config))),
        decay=decay,
        coupled=not optimizers.decay_is_decoupled(config),
        decays={
            "weights": decays[2],
            "bias": decays[1],
            "scale": decays[1],
            "shift": decays[1],
        },
        noisy=noise > 0 and float(config.learning_rate) > 0,
    )


def dead_rows(task: Task) -> tuple[np.ndarray, slice]:
    """All inputs on which a unit must be dead, and where among them the probe set is."""
    inputs, probe = (np.asarray(x, np.float64) for x in (task.inputs, task.probe))
    if np.array_equal(inputs[: len(probe)], probe):
        return inputs, slice(0, len(probe))
    return np.concatenate([probe, inputs]), slice(0, len(probe))


def optimizer_memory(state: State) -> dict[str, Any]:
    """The parts of the optimizer's state that can move parameters: trace, or mu and nu."""
    found = {name: optax.tree_utils.tree_get(state.optimizer, name) for name in ("trace", "mu")}
    memory = {name: tree for name, tree in found.items() if tree is not None}
    if "mu" in memory:
        memory["nu"] = optax.tree_utils.tree_get(state.optimizer, "nu")
    return memory


def adam_count(config: Config, state: State) -> int:
    if optimizers.optimizer_of(config).rule is not Rule.ADAM:
        return 0
    return int(optax.tree_utils.tree_get(state.optimizer, "count"))


def layer_leaves(config: Config, tree: models.Params, layer: int) -> dict[str, np.ndarray]:
    """The parameters of one hidden layer (or their optimizer state), float64."""
    dense = tree[models.layer_name(layer)]
    leaves = {"weights": dense["kernel"], "bias": dense["bias"]}
    scale = models.scale(config, tree, layer)
    if scale is not None:
        leaves |= {"shift": models.shift(config, tree, layer), "scale": scale}
    return {name: np.asarray(leaf, np.float64) for name, leaf in leaves.items()}


def forward(
    config: Config, leaves: dict[str, np.ndarray], x: np.ndarray, x_error: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(z, rounding bound of float32's z), both [rows, units]."""
    weights, bias = leaves["weights"], leaves["bias"]
    z = x @ weights + bias
    error = forward_error(np.abs(x), weights, bias, x_error)
    row = normalization_of(config)
    if row.statistics is None:
        return z, error
    size = norm_size(config, z.shape[1], len(z))
    mean, variance = row.statistics(z)
    deviation = np.sqrt(variance + NORM_EPSILON)
    normal = (z - mean) / deviation
    rounding = UNIT_ROUNDOFF * (size + 4)
    wrong = _largest(row, error) + rounding * _largest(row, np.abs(z))
    # The map a -> (a - mean) / deviation has slope <= 1 / deviation in the Euclidean norm.
    wrong = 2 * math.sqrt(size) * wrong / deviation + rounding * np.abs(normal)
    scale, shift = leaves["scale"], leaves["shift"]
    z = normal * scale + shift
    error = wrong * np.abs(scale)
    return z, error + 4 * UNIT_ROUNDOFF * (np.abs(z) + np.abs(shift))


def margin_limits(
    leaves: dict[str, np.ndarray],
    x: np.ndarray,
    x_error: np.ndarray,
    z: np.ndarray,
    error: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(lower, upper) of z as an evaluation may bound it, both [rows, units]; x, x_error [rows,
    fan_in] and z, error as in `forward`.

    An evaluation sees z with its error and allows for as much again.
    """
    lower, upper = z - 2 * error, z + 2 * error
    if "shift" in leaves:
        return lower, upper
    negative = no_positive_term(leaves["weights"], leaves["bias"], x - x_error, x + x_error)
    return lower, np.where(negative, np.minimum(upper, 0), upper)


def rectified_error(z: np.ndarray, error: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """The error of max(z, 0): none where z is certainly at most 0."""
    return np.where(z > 0, error, np.clip(np.minimum(z + error, upper), 0, None))


def _largest(row: Normalization, values: np.ndarray) -> np.ndarray:
    """The largest of the values [rows, units] that are normalized together; broadcasts to them."""
    if row.over_batch:
        return values.max(0, keepdims=True)
    size = row.group or values.shape[1]
    return values.reshape(len(values), -1, size).max(-1).repeat(size, axis=-1)


def forward_error(
    magnitudes: np.ndarray, weights: np.ndarray, bias: np.ndarray, input_error: np.ndarray
) -> np.ndarray:
    """Bound on float32's rounding of x.w + b, [rows, units], for |x| <= magnitudes [rows, fan_in].

    That of the sum, and what comes in with x.
    """
    size = (magnitudes + input_error) @ np.abs(weights) + np.abs(bias)
    return sum_error(size, len(weights)) + input_error @ np.abs(weights)


def sum_error(size: np.ndarray, fan_in: int) -> np.ndarray:
    """Bound on float32's rounding of a sum x.w + b with size = sum |w_i x_i| + |b|.

    (fan_in + 2) u size for any order of summation (Higham, Accuracy and Stability of Numerical
    Algorithms, 3.1). A thousandth more for second order, and `TINY` a term for what underflows.
    """
    rounding = (fan_in + 2) * UNIT_ROUNDOFF * (1 + 1e-3)
    return rounding * size + np.where(size > 0, fan_in * TINY, 0.0)  # a sum of zeros is exact


def no_positive_term(
    weights: np.ndarray, bias: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Whether no term of x.w + b is above 0 for any low <= x <= high [..., fan_in], [..., units].

    The sum is then at most 0 in any order of summation, rounded or not.
    """
    positive = np.maximum(high, 0) @ np.maximum(weights, 0)
    positive = positive + np.minimum(low, 0) @ np.minimum(weights, 0)
    return positive + np.maximum(bias, 0) == 0


def norm_size(config: Config, units: int, rows: int) -> int:
    """How many numbers are normalized together; for a batch the most that any evaluation may
    hold."""
    row = normalization_of(config)
    if row.over_batch:
        return max(rows, config.batch_size or 0, 1)
    return row.group or units


def norm_slack(config: Config) -> float:
    """By how much, relative, float32 may exceed the largest normalized entry: the difference to a
    mean loses digits."""
    return 1e-3 if normalization_of(config).centred else 1e-5
