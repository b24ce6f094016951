"""Forks: one checkpoint continued under counterfactual arms."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relu_dynamics import statistics
from relu_dynamics.channels.accounts import (
    check_units,
    layer_units,
    make_task,
    start_history,
    start_state,
    traced,
    updated_history,
)
from relu_dynamics.channels.arms import Arm, apply_frozen, find_arm
from relu_dynamics.channels.terms import COVERED
from relu_dynamics.config import Config
from relu_dynamics.engine import models, outcomes, tasks, training
from relu_dynamics.engine.keys import run_key
from relu_dynamics.engine.outcomes import NEVER, History
from relu_dynamics.engine.starting import starting_point
from relu_dynamics.engine.step import State, train_step
from relu_dynamics.engine.validation import check_covered, validate
from relu_dynamics.statistics.intervals import Interval


class ForkResult(NamedTuple):
    """The outcome of one dead cohort in every arm; NumPy arrays, `units` as requested."""

    config: Config
    step: int  # of the fork
    arms: tuple[str, ...]  # "as_is" first
    seeds: tuple[int, ...]
    units: tuple[int, ...]  # on the axis of all hidden units
    cohort: np.ndarray  # [seeds, units] bool: dead at the fork, the same for every arm
    recovered: np.ndarray  # [arms, seeds, units] bool: of the cohort, by the horizon
    first_recovery: np.ndarray  # [arms, seeds, units] step of the run, NEVER = -1
    outcome: np.ndarray  # [arms, seeds, units] of `outcomes.Outcome`, from the fork on
    history: History  # [arms, seeds, units] from the fork on; diverged_at [arms, seeds]


def fork(
    config: Config,
    step: int,
    arms: Sequence[str],
    seeds: int | Sequence[int],
    root_seed: int = 0,
    units: Sequence[int] | None = None,
    state: State | models.Params | None = None,
) -> ForkResult:
    """Continues every seed's run from its state at `step` to the horizon, once for each arm. Runs
    begin with `state` where one is given, as those of `sweep`.

    The cohort are the units of the biased layer (or those of them in `units`) that are dead (by the
    config's `definition`) on the probe set at `step`: one cohort for all arms. All arms see the
    same batches and the same noise, since draws are folds of the run's key and the step. "as_is"
    is always among them.

    Arms (`ARMS`), each from the fork on:
      upstream_frozen: layers below the biased one do not move.
      residue_zeroed: the first moment of the cohort's incoming parameters is set to 0, once.
        What builds up later has other causes (gradients by a normalization or by unseen
        examples, coupled decay) and stays.
      decay_off, noise_off, outside_off: the coefficient is 0.
      normalization_frozen: every example (for "batch": every batch) is normalized, in all layers,
        with the statistics that the parameters at the fork give for it; no gradient flows
        through them.
      rate_x10 (any factor): the learning rate times 10, which also scales the noise's and the
        decoupled decay's steps; batches and draws stay.

    One compiled program takes all seeds (vmapped) through the steps before the fork and through
    every arm: "as_is" is the straight run to the bit, and an arm without effect differs from it
    by nothing. Lanes that hold all arms at once would round differently from one another.

    Raises a ValueError for a step that is no evaluation of the run before its end, an arm that the
    config does not have, a unit outside the biased layer, and when no unit is dead at `step`.
    """
    config = validate(config)
    check_covered(config, "forks", COVERED | {"definition"})
    names, rows = _check_arms(config, arms)
    step = _check_step(config, step)
    seeds = _check_seeds(seeds)
    layer = layer_units(config)
    chosen = check_units(config, units, range(layer[0], layer[-1] + 1))
    keys = jnp.stack([run_key(root_seed, seed) for seed in seeds])
    base = traced(config)
    begins = starting_point(config, state)
    given = begins.arrays if begins else None
    task, present = _begin(base, keys, tasks.load_data(config), given)
    before = jnp.int32(step // config.probe_every)
    history = _begin_history(base, task, present)
    freezable = any(row.holds == "normalization" for row in rows)
    advance = functools.partial(_advance, task=task, key=keys, freezable=freezable)
    if step:
        present, _ = advance(base, present, history, present.params, _held(None), before)
        history = _begin_history(base, task, present)
    cohort = np.asarray(history.dead_at_start)[:, list(chosen)]
    if not cohort.any():
        raise ValueError(
            f"none of the units {chosen} is {config.definition} at step {step} in any of the seeds "
            f"{seeds}, so there is nothing to recover; use another step or a more negative "
            "initial_bias."
        )
    targets = history.dead_at_start & jnp.isin(jnp.arange(config.units), jnp.asarray(chosen))[None]
    targets = targets[:, layer[0] : layer[-1] + 1]
    rest = jnp.int32(config.probes - step // config.probe_every)
    histories = []
    for row in rows:
        changed = traced(validate(row.config(config)))
        start = jax.vmap(functools.partial(row.state, config))(present, targets)
        _, after = advance(changed, start, history, present.params, _held(row.holds), rest)
        histories.append(_chosen_units(after, chosen))
    history = History(*(np.stack(leaves) for leaves in zip(*histories, strict=True)))
    return ForkResult(
        config=config,
        step=step,
        arms=names,
        seeds=seeds,
        units=chosen,
        cohort=cohort,
        recovered=cohort & (history.first_recovery != NEVER),
        first_recovery=np.where(cohort, history.first_recovery, NEVER),
        outcome=outcomes.classify(history),
        history=history,
    )


def _check_arms(config, arms) -> tuple[tuple[str, ...], list[Arm]]:
    if isinstance(arms, str) or not isinstance(arms, Sequence):
        raise ValueError(f"arms={arms!r} must be a sequence of names, such as ('decay_off',).")
    if len(set(arms)) < len(arms):
        raise ValueError(f"arms={arms!r} names an arm twice; use every arm once.")
    names = ("as_is", *(name for name in arms if name != "as_is"))
    rows = [find_arm(name) for name in names]
    for name, row in zip(names, rows, strict=True):
        reason = row.missing(config)
        if reason is not None:
            raise ValueError(f"arm {name!r} is not there: {reason}; leave it out of arms.")
    return names, rows


def _check_step(config, step) -> int:
    if isinstance(step, bool) or not isinstance(step, int | np.integer):
        raise ValueError(f"step={step!r} must be a whole number.")
    if not 0 <= step < config.steps:
        raise ValueError(f"step={step} must be >= 0 and below the horizon steps={config.steps}.")
    if step % config.probe_every:
        raise ValueError(
            f"step={step} has no checkpoint: use a multiple of probe_every={config.probe_every}, "
            f"such as {step - step % config.probe_every}."
        )
    return int(step)


def _check_seeds(seeds) -> tuple[int, ...]:
    if isinstance(seeds, bool) or (isinstance(seeds, int) and seeds < 1):
        raise ValueError(f"seeds={seeds!r} must be at least 1.")
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"seeds={seeds!r} must be a non-empty list without repeats.")
    return numbers


def _chosen_units(history, units) -> History:
    leaves = {name: np.asarray(leaf) for name, leaf in history._asdict().items()}
    per_run = leaves.pop("diverged_at")
    picked = {name: leaf[:, list(units)] for name, leaf in leaves.items()}
    return History(**picked, diverged_at=per_run)


def _held(what: str | None) -> dict[str, jax.Array]:
    return {name: jnp.bool_(name == what) for name in ("upstream", "normalization")}


@jax.jit
def _begin(config, keys, data, given):
    """(task, state at step 0) of every seed, leaves [seeds, ...]."""
    start = lambda key: (make_task(config, key, data), start_state(config, key, given))  # noqa: E731
    return jax.vmap(start)(keys)


@jax.jit
def _begin_history(config, task, state):
    """The history that starts at these states, [seeds, units]."""
    return jax.vmap(functools.partial(start_history, config))(task, state)


@functools.partial(jax.jit, static_argnames="freezable")
def _advance(config, state, history, reference, held, evaluations, *, task, key, freezable):
    """All seeds of one arm, `evaluations` evaluations further: (state, history), leaves [seeds,
    ...].

    `held` says what stays as it is: the parameters of the layers below the biased one, or the
    normalization statistics of the `reference` parameters (only in a `freezable` program).
    """

    def of_seed(task, key, state, history, reference):
        apply = models.apply
        if freezable:
            apply = functools.partial(apply_frozen, reference, held["normalization"])
        step = functools.partial(_held_step, apply, held["upstream"])

        def segment(_, carry):
            (state, history), _ = training.scan_steps(
                step, _observe, config, task, key, carry, config.probe_every
            )
            return state, updated_history(config, task, state, history, apply)

        return jax.lax.fori_loop(0, evaluations, segment, (state, history))

    return jax.vmap(of_seed)(task, key, state, history, reference)


def _held_step(apply, held, config, task, key, state, indices):
    """`train_step` with the layers below the biased one left as they are where `held` is true."""
    after, snapshot = train_step(config, task, key, state, indices, apply)
    below = tuple(f"_{layer}" for layer in range(1, config.biased_layer))
    # Selected after the update rather than a rate of 0 within it: "as_is" keeps the arithmetic of
    # a run without arms.
    keep = functools.partial(jnp.where, held)
    params = {
        name: jax.tree.map(keep, state.params[name], group) if name.endswith(below) else group
        for name, group in after.params.items()
    }
    return after._replace(params=params), snapshot


def _observe(history, before, _, snapshot):
    return outcomes.observe_batch(history, before.step, snapshot.loss, snapshot.batch), None


class ForkRow(NamedTuple):
    """One arm of a fork at one time. Intervals are clustered by seed; arms are paired by seed."""

    arm: str
    time: int  # step of the run
    cohort: int  # units at risk, the same in every arm
    recovered: int  # of them, alive again at an evaluation by `time`
    diverged: int  # seeds that diverged by `time`; their units count as they stood before
    probability: Interval  # P(recover by time)
    difference: Interval | None  # P(arm) - P(as_is); None for as_is
    vanished: Interval | None  # share of as_is's recoveries that are missing in the arm


def fork_table(
    result: ForkResult, times: Sequence[int] | None = None, level: float = 0.95
) -> list[ForkRow]:
    """P(recover by time) of every arm on the same cohort, and what it owes to the arm's channel.

    `times` are steps of the run after the fork, the horizon by default. `probability` pools the
    units of all seeds; `difference` is the mean over seeds of the difference within a seed.
    """
    horizon = result.config.steps
    times = (horizon,) if times is None else tuple(times)
    for time in times:
        if not result.step < time <= horizon:
            raise ValueError(
                f"times: {time!r} must be after the fork ({result.step}) and at most {horizon}."
            )
    at_risk = result.cohort.sum(-1)
    rows = []
    for time in times:
        by_time = result.recovered & (result.first_recovery <= time)
        counts, straight = by_time.sum(-1), by_time[0].sum(-1)
        lost = (by_time[:1] & ~by_time).sum(-1)
        diverged = (result.history.diverged_at != NEVER) & (result.history.diverged_at <= time)
        for number, arm in enumerate(result.arms):
            contrast = None, None
            if number:
                contrast = (
                    statistics.paired_difference(counts[number], at_risk, straight, at_risk, level),
                    statistics.clustered_interval(lost[number], straight, level),
                )
            rows.append(
                ForkRow(
                    arm,
                    int(time),
                    int(at_risk.sum()),
                    int(counts[number].sum()),
                    int(diverged[number].sum()),
                    statistics.clustered_interval(counts[number], at_risk, level),
                    *contrast,
                )
            )
    return rows
