"""Accounts: every step's change of z, split exactly into what each channel moved."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relu_dynamics.channels.arms import keep_during
from relu_dynamics.channels.terms import (
    COVERED,
    SOURCES,
    VIEWS,
    Entry,
    Terms,
    empty_record,
    layer_record,
    named_entry,
    see_layers,
    unknown_rule,
    update_terms,
)
from relu_dynamics.checks import check_choice
from relu_dynamics.config import Config
from relu_dynamics.engine import models, optimizers, outcomes, probes, tasks, training
from relu_dynamics.engine.evaluation import evaluate_judged
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.memory import check_memory
from relu_dynamics.engine.outcomes import NEVER, History
from relu_dynamics.engine.shapes import check_state, check_task
from relu_dynamics.engine.starting import Given
from relu_dynamics.engine.step import State, loss_gradients, parameter_updates
from relu_dynamics.engine.tasks import Task
from relu_dynamics.engine.validation import check_covered, validate


class SpellAccount(NamedTuple):
    """Sums over the dead spell before the first recovery (or the horizon); [units]."""

    sums: Entry
    steps: jax.Array  # int32, length of the spell
    history: History  # of all units


class Account(NamedTuple):
    """The account of one run."""

    units: jax.Array  # [units] int32, on the axis of all hidden units
    entries: Entry  # [steps, units]
    spell: jax.Array  # [steps, units] bool: in the dead spell before the first recovery
    history: History  # [units] of all hidden units


class Shares(NamedTuple):
    """Fraction of the climb that each channel brought, [..., units]; they sum to 1. Negative: the
    channel pushed down. nan where nothing moved at all."""

    gradient: jax.Array
    outside: jax.Array
    residue: jax.Array
    decay: jax.Array  # coupled and decoupled
    noise: jax.Array
    upstream: jax.Array  # dx.W and dx.dW: both vanish when the layers below are frozen
    normalization: jax.Array
    handover: jax.Array  # not a channel: the margin passed to another example; 0 in view "mean"
    rounding: jax.Array
    climb: jax.Array  # not a fraction: what z gained over the spell


class _Moves(NamedTuple):
    """What an accounted step shows: the snapshot of a reader who asks what moved the parameters."""

    loss: jax.Array  # [] on the minibatch
    batch: probes.UnitStatistics  # [units] of z on the minibatch
    sources: list[models.Params]  # what every source adds to the parameters
    update: models.Params  # what was added to them


def _accounted_step(config, task, key, state, indices):
    """`train_step` whose snapshot is the step's _Moves."""
    config = optimizers.scheduled(config, state.step)
    loss, z, gradients = loss_gradients(config, task, indices, state.params)
    sources = update_terms(config, gradients, state.optimizer, state.params, key, state.step)
    update, optimizer = parameter_updates(config, key, state, gradients)
    params = optax.apply_updates(state.params, update)
    moves = _Moves(loss, probes.unit_statistics(z), list(sources.values()), update)
    return State(state.step + 1, params, optimizer), moves


def _step_record(config, params, moves, before, after):
    """The step's _Record of all units, of what the layers see before and after it."""
    layers = [
        layer_record(config, layer, params, moves.sources, moves.update, old, new)
        for layer, (old, new) in enumerate(zip(before, after, strict=True), start=1)
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=-1), *layers)


def _in_spell(history: History) -> outcomes.Array:
    """Units in the dead spell before their first recovery, [units]."""
    running = history.diverged_at == NEVER
    return ~history.alive & (history.first_recovery == NEVER) & running


def _walk(config, task, key, state, fold, total):
    """Trains one run from a state (None: step 0's) with its account.

    `fold(total, record, spell) -> (total, kept)` sees every step's _Record of all units. Returns
    (total, kept [steps, ...], history).
    """
    state = start_state(config, key) if state is None else state
    check_task(config, task)
    check_state(config, state.step, state.params)
    history = start_history(config, task, state)

    def segment(carry, _):
        state, (seen, history, total) = carry
        spell = _in_spell(history)

        def observe(kept, before, after, moves):
            seen, history, total = kept
            now = see_layers(config, after.params, task.probe)
            history = outcomes.observe_batch(history, before.step, moves.loss, moves.batch)
            record = _step_record(config, before.params, moves, seen, now)
            total, out = fold(total, record, spell)
            return (now, history, total), out

        (state, (seen, history, total)), out = training.scan_steps(
            _accounted_step, observe, config, task, key, carry, config.probe_every
        )
        history = updated_history(config, task, state, history)
        return (state, (seen, history, total)), out

    carry = (state, (see_layers(config, state.params, task.probe), history, total))
    (_, (_, history, total)), kept = jax.lax.scan(segment, carry, length=config.probes)
    kept = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), kept)
    return total, kept, history


