"""Channels: by which way does a dead unit move, accounted exactly and tested by causal forks.

*Accounts.* Of a unit with z = x.W + b, one step moves z(t+1, x) - z(t, x) by

    x.dW + db  (the unit's own parameters)  +  dx.W  (layers below)  +  dx.dW  (both at once)

where x is what enters the unit's layer, and dW, db are sums of the update's *sources*:

* gradient: this step's loss gradient, through the optimizer's formula;
* outside: this step's `config.outside_gradient`, likewise;
* residue: what the optimizer's first moment of earlier steps moves (all that went into it:
  gradients, and under coupled decay earlier decay too);
* coupled_decay: this step's L2 term, through the optimizer's formula;
* decoupled_decay: what is subtracted after the optimizer;
* noise: additive noise.

Adam's and RMSProp's updates are linear in the first moment once the denominators are given; the
denominators are those of the step itself, so the sources add up to the true update.

A normalization makes z = scale * (a - mean) * inverse + shift of the affine a. Its change is
telescoped in this order, which is exact and a convention:

    scale_t inverse_t (da)                                   da as above, statistics held
    + scale_t [(a' - mean') (inverse' - inverse) - inverse (mean' - mean)]    *normalization*
    + dscale (a' - mean') inverse' + dshift                  the sources' own moves of both

(primes are t+1). So the normalization term is what the statistics' motion does to the unit, the
unit's own part in them included.

Everything is seen in two views: `margin`, at the example with the largest z (the first such), and
`mean`, over the probe set. Where the highest example is another one after the step, `margin` is
half at the one and half at the other: at the old one alone every exchange would look like a gain
from nowhere. What then remains of the margin's own change is `handover`, of second order in the
step: (gain of the new over the old after it - of the old over the new before it) / 2.

*Forks* continue one checkpoint under counterfactual arms: see `fork`.

Axes: `steps`; `units` of all hidden layers in order, or those that were asked for; `batch` the
probe set; `arms`, `seeds`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relu_dynamics import models, outcomes, probes, statistics, tasks, training
from relu_dynamics.config import Config, check_choice, check_covered, validate
from relu_dynamics.outcomes import NEVER, History
from relu_dynamics.statistics import Interval
from relu_dynamics.tasks import Task
from relu_dynamics.training import (
    ADAM_B2,
    ADAM_EPSILON,
    PRECISION,
    RMSPROP_DECAY,
    RMSPROP_EPSILON,
    Rule,
    State,
)

SOURCES = ("gradient", "outside", "residue", "coupled_decay", "decoupled_decay", "noise")
# The fields under which the accounts were proved to sum to the change of z, and under which every
# arm of a fork changes what it says and nothing else; all others must stay at their defaults.
COVERED = frozenset(
    """
    learning_rate initial_bias momentum weight_decay noise_scale upstream_rate outside_gradient
    clip_norm weight_scale scaling_dose killed_fraction target_scale
    task examples dimension input_scaling hidden activation initializer normalization output_bias
    optimizer schedule warmup_steps decay_steps decay_kind decay_targets batch_size batch_order
    steps biased_layer biased_units probe_size probe_every tolerance sustain
    """.split()
)


class Parts(NamedTuple):
    """What one source moves z by, through each kind of the unit's own parameters; [..., units]."""

    weights: jax.Array
    bias: jax.Array  # of the affine map; with a normalization the shift is another parameter
    scale: jax.Array  # of the normalization; 0 without one
    shift: jax.Array  # likewise


class Terms(NamedTuple):
    """All that moves z, in its units; every leaf is [..., units]. Their sum is the change of z."""

    gradient: Parts
    outside: Parts
    residue: Parts
    coupled_decay: Parts
    decoupled_decay: Parts
    noise: Parts
    upstream: jax.Array  # dx.W
    cross: jax.Array  # dx.dW
    normalization: jax.Array  # the statistics' motion


class Balance(NamedTuple):
    """The account of z in one view; every leaf is [..., units]."""

    terms: Terms
    change: jax.Array  # z(t+1) - z(t), from the model's own forward passes
    residual: jax.Array  # change minus the sum of the terms: rounding


