"""Certificates: when P(recover) is exactly 0 or 1 for a unit, and the theorem that says so.

    certify(config, task, state, horizon=1000) -> Certificates

A dead unit has no gradient, so it can move only through a channel. For every unit of a network in
a training state, an ordered table of theorems (`THEOREMS`) is asked; the first that decides gives
the verdict. Whoever has a new theorem adds one function and one row.

*Dead* and *recover* are those of `relu_dynamics.outcomes`. Gradients come from the training set,
so "dead" here is dead on every training example (and on the probe set, should it hold others).
What is certified is the float32 program as it runs (matrix products at `training.PRECISION`), not
the real numbers it stands for. All bounds are therefore computed in float64 and widened by the
rounding of that program: of the forward pass, in any order of summation (u per operation,
u = 2^-24), through all layers; and, where parameters move, of every update, accumulated over the
steps they move (`slack`). A unit closer to 0 than the slack is POSSIBLE. "Never" is a claim on the
first `horizon` steps from the state; where no parameter moves, any horizon costs the same.

Axes: `units` of all hidden layers in order; `rows` the training examples (and foreign probes).
"""

import enum
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optax
from numpy.typing import ArrayLike

from relu_dynamics import models, theory, training
from relu_dynamics.config import Config, check_covered
from relu_dynamics.outcomes import NEVER, Outcome
from relu_dynamics.probes import UNIT_ROUNDOFF
from relu_dynamics.statistics import Interval, clustered_interval
from relu_dynamics.tasks import Task
from relu_dynamics.training import ADAM_B2, ADAM_EPSILON, Rule, State

DUST = 1e-30  # depths below this may underflow in float32, and underflow can have either sign
_HUGE = 1e15  # beyond, float32's squares come near overflow: a diverging run
_TINY = 1e-37  # what float32 loses when it flushes a subnormal number to 0
# The fields under which the theorems were proved; all others must stay at their defaults.
COVERED = frozenset(
    """
    learning_rate initial_bias momentum weight_decay noise_scale upstream_rate outside_gradient
    weight_scale scaling_dose killed_fraction target_scale
    task examples dimension input_scaling hidden activation initializer normalization output_bias
    optimizer warmup_steps decay_steps decay_kind decay_targets batch_size batch_order steps
    biased_layer biased_units killed_at probe_size probe_every tolerance sustain
    """.split()
)
_CHUNK = 4_000_000  # numbers held at once


class Verdict(enum.IntEnum):
    """What is known of one unit's future."""

    NOT_DEAD = 0  # alive on the training set: nothing to certify
    POSSIBLE = 1  # no theorem decides
    CERTIFIED_NEVER = 2  # dead on every training example at every step up to the horizon
    CERTIFIED_AT = 3  # dead until `step`, where a look at the probe set sees it alive


class Certificates(NamedTuple):
    """Verdicts and their numbers; NumPy, [units] each."""

    verdict: np.ndarray  # uint8, `Verdict`
    step: np.ndarray  # int32, the run's step of a CERTIFIED_AT, else NEVER
    theorem: np.ndarray  # uint8, index into `THEOREM_NAMES`
    margin: np.ndarray  # float64, largest z over the rows at the state
    bound: np.ndarray  # NEVER: no z up to the horizon is larger; AT: the margin there is larger
    slack: np.ndarray  # float64, the allowance for rounding that `bound` contains; nan: undecided

    @property
    def names(self) -> np.ndarray:
        """The name of the theorem that decided each unit, [units]."""
        return np.asarray(THEOREM_NAMES)[self.theorem]


class DomainBound(NamedTuple):
    """Largest z on a domain of inputs; NumPy, [units] each."""

    dead: np.ndarray  # bool, upper <= 0: the unit is silent on the whole domain
    upper: np.ndarray  # float64, no z on the domain is larger (float32 rounding included)


class _Rules(NamedTuple):
    """How parameters move without a gradient from the data; float32 values, held in float64."""

    momentum: float  # heavy-ball or Nesterov momentum, or Adam's b1
    decay: float  # 0 when there is none
    coupled: bool  # the decay goes through the optimizer
    decays: dict[str, bool]  # by kind of parameter
    noisy: bool


class _Case(NamedTuple):
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
    pushed: np.ndarray  # [units] a push from outside the loss moves the unit
    tame: np.ndarray  # [units] its numbers are finite and far from overflow
    readable: bool  # what a look or a batch sees of the unit is in `z`
    alone: bool  # a dead unit's own parameters get no gradient
    fixed: bool  # the inputs never change
    immobile: bool  # no parameter of this layer ever changes
    gated: bool  # ... because no gradient passes this layer or one above it


class _Claim(NamedTuple):
    """What a theorem says of a layer's units; [units] each. POSSIBLE: it does not decide."""

    verdict: np.ndarray
    step: np.ndarray
    bound: np.ndarray
    slack: np.ndarray


# What comes in and what goes out --------------------------------------------------------------


def certify(config: Config, task: Task, state: State, *, horizon: int) -> Certificates:
    """The verdict on every hidden unit for the `horizon` steps after `state`, a run's state.

    One network: `state` without leading axes, traced fields of the config as single numbers. Raises
    a ValueError for another activation than relu (its slope below 0 is a channel of its own), for
    schedules, clipping, weight normalization, changing tasks and other networks than an MLP, a
    negative horizon, or parameters that are not those of the config. Units of a state that is not
    finite, or beyond 1e15 and on its way there, are POSSIBLE, as are units pushed from outside the
    loss. Host code, not jit-able; nothing is trained. `CERTIFIED_AT` is the first
    step at which a look would find the unit alive, whether or not the config looks at that step
    (what other units do does not matter, unless the run has diverged by then).
    """
    if config.activation != "relu":
        raise ValueError(
            f"activation={config.activation!r}: certificates are about units whose gradient is 0 "
            "below 0; use activation='relu'."
        )
    if training.optimizer_of(config).rule is None:
        known = [name for name, row in training.OPTIMIZERS.items() if row.rule is not None]
        raise ValueError(f"optimizer={config.optimizer!r}: certificates know {', '.join(known)}.")
    check_covered(config, "certificates", COVERED)
    if config.killed_fraction is not None and config.killed_at > int(state.step):
        raise ValueError(
            f"killed_at={config.killed_at} is after the state's step {int(state.step)}: "
            "certificates are about what training does; certify a later state."
        )
    if isinstance(horizon, bool) or not isinstance(horizon, int | np.integer) or horizon < 0:
        raise ValueError(f"horizon={horizon!r} must be a whole number of steps >= 0.")
    with np.errstate(all="ignore"):  # overflow and nan fail every comparison: no claim
        cases = _cases(config, task, state, int(horizon))
        layers = [_decide(case) for case in cases]
    return Certificates(*(np.concatenate(part) for part in zip(*layers, strict=True)))


