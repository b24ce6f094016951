"""The theorems, in order: the first that decides counts."""

import math
from collections.abc import Callable

import numpy as np

from relu_dynamics import theory
from relu_dynamics.certificates.case import (
    DUST,
    Case,
    Claim,
    Verdict,
    forward_error,
    norm_size,
    norm_slack,
    rule_of,
)
from relu_dynamics.certificates.movement import (
    decaying,
    keeps_sign,
    moves_alone,
    moving_steps,
    residue_left,
)
from relu_dynamics.certificates.paths import crossing, follow_adam, linear_path, no_claim
from relu_dynamics.engine.normalizations import normalization_of
from relu_dynamics.engine.optimizers import Rule
from relu_dynamics.engine.outcomes import NEVER
from relu_dynamics.engine.probes import UNIT_ROUNDOFF


def norm_threshold(case: Case) -> Claim:
    """shift < -|scale| sqrt(n - 1): no inputs, weights or batch can fire the unit (Samuelson 1968).

    Its scale and shift get no gradient, so only residue or decay may move them. The bound is that
    of real numbers, widened by a thousandth: in float32 it holds as long as the numbers that are
    normalized together lie within 1000 / n of their deviations of 0; their mean is lost beyond.
    """
    config, rules = case.config, case.rules
    normalization = normalization_of(config)
    if not normalization.present or rules.noisy:
        return no_claim(case)
    scale, shift = case.parameters["scale"], case.parameters["shift"]
    size = norm_size(config, len(shift), len(case.z))
    reach = theory.absorbing_shift(size, centred=normalization.centred)
    move = {name: np.abs(residue_left(case, name)) for name in ("scale", "shift")}
    still = (move["scale"] == 0) & (move["shift"] == 0)
    widest = np.abs(scale) + move["scale"]
    slack = norm_slack(config) * math.sqrt(size) * widest
    slack = slack + 8 * UNIT_ROUNDOFF * (np.abs(shift) + move["shift"] + widest * reach)
    slack = slack + moving_steps(case) * UNIT_ROUNDOFF * (np.abs(shift) + widest * reach) * ~still
    bound = shift + move["shift"] + widest * reach + slack
    if rules.decay > 0 and rules.decays["shift"] and case.rate > 0:
        # Both shrink by one factor: the sign is kept, each by its own rounding.
        keeps = keeps_sign(case) & still
        slack = slack + case.horizon * 8 * UNIT_ROUNDOFF * (np.abs(shift) + widest * reach)
        # Where rate * decay >= 1 nothing is claimed (`keeps`), and a power would overflow.
        factor = max(1 - case.rate * rules.decay, 0.0) ** case.horizon
        bound = (shift + widest * reach + slack) * factor
        return _never(case, keeps, bound, slack)
    return _never(case, np.ones(len(shift), bool), bound, slack)


def _non_positive(case: Case) -> Claim:
    """w <= 0 and b <= 0 on inputs x >= 0: z <= 0 whatever the inputs become.

    Likewise w >= 0 on a first layer's inputs x <= 0, and w = 0 on inputs of both signs: no term is
    above 0. Sums of such float32 numbers are non-positive: no slack unless residue moves them. A
    decay that keeps the sign of each parameter is allowed.
    """
    if normalization_of(case.config).present or case.rules.noisy:
        return no_claim(case)
    first = case.layer == 1
    every = np.ones((case.inputs.shape[1], 1), bool)
    above = np.any(case.inputs > 0, axis=0)[:, None] if first else every
    below = np.any(case.inputs < 0, axis=0)[:, None] if first else ~every
    holds = np.full(case.z.shape[1], not (case.rules.decay > 0) or keeps_sign(case))
    bound, slack = np.zeros(len(holds)), np.zeros(len(holds))
    for name, sign, there in (("weights", 1, above), ("weights", -1, below), ("bias", 1, True)):
        value = sign * np.atleast_2d(case.parameters[name])
        rise = np.atleast_2d(np.maximum(sign * residue_left(case, name), 0)) * there
        room = np.where(rise > 0, moving_steps(case) * UNIT_ROUNDOFF * (np.abs(value) + rise), 0)
        moves = (rise > 0) if case.rules.decay > 0 else np.zeros(rise.shape, bool)
        holds = holds & (((value + rise + room <= 0) | ~np.asarray(there)) & ~moves).all(0)
        slack = np.maximum(slack, room.max(0))
        if name == "bias":
            bound = (value + rise + room)[0]
    bound = np.where(holds & (case.rules.decay > 0), np.zeros(len(holds)), bound)
    return _decided(case, holds, bound, slack)


def _not_dead(case: Case) -> Claim:
    """The unit is active on a training example, clear of rounding."""
    margin = case.z.max(0)
    verdict = np.where(case.lower > 0, Verdict.NOT_DEAD, Verdict.POSSIBLE)
    return Claim(verdict, np.full(len(margin), NEVER), margin, case.error)