class Entry(NamedTuple):
    """The account of one step, or the sums over many; every leaf is [..., units]."""

    margin: Balance
    mean: Balance
    handover: jax.Array  # what the margin gained beyond it, when another example became highest


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


# --- The update's sources ---------------------------------------------------------------------


def update_terms(
    config: Config,
    gradients: models.Params,
    optimizer_state: optax.OptState,
    params: models.Params,
    key: jax.Array,
    step: jax.Array,
) -> dict[str, models.Params]:
    """The update of one step by source (`SOURCES`), each a tree like `params`; their sum is what
    `training.parameter_updates` gives, up to rounding.

    `gradients` and `optimizer_state` are what the optimizer gets, before its update; `key` is the
    run's. Sources that the config does not have are not there (see `present_sources`).
    """
    parts = {"gradient": gradients}
    if config.outside_gradient is not None:
        zeros = jax.tree.map(jnp.zeros_like, params)
        parts["outside"] = training.with_outside_gradient(config, zeros)
        parts["gradient"] = jax.tree.map(jnp.subtract, gradients, parts["outside"])
    total, decay = gradients, None
    if config.weight_decay is not None:
        decay = jax.tree.map(
            lambda p, decays: config.weight_decay * p if decays else jnp.zeros_like(p),
            params,
            training.decay_mask(config, params),
        )
        if not training.decay_is_decoupled(config):
            parts["coupled_decay"] = decay
            total = jax.tree.map(jnp.add, gradients, decay)
    now, earlier = _linear_maps(config, total, optimizer_state)
    terms = {name: now(part) for name, part in parts.items()}
    if earlier is not None:
        terms["residue"] = earlier
    if decay is not None and training.decay_is_decoupled(config):
        terms["decoupled_decay"] = jax.tree.map(lambda d: -config.learning_rate * d, decay)
    if config.noise_scale is not None:
        zeros = jax.tree.map(jnp.zeros_like, params)
        terms["noise"] = training._add_noise(config, training.noise_key(key, step), zeros)
    if config.upstream_rate is not None:
        terms = {name: training._scale_upstream(config, tree) for name, tree in terms.items()}
    return {name: terms[name] for name in present_sources(config)}


def present_sources(config: Config) -> tuple[str, ...]:
    """The sources that the config's update has, in the order of `SOURCES`. A coefficient of 0 is
    there, None is not."""
    decays = config.weight_decay is not None
    has = {
        "gradient": True,
        "outside": config.outside_gradient is not None,
        "residue": training.optimizer_of(config).memory is not None,
        "coupled_decay": decays and not training.decay_is_decoupled(config),
        "decoupled_decay": decays and training.decay_is_decoupled(config),
        "noise": config.noise_scale is not None,
    }
    return tuple(name for name in SOURCES if has[name])


def _linear_maps(config, total, optimizer_state):
    """(what a part of the gradient moves, what the first moment moves) at this step: the former a
    function of trees, the latter a tree or None. `total` is the whole gradient with decay."""
    rate = config.learning_rate
    momentum, optimizer = training.momentum_of(config), training.optimizer_of(config)
    scaled = lambda factor: lambda tree: jax.tree.map(lambda g: factor * g, tree)  # noqa: E731
    get = functools.partial(optax.tree.get, optimizer_state)
    memory = None if optimizer.memory is None else get(optimizer.memory)
    if optimizer.rule is Rule.SGD:
        return scaled(-rate), None
    if optimizer.rule is Rule.HEAVY_BALL:
        return scaled(-rate), scaled(-rate * momentum)(memory)
    if optimizer.rule is Rule.NESTEROV:  # update = g + mu (g + mu trace)
        return scaled(-rate * (1 + momentum)), scaled(-rate * momentum**2)(memory)
    second_moment = functools.partial(
        optax.tree.update_moment_per_elem_norm, total, get("nu"), order=2
    )
    if optimizer.rule is Rule.RMSPROP:
        second = second_moment(decay=RMSPROP_DECAY)
        steps = jax.tree.map(lambda v: -rate * jax.lax.rsqrt(v + RMSPROP_EPSILON), second)
        return functools.partial(jax.tree.map, jnp.multiply, steps), None
    if optimizer.rule is not Rule.ADAM:
        raise _unknown_rule(config)
    done = get("count") + 1
    second = optax.tree.bias_correction(second_moment(decay=ADAM_B2), ADAM_B2, done)
    steps = jax.tree.map(lambda v: -rate / (jnp.sqrt(v) + ADAM_EPSILON), second)

    def move(factor, tree):
        moment = optax.tree.bias_correction(scaled(factor)(tree), momentum, done)
        return jax.tree.map(jnp.multiply, steps, moment)

    return functools.partial(move, 1 - momentum), move(momentum, memory)