def start_history(config, task, state, apply=models.apply):
    history = outcomes.start_history(*evaluate_judged(config, state.params, task.probe, apply))
    return history._replace(spell_start=history.spell_start + state.step)


def updated_history(config, task, state, history, apply=models.apply):
    found, bounds = evaluate_judged(config, state.params, task.probe, apply)
    return outcomes.observe_probe(
        history,
        state.step,
        found.margin,
        bounds,
        since=config.probe_every,
        tolerance=config.tolerance,
        sustain=config.sustain,
    )


def start_state(config: Config, key: jax.Array, given: Given | None = None) -> State:
    """`training.start` in JAX's present float type (Flax makes float32 parameters under x64)."""
    unbiased = dataclasses.replace(config, initial_bias=0.0)
    with jax.numpy_dtype_promotion("standard"):  # float32 parameters on float64 inputs
        begun = training.start(training.as_arrays(unbiased), key, given)
    shift = lambda values: values.at[: config.biased_units].add(config.initial_bias)  # noqa: E731
    params = models.with_shift(config, _as_floats(begun.params), shift)
    empty = given is None or given[1] is None
    memory = optimizers.make_optimizer(config).init(params) if empty else begun.optimizer
    return State(jnp.int32(0), params, _as_floats(memory))


def _as_floats(tree: Any) -> Any:
    """The tree with floating leaves in JAX's present float type: float64 when x64 is enabled."""
    kind = jax.dtypes.canonicalize_dtype(float)

    def cast(leaf):
        return leaf.astype(kind) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)


def make_task(config, key, data) -> Task:
    return _as_floats(tasks.make_task(config, purpose_key(key, "task"), data))


def traced(config: Config) -> Config:
    """`training.as_arrays`, but float64 when x64 is enabled."""
    kind = jax.dtypes.canonicalize_dtype(float)
    return jax.tree.map(lambda value: jnp.asarray(value, kind), config)


def spell_account(
    config: Config, task: Task, key: jax.Array, state: State | None = None
) -> SpellAccount:
    """One run's account as sums over each unit's dead spell before its first recovery.

    The run is `config.steps` steps from `state` (by default step 0's own). The spell starts at
    the first evaluation for units dead there, else at the evaluation that first sees the unit
    dead; it ends at the evaluation that first sees it alive again, at divergence or at the horizon.
    Pure; `jax.vmap` it over configs as `training.run`. Memory is that of the terms of one step.
    A unit whose run overflows within the spell has non-finite sums.
    """

    def fold(total, record, spell):
        sums, steps = total
        sums = jax.tree.map(lambda s, r: s + keep_during(spell, r), sums, record)
        return (sums, steps + spell), None

    total = (empty_record(config), jnp.zeros(config.units, jnp.int32))
    (sums, steps), _, history = _walk(config, task, key, state, fold, total)
    return SpellAccount(named_entry(config, sums), steps, history)


@jax.jit
def _account(config, key, data, state, units):
    def fold(total, record, spell):
        return total, jax.tree.map(lambda leaf: leaf[..., units], (record, spell))

    task = make_task(config, key, data)
    _, (records, spell), history = _walk(config, task, key, state, fold, None)
    return Account(units, named_entry(config, records), spell, history)