def power(
    certificates: Certificates, outcomes: ArrayLike, *, level: float = 0.95
) -> tuple[int, int, Interval]:
    """(certified, all, their ratio with an interval) of the units that never recovered.

    `outcomes` are the `Outcome` codes of the same units over the same steps, [units] or
    [runs, units], with certificates' leaves of that shape. Only STILL_DEAD counts: other units did
    not stay dead, or nobody knows. The interval is clustered by run. Raises a ValueError when the
    shapes differ, and when a unit certified to stay dead recovered, which no run may show.
    """
    codes = np.asarray(outcomes)
    never = np.asarray(certificates.verdict) == Verdict.CERTIFIED_NEVER
    if codes.shape != never.shape or codes.ndim not in (1, 2):
        raise ValueError(
            f"outcomes of shape {codes.shape} and certificates of shape {never.shape} must both be "
            "[units] or [runs, units]."
        )
    recovered = (Outcome.RECOVERED_SUSTAINED, Outcome.RECOVERED_TRANSIENT)
    refuted = never & np.isin(codes, (*recovered, Outcome.RECOVERED_UNCONFIRMED))
    if refuted.any():
        raise ValueError(
            f"{refuted.sum()} units certified never to recover did: the certificates are of "
            "another run or a shorter horizon, or a theorem is wrong."
        )
    dead = np.atleast_2d(codes == Outcome.STILL_DEAD)
    certified = dead & never
    interval = clustered_interval(certified.sum(-1), dead.sum(-1), level)
    return int(certified.sum()), int(dead.sum()), interval


def dead_on_box(
    config: Config,
    params: models.Params,
    low: ArrayLike,
    high: ArrayLike,
    *,
    relaxation: bool = True,
) -> DomainBound:
    """Upper bounds of every unit's z over all inputs low <= x <= high, elementwise; [dimension].

    The first layer is exact up to rounding. Deeper layers are bounded by interval arithmetic and,
    with `relaxation`, by linear bounds carried backward to the box (CROWN: Zhang et al. 2018, arXiv
    1811.00866); the smaller counts. A normalization bounds its layer by itself: no entry exceeds
    `theory.absorbing_shift`. Raises a ValueError for low > high, NaN, a wrong shape, another
    activation than relu, and batch normalization, where z depends on the rest of the batch.
    """
    _check_domain(config)
    if config.normalization == "batch":
        raise ValueError("normalization='batch': z depends on the batch, not on one input's box.")
    layers = [_leaves(config, params, layer) for layer in range(1, len(config.hidden) + 1)]
    dimension = layers[0]["weights"].shape[0]
    low, high = (_point(name, x, dimension) for name, x in (("low", low), ("high", high)))
    if (low > high).any():
        at = int(np.argmax(low > high))
        raise ValueError(f"low={low[at]} is above high={high[at]} in entry {at} of the box.")

    bounds = [(low, high)]  # of what goes into each layer
    relaxed = []  # (weights, bias, lower, upper) of the affine layers so far
    error, uppers = np.zeros(dimension), []
    for leaves in layers:
        weights, bias = leaves["weights"], leaves["bias"]
        lower, upper = _interval(weights, bias, *bounds[-1])
        if config.normalization != "none":
            size = _norm_size(config, len(bias), 0)
            reach = np.abs(leaves["scale"]) * theory.absorbing_shift(config.normalization, size)
            reach = reach * (1 + _norm_slack(config))
            lower, upper = leaves["shift"] - reach, leaves["shift"] + reach
            error = 4 * UNIT_ROUNDOFF * (np.abs(leaves["shift"]) + reach)
        else:
            if relaxation and relaxed:
                upper = np.minimum(upper, _backward(relaxed, weights, bias, low, high))
                lower = np.maximum(lower, -_backward(relaxed, -weights, -bias, low, high))
            largest = np.maximum(np.abs(bounds[-1][0]), np.abs(bounds[-1][1]))
            error = _forward_error(largest[None], weights, bias, error)[0]
            relaxed.append((weights, bias, lower, upper))
        uppers.append(upper + error)
        bounds.append((np.maximum(lower, 0), np.maximum(upper, 0)))
    upper = np.concatenate(uppers)
    return DomainBound(upper <= 0, upper)


def dead_on_ball(
    config: Config, params: models.Params, centre: ArrayLike, radius: float
) -> DomainBound:
    """Largest z of the first layer's units over all inputs within `radius` of `centre`, [units].

    w.centre + b + radius ||w||, which is attained. Raises a ValueError for a negative or non-finite
    radius, a wrong shape, another activation than relu, or a normalization.
    """
    _check_domain(config)
    if config.normalization != "none":
        raise ValueError(f"normalization={config.normalization!r}: the ball is exact for 'none'.")
    leaves = _leaves(config, params, 1)
    weights, bias = leaves["weights"], leaves["bias"]
    centre = _point("centre", centre, weights.shape[0])
    if np.ndim(radius) != 0 or not (math.isfinite(radius) and radius >= 0):
        raise ValueError(f"radius={radius!r} must be one finite number >= 0.")
    norm = np.sqrt((weights**2).sum(0))
    furthest = np.abs(centre) + radius
    error = _forward_error(furthest[None], weights, bias, np.zeros(len(centre)))[0]
    upper = centre @ weights + bias + radius * norm + error
    return DomainBound(upper <= 0, upper)