def _unknown_rule(config: Config) -> ValueError:
    return ValueError(
        f"optimizer={config.optimizer!r}: accounts know only the update rules in training.Rule; "
        "use an optimizer that has one."
    )


# --- What a layer sees ------------------------------------------------------------------------


class Seen(NamedTuple):
    """What one hidden layer shows on the probe set."""

    inputs: jax.Array  # [batch, fan_in]
    affine: jax.Array  # [batch, units], before any normalization
    mean: jax.Array  # [batch, units], the normalization's; 0 where it has none
    inverse: jax.Array  # [batch, units], its 1 / deviation; 1 where it has none
    z: jax.Array  # [batch, units]


def normalization_statistics(config: Config, affine: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean, 1 / deviation) that the config's normalization subtracts from and multiplies onto
    the affine values [batch, units] of a hidden layer; both [batch, units]."""
    kind, epsilon = config.normalization, models.NORM_EPSILON
    if kind == "none":
        return jnp.zeros_like(affine), jnp.ones_like(affine)
    grouped = affine
    if kind == "group":
        grouped = affine.reshape(affine.shape[0], -1, models.GROUP_SIZE)
    axis = 0 if kind == "batch" else -1
    if kind == "rms":
        mean = jnp.zeros_like(affine[:, :1])
        spread = jnp.mean(affine**2, axis=axis, keepdims=True)
    else:
        mean, spread = grouped.mean(axis, keepdims=True), grouped.var(axis, keepdims=True)
    inverse = jax.lax.rsqrt(spread + epsilon)
    whole = lambda part: jnp.broadcast_to(part, grouped.shape).reshape(affine.shape)  # noqa: E731
    return whole(mean), whole(inverse)


def _scale_of(config: Config, tree: models.Params, layer: int) -> jax.Array | None:
    """The normalization's scale of a hidden layer in a tree like the parameters, [units]."""
    name = models.norm_name(layer)
    if config.normalization == "none":
        return None
    return tree["scale_" + name] if config.normalization == "batch" else tree[name]["scale"]


def _see(config: Config, params: models.Params, inputs: jax.Array) -> tuple[Seen, ...]:
    """What every hidden layer shows on the probe set, with the model's own z."""
    with jax.default_matmul_precision(PRECISION):
        forward = models.apply(config, params, inputs)
        seen = []
        for layer, (x, z) in enumerate(
            zip(forward.inputs, forward.preactivations, strict=True), start=1
        ):
            group = params[models.layer_name(layer)]
            affine = x @ group["kernel"] + group["bias"][None, :]
            seen.append(Seen(x, affine, *normalization_statistics(config, affine), z))
    return tuple(seen)


# --- One step's account -----------------------------------------------------------------------


VIEWS = ("margin", "mean")


class _Record(NamedTuple):
    """An Entry as few arrays; only the sources and parts that the config has."""

    own: jax.Array  # [views, sources, parts, units]
    others: jax.Array  # [views, 3, units]: upstream, cross, normalization
    change: jax.Array  # [views, units]
    handover: jax.Array  # [units]


