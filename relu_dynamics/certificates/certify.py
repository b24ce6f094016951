"""Certify: the verdict on every hidden unit of a network in a state."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from relu_dynamics.certificates.case import (
    Case,
    Verdict,
    adam_count,
    dead_rows,
    forward,
    is_tame,
    layer_leaves,
    margin_limits,
    optimizer_memory,
    rectified_error,
    rules_of,
)
from relu_dynamics.certificates.movement import decaying, residue_left
from relu_dynamics.certificates.paths import no_claim
from relu_dynamics.certificates.theorems import THEOREM_NAMES, THEOREMS, norm_threshold
from relu_dynamics.checks import short_repr
from relu_dynamics.config import Config
from relu_dynamics.engine import optimizers
from relu_dynamics.engine.activations import activation_of
from relu_dynamics.engine.normalizations import normalization_of
from relu_dynamics.engine.optimizers import Rule
from relu_dynamics.engine.outcomes import Outcome
from relu_dynamics.engine.shapes import check_state
from relu_dynamics.engine.step import State
from relu_dynamics.engine.tasks import Task
from relu_dynamics.engine.validation import check_covered
from relu_dynamics.statistics.clustered import clustered_interval
from relu_dynamics.statistics.intervals import Interval

# The fields under which the theorems were proved; all others must stay at their defaults.
COVERED = frozenset(
    """
    learning_rate initial_bias bias_law bias_scale momentum weight_decay noise_scale upstream_rate
    outside_gradient
    weight_scale scaling_dose killed_fraction target_scale
    task examples dimension input_scaling hidden activation initializer normalization output_bias
    optimizer warmup_steps decay_steps decay_kind decay_targets batch_size batch_order steps
    biased_layer biased_units killed_at probe_size probe_every tolerance sustain
    """.split()
)

# The update rules likewise: what the theorems know of an optimizer's memory.
PROVED = frozenset((Rule.SGD, Rule.HEAVY_BALL, Rule.NESTEROV, Rule.ADAM, Rule.RMSPROP))


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


def certify(config: Config, task: Task, state: State, *, horizon: int) -> Certificates:
    """The verdict on every hidden unit for the `horizon` steps after `state`, a run's state.

    One network: `state` without leading axes, traced fields of the config as single numbers. Raises
    a ValueError for another activation than relu (its slope below 0 is a channel of its own), for
    schedules, clipping, weight normalization, changing tasks and other networks than an MLP, a
    negative horizon, or parameters that are not those of the config. Units of a state that is not
    finite, or beyond 1e15 and on its way there, are POSSIBLE, as are units pushed from outside the
    loss. Host code, not jit-able; nothing is trained. `CERTIFIED_AT` is the first
    step at which an evaluation would find the unit alive, whether or not the config evaluates at
    that step (what other units do does not matter, unless the run has diverged by then).
    """
    if not activation_of(config).rectifies:
        raise ValueError(
            f"activation={config.activation!r}: certificates are about units whose gradient is 0 "
            "below 0; use activation='relu'."
        )
    if optimizers.optimizer_of(config).rule not in PROVED:
        known = [name for name, row in optimizers.OPTIMIZERS.items() if row.rule in PROVED]
        raise ValueError(f"optimizer={config.optimizer!r}: certificates know {', '.join(known)}.")
    check_covered(config, "certificates", COVERED)
    check_state(config, state.step, state.params)
    if config.killed_fraction is not None and config.killed_at > int(state.step):
        raise ValueError(
            f"killed_at={config.killed_at} is after the state's step {int(state.step)}: "
            "certificates are about what training does; certify a later state."
        )
    if isinstance(horizon, bool) or not isinstance(horizon, int | np.integer) or horizon < 0:
        raise ValueError(f"horizon={short_repr(horizon)} must be a whole number of steps >= 0.")
    if int(state.step) + horizon >= 2**31:
        raise ValueError(f"horizon={short_repr(horizon)}: steps end at 2^31; use a shorter one.")
    try:
        with np.errstate(all="ignore"):  # overflow and nan fail every comparison: no claim
            cases = _cases(config, task, state, int(horizon))
            layers = [_decide(case) for case in cases]
    except MemoryError:
        raise ValueError(
            f"horizon={horizon} does not fit into memory; use a shorter one."
        ) from None
    return Certificates(*(np.concatenate(part) for part in zip(*layers, strict=True)))


def power(
    certificates: Certificates, outcomes: ArrayLike, *, level: float = 0.95
) -> tuple[int, int, Interval]:
    """(certified, all, their ratio with an interval) of the units that never recovered.

    `outcomes` are the `Outcome` codes of the same units over the same steps, [units] or
    [runs, units], with certificates' leaves of that shape. Only STILL_DEAD counts: other units did
    not stay dead, or it is not known. The interval is clustered by run. Raises a ValueError when
    the shapes differ, and when a unit certified to stay dead recovered, which no run may show.
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