def _frozen(case: Case) -> Claim:
    """No parameter of the unit or of anything below it ever moves: the rate there is 0."""
    return _stays(case, case.fixed and case.immobile and not case.gated)


def _silent_layer(case: Case) -> Claim:
    """A whole layer is dead: no gradient passes it, so it and all layers below stand still.

    Needs optimizers without residue there, no decay and no noise.
    """
    return _stays(case, case.fixed and case.immobile and case.gated)


def _no_gradient(case: Case) -> Claim:
    """Fixed inputs, and nothing but the gradient moves the unit: a dead unit stays dead."""
    still = case.fixed and case.alone and not case.rules.noisy and not decaying(case)
    claim = _stays(case, still)
    moved = sum(np.abs(np.atleast_2d(residue_left(case, name))).sum(0) for name in case.parameters)
    return claim._replace(verdict=np.where(moved == 0, claim.verdict, Verdict.POSSIBLE))


def _residue_budget(case: Case) -> Claim:
    """Fixed inputs: max |x_i| times all that the optimizer's state can still move is too little.

    Momentum has mu / (1 - mu) of its trace left; Adam the sum of its decaying steps, at most
    `theory.adam_residue_bound`. No decay, no noise.
    """
    if not moves_alone(case) or decaying(case):
        return no_claim(case)
    largest = np.abs(case.inputs).max(0) + case.input_error
    weights, bias = (np.abs(residue_left(case, name)) for name in ("weights", "bias"))
    budget = largest @ weights + bias
    reach = largest @ (np.abs(case.parameters["weights"]) + weights)
    reach = reach + np.abs(case.parameters["bias"]) + bias
    error = forward_error(
        largest[None],
        np.abs(case.parameters["weights"]) + weights,
        np.abs(case.parameters["bias"]) + bias,
        np.full(len(largest), case.input_error),
    )[0]
    slack = np.maximum(error, 2 * case.error) + moving_steps(case) * UNIT_ROUNDOFF * reach
    bound = case.z.max(0) + budget + slack
    return _never(case, np.ones(len(bound), bool), bound, slack)


def _decay_of(targets: str) -> Callable[[Case], Claim]:
    """Decay alone, of `targets`: with s = 1 - rate * decay, and 0 <= s < 1, w and b go to 0 as s^t.

    Both: z keeps its sign, never. Weights only: z = s^t w.x + b, never if b < 0. Biases only:
    z = w.x + s^t b, never if w.x < 0 on all examples. Otherwise at the step where that crosses.
    """

    def theorem(case: Case) -> Claim:
        stateless = rule_of(case) is Rule.SGD or (
            rule_of(case) is Rule.RMSPROP and not case.rules.coupled
        )
        if not (stateless and decaying(case) and case.config.decay_targets == targets):
            return no_claim(case)
        return linear_path(case)

    return theorem


def _momentum_path(case: Case) -> Claim:
    """Heavy-ball or Nesterov, with or without decay, followed step by step without gradients.

    Every weight shares the factors of one linear recurrence, so z_t(x) = alpha_t w.x + beta_t v.x
    and the same for the bias, with v the trace. L2 in the gradient flips the sign of z if
    rate * decay > (1 - sqrt(mu))^2.
    """
    if rule_of(case) not in (Rule.HEAVY_BALL, Rule.NESTEROV):
        return no_claim(case)
    return linear_path(case)


def _adam_path(case: Case) -> Claim:
    """Adam, with or without decay, followed step by step without gradients from the data.

    Every parameter's recurrence is run in float64 with a bound on how far the float32 program may
    be from it. L2 in the gradient makes that bound grow; once it is too wide nothing is claimed.
    """
    if rule_of(case) is not Rule.ADAM or not moves_alone(case):
        return no_claim(case)
    open_units = case.upper <= -DUST
    follow = follow_adam(case, open_units)
    return crossing(case, open_units, follow)


THEOREMS: tuple[tuple[str, Callable[[Case], Claim]], ...] = (  # the first that decides counts
    ("norm threshold", norm_threshold),
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


def _decided(case: Case, holds: np.ndarray, bound: np.ndarray, slack: np.ndarray) -> Claim:
    claim = no_claim(case)
    return claim._replace(
        verdict=np.where(holds, Verdict.CERTIFIED_NEVER, Verdict.POSSIBLE), bound=bound, slack=slack
    )


def _never(case: Case, holds: np.ndarray, bound: np.ndarray, slack: np.ndarray) -> Claim:
    return _decided(case, holds & (bound <= -DUST), bound, slack)


def _stays(case: Case, holds: bool) -> Claim:
    """z never changes; its rounding may, from one batch shape to another."""
    return _decided(case, (case.upper <= 0) & holds & case.readable, case.upper, 2 * case.error)