def _layer_record(config, layer, params, sources, update, before, after) -> _Record:
    """The account of one hidden layer's step; `sources` is `update_terms` as a list of trees."""
    name, size = models.layer_name(layer), before.z.shape[0]
    highest = before.z.argmax(0), after.z.argmax(0)
    half = lambda pick: 0.5 * (pick(highest[0]) + pick(highest[1]))  # noqa: E731

    def views(values):  # [batch, units] -> [views, units]
        at = lambda example: jnp.take_along_axis(values, example[None, :], axis=0)[0]  # noqa: E731
        return jnp.stack([half(at), values.mean(0)])

    scale = _scale_of(config, params, layer)
    factor = before.inverse if scale is None else scale[None, :] * before.inverse
    weight = views(factor)

    def weighted(values):  # [batch, fan_in], times factor -> [views, fan_in, units]
        if scale is None:  # the factor is 1
            average = jnp.tile(values.mean(0)[:, None], factor.shape[1])
            return jnp.stack([half(lambda example: values[example].T), average])
        own = lambda example: jnp.take_along_axis(factor, example[None, :], axis=0)  # noqa: E731
        with jax.default_matmul_precision(PRECISION):
            average = values.T @ factor / size
        return jnp.stack([half(lambda example: own(example) * values[example].T), average])

    inputs = weighted(before.inputs)
    moves = layer > 1  # the network's inputs stay as they are
    drift = weighted(after.inputs - before.inputs) if moves else jnp.zeros_like(inputs)
    stack = lambda get: jnp.stack([get(tree) for tree in sources])  # noqa: E731
    kernels, biases = (stack(lambda tree, k=k: tree[name][k]) for k in ("kernel", "bias"))
    parts = [
        jnp.sum(inputs[:, None] * kernels[None], axis=2),
        weight[:, None] * biases[None],
    ]
    motion = jnp.zeros_like(before.z)
    if scale is not None:
        centred = after.affine - after.mean
        motion = scale[None, :] * (
            centred * (after.inverse - before.inverse) - before.inverse * (after.mean - before.mean)
        )
        scales = stack(lambda tree: _scale_of(config, tree, layer))
        shifts = stack(lambda tree: models.shift(config, tree, layer))
        moved = views(centred * after.inverse)[:, None] * scales[None]
        parts += [moved, jnp.broadcast_to(shifts[None], moved.shape)]
    below = [jnp.sum(drift * tree[name]["kernel"][None], axis=1) for tree in (params, update)]
    return _Record(
        own=jnp.stack(parts, axis=2),
        others=jnp.stack([*below, views(motion)], axis=1),
        change=views(after.z - before.z),
        handover=after.z.max(0) - before.z.max(0) - views(after.z - before.z)[0],
    )


def _entry(config: Config, record: _Record) -> Entry:
    """The named account of records with any leading axes, [..., views, sources, parts, units]."""
    zeros = jnp.zeros_like(record.handover)
    found = present_sources(config)

    def parts(view, source):
        if source not in found:
            return Parts(zeros, zeros, zeros, zeros)
        own = record.own[..., view, found.index(source), :, :]
        own = [own[..., part, :] for part in range(own.shape[-2])]
        return Parts._make([*own, *[zeros] * (4 - len(own))])

    def balance(view):
        others = (record.others[..., view, i, :] for i in range(3))
        terms = Terms._make([*(parts(view, source) for source in SOURCES), *others])
        change = record.change[..., view, :]
        return Balance(terms, change, change - sum(jax.tree.leaves(terms)))

    return Entry(balance(0), balance(1), record.handover)


def _accounted_step(config, task, key, indices, state, seen):
    """(next state, what its layers see, the step's _Record of all units, batch loss, batch z)."""
    config = training.at_step(config, state.step)
    loss, z, gradients = training.loss_gradients(config, task, indices, state.params)
    sources = update_terms(config, gradients, state.optimizer, state.params, key, state.step)
    update, optimizer = training.parameter_updates(config, key, state, gradients)
    params = optax.apply_updates(state.params, update)
    after = _see(config, params, task.probe)
    trees = list(sources.values())
    layers = [
        _layer_record(config, layer, state.params, trees, update, old, new)
        for layer, (old, new) in enumerate(zip(seen, after, strict=True), start=1)
    ]
    record = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=-1), *layers)
    return State(state.step + 1, params, optimizer), after, record, loss, z


# --- A run's account --------------------------------------------------------------------------


def _in_spell(history: History) -> outcomes.Array:
    """Units in the dead spell before their first recovery, [units]."""
    running = history.diverged_at == NEVER
    return ~history.alive & (history.first_recovery == NEVER) & running


