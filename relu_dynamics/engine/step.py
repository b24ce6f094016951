"""The step: one training step of one network, the only one there is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from relu_dynamics.config import TRACED, Config
from relu_dynamics.engine import columns, models, probes, resets, tasks
from relu_dynamics.engine.columns import all_units_at_once
from relu_dynamics.engine.keys import noise_key, purpose_key
from relu_dynamics.engine.models import PRECISION
from relu_dynamics.engine.optimizers import make_optimizer, scheduled
from relu_dynamics.engine.probes import UnitStatistics
from relu_dynamics.engine.shapes import check_state, check_task
from relu_dynamics.engine.tasks import Task
from relu_dynamics.engine.terms import Seen, with_terms


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


Apply = Callable[[Config, models.Params, jax.Array], models.Forward]


def train_step(
    config: Config,
    task: Task,
    key: jax.Array,
    state: State,
    indices: jax.Array | None = None,
    apply: Apply = models.apply,
) -> tuple[State, Snapshot]:
    """One step of training: the next state, and the statistics of z that its forward pass saw.

    `key` is the run's key; the draws of this step are folds of it. `indices` are the training
    examples of the minibatch, [batch]; by default those that the key draws. `apply` is the forward
    pass. Pure, jit-able, vmap-able over the config's traced fields and the state. Raises a
    ValueError for a task or a state whose shapes do not fit the config.
    """
    check_task(config, task)
    check_state(config, state.step, state.params)
    if indices is None:
        indices = draw_batch(config, key, state.step)
    config = scheduled(config, state.step)
    known = resets.remembered(config, state.optimizer)
    silent = None if known is None else known.silent
    loss, statistics, gradients = batch_gradients(
        config, task, indices, state.params, apply, silent
    )
    updates, optimizer = parameter_updates(config, key, state, gradients)
    snapshot = Snapshot(
        loss=loss,
        batch=statistics,
        gradient_norm=gradient_norms(config, gradients),
    )
    if known is not None:
        # The forward pass of the gradient, which XLA makes only once.
        with jax.default_matmul_precision(PRECISION):
            forward = apply(config, state.params, _examples(config, task, indices)[0])
        memory = resets.observed(config, known, state.params, forward)
        optimizer = resets.with_memory(optimizer, memory)
    params = optax.apply_updates(state.params, updates)
    return State(state.step + 1, params, optimizer), snapshot


def _examples(config: Config, task: Task, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
    if config.batch_size is None:
        return task.inputs, task.targets
    return task.inputs[indices], task.targets[indices]


def batch_gradients(
    config: Config,
    task: Task,
    indices: jax.Array,
    params: models.Params,
    apply: Apply = models.apply,
    silent: jax.Array | None = None,
) -> tuple[jax.Array, UnitStatistics, models.Params]:
    """(loss, statistics of z, gradients) on the training examples `indices`, [batch]. The gradients
    are those of the loss and of the config's terms; `silent` [units] is how many steps units have
    been so, which a revival needs."""

    def plain(params, inputs, targets):
        loss, z, gradients = _loss_gradients(config, inputs, targets, params, apply, silent)
        return loss, probes.unit_statistics(z), gradients

    form = plain
    if apply is models.apply and columns.is_one_unit(config):
        form = all_units_at_once(config, plain)
    loss, statistics, gradients = form(params, *_examples(config, task, indices))
    return loss, statistics, with_outside_gradient(config, clipped(config, gradients))


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


def _loss_gradients(config, inputs, targets, params, apply, silent=None):
    def batch_loss(params):
        forward = apply(config, params, inputs)
        loss = tasks.loss(config, forward.output, targets)
        trained = with_terms(config, loss, params, Seen(forward, targets, silent))
        return trained, (loss, forward.preactivations)

    with jax.default_matmul_precision(PRECISION):
        (_, (loss, z)), gradients = jax.value_and_grad(batch_loss, has_aux=True)(params)
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
        updates = add_noise(config, noise_key(key, state.step), updates)
    if config.upstream_rate is not None:
        updates = scale_upstream(config, updates)
    return updates, optimizer


def add_noise(config: Config, key: jax.Array, updates: models.Params) -> models.Params:
    if config.noise_scale is None:
        return updates
    leaves, tree = jax.tree.flatten(updates)
    scale = config.learning_rate * config.noise_scale
    noisy = [
        leaf + scale * jax.random.normal(jax.random.fold_in(key, i), leaf.shape)
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(tree, noisy)


def scale_upstream(config: Config, updates: models.Params) -> models.Params:
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
        squares = jnp.sum(group["kernel"] ** 2, axis=0)
        norms.append(jnp.sqrt(squares + group["bias"] ** 2 if "bias" in group else squares))
    return jnp.concatenate(norms)