# The theorems ---------------------------------------------------------------------------------


def _norm_threshold(case: _Case) -> _Claim:
    """shift < -|scale| sqrt(n - 1): no inputs, weights or batch can fire the unit (Samuelson 1968).

    Its scale and shift get no gradient, so only residue or decay may move them. The bound is that
    of real numbers, widened by a thousandth: in float32 it holds as long as the numbers that are
    normalized together lie within 1000 / n of their deviations of 0; their mean is lost beyond.
    """
    config, rules = case.config, case.rules
    if config.normalization == "none" or rules.noisy:
        return _undecided(case)
    scale, shift = case.parameters["scale"], case.parameters["shift"]
    size = _norm_size(config, len(shift), len(case.z))
    reach = theory.absorbing_shift(config.normalization, size)
    move = {name: np.abs(_residue(case, name)) for name in ("scale", "shift")}
    still = (move["scale"] == 0) & (move["shift"] == 0)
    widest = np.abs(scale) + move["scale"]
    slack = _norm_slack(config) * math.sqrt(size) * widest
    slack = slack + 8 * UNIT_ROUNDOFF * (np.abs(shift) + move["shift"] + widest * reach)
    slack = slack + _moving_steps(case) * UNIT_ROUNDOFF * (np.abs(shift) + widest * reach) * ~still
    bound = shift + move["shift"] + widest * reach + slack
    if rules.decay > 0 and rules.decays["shift"] and case.rate > 0:
        # Both shrink by one factor: the sign is kept, each by its own rounding.
        keeps = _keeps_sign(case) & still
        slack = slack + case.horizon * 8 * UNIT_ROUNDOFF * (np.abs(shift) + widest * reach)
        factor = (1 - case.rate * rules.decay) ** case.horizon
        bound = (shift + widest * reach + slack) * factor
        return _never(case, keeps, bound, slack)
    return _never(case, np.ones(len(shift), bool), bound, slack)


def _non_positive(case: _Case) -> _Claim:
    """w <= 0 and b <= 0 on inputs x >= 0: z <= 0 whatever the inputs become.

    Sums of non-positive float32 numbers are non-positive: no slack unless residue moves them. A
    decay that keeps the sign of each parameter is allowed.
    """
    nonnegative = case.layer > 1 or (case.inputs >= 0).all()
    if case.config.normalization != "none" or case.rules.noisy or not nonnegative:
        return _undecided(case)
    holds = np.full(case.z.shape[1], not (case.rules.decay > 0) or _keeps_sign(case))
    bound, slack = np.zeros(len(holds)), np.zeros(len(holds))
    for name in ("weights", "bias"):
        value = np.atleast_2d(case.parameters[name])
        rise = np.atleast_2d(np.maximum(_residue(case, name), 0))
        room = np.where(rise > 0, _moving_steps(case) * UNIT_ROUNDOFF * (np.abs(value) + rise), 0)
        moves = (rise > 0) if case.rules.decay > 0 else np.zeros(rise.shape, bool)
        holds = holds & ((value + rise + room <= 0) & ~moves).all(0)
        slack = np.maximum(slack, room.max(0))
        if name == "bias":
            bound = (value + rise + room)[0]
    bound = np.where(holds & (case.rules.decay > 0), np.zeros(len(holds)), bound)
    return _decided(case, holds, bound, slack)


def _not_dead(case: _Case) -> _Claim:
    """The unit is active on a training example, clear of rounding."""
    margin = case.z.max(0)
    verdict = np.where(margin > case.error, Verdict.NOT_DEAD, Verdict.POSSIBLE)
    return _Claim(verdict, np.full(len(margin), NEVER), margin, case.error)


def _frozen(case: _Case) -> _Claim:
    """No parameter of the unit or of anything below it ever moves: the rate there is 0."""
    return _stays(case, case.fixed and case.immobile and not case.gated)


def _silent_layer(case: _Case) -> _Claim:
    """A whole layer is dead: no gradient passes it, so it and all layers below stand still.

    Needs optimizers without residue there, no decay and no noise.
    """
    return _stays(case, case.fixed and case.immobile and case.gated)


def _no_gradient(case: _Case) -> _Claim:
    """Fixed inputs, and nothing but the gradient moves the unit: dead once, dead for ever."""
    still = case.fixed and case.alone and not case.rules.noisy and not _decaying(case)
    claim = _stays(case, still)
    moved = sum(np.abs(np.atleast_2d(_residue(case, name))).sum(0) for name in case.parameters)
    return claim._replace(verdict=np.where(moved == 0, claim.verdict, Verdict.POSSIBLE))


def _residue_budget(case: _Case) -> _Claim:
    """Fixed inputs: max |x_i| times all that the optimizer's state can still move is too little.

    Momentum has mu / (1 - mu) of its trace left; Adam the sum of its decaying steps, at most
    `theory.adam_residue_bound`. No decay, no noise.
    """
    if not _moves_alone(case) or _decaying(case):
        return _undecided(case)
    largest = np.abs(case.inputs).max(0) + case.input_error
    weights, bias = (np.abs(_residue(case, name)) for name in ("weights", "bias"))
    budget = largest @ weights + bias
    reach = largest @ (np.abs(case.parameters["weights"]) + weights)
    reach = reach + np.abs(case.parameters["bias"]) + bias
    error = _forward_error(
        largest[None],
        np.abs(case.parameters["weights"]) + weights,
        np.abs(case.parameters["bias"]) + bias,
        np.full(len(largest), case.input_error),
    )[0]
    slack = np.maximum(error, case.error) + _moving_steps(case) * UNIT_ROUNDOFF * reach
    bound = case.z.max(0) + budget + slack
    return _never(case, np.ones(len(bound), bool), bound, slack)