def account(
    config: Config,
    seed: int = 0,
    units: Sequence[int] | None = None,
    root_seed: int = 0,
    *,
    state: State | None = None,
) -> Account:
    """The exact account of every step of one run for the chosen units (all by default), from
    step 0 or from a given state.

    `units` are numbers on the axis of all hidden units, see `layer_units`. Under
    `jax.enable_x64(True)` everything is computed in float64 and the terms sum to the change
    of z to about 1e-15 of z; in float32 to a few of z's rounding bounds
    (`probes.margin_bounds`). x64 also changes the draws, so it is another run of the same law.
    Raises a ValueError for a config that cannot run, for a unit that is not there, and when the
    account would not fit into memory.
    """
    config = validate(config)
    check_covered(config, "accounts", COVERED)
    if optimizers.optimizer_of(config).rule is None:
        raise unknown_rule(config)
    chosen = check_units(config, units, range(config.units))
    empty = jax.eval_shape(lambda: named_entry(config, empty_record(config)))
    unit_bytes = sum(leaf.dtype.itemsize for leaf in jax.tree.leaves(empty))
    needed = 2 * unit_bytes * config.steps * len(chosen)
    check_memory(needed, "use fewer units or steps")
    key = run_key(root_seed, seed)
    chosen = jnp.asarray(chosen, jnp.int32)
    return _account(traced(config), key, tasks.load_data(config), state, chosen)


def layer_units(config: Config, layer: int | None = None) -> tuple[int, ...]:
    """The numbers of a hidden layer's units (from 1; the biased layer by default) on the axis of
    all hidden units. Raises a ValueError for a layer that is not there."""
    layer = config.biased_layer if layer is None else layer
    if (
        isinstance(layer, bool)
        or not isinstance(layer, int | np.integer)
        or not 1 <= layer <= len(config.hidden)
    ):
        raise ValueError(
            f"layer={layer!r} is not there: hidden layers are 1 to {len(config.hidden)}."
        )
    first = sum(config.hidden[: layer - 1])
    return tuple(range(first, first + config.hidden[layer - 1]))


def check_units(config, units, allowed) -> tuple[int, ...]:
    if units is None:
        return tuple(allowed)
    if isinstance(units, str | bytes) or not isinstance(units, Sequence | np.ndarray | range):
        raise ValueError(f"units={units!r} must be a sequence of unit numbers.")
    for unit in units:
        if isinstance(unit, bool) or not isinstance(unit, int | np.integer) or unit not in allowed:
            raise ValueError(
                f"units: {unit!r} is not there; use numbers from {allowed[0]} to {allowed[-1]} "
                f"(hidden={config.hidden!r}, counted over all hidden layers)."
            )
    if not len(units) or len(set(units)) < len(units):
        raise ValueError(f"units={units!r} must name at least one unit, each once.")
    return tuple(int(unit) for unit in units)


def spell_sums(account: Account) -> SpellAccount:
    """A run's account summed over the dead spell before the first recovery, [units] chosen."""
    sums = jax.tree.map(
        lambda leaf: jnp.sum(jnp.where(account.spell, leaf, 0), axis=0), account.entries
    )
    return SpellAccount(sums, account.spell.sum(0, dtype=jnp.int32), account.history)


def moved_by_channel(terms: Terms) -> dict[str, Any]:
    """What every channel of `Shares` moved z by, from an account's terms, [..., units] each."""
    whole = {name: sum(getattr(terms, name)) for name in SOURCES}
    return {
        "gradient": whole["gradient"],
        "outside": whole["outside"],
        "residue": whole["residue"],
        "decay": whole["coupled_decay"] + whole["decoupled_decay"],
        "noise": whole["noise"],
        "upstream": terms.upstream + terms.cross,
        "normalization": terms.normalization,
    }


def spell_shares(account: Account | SpellAccount, view: str = "margin") -> Shares:
    """Which fraction of the climb over the dead spell each channel brought, [..., units].

    The climb is what the margin (view "margin") or the mean of z (view "mean") gained from the
    first evaluation of the spell to the one that ends it. Shares are of that net change: with
    opposing channels they may be large, and they mean little where the climb is near 0. A unit that
    never recovered has shares of what it moved by.
    """
    check_choice("view", view, VIEWS)
    sums = (spell_sums(account) if isinstance(account, Account) else account).sums
    balance = getattr(sums, view)
    handover = sums.handover if view == "margin" else jnp.zeros_like(sums.handover)
    climb = balance.change + handover
    brought = moved_by_channel(balance.terms) | {
        "handover": handover,
        "rounding": balance.residual,
    }
    safe = jnp.where(climb == 0, jnp.nan, climb)
    return Shares(**{name: value / safe for name, value in brought.items()}, climb=climb)
