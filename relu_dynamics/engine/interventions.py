"""Interventions: pure functions that change a training state on purpose, and steps made of them.

A change is `change(config, task, key, state) -> state`; `at` and `every` say before which steps it
acts: `every(100, change)(train_step)` is a step that `training.run` scans like any other.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relu_dynamics.checks import short_repr
from relu_dynamics.config import Config
from relu_dynamics.engine import models, resets, units
from relu_dynamics.engine.initialization import initialize
from relu_dynamics.engine.keys import purpose_key
from relu_dynamics.engine.models import PRECISION, Params, layer_name
from relu_dynamics.engine.optimizers import make_optimizer
from relu_dynamics.engine.step import State
from relu_dynamics.engine.tasks import Task


def kill(config: Config, params: Params, memory: Any, key: jax.Array) -> tuple[Params, Any]:
    """(parameters, memory) with `config.killed_fraction` of every hidden layer's units killed:
    incoming weights 0 and bias -1, where there is one. `memory` is any tree that holds copies of
    the parameters' tree (an optimizer's state); a killed unit's entries in it become 0. `key` is
    consumed."""
    if config.killed_fraction is None:
        return params, memory
    killed = {}
    for layer, width in enumerate(config.hidden, start=1):
        order = jax.random.permutation(jax.random.fold_in(key, layer), width)
        killed[layer_name(layer)] = order < jnp.round(config.killed_fraction * width)

    def without(tree, bias):
        out = dict(tree)
        for name, gone in killed.items():
            out[name] = {**tree[name], "kernel": jnp.where(gone[None, :], 0, tree[name]["kernel"])}
            if "bias" in tree[name]:
                out[name]["bias"] = jnp.where(gone, bias, tree[name]["bias"])
        return out

    is_params = _is_like(params)
    clear = lambda node: without(node, 0) if is_params(node) else node  # noqa: E731
    return without(params, -1), jax.tree.map(clear, memory, is_leaf=is_params)


def _is_like(params: Params) -> Callable[[Any], bool]:
    """Whether a part of an optimizer's memory is a copy of the parameters' tree."""
    return lambda node: isinstance(node, dict) and node.keys() == params.keys()


def kill_share(config: Config, task: Task | None, key: jax.Array, state: State) -> State:
    """The state with the config's share of units killed; no task is needed."""
    params, memory = kill(config, state.params, state.optimizer, purpose_key(key, "kill"))
    return state._replace(params=params, optimizer=memory)


def reset_units(config: Config, task: Task, key: jax.Array, state: State) -> State:
    """The state with the units new that the config's reset chooses: incoming weights, bias and
    learned numbers as the initializer draws them, `initial_bias` left out; outgoing weights 0 (or
    both as the reset's row `renews` them); the optimizer's memory of both empty. Counts that all
    parameters share, as Adam's, stay. The draws are folds of the key by the step, the same for all
    cells of a seed."""
    with jax.default_matmul_precision(PRECISION):
        forward = models.apply(config, state.params, task.probe)
    memory, row = resets.remembered(config, state.optimizer), resets.reset_of(config)
    targets = task.targets[: task.probe.shape[0]]
    facts = resets.Facts(units.sizes(config, state.params, forward), memory, forward, targets)
    chooses: Any = row.chooses
    chosen, due = chooses(config, facts)
    own_key = jax.random.fold_in(purpose_key(key, "reset"), state.step)
    plain = dataclasses.replace(config, initial_bias=0.0)
    drawn = initialize(plain, own_key, task.inputs)
    incoming, outgoing = units.masks(config, state.params, chosen)
    params = jax.tree.map(jnp.where, incoming, drawn, state.params)
    params = jax.tree.map(lambda gone, leaf: jnp.where(gone, 0, leaf), outgoing, params)
    if row.renews is not None:
        params = row.renews(config, jax.random.fold_in(own_key, 1), params, chosen, facts)
    changed = jax.tree.map(jnp.logical_or, incoming, outgoing)
    optimizer = with_empty_memory(config, params, state.optimizer, changed)
    if memory is not None:
        optimizer = resets.with_memory(optimizer, resets.made_new(memory, chosen, due))
    return state._replace(params=params, optimizer=optimizer)


def with_empty_memory(config: Config, params: Params, optimizer: Any, entries: Params) -> Any:
    """The optimizer's state as it begins at the masked entries, a tree of bools like `params`."""
    is_params = _is_like(params)

    def renew(old, new):
        if not is_params(old):
            return old
        return jax.tree.map(jnp.where, entries, new, old)

    return jax.tree.map(renew, optimizer, make_optimizer(config).init(params), is_leaf=is_params)


def at(when: int, change: Callable) -> Callable[[Callable], Callable]:
    """Makes of a step one that first changes the state at the step `when`, a whole number >= 0.
    Raises a ValueError for another one."""
    _check_step("when", when, 0)
    return _changing(change, lambda step: step == when)


def every(count: int | jax.Array, change: Callable) -> Callable[[Callable], Callable]:
    """Makes of a step one that first changes the state at the steps `count`, 2 `count`, ...: a
    whole number >= 1 or a traced one. Raises a ValueError for another one."""
    if not isinstance(count, jax.Array):
        _check_step("count", count, 1)
    return _changing(change, lambda step: (step > 0) & (step % count == 0))


def _check_step(name: str, value: Any, least: int) -> None:
    whole = isinstance(value, int | float | np.number) and float(value).is_integer()
    if isinstance(value, bool) or not whole or value < least:
        raise ValueError(f"{name}={short_repr(value)} must be a whole number of steps >= {least}.")


def _changing(change, is_due):
    def of_step(step):
        def changed_step(config, task, key, state, indices=None):
            act = functools.partial(change, config, task, key)
            state = jax.lax.cond(is_due(state.step), act, lambda state: state, state)
            return step(config, task, key, state, indices)

        return changed_step

    return of_step


def with_interventions(step: Callable) -> Callable:
    """Makes of a step one that first does what its config asks for between two steps."""

    def intervening_step(config, *arguments):
        own = step
        if config.killed_fraction is not None and config.killed_at > 0:
            own = at(config.killed_at, kill_share)(own)
        if resets.reset_of(config).chooses is not None:
            own = every(config.reset_every, reset_units)(own)
        return own(config, *arguments)

    return intervening_step
