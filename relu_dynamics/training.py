"""Training: one pure step, and a run as a scan of it.

    train_step(config, task, key, state) -> (state, snapshot)

State is what the next step needs; snapshot is what a reader wants to see. A run scans the step
and looks at the probe set every `probe_every` steps; a grid is `jax.vmap` of a run over configs
(`relu_dynamics.grids`). The key of a run is never split: every draw is a `fold_in` of a purpose
and a step, so that a longer run or a larger grid never changes a run's noise.
"""

import dataclasses
import enum
import functools
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relu_dynamics import models, outcomes, probes, tasks
from relu_dynamics.config import TRACED, Config, told, validate
from relu_dynamics.outcomes import History
from relu_dynamics.probes import LayerSummary, UnitStatistics
from relu_dynamics.tasks import Task

PURPOSES = {"task": 0, "init": 1, "batch": 2, "noise": 3, "kill": 4}
PRECISION = "highest"  # the question is the sign of z: no TF32 or bf16 products


class State(NamedTuple):
    """What the next step needs."""

    step: jax.Array  # [] int32, steps done
    params: models.Params
    optimizer: optax.OptState


class Snapshot(NamedTuple):
    """What a reader wants to see of one step, before its update."""

    loss: jax.Array  # [] on the minibatch
    batch: UnitStatistics  # [units] of z on the minibatch
    gradient_norm: jax.Array  # [units] of the loss gradient of incoming weights and bias


class Trace(NamedTuple):
    """The record of a run. Leaves named `batch...` and `loss` have a leading [steps] axis when
    every unit is traced; `probe_...` have a leading [probes + 1] axis, from step 0 on."""

    loss: jax.Array  # [steps], or [probes] means over the steps between looks
    probe_layers: LayerSummary  # [probes + 1, layers]
    probe_units: UnitStatistics | None  # [probes + 1, units]
    batch_units: UnitStatistics | None  # [steps, units]
    gradient_norm: jax.Array | None  # [steps, units]


class Run(NamedTuple):
    """All that came out of one run."""

    state: State
    history: History
    trace: Trace
    held_loss: jax.Array  # [] after the last step, on held-out examples (else on the probe set)
    held_error: jax.Array  # [] fraction wrong or mean squared error, likewise


def run_key(root_seed: int, seed: int) -> jax.Array:
    """The key of a seed's runs; seeds go up to 2^64, both their halves are folded in."""
    for field, value, most in (("root_seed", root_seed, 2**32), ("seed", seed, 2**64)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise ValueError(f"{field}={value!r} must be a whole number.")
        if not 0 <= value < most:
            raise ValueError(f"{field}={value!r} must be >= 0 and < {most}.")
    root = jax.random.key(int(root_seed))
    high, low = divmod(int(seed), 2**32)
    return jax.random.fold_in(jax.random.fold_in(root, np.uint32(high)), np.uint32(low))


def purpose_key(key: jax.Array, purpose: str) -> jax.Array:
    """The key of one of the `PURPOSES` of a run's key."""
    return jax.random.fold_in(key, PURPOSES[purpose])


def at_step(config: Config, step: jax.Array) -> Config:
    """The config with the learning rate of a step. A schedule thereby also scales what the
    learning rate scales: decoupled decay and additive noise."""
    if config.schedule == "constant":
        return config
    warmup, decay = config.warmup_steps or 0, config.decay_steps or config.steps
    factor = {
        "warmup": lambda: optax.schedules.linear_schedule(0.0, 1.0, warmup),
        "cosine": lambda: optax.schedules.cosine_decay_schedule(1.0, decay),
        "warmup_cosine": lambda: optax.schedules.warmup_cosine_decay_schedule(
            0.0, 1.0, warmup, decay
        ),
    }[config.schedule]()(step)
    return dataclasses.replace(config, learning_rate=config.learning_rate * factor)


class Rule(enum.Enum):
    """The update rules whose mathematics accounts and certificates know."""

    SGD = enum.auto()
    HEAVY_BALL = enum.auto()
    NESTEROV = enum.auto()
    ADAM = enum.auto()
    RMSPROP = enum.auto()


class Optimizer(NamedTuple):
    """What the rest of the project has to know of an optimizer; a row of `OPTIMIZERS`."""

    make: Callable[..., optax.GradientTransformation]  # of (rate, momentum), both traced
    rule: Rule | None = None  # None: accounts and certificates refuse it
    memory: str | None = None  # the part of its state that moves a unit without a gradient
    uses_momentum: bool = True
    decay_is_decoupled: bool = False  # whatever `decay_kind` says


DEFAULT_MOMENTUM = 0.9
# optax's own, which `OPTIMIZERS` leaves as they are.
ADAM_B2, ADAM_EPSILON = 0.999, 1e-8
RMSPROP_DECAY, RMSPROP_EPSILON = 0.9, 1e-8


def _adam(rate, momentum):
    return optax.adam(rate, b1=momentum)


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(lambda rate, _: optax.sgd(rate), Rule.SGD, uses_momentum=False),
    "momentum": Optimizer(
        lambda rate, momentum: optax.sgd(rate, momentum=momentum), Rule.HEAVY_BALL, "trace"
    ),
    "nesterov": Optimizer(
        lambda rate, momentum: optax.sgd(rate, momentum=momentum, nesterov=True),
        Rule.NESTEROV,
        "trace",
    ),
    "adam": Optimizer(_adam, Rule.ADAM, "mu"),
    # AdamW is Adam and a decoupled decay; `make_optimizer` adds the decay, as for all others.
    "adamw": Optimizer(_adam, Rule.ADAM, "mu", decay_is_decoupled=True),
    # Its state scales the gradient and moves nothing by itself.
    "rmsprop": Optimizer(lambda rate, _: optax.rmsprop(rate), Rule.RMSPROP, uses_momentum=False),
}


