"""Glue: a block's state in JAX's arrays, handed to kernel.cc and back."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relu_dynamics.config import Config
from relu_dynamics.engine import models, optimizers, tasks
from relu_dynamics.engine.activations import activation_of
from relu_dynamics.engine.columns import scan_stretch
from relu_dynamics.engine.native import build
from relu_dynamics.engine.native.coverage import RULES
from relu_dynamics.engine.outcomes import History, Losses
from relu_dynamics.engine.step import State
from relu_dynamics.engine.tasks import Task

SEEN = ("batch_mean_sum", "batch_peak", "batch_active_sum", "batch_first_active")


@functools.cache
def registered(name: str) -> str:
    """The name under which JAX knows a function of the kernel in this process. The source's digest
    is part of it, so that a kept compiled program never calls another kernel."""
    known = f"relu_dynamics_{name}_{build.digest()[:16]}"
    function = jax.ffi.pycapsule(getattr(build.library(), f"relu_dynamics_{name}"))
    jax.ffi.register_ffi_target(known, function, platform="cpu")
    return known


def by_kernel(step: Callable, finish: Callable) -> Callable:
    """`columns.scan_stretch` of `train_step` and a carry (State, History), by the kernel, which
    sums up the stretch's losses: `finish` gets them as `Losses`. It also takes arrays that end in
    an axis of lanes. Lanes with minibatches, data or step counts of their own take the plain
    path."""

    def alone(shared, carry, indices):
        one = jax.tree.map(lambda leaf: leaf[None], (shared[0], carry))
        carry = one[1][0]._replace(step=carry[0].step), one[1][1]
        after, out = all_lanes(1, (one[0], *shared[1:]), carry, indices)
        first = lambda leaf: leaf[0]  # noqa: E731
        state = jax.tree.map(first, after[0]._replace(step=carry[0].step[None]))
        return (
            state._replace(step=after[0].step),
            jax.tree.map(first, after[1]),
        ), jax.tree.map(lambda leaf: leaf[..., 0], out)

    def all_lanes(lanes, shared, carry, indices):
        config, task, _ = shared
        state, history = carry
        after, losses = call(lanes, config, task, state, history, indices)
        return finish(after, (losses, None))

    form = jax.custom_batching.custom_vmap(alone)

    @form.def_vmap
    def rule(lanes, batched, shared, carry, indices):
        config, task, _ = batched[0]
        own = any(jax.tree.leaves((task, batched[1][0].step, batched[2])))
        if own:
            return lane_by_lane(scan_stretch(step, finish), lanes, batched, shared, carry, indices)
        full = lambda leaf, b: leaf if b else jnp.broadcast_to(leaf, (lanes, *jnp.shape(leaf)))  # noqa: E731
        everywhere = jax.tree.map(full, (shared[0], carry), (config, batched[1]))
        state = everywhere[1][0]._replace(step=carry[0].step)
        shared = (everywhere[0], *shared[1:])
        after, out = all_lanes(lanes, shared, (state, everywhere[1][1]), indices)
        out = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), out)
        marks = jax.tree.map(lambda _: True, (after, out))
        marks = (marks[0][0]._replace(step=False), marks[0][1]), marks[1]
        return (after, out), marks

    return form


def lane_by_lane(plain: Callable, lanes: int, batched: Any, *arguments: Any) -> tuple:
    """What a rule for `jax.vmap` returns of `plain`, where the lanes have nothing to share."""
    axes = jax.tree.map(lambda b: 0 if b else None, tuple(batched))
    result = jax.vmap(plain, in_axes=axes, axis_size=lanes)(*arguments)
    return result, jax.tree.map(lambda _: True, result)


def call(
    lanes: int, config: Config, task: Task, state: State, history: History, indices: jax.Array
) -> tuple[tuple[State, History], Losses]:
    """((state, history), losses, [lanes]) after the steps with the minibatches `indices`
    [steps, batch]. Traced numbers of the config, state and history have a leading [lanes] axis;
    task and `state.step` are common."""
    memories, rebuild = _memories(state)
    groups = [models.layer_name(i + 1) for i in range(len(config.hidden))] + ["output"]
    leaves = [(g, kind) for g in groups for kind in ("kernel", "bias") if kind in state.params[g]]
    trees = [state.params, *memories]
    arrays = [tree[group][kind] for tree in trees for group, kind in leaves]
    seen = [getattr(history, name) for name in SEEN]
    kind = tasks.TASKS[config.task]
    steps = indices.shape[0]
    like = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (*seen, *arrays)]
    of_losses = [jax.ShapeDtypeStruct((lanes,), kind) for kind in (jnp.float32, jnp.int32)]
    like[len(seen) : len(seen)] = of_losses
    targets = decay_targets(config)
    decay = 0 if config.weight_decay is None else 1 + optimizers.decay_is_decoupled(config)
    made = jax.ffi.ffi_call(registered("train"), like, vmap_method="sequential")(
        task.inputs,
        task.targets,
        indices.astype(jnp.int32),
        state.step,
        _factors(config, state, steps),
        _corrections(lanes, config, state, steps),
        _paces(lanes, config),
        *seen,
        *arrays,
        dims=np.array([task.inputs.shape[1], *config.hidden, kind.outputs], np.int64),
        biases=np.array(["bias" in state.params[group] for group in groups], np.int64),
        rule=np.int64(RULES.index(_rule(config))),
        decay=np.int64(decay),
        decay_weights=np.int64("weights" in targets),
        decay_biases=np.int64("biases" in targets),
        classes=np.int64(kind.classes),
        slope=np.float32(activation_of(config).slope_below),
    )
    after = history._replace(**dict(zip(SEEN, made[: len(seen)], strict=True)))
    found = iter(made[len(seen) + 2 :])
    trees = [_tree(leaves, found) for _ in trees]
    optimizer = rebuild(trees[1:], steps)
    losses = Losses(*made[len(seen) : len(seen) + 2])
    return (State(state.step + steps, trees[0], optimizer), after), losses


def _tree(leaves, found) -> models.Params:
    tree: dict[str, dict] = {}
    for group, kind in leaves:
        tree.setdefault(group, {})[kind] = next(found)
    return tree


def _rule(config: Config) -> Any:
    return optimizers.optimizer_of(config).rule


def decay_targets(config: Config) -> tuple[str, ...]:
    """Which of weights and biases decay."""
    axes = optimizers.DECAY_TARGETS[config.decay_targets]
    return tuple(name for name, ndim in (("weights", 2), ("biases", 1)) if ndim in axes)


def _memories(state: State) -> tuple[list[models.Params], Callable]:
    """The copies of the parameters' tree in the optimizer's state, in order, and a function that
    makes the state of new ones; what else it holds counts steps."""
    is_copy = lambda node: isinstance(node, dict) and node.keys() == state.params.keys()  # noqa: E731
    nodes, structure = jax.tree.flatten(state.optimizer, is_leaf=is_copy)

    def rebuild(copies, steps):
        new = iter(copies)
        return structure.unflatten([next(new) if is_copy(n) else n + steps for n in nodes])

    return [node for node in nodes if is_copy(node)], rebuild


def _factors(config: Config, state: State, steps: int) -> jax.Array:
    """What the schedule multiplies the learning rate with at every step, [steps]."""
    numbers = state.step + jnp.arange(steps, dtype=state.step.dtype)
    unscaled = dataclasses.replace(config, learning_rate=jnp.float32(1))
    at = jax.vmap(lambda step: optimizers.scheduled(unscaled, step).learning_rate)
    return jnp.broadcast_to(at(numbers), (steps,))


def _corrections(lanes: int, config: Config, state: State, steps: int) -> jax.Array:
    """Adam's bias corrections of both memories at every step, as optax has them, [2 steps, lanes];
    no rows for other rules."""
    if _rule(config) is not optimizers.Rule.ADAM:
        return jnp.zeros((0, lanes), jnp.float32)
    count = next(n for n in jax.tree.leaves(state.optimizer) if n.dtype == jnp.int32)
    counts = count[None, :] + 1 + jnp.arange(steps, dtype=count.dtype)[:, None]
    momentum = optimizers.momentum_of(config)
    if isinstance(momentum, jax.Array) and momentum.ndim:  # swept
        momentum = momentum[None]
    decays = momentum, optimizers.ADAM_B2
    return jnp.concatenate([jnp.broadcast_to(1 - b**counts, (steps, lanes)) for b in decays])


def _paces(lanes: int, config: Config) -> jax.Array:
    """Learning rate, momentum, 1 - momentum and weight decay, [4, lanes]."""
    momentum = optimizers.momentum_of(config)
    decay = 0.0 if config.weight_decay is None else config.weight_decay
    numbers = config.learning_rate, momentum, 1 - momentum, decay
    arrays = [jnp.asarray(n, jnp.float32) for n in numbers]
    return jnp.stack([jnp.broadcast_to(n, (lanes,)) for n in arrays])