def _decay_of(targets: str) -> Callable[[_Case], _Claim]:
    """Decay alone, of `targets`: with s = 1 - rate * decay, and 0 <= s < 1, w and b go to 0 as s^t.

    Both: z keeps its sign, never. Weights only: z = s^t w.x + b, never if b < 0. Biases only:
    z = w.x + s^t b, never if w.x < 0 on all examples. Otherwise at the step where that crosses.
    """

    def theorem(case: _Case) -> _Claim:
        stateless = _rule(case) is Rule.SGD or (
            _rule(case) is Rule.RMSPROP and not case.rules.coupled
        )
        if not (stateless and _decaying(case) and case.config.decay_targets == targets):
            return _undecided(case)
        return _linear_path(case)

    return theorem


def _momentum_path(case: _Case) -> _Claim:
    """Heavy-ball or Nesterov, with or without decay, followed step by step without gradients.

    Every weight shares the factors of one linear recurrence, so z_t(x) = alpha_t w.x + beta_t v.x
    and the same for the bias, with v the trace. L2 in the gradient flips the sign of z if
    rate * decay > (1 - sqrt(mu))^2 (`theory.heavy_ball_sign_flip_threshold`).
    """
    if _rule(case) not in (Rule.HEAVY_BALL, Rule.NESTEROV):
        return _undecided(case)
    return _linear_path(case)


def _adam_path(case: _Case) -> _Claim:
    """Adam, with or without decay, followed step by step without gradients from the data.

    Every parameter's recurrence is run in float64 with a bound on how far the float32 program may
    be from it. L2 in the gradient makes that bound grow; once it is too wide nothing is claimed.
    """
    if _rule(case) is not Rule.ADAM or not _moves_alone(case):
        return _undecided(case)
    open_units = case.z.max(0) + case.error <= -DUST
    follow = _follow_adam(case, open_units)
    return _crossing(case, open_units, follow)


THEOREMS: tuple[tuple[str, Callable[[_Case], _Claim]], ...] = (  # the first that decides counts
    ("norm threshold", _norm_threshold),
    ("non-positive weights", _non_positive),
    ("not dead", _not_dead),
    ("frozen parameters", _frozen),
    ("silent layer", _silent_layer),
    ("no gradient", _no_gradient),
    ("residue budget", _residue_budget),
    ("decay of weights and biases", _decay_of("all")),
    ("decay of weights", _decay_of("weights")),
    ("decay of biases", _decay_of("biases")),
    ("momentum path", _momentum_path),
    ("Adam path", _adam_path),
)
THEOREM_NAMES = (*(name for name, _ in THEOREMS), "none")


def _decide(case: _Case) -> tuple[np.ndarray, ...]:
    """The certificates of one layer's units, in the order of `Certificates`."""
    units = case.z.shape[1]
    undecided = _undecided(case)
    verdict, step, bound, slack = (part.copy() for part in undecided)
    theorem = np.full(units, len(THEOREMS), np.uint8)
    for index, (_, prove) in enumerate(THEOREMS):
        undecided_here = theorem == len(THEOREMS)
        if not undecided_here.any():
            break
        claim = prove(case)
        allowed = (case.tame & ~case.pushed) | (claim.verdict == Verdict.NOT_DEAD)
        new = undecided_here & allowed & (claim.verdict != Verdict.POSSIBLE)
        theorem[new] = index
        for out, value in zip((verdict, step, bound, slack), claim, strict=True):
            out[new] = value[new]
    return (
        verdict.astype(np.uint8),
        step.astype(np.int32),
        theorem,
        case.z.max(0),
        bound,
        slack,
    )


def _undecided(case: _Case) -> _Claim:
    units = case.z.shape[1]
    unknown = np.full(units, np.nan)
    return _Claim(np.full(units, Verdict.POSSIBLE), np.full(units, NEVER), unknown, unknown)


def _decided(case: _Case, holds: np.ndarray, bound: np.ndarray, slack: np.ndarray) -> _Claim:
    claim = _undecided(case)
    return claim._replace(
        verdict=np.where(holds, Verdict.CERTIFIED_NEVER, Verdict.POSSIBLE), bound=bound, slack=slack
    )


def _never(case: _Case, holds: np.ndarray, bound: np.ndarray, slack: np.ndarray) -> _Claim:
    return _decided(case, holds & (bound <= -DUST), bound, slack)


def _stays(case: _Case, holds: bool) -> _Claim:
    """z never changes; its rounding may, from one batch shape to another."""
    bound = case.z.max(0) + case.error
    # At 0 exactly is dead, and 0 is computed without rounding.
    return _decided(case, (bound <= 0) & holds & case.readable, bound, case.error)


def _decaying(case: _Case) -> bool:
    return case.rules.decay > 0 and case.rate > 0


def _rule(case: _Case) -> Rule | None:
    return training.optimizer_of(case.config).rule


def _keeps_sign(case: _Case) -> bool:
    """Whether decay moves a parameter straight towards 0 and never past it."""
    direct = not case.rules.coupled or _rule(case) is Rule.SGD
    return direct and case.rate * case.rules.decay < 1


def _moves_alone(case: _Case) -> bool:
    """Whether the unit's own parameters are all that moves z, each by itself and known."""
    free = case.config.normalization == "none" and not case.rules.noisy
    return free and case.fixed


# How parameters move without gradients --------------------------------------------------------


def _residue(case: _Case, name: str) -> np.ndarray:
    """What the optimizer's state still moves the parameter, in all; its sign is the direction.

    Within `horizon` steps, none of which has a gradient. Heavy-ball: -rate mu / (1 - mu) trace,
    Nesterov mu times that; Adam the sum of -rate m / (sqrt(v) + eps), bounded from above by leaving
    out either term below. Widened for rounding: 1e-5 (momentum), 1e-3 (Adam: its bias correction
    1 - b2^count cancels to 4 digits in float32).
    """
    memory, mu, value = case.memory[name], case.rules.momentum, case.parameters[name]
    if "trace" in memory:
        factor = mu * (mu if _rule(case) is Rule.NESTEROV else 1.0)
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
        total = np.minimum(np.where(v > _TINY, steady, np.inf), first.sum() / ADAM_EPSILON)
        return np.where(m == 0, 0.0, -case.rate * m * total * (1 + 1e-3))
    return np.zeros_like(value)