def optimizer_of(config: Config) -> Optimizer:
    """The row of `OPTIMIZERS` that the config names."""
    return OPTIMIZERS[config.optimizer]


def momentum_of(config: Config) -> float | jax.Array:
    """The (traced) momentum, or Adam's b1, that the optimizer gets."""
    return DEFAULT_MOMENTUM if config.momentum is None else config.momentum


def decay_is_decoupled(config: Config) -> bool:
    """Whether weight decay is subtracted after the optimizer rather than added to the gradient."""
    return config.decay_kind == "decoupled" or optimizer_of(config).decay_is_decoupled


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """The optax optimizer of a config, built from its (traced) numbers.

    Built inside the step rather than kept in the state: `optax.inject_hyperparams` rounds Adam's
    1 - b1 differently, and this is bit-equal to plain optax.
    """
    rate = config.learning_rate
    base = optimizer_of(config).make(rate, momentum_of(config))
    if config.weight_decay is None:
        return base
    mask = functools.partial(decay_mask, config)
    if decay_is_decoupled(config):
        return optax.chain(base, _decoupled_decay(config.weight_decay, rate, mask))
    return optax.chain(optax.add_decayed_weights(config.weight_decay, mask), base)


def _decoupled_decay(decay, rate, mask) -> optax.GradientTransformation:
    """Subtracts rate * decay * parameter from the update, after the optimizer (AdamW's form)."""

    def update(updates, state, params=None):
        decayed = jax.tree.map(
            lambda u, p, m: u - rate * decay * p if m else u, updates, params, mask(params)
        )
        return decayed, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def decay_mask(config: Config, params: models.Params) -> Any:
    """A tree of bools: which parameters decay under `config.decay_targets`. Weights are arrays
    of two axes; biases, scales and shifts have one."""
    wanted = {"all": (1, 2), "weights": (2,), "biases": (1,)}[config.decay_targets]
    return jax.tree.map(lambda leaf: leaf.ndim in wanted, params)


def start(config: Config, key: jax.Array) -> State:
    """The state at step 0 of the run with this config and run key."""
    inputs = None
    if config.initializer == "data_dependent":
        data = tasks.load_data(config)
        inputs = tasks.make_task(config, purpose_key(key, "task"), data).inputs
    params = models.initialize(config, purpose_key(key, "init"), inputs)
    state = State(jnp.int32(0), params, make_optimizer(config).init(params))
    if config.killed_fraction is not None and config.killed_at == 0:
        state = _kill(config, key, state)
    return state