def _decide(case: Case) -> tuple[np.ndarray, ...]:
    """The certificates of one layer's units, in the order of `Certificates`."""
    units = case.z.shape[1]
    undecided = no_claim(case)
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


def _cases(config: Config, task: Task, state: State, horizon: int) -> list[Case]:
    rules = rules_of(config)
    rows, probe = dead_rows(task)
    whole = config.batch_size is None and probe == slice(0, len(rows))
    normalization = normalization_of(config)
    readable = whole or not normalization.over_batch
    memory = optimizer_memory(state)
    rate = float(np.float32(config.learning_rate))
    upstream = 1.0 if config.upstream_rate is None else float(np.float32(config.upstream_rate))
    x, x_error, cases = rows, np.zeros(rows.shape), []
    for layer in range(1, len(config.hidden) + 1):
        leaves = layer_leaves(config, state.params, layer)
        if leaves["weights"].shape != (x.shape[1], config.hidden[layer - 1]):
            raise ValueError(
                f"params of hidden layer {layer} have weights of shape {leaves['weights'].shape}; "
                f"the config and task need {(x.shape[1], config.hidden[layer - 1])}."
            )
        z, error = forward(config, leaves, x, x_error)
        lower, upper = margin_limits(leaves, x, x_error, z, error)
        case = Case(
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
                name: {key: layer_leaves(config, tree, layer)[name] for key, tree in memory.items()}
                for name in leaves
            },
            adam_steps=adam_count(config, state),
            z=z,
            error=error.max(0),
            lower=lower.max(0),
            upper=upper.max(0),
            pushed=_pushed(config, layer) & (rate > 0),
            tame=is_tame(leaves, x, z),
            readable=readable,
            alone=normalization.over_batch or not normalization.present,
            fixed=False,
            immobile=False,
            gated=False,
        )
        cases.append(case)
        x, x_error = np.maximum(z, 0), rectified_error(z, error, upper)
    return _standing(cases)


def _standing(cases: list[Case]) -> list[Case]:
    """The cases with what stands still: the inputs, and all parameters of a layer."""
    quiet = [_frozen_rate(case) or _quiet(case) for case in cases]
    gate = 0
    for case in cases:
        absorbed = norm_threshold(case).verdict == Verdict.CERTIFIED_NEVER
        dead = (case.upper <= 0) & case.readable
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


def _frozen_rate(case: Case) -> bool:
    return case.rate == 0


def _quiet(case: Case) -> bool:
    """Whether only a gradient would move this layer's parameters."""
    residue = any(np.any(residue_left(case, name)) for name in case.parameters)
    return not (residue or case.rules.noisy or decaying(case) or case.pushed.any())


def _pushed(config: Config, layer: int) -> np.ndarray:
    units = np.arange(config.hidden[layer - 1])
    push = config.outside_gradient is not None and float(config.outside_gradient) != 0
    return (units < config.biased_units) & (push and layer == config.biased_layer)