def _memory_factor(case: _Case) -> float:
    """The factor by which the optimizer's steps shrink without gradients."""
    mu = case.rules.momentum
    return mu / math.sqrt(ADAM_B2) if _rule(case) is Rule.ADAM else mu


def _adam_steps(case: _Case) -> int:
    """Steps after which Adam's residue is below 2^-60 of its first step."""
    return _steps_until(_memory_factor(case), 2.0**-60, case.horizon)


def _moving_steps(case: _Case) -> int:
    """Steps in which residue moves a parameter by more than its widening allows for."""
    if _rule(case) in (Rule.SGD, Rule.RMSPROP):
        return 0
    return _steps_until(_memory_factor(case), 2.0**-26 * 1e-3, case.horizon)


def _steps_until(factor: float, share: float, most: int) -> int:
    if factor <= 0:
        return min(1, most)
    return most if factor >= 1 else min(most, math.ceil(math.log(share) / math.log(factor)))


class _Path(NamedTuple):
    """z of a layer's units at one or more future steps; [steps, units] each."""

    largest: np.ndarray  # over the rows
    seen: np.ndarray  # over the probe
    error: np.ndarray  # how far float32 may be from either
    threshold: np.ndarray  # margin above which a look calls the unit alive


def _crossing(case: _Case, holds: np.ndarray, paths) -> _Claim:
    """Never, or the step at which z first rises above 0, if both are clear of rounding.

    `paths` yields `_Path` for steps 0, 1, ... to the horizon, in pieces. A unit that at some step
    is neither clearly dead nor clearly recovered gets a gradient of unknown size: nothing is said.
    """
    units = len(holds)
    pending, step = holds.copy(), 0
    verdict, when = np.full(units, Verdict.POSSIBLE), np.full(units, NEVER)
    bound, slack = np.full(units, -np.inf), np.zeros(units)
    for path in paths:
        above = ~(path.largest + path.error <= -DUST)
        crosses = above.any(0)
        at = np.where(crosses, above.argmax(0), len(above) - 1)
        pick = lambda values, at=at: values[at, np.arange(units)]  # noqa: E731
        before = np.arange(len(above))[:, None] < (at + ~crosses)[None]
        highest = np.where(before, path.largest + path.error, -np.inf).max(0)
        widest = np.where(before, path.error, 0).max(0)
        bound = np.where(pending, np.maximum(bound, highest), bound)
        slack = np.where(pending, np.maximum(slack, widest), slack)
        lower = pick(path.seen) - pick(path.error)
        clear = pending & crosses & (lower > pick(path.threshold)) & (step + at > 0)
        verdict = np.where(clear, Verdict.CERTIFIED_AT, verdict)
        when = np.where(clear, case.step + step + at, when)
        bound, slack = np.where(clear, lower, bound), np.where(clear, pick(path.error), slack)
        pending = pending & ~crosses
        step += len(above)
        if not pending.any():
            break
    verdict = np.where(pending, Verdict.CERTIFIED_NEVER, verdict)
    return _Claim(verdict, when, bound, slack)


def _linear_path(case: _Case) -> _Claim:
    """Follows z under an update that is linear in (parameter, trace)."""
    stateless_coupled = _rule(case) is Rule.RMSPROP and case.rules.coupled
    if not _moves_alone(case) or (stateless_coupled and _decaying(case)):
        return _undecided(case)
    holds = case.z.max(0) + case.error <= -DUST
    return _crossing(case, holds, _follow_linear(case))