def _kill(config: Config, key: jax.Array, state: State) -> State:
    params, memory = models.kill(config, state.params, state.optimizer, purpose_key(key, "kill"))
    return state._replace(params=params, optimizer=memory)


def draw_batch(config: Config, key: jax.Array, step: jax.Array) -> jax.Array:
    """Indices of the training examples of one step, [batch]; the same for all cells of a seed,
    unless the config's `batch_order` is "independent"."""
    size = config.examples if config.batch_size is None else config.batch_size
    if config.batch_size is None:
        return jnp.arange(size)
    if config.batch_order == "sequential":
        return (step * size + jnp.arange(size)) % config.examples
    step_key = jax.random.fold_in(purpose_key(key, "batch"), step)
    if config.batch_order == "independent":
        step_key = _own_key(config, step_key)
    return jax.random.randint(step_key, (size,), 0, config.examples)


def _own_key(config: Config, key: jax.Array) -> jax.Array:
    """The key of one cell: of its numbers rather than of its place, so that a larger grid has the
    same."""
    for name in TRACED:
        value = getattr(config, name)
        if value is not None:
            bits = jax.lax.bitcast_convert_type(jnp.asarray(value, jnp.float32), jnp.uint32)
            key = jax.random.fold_in(key, bits)
    return key


def train_step(config: Config, task: Task, key: jax.Array, state: State) -> tuple[State, Snapshot]:
    """One step of training: the next state, and the statistics of z that its forward pass saw.

    `key` is the run's key; the draws of this step are folds of it. Pure, jit-able, vmap-able
    over the config's traced fields and the state.
    """
    return _step(config, task, key, draw_batch(config, key, state.step), state)


def _step(config, task, key, indices, state, apply=models.apply):
    config = at_step(config, state.step)
    loss, statistics, gradients = observe(config, task, indices, state.params, apply)
    updates, optimizer = parameter_updates(config, key, state, gradients)
    snapshot = Snapshot(
        loss=loss,
        batch=statistics,
        gradient_norm=gradient_norms(config, gradients),
    )
    params = optax.apply_updates(state.params, updates)
    return State(state.step + 1, params, optimizer), snapshot