def _walk(config, task, key, state, fold, total):
    """Trains one run from a state (None: step 0's) with its account.

    `fold(total, record, spell) -> (total, kept)` sees every step's _Record of all units. Returns
    (total, kept [steps, ...], history).
    """
    state = _start(config, key) if state is None else state
    history = _start_history(config, task, state)

    def step(carry, indices):
        state, seen, history, spell, total = carry
        now = state.step
        state, seen, record, loss, z = _accounted_step(config, task, key, indices, state, seen)
        history = outcomes.observe_batch(history, now, loss, probes.unit_statistics(z))
        total, kept = fold(total, record, spell)
        return (state, seen, history, spell, total), kept

    def segment(carry, first):
        state, seen, history, total = carry
        steps = first + jnp.arange(config.probe_every, dtype=first.dtype)
        indices = jax.vmap(lambda now: training.draw_batch(config, key, now))(steps)
        carry = (state, seen, history, _in_spell(history), total)
        (state, seen, history, _, total), kept = jax.lax.scan(step, carry, indices)
        history = _look_at_probe(config, task, state, history)
        return (state, seen, history, total), kept

    first_steps = state.step + jnp.arange(config.probes, dtype=jnp.int32) * config.probe_every
    carry = (state, _see(config, state.params, task.probe), history, total)
    (_, _, history, total), kept = jax.lax.scan(segment, carry, first_steps)
    kept = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), kept)
    return total, kept, history


def _start_history(config, task, state, apply=models.apply):
    history = outcomes.start_history(*training.look(config, state.params, task.probe, apply))
    return history._replace(spell_start=history.spell_start + state.step)


def _look_at_probe(config, task, state, history, apply=models.apply):
    found, bound = training.look(config, state.params, task.probe, apply)
    return outcomes.observe_probe(
        history,
        state.step,
        found.margin,
        bound,
        since=config.probe_every,
        tolerance=config.tolerance,
        sustain=config.sustain,
    )


def _start(config: Config, key: jax.Array) -> State:
    """`training.start` in JAX's present float type (Flax makes float32 parameters under x64)."""
    unbiased = dataclasses.replace(config, initial_bias=0.0)
    with jax.numpy_dtype_promotion("standard"):  # float32 parameters on float64 inputs
        params = training.start(training.as_arrays(unbiased), key).params
    shift = lambda values: values.at[: config.biased_units].add(config.initial_bias)  # noqa: E731
    params = models.with_shift(config, _as_floats(params), shift)
    return State(jnp.int32(0), params, training.make_optimizer(config).init(params))


def _as_floats(tree: Any) -> Any:
    """The tree with floating leaves in JAX's present float type: float64 when x64 is enabled."""
    kind = jax.dtypes.canonicalize_dtype(float)

    def cast(leaf):
        return leaf.astype(kind) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)


def _make_task(config, key, data) -> Task:
    return _as_floats(tasks.make_task(config, training.purpose_key(key, "task"), data))


def _traced(config: Config) -> Config:
    """`training.as_arrays`, but float64 when x64 is enabled."""
    kind = jax.dtypes.canonicalize_dtype(float)
    return jax.tree.map(lambda value: jnp.asarray(value, kind), config)


def _empty_record(config: Config) -> _Record:
    """A _Record of zeros for all units."""
    zeros = functools.partial(jnp.zeros, dtype=jax.dtypes.canonicalize_dtype(float))
    units, parts = config.units, 2 if config.normalization == "none" else 4
    own = zeros((len(VIEWS), len(present_sources(config)), parts, units))
    return _Record(own, zeros((len(VIEWS), 3, units)), zeros((len(VIEWS), units)), zeros(units))


def spell_account(
    config: Config, task: Task, key: jax.Array, state: State | None = None
) -> SpellAccount:
    """One run's account as sums over each unit's dead spell before its first recovery.

    The run is `config.steps` steps from `state` (by default step 0's own). The spell starts at
    the first look for units dead there, else at the look that first sees the unit
    dead; it ends at the look that first sees it alive again, at divergence or at the horizon.
    Pure; `jax.vmap` it over configs as `training.run`. Memory is that of the terms of one step.
    A unit whose run overflows within the spell has non-finite sums.
    """

    def fold(total, record, spell):
        sums, steps = total
        sums = jax.tree.map(lambda s, r: s + _during(spell, r), sums, record)
        return (sums, steps + spell), None

    total = (_empty_record(config), jnp.zeros(config.units, jnp.int32))
    (sums, steps), _, history = _walk(config, task, key, state, fold, total)
    return SpellAccount(_entry(config, sums), steps, history)