def _linear_powers(case: _Case, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(powers, errors): powers[t] is the 2x2 map of (parameter, trace) from step 0 to t, and
    errors[t] bounds the rounding of the parameter at t, per unit of |parameter| and |trace| at 0.

    A rounding made at one step travels on by the same map: errors are convolutions of the map's
    sizes with what each step rounds. A step rounds the parameter (u of it, if it moves at all) and
    a few times the update, which `update` and `trace` count generously.
    """
    rules, steps = case.rules, case.horizon
    heavy = _rule(case) in (Rule.HEAVY_BALL, Rule.NESTEROV)
    mu = rules.momentum if heavy else 0.0
    decay = rules.decay if rules.decays[name] else 0.0
    coupled = decay if rules.coupled else 0.0
    trace = np.array([coupled, mu])  # of the next trace, or the gradient itself
    update = np.array([coupled, 0.0]) + mu * trace if _rule(case) is Rule.NESTEROV else trace
    shrink = 0.0 if rules.coupled else case.rate * decay
    step = np.array([[1 - shrink, 0.0], [0.0, 0.0]])
    step = step - case.rate * np.array([update, [0.0, 0.0]]) + np.array([[0.0, 0.0], trace])
    powers = np.empty((steps + 1, 2, 2))
    powers[0] = np.eye(2)
    for t in range(steps):
        powers[t + 1] = step @ powers[t]
    size = np.abs(powers)
    moving = np.ones(steps + 1)
    if decay == 0:
        moving[_moving_steps(case) if heavy else 0 :] = 0
    spent = 8 * case.rate * (np.abs(update) + np.abs(trace)) + np.array([8 * shrink, 0.0])
    rounds_parameter = size[:, 0] * moving[:, None] + size.transpose(0, 2, 1) @ spent
    rounds_trace = 4 * (size.transpose(0, 2, 1) @ np.abs(trace))
    errors = np.zeros((steps + 1, 2))
    for start in range(2):
        for response, rounded in ((0, rounds_parameter), (1, rounds_trace)):
            travels = np.convolve(size[:steps, 0, response], rounded[:steps, start])
            errors[1:, start] += travels[:steps]
    errors = UNIT_ROUNDOFF * (1 + 1e-3) * errors
    errors[:, 1] += 1e-6 * size[:, 0, 1]  # the steps after `moving`, and numbers of the step
    return powers, errors


def _follow_linear(case: _Case):
    """Yields `_Path` of the steps 0 ... horizon under the linear recurrence."""
    x, units = case.inputs, case.z.shape[1]
    start = {}  # (parameter, trace) of weights and bias
    for name in ("weights", "bias"):
        value = case.parameters[name]
        start[name] = (value, case.memory[name].get("trace", np.zeros_like(value)))
    weight_powers, weight_errors = _linear_powers(case, "weights")
    bias_powers, bias_errors = _linear_powers(case, "bias")
    projections = np.stack([x @ part for part in start["weights"]])  # [2, rows, units]
    groups = [projections, projections[:, case.probe]]
    if not np.any(start["weights"][1]):  # without a trace the ends of w.x decide
        groups = [np.stack([g.min(1), g.max(1)], axis=1) for g in groups]
    reach = np.stack([(np.abs(x) @ np.abs(part)).max(0) for part in start["weights"]])
    mass = np.stack([np.abs(part).sum(0) for part in start["weights"]])
    norms = np.stack([np.sqrt((part**2).sum(0)) for part in start["weights"]])
    furthest = np.sqrt((x[case.probe] ** 2).sum(1).max()) + case.input_error * math.sqrt(x.shape[1])
    biases = np.stack(start["bias"])
    sums = (x.shape[1] + 2) * UNIT_ROUNDOFF * (1 + 1e-3)
    piece = max(1, _CHUNK // max(1, groups[0][0].size))
    for first in range(0, case.horizon + 1, piece):
        now = slice(first, first + piece)
        w, b = weight_powers[now, 0], bias_powers[now, 0]
        bias = b @ biases
        largest, seen = (np.einsum("ts,sru->tru", w, group).max(1) + bias for group in groups)
        moved = weight_errors[now] @ reach + bias_errors[now] @ np.abs(biases)
        size = np.abs(w) @ reach + np.abs(b) @ np.abs(biases) + moved
        error = moved * (1 + sums) + sums * size + case.input_error * (np.abs(w) @ mass)
        look = np.abs(w) @ norms * furthest + np.abs(b) @ np.abs(biases) + moved
        threshold = _look_threshold(case, look)
        yield _Path(largest, seen, np.broadcast_to(error, (len(w), units)), threshold)


def _follow_adam(case: _Case, units: np.ndarray):
    """Yields `_Path` of the steps 0 ... horizon under Adam; columns outside `units` are void."""
    x, b1, rate = case.inputs, case.rules.momentum, case.rate
    fan_in, width = case.parameters["weights"].shape
    stack = lambda part: np.concatenate([part["weights"], part["bias"][None]])  # noqa: E731
    p = stack(case.parameters)
    m = stack({name: case.memory[name]["mu"] for name in ("weights", "bias")})
    v = stack({name: case.memory[name]["nu"] for name in ("weights", "bias")})
    mask = np.concatenate(
        [np.full(fan_in, case.rules.decays["weights"]), [case.rules.decays["bias"]]]
    )[:, None]
    decay = np.where(mask, case.rules.decay, 0.0)
    coupled, shrink = (decay, 0.0 * decay) if case.rules.coupled else (0.0 * decay, rate * decay)
    b2, rest2 = np.float64(np.float32(ADAM_B2)), 1 - ADAM_B2
    u, design = UNIT_ROUNDOFF, np.concatenate([x, np.ones((len(x), 1))], axis=1)
    sums = (fan_in + 2) * u * (1 + 1e-3)
    furthest = np.sqrt((x[case.probe] ** 2).sum(1).max()) + case.input_error * math.sqrt(fan_in)
    p_error, m_error, v_error = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    p, m, v = p[:, units], m[:, units], v[:, units]
    p_error, m_error, v_error = (e[:, units] for e in (p_error, m_error, v_error))
    sizes = np.abs(design)

    def correction(b, count):
        power = b**count
        return 1 - power, u * (8 + (count + 4) * power) / (1 - power)

    for step in range(case.horizon + 1):
        z = design @ p
        error = (sizes @ (p_error * (1 + sums) + sums * np.abs(p))).max(0)
        error = error + case.input_error * (np.abs(p[:-1]) + p_error[:-1]).sum(0)
        norm = np.sqrt(((np.abs(p[:-1]) + p_error[:-1]) ** 2).sum(0))
        look = norm * furthest + np.abs(p[-1]) + p_error[-1]
        row = np.full((4, 1, width), np.nan)
        row[:, 0, units] = z.max(0), z[case.probe].max(0), error, _look_threshold(case, look)
        yield _Path(*row)

        count = case.adam_steps + step + 1
        gradient, g_error = coupled * p, coupled * (p_error + 2 * u * np.abs(p)) + _TINY
        g_error = np.where(coupled > 0, g_error, 0.0)
        rest1 = 1 - b1
        m_error = b1 * m_error + rest1 * g_error
        m_error += 8 * u * (b1 * np.abs(m) + rest1 * np.abs(gradient)) + _TINY * (m != 0)
        m = b1 * m + rest1 * gradient
        v_error = b2 * v_error + rest2 * (2 * np.abs(gradient) + g_error) * g_error
        v_error += 8 * u * (b2 * v + rest2 * gradient**2) + _TINY
        v = b2 * v + rest2 * gradient**2
        (scale1, wrong1), (scale2, wrong2) = correction(b1, count), correction(b2, count)
        mean, mean_error = m / scale1, (m_error + np.abs(m) * (wrong1 + 2 * u)) / scale1
        square, square_error = v / scale2, (v_error + v * (wrong2 + 2 * u)) / scale2
        root = np.sqrt(square) + ADAM_EPSILON
        least = np.sqrt(np.maximum(square - square_error, 0)) * (1 - 4 * u) + ADAM_EPSILON * (
            1 - 1e-6
        )
        update = mean / root
        u_error = mean_error / least + np.abs(mean) * (root - least) / (root * least)
        u_error += 4 * u * np.abs(update)
        moves = rate * (np.abs(update) + u_error) * (1 + 8 * u) + shrink * np.abs(p)
        p_error = np.abs(1 - shrink) * p_error + rate * u_error + 8 * u * moves
        p = p - rate * update - shrink * p
        p_error += np.minimum(u * (np.abs(p) + p_error), moves)  # a move that rounds away is 0


def _look_threshold(case: _Case, size: np.ndarray) -> np.ndarray:
    """Margin above which a look calls a unit alive; size = ||w|| max ||x|| + |b| or more."""
    rounding = (case.inputs.shape[1] + 2) * UNIT_ROUNDOFF * size
    rounding = np.where(size < _HUGE, rounding, np.inf)  # the look's own squares overflow
    return np.maximum(rounding, case.config.tolerance) * (1 + 1e-4)


# From a training state to cases ---------------------------------------------------------------


def _cases(config: Config, task: Task, state: State, horizon: int) -> list[_Case]:
    rules = _rules(config)
    rows, probe = _rows(task)
    whole = config.batch_size is None and probe == slice(0, len(rows))
    readable = config.normalization != "batch" or whole
    memory = _memory(state)
    rate = float(np.float32(config.learning_rate))
    upstream = 1.0 if config.upstream_rate is None else float(np.float32(config.upstream_rate))
    x, x_error, cases = rows, np.zeros(rows.shape), []
    for layer in range(1, len(config.hidden) + 1):
        leaves = _leaves(config, state.params, layer)
        if leaves["weights"].shape != (x.shape[1], config.hidden[layer - 1]):
            raise ValueError(
                f"params of hidden layer {layer} have weights of shape {leaves['weights'].shape}; "
                f"the config and task need {(x.shape[1], config.hidden[layer - 1])}."
            )
        z, error = _forward(config, leaves, x, x_error)
        case = _Case(
            config=config,
            rules=rules,
            layer=layer,
            step=int(state.step),
            horizon=horizon,
            rate=rate * (upstream if layer < config.biased_layer else 1.0),
            inputs=x,
            input_error=float(x_error.max()),
            probe=probe,
            parameters=leaves,
            memory={
                name: {key: _leaves(config, tree, layer)[name] for key, tree in memory.items()}
                for name in leaves
            },
            adam_steps=_count(config, state),
            z=z,
            error=error.max(0),
            pushed=_pushed(config, layer) & (rate > 0),
            tame=_tame(leaves, x, z),
            readable=readable,
            alone=config.normalization in ("none", "batch"),
            fixed=False,
            immobile=False,
            gated=False,
        )
        cases.append(case)
        x, x_error = np.maximum(z, 0), error  # relu does not spread errors
    return _standing(cases)


def _standing(cases: list[_Case]) -> list[_Case]:
    """The cases with what stands still: the inputs, and all parameters of a layer."""
    quiet = [_frozen_rate(case) or _quiet(case) for case in cases]
    gate = 0
    for case in cases:
        absorbed = _norm_threshold(case).verdict == Verdict.CERTIFIED_NEVER
        dead = (case.z.max(0) + case.error <= 0) & case.readable
        if ((absorbed | dead) & case.tame).all() and all(quiet[: case.layer]):
            gate = case.layer
    fixed, out = True, []
    for case in cases:
        frozen = _frozen_rate(case)
        immobile = frozen or case.layer <= gate
        out.append(
            case._replace(
                fixed=fixed and case.readable,
                immobile=immobile,
                gated=immobile and not frozen,
            )
        )
        # Nothing leaves a silent layer, and what leaves an immobile one is fixed.
        fixed = fixed and immobile
    return out


def _frozen_rate(case: _Case) -> bool:
    return case.rate == 0


def _quiet(case: _Case) -> bool:
    """Whether only a gradient would move this layer's parameters."""
    residue = any(np.any(_residue(case, name)) for name in case.parameters)
    return not (residue or case.rules.noisy or _decaying(case) or case.pushed.any())


def _pushed(config: Config, layer: int) -> np.ndarray:
    units = np.arange(config.hidden[layer - 1])
    push = config.outside_gradient is not None and float(config.outside_gradient) != 0
    return (units < config.biased_units) & (push and layer == config.biased_layer)


def _tame(leaves: dict[str, np.ndarray], x: np.ndarray, z: np.ndarray) -> np.ndarray:
    sizes = [np.abs(np.atleast_2d(leaf)).max(0) for leaf in leaves.values()]
    return (np.maximum.reduce([*sizes, np.abs(z).max(0)]) < _HUGE) & (np.abs(x).max() < _HUGE)


def _rules(config: Config) -> _Rules:
    decay = 0.0 if config.weight_decay is None else float(np.float32(config.weight_decay))
    noise = 0.0 if config.noise_scale is None else float(config.noise_scale)
    vectors = config.decay_targets in ("all", "biases")
    return _Rules(
        momentum=float(np.float32(training.momentum_of(config))),
        decay=decay,
        coupled=not training.decay_is_decoupled(config),
        decays={
            "weights": config.decay_targets in ("all", "weights"),
            "bias": vectors,
            "scale": vectors,
            "shift": vectors,
        },
        noisy=noise > 0 and float(config.learning_rate) > 0,
    )


def _rows(task: Task) -> tuple[np.ndarray, slice]:
    """All inputs on which a unit must be dead, and where among them the probe set is."""
    inputs, probe = (np.asarray(x, np.float64) for x in (task.inputs, task.probe))
    if np.array_equal(inputs[: len(probe)], probe):
        return inputs, slice(0, len(probe))
    return np.concatenate([probe, inputs]), slice(0, len(probe))


def _memory(state: State) -> dict[str, Any]:
    """The parts of the optimizer's state that can move parameters: trace, or mu and nu."""
    found = {name: optax.tree_utils.tree_get(state.optimizer, name) for name in ("trace", "mu")}
    memory = {name: tree for name, tree in found.items() if tree is not None}
    if "mu" in memory:
        memory["nu"] = optax.tree_utils.tree_get(state.optimizer, "nu")
    return memory


def _count(config: Config, state: State) -> int:
    if training.optimizer_of(config).rule is not Rule.ADAM:
        return 0
    return int(optax.tree_utils.tree_get(state.optimizer, "count"))


def _leaves(config: Config, tree: models.Params, layer: int) -> dict[str, np.ndarray]:
    """The parameters of one hidden layer (or their optimizer state), float64."""
    dense = tree[models.layer_name(layer)]
    leaves = {"weights": dense["kernel"], "bias": dense["bias"]}
    if config.normalization != "none":
        name = models.norm_name(layer)
        group, shift = models.shift_location(config, layer)
        leaves["shift"] = (tree[group] if group else tree)[shift]
        batch = config.normalization == "batch"
        leaves["scale"] = tree["scale_" + name] if batch else tree[name]["scale"]
    return {name: np.asarray(leaf, np.float64) for name, leaf in leaves.items()}


def _forward(
    config: Config, leaves: dict[str, np.ndarray], x: np.ndarray, x_error: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(z, rounding bound of float32's z), both [rows, units]."""
    weights, bias = leaves["weights"], leaves["bias"]
    z = x @ weights + bias
    error = _forward_error(np.abs(x), weights, bias, x_error)
    if config.normalization == "none":
        return z, error
    size = _norm_size(config, z.shape[1], len(z))
    by_batch = config.normalization == "batch"
    grouped = z.T[None] if by_batch else z.reshape(len(z), -1, size)  # [..., size] is normalized
    wrong = error.T[None] if by_batch else error.reshape(grouped.shape)
    mean = 0.0 if config.normalization == "rms" else grouped.mean(-1, keepdims=True)
    deviation = np.sqrt(((grouped - mean) ** 2).mean(-1, keepdims=True) + models.NORM_EPSILON)
    normal = (grouped - mean) / deviation
    rounding = UNIT_ROUNDOFF * (size + 4)
    wrong = wrong.max(-1, keepdims=True) + rounding * np.abs(grouped).max(-1, keepdims=True)
    # The map a -> (a - mean) / deviation has slope <= 1 / deviation in the Euclidean norm.
    wrong = 2 * math.sqrt(size) * wrong / deviation + rounding * np.abs(normal)
    back = (lambda a: a[0].T) if by_batch else (lambda a: a.reshape(z.shape))
    scale, shift = leaves["scale"], leaves["shift"]
    z = back(normal) * scale + shift
    error = back(np.broadcast_to(wrong, normal.shape)) * np.abs(scale)
    return z, error + 4 * UNIT_ROUNDOFF * (np.abs(z) + np.abs(shift))


def _forward_error(
    magnitudes: np.ndarray, weights: np.ndarray, bias: np.ndarray, input_error: np.ndarray
) -> np.ndarray:
    """Bound on float32's rounding of x.w + b, [rows, units], for |x| <= magnitudes [rows, fan_in].

    (fan_in + 2) u (sum |w_i x_i| + |b|) for any order of summation (Higham, Accuracy and Stability
    of Numerical Algorithms, 3.1), and what comes in with x. A thousandth more for second order, and
    `_TINY` a term for what underflows.
    """
    size = (magnitudes + input_error) @ np.abs(weights) + np.abs(bias)
    rounding = (len(weights) + 2) * UNIT_ROUNDOFF * (1 + 1e-3)
    underflow = np.where(size > 0, len(weights) * _TINY, 0.0)  # a sum of zeros is exact
    return rounding * size + input_error @ np.abs(weights) + underflow


def _norm_size(config: Config, units: int, rows: int) -> int:
    """How many numbers are normalized together; for a batch the most that any look may hold."""
    if config.normalization == "batch":
        return max(rows, config.batch_size or 0, 1)
    return models.GROUP_SIZE if config.normalization == "group" else units


def _norm_slack(config: Config) -> float:
    """By how much, relative, float32 may exceed the largest normalized entry."""
    return 1e-5 if config.normalization == "rms" else 1e-3


# Domains --------------------------------------------------------------------------------------


def _check_domain(config: Config) -> None:
    if config.activation != "relu":
        raise ValueError(f"activation={config.activation!r}: the bounds hold for 'relu'.")


def _point(name: str, value: ArrayLike, dimension: int) -> np.ndarray:
    point = np.asarray(value, np.float64)
    if point.shape != (dimension,):
        raise ValueError(
            f"{name} has shape {point.shape}; the network's inputs need ({dimension},)."
        )
    if not np.isfinite(point).all():
        raise ValueError(f"{name}={value!r} must be finite in every entry.")
    return point


def _interval(weights, bias, low, high) -> tuple[np.ndarray, np.ndarray]:
    """(lower, upper) of x.w + b over low <= x <= high, [units]."""
    centre, half = (low + high) / 2, (high - low) / 2
    middle, spread = centre @ weights + bias, half @ np.abs(weights)
    return middle - spread, middle + spread


def _backward(layers, weights, bias, low, high) -> np.ndarray:
    """Upper bounds of relu(...).w + b over the box, carried back through `layers` to the inputs.

    relu(z) lies below the chord from (lower, 0) to (upper, upper), and above 0 and z: a positive
    coefficient takes the chord, a negative one whichever line lies nearer.
    """
    slopes, offset = weights, bias
    for layer_weights, layer_bias, lower, upper in reversed(layers):
        split = (lower < 0) & (upper > 0)
        width = np.where(split, upper - lower, 1.0)
        chord = np.where(split, upper / width, upper > 0)[:, None]
        rise = np.where(split, -lower * upper / width, 0.0)
        line = np.where(split, upper > -lower, upper > 0)[:, None]
        positive, negative = np.maximum(slopes, 0), np.minimum(slopes, 0)
        offset = offset + rise @ positive
        slopes = positive * chord + negative * line
        offset = offset + layer_bias @ slopes
        slopes = layer_weights @ slopes
    return _interval(slopes, offset, low, high)[1]