def _examples(config: Config, task: Task, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
    if config.batch_size is None:
        return task.inputs, task.targets
    return task.inputs[indices], task.targets[indices]


Apply = Callable[[Config, models.Params, jax.Array], models.Forward]


def observe(
    config: Config,
    task: Task,
    indices: jax.Array,
    params: models.Params,
    apply: Apply = models.apply,
) -> tuple[jax.Array, UnitStatistics, models.Params]:
    """(loss, statistics of z, gradients) on the training examples `indices`, [batch]."""

    def plain(params, inputs, targets):
        loss, z, gradients = _loss_gradients(config, inputs, targets, params, apply)
        return loss, probes.unit_statistics(z), gradients

    form = plain
    if apply is models.apply and models.is_one_unit(config):
        form = _all_units_at_once(config, plain)
    loss, statistics, gradients = form(params, *_examples(config, task, indices))
    return loss, statistics, with_outside_gradient(config, clipped(config, gradients))


def _all_units_at_once(config: Config, plain: Callable) -> Callable:
    """`plain` with a rule for `jax.vmap`: networks of one unit become columns of one matrix.

    Under `vmap`, XLA makes a matrix-vector product of every lane's single unit. With the lanes on
    the last axis the same mathematics is one product forward and one backward, and every
    reduction over the batch is a full-width vector instruction. Both agree to rounding (tested).
    """

    form = jax.custom_batching.custom_vmap(plain)

    @form.def_vmap
    def rule(lanes, batched, params, inputs, targets):
        if batched[1] or batched[2]:  # lanes with examples of their own: nothing to share
            axes = jax.tree.map(lambda b: 0 if b else None, tuple(batched))
            result = jax.vmap(plain, in_axes=axes)(params, inputs, targets)
        else:
            full = jax.tree.map(
                lambda p, b: p if b else jnp.broadcast_to(p, (lanes, *p.shape)), params, batched[0]
            )
            columns = models.to_columns(full)
            with jax.default_matmul_precision(PRECISION):
                losses, z, gradients = models.one_unit_gradients(config, columns, inputs, targets)
            # The mean of z by linearity: no pass over z.
            mean = models.affine(columns, inputs.mean(0))
            seen = probes.unit_statistics((z,))._replace(mean=mean)
            statistics = jax.tree.map(lambda s: s[:, None], seen)
            result = losses, statistics, models.from_columns(gradients)
        return result, jax.tree.map(lambda _: True, result)

    return form


def loss_gradients(
    config: Config,
    task: Task,
    indices: jax.Array,
    params: models.Params,
    apply: Apply = models.apply,
) -> tuple[jax.Array, tuple[jax.Array, ...], models.Params]:
    """(loss, preactivations, gradients) on the training examples `indices`, [batch]; `apply` is
    the forward pass."""
    inputs, targets = _examples(config, task, indices)
    loss, z, gradients = _loss_gradients(config, inputs, targets, params, apply)
    return loss, z, with_outside_gradient(config, clipped(config, gradients))


def _loss_gradients(config, inputs, targets, params, apply):
    def batch_loss(params):
        forward = apply(config, params, inputs)
        return tasks.loss(config, forward.output, targets), forward.preactivations

    with jax.default_matmul_precision(PRECISION):
        (loss, z), gradients = jax.value_and_grad(batch_loss, has_aux=True)(params)
    return loss, z, gradients


def clipped(config: Config, gradients: models.Params) -> models.Params:
    """The loss gradient scaled down to the largest global norm that the config allows."""
    if config.clip_norm is None:
        return gradients
    short: Any = optax.clip_by_global_norm(config.clip_norm).update(gradients, optax.EmptyState())
    return short[0]


def with_outside_gradient(config: Config, gradients: models.Params) -> models.Params:
    """The gradients and what pushes from outside the loss."""
    if config.outside_gradient is None:
        return gradients
    push = lambda shift: shift.at[: config.biased_units].add(config.outside_gradient)  # noqa: E731
    return models.with_shift(config, gradients, push)


def parameter_updates(
    config: Config, key: jax.Array, state: State, gradients: models.Params
) -> tuple[models.Params, optax.OptState]:
    """What is added to the parameters at `state.step`, and the optimizer's next state."""
    updates, optimizer = make_optimizer(config).update(gradients, state.optimizer, state.params)
    if config.noise_scale is not None:
        updates = _add_noise(config, noise_key(key, state.step), updates)
    if config.upstream_rate is not None:
        updates = _scale_upstream(config, updates)
    return updates, optimizer


def noise_key(key: jax.Array, step: jax.Array) -> jax.Array:
    """The key of one step's additive noise."""
    return jax.random.fold_in(purpose_key(key, "noise"), step)


def _add_noise(config: Config, key: jax.Array, updates: models.Params) -> models.Params:
    if config.noise_scale is None:
        return updates
    leaves, tree = jax.tree.flatten(updates)
    scale = config.learning_rate * config.noise_scale
    noisy = [
        leaf + scale * jax.random.normal(jax.random.fold_in(key, i), leaf.shape)
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(tree, noisy)


def _scale_upstream(config: Config, updates: models.Params) -> models.Params:
    upstream = [f"_{layer}" for layer in range(1, config.biased_layer)]
    return {
        name: jax.tree.map(lambda u: u * config.upstream_rate, group)
        if name.endswith(tuple(upstream))
        else group
        for name, group in updates.items()
    }


def gradient_norms(config: Config, gradients: models.Params) -> jax.Array:
    """Norm of the gradient of each unit's incoming weights and bias, [units]."""
    norms = []
    for layer in range(1, len(config.hidden) + 1):
        group = gradients[models.layer_name(layer)]
        norms.append(jnp.sqrt(jnp.sum(group["kernel"] ** 2, axis=0) + group["bias"] ** 2))
    return jnp.concatenate(norms)


def look(
    config: Config, params: models.Params, inputs: jax.Array, apply: Callable = models.apply
) -> tuple:
    """(UnitStatistics, rounding bounds), [units] each, of the pre-activations on `inputs`."""
    return _look(config, params, inputs, apply)[:2]


def _look(config, params, inputs, apply):
    def plain(params, inputs):
        with jax.default_matmul_precision(PRECISION):
            return _seen(config, params, apply(config, params, inputs))

    one_unit = apply is models.apply and models.is_one_unit(config)
    return (_look_at_columns(config, plain) if one_unit else plain)(params, inputs)


def _look_at_columns(config: Config, plain: Callable) -> Callable:
    """`plain` with a rule for `jax.vmap`: networks of one unit are looked at as one layer, each a
    unit of it. Both agree to rounding (tested)."""
    form = jax.custom_batching.custom_vmap(plain)

    @form.def_vmap
    def rule(lanes, batched, params, inputs):
        if batched[1] or not all(jax.tree.leaves(batched[0])):
            axes = jax.tree.map(lambda b: 0 if b else None, tuple(batched))
            result = jax.vmap(plain, in_axes=axes, axis_size=lanes)(params, inputs)
        else:
            columns = models.to_columns(params)
            with jax.default_matmul_precision(PRECISION):
                z = inputs @ columns.weights + columns.bias[None, :]
            group = {"kernel": columns.weights, "bias": columns.bias}
            forward = models.Forward(z, (z,), (inputs,))
            layer = _seen(config, {models.layer_name(1): group}, forward)
            result = jax.tree.map(lambda values: values[:, None], layer)
        return result, jax.tree.map(lambda _: True, result)

    return form


def _seen(config, params, forward):
    """(statistics, rounding bounds, `probes.slope_statistics`) of a forward pass."""
    statistics = probes.unit_statistics(forward.preactivations)
    bounds = []
    for layer, (z, seen) in enumerate(
        zip(forward.preactivations, forward.inputs, strict=True), start=1
    ):
        shift = models.shift(config, params, layer)
        if config.normalization == "none":
            weights = params[models.layer_name(layer)]["kernel"]
            bounds.append(probes.rounding_bound(weights, shift, seen))
        else:
            bounds.append(probes.normalized_rounding_estimate(shift, z, seen.shape[1]))
    slope = _slope_statistics(config, params, forward, statistics)
    return statistics, jnp.concatenate(bounds), slope


def _slope_statistics(config, params, forward, statistics) -> tuple[jax.Array, jax.Array]:
    """`probes.slope_statistics` of a forward pass."""
    if config.activation == "relu":  # known from what is there: no second pass over z
        return statistics.margin <= 0, jnp.zeros_like(statistics.margin)
    z = forward.preactivations
    layers = enumerate(z, start=1)
    return probes.slope_statistics(
        tuple(models.slopes(config, params, layer, values) for layer, values in layers)
    )


def run(
    config: Config,
    task: Task,
    key: jax.Array,
    state: State | None = None,
    *,
    trace_units: bool = False,
    history: History | None = None,
) -> Run:
    """One whole run as a scan of steps, from `state` (by default step 0's own) for `config.steps`
    steps; `history` is what was seen before (by default nothing). Pure; jit it, or vmap it over
    configs.

    Under `jax.vmap` over the config only, the batches of a seed are drawn once for all lanes and
    the first layer of all lanes is one matrix product.
    """
    every = config.probe_every
    state = start(config, key) if state is None else state
    made = task  # of which a changing task is made anew in every period

    def task_at(step):
        if config.change_every is None:
            return task
        return tasks.renewed(config, made, purpose_key(key, "task"), step)

    def look_at_probe(params, step):
        return _look(config, params, task_at(step).probe, models.apply)

    statistics, bound, slope = look_at_probe(state.params, state.step)
    history = outcomes.start_history(statistics, bound) if history is None else history
    history_at_start = history

    def probe_record(statistics, slope, before, after):
        layers = probes.layer_summary(
            statistics,
            config.hidden,
            *slope,
            died=after.deaths - before.deaths,
            recovered=after.recoveries - before.recoveries,
        )
        return layers, statistics if trace_units else None

    def step(shared, carry, indices):
        config, task, key = shared
        state, history = carry
        now = state.step
        state, snapshot = _step(config, task, key, indices, state)
        history = outcomes.observe_batch(history, now, None, snapshot.batch)
        record = (snapshot.batch, snapshot.gradient_norm) if trace_units else None
        return (state, history), (snapshot.loss, record)

    def finish(carry, out):
        state, history = carry
        losses, record = out
        history = outcomes.observe_losses(history, state.step - every, losses)
        return (state, history), (losses if trace_units else losses.mean(0), record)

    stretch = _lanes_last if models.is_one_unit(config) else _stretch
    train_stretch = stretch(step, finish)

    def segment(carry, first):
        # The draws of a segment at once: threefry in a loop of single steps costs more than a
        # small network's training step.
        steps = first + jnp.arange(every)
        indices = jax.vmap(lambda now: draw_batch(config, key, now))(steps)
        state, before = carry
        if config.killed_fraction is not None and config.killed_at > 0:
            state = jax.lax.cond(
                first == config.killed_at, functools.partial(_kill, config, key), lambda s: s, state
            )
        shared = config, task_at(first), key
        (state, history), (losses, record) = train_stretch(shared, (state, before), indices)
        # A look belongs to the period before it: what was learned, before the task changes.
        statistics, bound, slope = look_at_probe(state.params, first)
        history = outcomes.observe_probe(
            history,
            state.step,
            statistics.margin,
            bound,
            since=every,
            tolerance=config.tolerance,
            sustain=config.sustain,
        )
        seen = probe_record(statistics, slope, before, history)
        return (state, history), (losses, record, seen)

    first_steps = state.step + jnp.arange(config.probes) * every
    (state, history), (losses, record, looks) = jax.lax.scan(segment, (state, history), first_steps)
    first_look = probe_record(statistics, slope, history_at_start, history_at_start)
    layers, units = jax.tree.map(
        lambda head, rest: jnp.concatenate([head[None], rest]), first_look, looks
    )
    if trace_units:
        losses, record = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (losses, record))
    batch_units, norms = record if trace_units else (None, None)
    task = task_at(first_steps[-1])
    held_inputs, held_targets = task.held_inputs, task.held_targets
    if held_inputs.shape[0] == 0:
        held_inputs, held_targets = task.probe, task.targets[: task.probe.shape[0]]
    output = models.apply(config, state.params, held_inputs).output
    return Run(
        state=state,
        history=history,
        trace=Trace(losses, layers, units, batch_units, norms),
        held_loss=tasks.loss(config, output, held_targets),
        held_error=tasks.error(config, output, held_targets),
    )


def _stretch(step: Callable, finish: Callable) -> Callable:
    """The steps between two looks as a function of (shared, carry, xs): finish(carry, out) of what
    `jax.lax.scan` makes of step(shared, carry, x). `finish` also takes arrays that end in an axis
    of lanes."""
    return lambda shared, carry, xs: finish(
        *jax.lax.scan(functools.partial(step, shared), carry, xs)
    )


def _lanes_last(step: Callable, finish: Callable) -> Callable:
    """`_stretch` of a carry (State, History) with a rule for `jax.vmap`: the lanes' axis is last.

    `jax.vmap` of a scan puts the lanes first. Parameters of one-unit networks would then lie
    across the columns that `models.one_unit_gradients` works on, and be turned at every step.
    """
    plain = _stretch(step, finish)
    form = jax.custom_batching.custom_vmap(plain)

    @form.def_vmap
    def rule(lanes, batched, shared, carry, xs):
        first = lambda tree: jax.tree.map(lambda b: 0 if b else None, tree)  # noqa: E731
        everywhere = lambda tree: jax.tree.map(lambda _: True, tree)  # noqa: E731
        if any(jax.tree.leaves(batched[2])):  # batches that differ between lanes: nothing to share
            result = jax.vmap(plain, in_axes=tuple(map(first, batched)))(shared, carry, xs)
            return result, everywhere(result)
        # All lanes get arrays of their own, but a common count of steps stays one number.
        own = everywhere(carry)
        own = (own[0]._replace(step=batched[1][0].step), own[1])
        # Rows at multiples of 1 KiB would all meet in the same few places of the L1 cache.
        spare = 16 if lanes % 256 == 0 else 0

        def widen(leaf, is_batched):
            ends = [(0, spare)] + [(0, 0)] * (leaf.ndim - 1)
            return jnp.pad(leaf, ends, mode="edge") if is_batched and spare else leaf

        def turn(leaf, is_batched, is_own):
            if is_own and not is_batched:
                leaf = jnp.broadcast_to(leaf, (lanes, *leaf.shape))
            return jnp.moveaxis(widen(leaf, True), 0, -1) if is_own else leaf

        def back(leaf, is_own):
            return jnp.moveaxis(leaf[..., :lanes], -1, 0) if is_own else leaf

        axes = jax.tree.map(lambda is_own: -1 if is_own else None, own)
        all_lanes = _stretch(
            jax.vmap(step, in_axes=(first(batched[0]), axes, None), out_axes=(axes, -1)), finish
        )
        shared = jax.tree.map(widen, shared, batched[0])
        carry, out = all_lanes(shared, jax.tree.map(turn, carry, batched[1], own), xs)
        result = jax.tree.map(back, carry, own), jax.tree.map(back, out, everywhere(out))
        return result, (own, everywhere(out))

    return form


@functools.partial(jax.jit, static_argnames="trace_units")
def _train(config, key, data, state, *, trace_units):
    task = tasks.make_task(config, purpose_key(key, "task"), data)
    return run(config, task, key, state, trace_units=trace_units)


def train(
    config: Config,
    seed: int = 0,
    *,
    root_seed: int = 0,
    state: State | None = None,
    trace_units: bool = False,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int | None = None,
) -> Run:
    """Trains one network, from step 0 or from a given state, and returns all that came out of it.

    With `trace_units=True` the trace holds every unit's statistics: of the minibatch and the
    gradient norm at every step, of the probe set at every look (set `probe_every=1` for every
    step). With `checkpoint=FOLDER, checkpoint_every=N` the same call goes on after a kill, see
    `relu_dynamics.checkpoints`. Raises a ValueError for a config that cannot run, and before
    starting when the trace does not fit into memory.
    """
    if checkpoint is not None:
        from relu_dynamics import checkpoints  # orbax is slow to import, and few runs need it

        if state is not None or checkpoint_every is None:
            raise ValueError(
                f"checkpoint={str(checkpoint)!r} needs checkpoint_every=N steps, and starts from "
                "step 0: leave state=None."
            )
        return checkpoints.train(
            config,
            seed,
            folder=checkpoint,
            every=checkpoint_every,
            root_seed=root_seed,
            trace_units=trace_units,
        )
    if checkpoint_every is not None:
        raise ValueError(f"checkpoint_every={checkpoint_every!r} needs checkpoint=FOLDER.")
    if state is not None and not isinstance(state, State):
        raise ValueError(f"state={told(state)} must be a State, such as a run's; or None.")
    config = validate(config)
    check_memory(trace_bytes(config, trace_units), "use trace_units=False or fewer steps")
    traced = as_arrays(config)
    key = run_key(root_seed, seed)
    return _train(traced, key, tasks.load_data(config), state, trace_units=trace_units)


def as_arrays(config: Config) -> Config:
    """The config with its traced fields as float32 arrays: one trace whatever their Python type."""
    return jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), config)


def trace_bytes(config: Config, trace_units: bool) -> int:
    """Bytes of one run's trace: what it returns, twice (the scan stacks, then reshapes)."""
    summaries = (config.probes + 1) * len(config.hidden) * len(LayerSummary._fields)
    per_unit = 0
    if trace_units:
        fields = len(UnitStatistics._fields)
        per_unit = config.units * (config.steps * (fields + 1) + (config.probes + 1) * fields)
    return 4 * 2 * (summaries + per_unit + config.steps)


def available_bytes() -> int:
    """Memory that this machine can give now (all of it where the system does not say)."""
    told_by_linux = pathlib.Path("/proc/meminfo")
    text = told_by_linux.read_text() if told_by_linux.exists() else ""
    # Free pages alone would not count what the page cache gives back.
    if found := re.search(r"MemAvailable:\s*([0-9]+) kB", text):
        return 1024 * int(found[1])
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def check_memory(needed: int, remedy: str) -> None:
    """Raises a ValueError when `needed` bytes are more than the machine can give."""
    available = available_bytes()
    if needed > available:
        raise ValueError(
            f"this request needs {needed / 2**30:.1f} GiB, {available / 2**30:.1f} GiB are free; "
            f"{remedy}."
        )