def _during(spell: jax.Array, values: jax.Array) -> jax.Array:
    """Values [..., units] where the unit is in its spell [units], else 0."""
    return jnp.where(spell.reshape((1,) * (values.ndim - 1) + spell.shape), values, 0)


@jax.jit
def _account(config, key, data, state, units):
    def fold(total, record, spell):
        return total, jax.tree.map(lambda leaf: leaf[..., units], (record, spell))

    task = _make_task(config, key, data)
    _, (records, spell), history = _walk(config, task, key, state, fold, None)
    return Account(units, _entry(config, records), spell, history)


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
    (`probes.rounding_bound`). x64 also changes the draws, so it is another run of the same law.
    Raises a ValueError for a config that cannot run, for a unit that is not there, and when the
    account would not fit into memory.
    """
    config = validate(config)
    check_covered(config, "accounts", COVERED)
    if training.optimizer_of(config).rule is None:
        raise _unknown_rule(config)
    chosen = _check_units(config, units, range(config.units))
    empty = jax.eval_shape(lambda: _entry(config, _empty_record(config)))
    unit_bytes = sum(leaf.dtype.itemsize for leaf in jax.tree.leaves(empty))
    needed = 2 * unit_bytes * config.steps * len(chosen)
    training.check_memory(needed, "use fewer units or steps")
    key = training.run_key(root_seed, seed)
    chosen = jnp.asarray(chosen, jnp.int32)
    return _account(_traced(config), key, tasks.load_data(config), state, chosen)


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


def _check_units(config, units, allowed) -> tuple[int, ...]:
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


def spell_shares(account: Account | SpellAccount, view: str = "margin") -> Shares:
    """Which fraction of the climb over the dead spell each channel brought, [..., units].

    The climb is what the margin (view "margin") or the mean of z (view "mean") gained from the
    first look of the spell to the one that ends it. Shares are of that net change: with opposing
    channels they may be large, and they mean little where the climb is near 0. A unit that never
    recovered has shares of what it moved by.
    """
    check_choice("view", view, VIEWS)
    sums = (spell_sums(account) if isinstance(account, Account) else account).sums
    balance = getattr(sums, view)
    handover = sums.handover if view == "margin" else jnp.zeros_like(sums.handover)
    terms = balance.terms
    whole = {name: sum(getattr(terms, name)) for name in SOURCES}
    climb = balance.change + handover
    brought = {
        "gradient": whole["gradient"],
        "outside": whole["outside"],
        "residue": whole["residue"],
        "decay": whole["coupled_decay"] + whole["decoupled_decay"],
        "noise": whole["noise"],
        "upstream": terms.upstream + terms.cross,
        "normalization": terms.normalization,
        "handover": handover,
        "rounding": balance.residual,
    }
    safe = jnp.where(climb == 0, jnp.nan, climb)
    return Shares(**{name: value / safe for name, value in brought.items()}, climb=climb)


# --- Causal forks -----------------------------------------------------------------------------


class Arm(NamedTuple):
    """One counterfactual: how it changes the config and the state at the fork."""

    missing: Callable[[Config], str | None]  # why the config cannot have this arm, or None
    config: Callable[[Config], Config] = lambda config: config  # traced fields only
    state: Callable[[Config, State, jax.Array], State] = lambda config, state, cohort: state
    holds: str | None = None  # what is held as it is at the fork: "upstream" or "normalization"


def _switch_off(field: str) -> Arm:
    def missing(config):
        value = getattr(config, field)
        return None if value else f"{field}={value!r} leaves nothing to switch off"

    return Arm(missing, lambda config: dataclasses.replace(config, **{field: 0.0}))


def _no_upstream(config: Config) -> str | None:
    if config.biased_layer == 1:
        return "biased_layer=1 has no layer below"
    return "upstream_rate=0.0 has frozen it already" if config.upstream_rate == 0 else None


def _no_residue(config: Config) -> str | None:
    if training.optimizer_of(config).memory is None:
        return f"optimizer={config.optimizer!r} keeps no first moment that could move a unit"
    return "momentum=0.0 leaves no residue" if config.momentum == 0 else None


def _no_normalization(config: Config) -> str | None:
    if config.activation in ("prelu", "crelu"):
        return f"a frozen forward pass does not cover activation={config.activation!r}"
    return "normalization='none' has no statistics" if config.normalization == "none" else None


def _zero_residue(config: Config, state: State, cohort: jax.Array) -> State:
    """The state with the first moment of the cohort's incoming parameters set to 0; `cohort` is
    [units of the biased layer] bool. Denominators stay, as they move nothing by themselves."""
    name = str(training.optimizer_of(config).memory)  # `_no_residue` has refused None
    moment = optax.tree.get(state.optimizer, name)
    own = f"_{config.biased_layer}"  # the end of the names of all groups of the layer
    zeroed = {
        group: jax.tree.map(lambda leaf: _during(~cohort, leaf), part)
        if group.endswith(own)
        else part
        for group, part in moment.items()
    }
    return state._replace(optimizer=optax.tree.set(state.optimizer, **{name: zeroed}))


ARMS = {
    "as_is": Arm(lambda config: None),
    "upstream_frozen": Arm(_no_upstream, holds="upstream"),
    "residue_zeroed": Arm(_no_residue, state=_zero_residue),
    "decay_off": _switch_off("weight_decay"),
    "noise_off": _switch_off("noise_scale"),
    "outside_off": _switch_off("outside_gradient"),
    "normalization_frozen": Arm(_no_normalization, holds="normalization"),
}
RATE_ARM = "rate_x"


def _find_arm(name: str) -> Arm:
    """The arm of a name in `ARMS`, or of "rate_x" and a factor."""
    if not isinstance(name, str) or not name.startswith(RATE_ARM):
        check_choice("arm", name, [*ARMS, RATE_ARM + "10"])
        return ARMS[name]
    try:
        factor = float(name[len(RATE_ARM) :])
    except ValueError:
        factor = 0.0
    if not 0 < factor < float("inf"):
        raise ValueError(
            f"arm {name!r} needs a factor > 0 on the learning rate, such as 'rate_x10'."
        )

    def missing(config):
        return None if config.learning_rate else "learning_rate=0.0 leaves nothing to multiply"

    return Arm(
        missing,
        lambda config: dataclasses.replace(config, learning_rate=factor * config.learning_rate),
    )


class ForkResult(NamedTuple):
    """What became of one dead cohort in every arm; NumPy arrays, `units` those asked for."""

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
) -> ForkResult:
    """Continues every seed's run from its state at `step` to the horizon, once for each arm.

    The cohort are the units of the biased layer (or those of them in `units`) that are dead on
    the probe set at `step`: one cohort for all arms. All arms see the same batches and the same
    noise, since draws are folds of the run's key and the step. "as_is" is always among them.

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

    Raises a ValueError for a step that is no look of the run before its end, an arm that the
    config does not have, a unit outside the biased layer, and when no unit is dead at `step`.
    """
    config = validate(config)
    check_covered(config, "forks", COVERED)
    names, rows = _check_arms(config, arms)
    step = _check_step(config, step)
    seeds = _check_seeds(seeds)
    layer = layer_units(config)
    chosen = _check_units(config, units, range(layer[0], layer[-1] + 1))
    keys = jnp.stack([training.run_key(root_seed, seed) for seed in seeds])
    base = _traced(config)
    task, state = _begin(base, keys, tasks.load_data(config))
    before = jnp.int32(step // config.probe_every)
    history = _begin_history(base, task, state)
    freezable = any(row.holds == "normalization" for row in rows)
    advance = functools.partial(_advance, task=task, key=keys, freezable=freezable)
    if step:
        state, _ = advance(base, state, history, state.params, _held(None), before)
        history = _begin_history(base, task, state)
    cohort = np.asarray(history.dead_at_start)[:, list(chosen)]
    if not cohort.any():
        raise ValueError(
            f"none of the units {chosen} is dead at step {step} in any of the seeds {seeds}, so "
            f"there is nothing to recover; use another step or a more negative initial_bias."
        )
    targets = history.dead_at_start & jnp.isin(jnp.arange(config.units), jnp.asarray(chosen))[None]
    targets = targets[:, layer[0] : layer[-1] + 1]
    rest = jnp.int32(config.probes - step // config.probe_every)
    histories = []
    for row in rows:
        changed = _traced(validate(row.config(config)))
        start = jax.vmap(functools.partial(row.state, config))(state, targets)
        _, after = advance(changed, start, history, state.params, _held(row.holds), rest)
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
        raise ValueError(f"arms={arms!r} names an arm twice; every arm may stand once.")
    names = ("as_is", *(name for name in arms if name != "as_is"))
    rows = [_find_arm(name) for name in names]
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
def _begin(config, keys, data):
    """(task, state at step 0) of every seed, leaves [seeds, ...]."""
    return jax.vmap(lambda key: (_make_task(config, key, data), _start(config, key)))(keys)


@jax.jit
def _begin_history(config, task, state):
    """The history that starts at these states, [seeds, units]."""
    return jax.vmap(functools.partial(_start_history, config))(task, state)


@functools.partial(jax.jit, static_argnames="freezable")
def _advance(config, state, history, reference, held, looks, *, task, key, freezable):
    """All seeds of one arm, `looks` looks further: (state, history), leaves [seeds, ...].

    `held` says what stays as it is: the parameters of the layers below the biased one, or the
    normalization statistics of the `reference` parameters (only in a `freezable` program).
    """
    below = tuple(f"_{layer}" for layer in range(1, config.biased_layer))

    def of_seed(task, key, state, history, reference):
        apply = models.apply
        if freezable:
            apply = functools.partial(_apply_frozen, reference, held["normalization"])

        def step(carry, indices):
            state, history = carry
            new, snapshot = training._step(config, task, key, indices, state, apply)
            # Selected after the update rather than a rate of 0 within it: "as_is" keeps the
            # arithmetic of a run without arms.
            keep = functools.partial(jnp.where, held["upstream"])
            params = {
                name: jax.tree.map(keep, state.params[name], group)
                if name.endswith(below)
                else group
                for name, group in new.params.items()
            }
            history = outcomes.observe_batch(history, state.step, snapshot.loss, snapshot.batch)
            return (new._replace(params=params), history), None

        def segment(_, carry):
            state, history = carry
            steps = state.step + jnp.arange(config.probe_every, dtype=state.step.dtype)
            indices = jax.vmap(lambda now: training.draw_batch(config, key, now))(steps)
            (state, history), _ = jax.lax.scan(step, (state, history), indices)
            return state, _look_at_probe(config, task, state, history, apply)

        return jax.lax.fori_loop(0, looks, segment, (state, history))

    return jax.vmap(of_seed)(task, key, state, history, reference)


def _apply_frozen(reference, frozen, config, params, inputs) -> models.Forward:
    """`models.apply` with every hidden layer's normalization statistics taken from the forward
    pass of the `reference` parameters on the same inputs where `frozen` is true."""
    activate = models.ACTIVATIONS[config.activation]

    def affine(tree, name, x):
        bias = tree[name].get("bias")
        product = x @ tree[name]["kernel"]
        return product if bias is None else product + bias[None, :]

    def normalize(tree, layer, values, mean, inverse):
        scale, shift = _scale_of(config, tree, layer), models.shift(config, tree, layer)
        scale = jnp.ones_like(shift) if scale is None else scale
        return (values - mean) * inverse * scale[None, :] + shift[None, :]

    x, then, preactivations, seen = inputs, inputs, [], []
    for layer in range(1, len(config.hidden) + 1):
        name = models.layer_name(layer)
        seen.append(x)
        values, held_values = affine(params, name, x), affine(reference, name, then)
        held = normalization_statistics(config, held_values)
        now = normalization_statistics(config, values)
        mean, inverse = (jnp.where(frozen, h, n) for h, n in zip(held, now, strict=True))
        preactivations.append(normalize(params, layer, values, mean, inverse))
        x = activate(preactivations[-1])
        then = activate(normalize(reference, layer, held_values, *held))
    return models.Forward(affine(params, "output", x), tuple(preactivations), tuple(seen))


class ForkRow(NamedTuple):
    """One arm of a fork at one time. Intervals are clustered by seed; arms are paired by seed."""

    arm: str
    time: int  # step of the run
    cohort: int  # units at risk, the same in every arm
    recovered: int  # of them, alive again at a look by `time`
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
