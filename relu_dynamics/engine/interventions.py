"""Interventions: pure functions that change a training state on purpose, and steps made of them.

A change is `change(config, task, key, state) -> state`; `at` and `every` say before which steps it
acts: `every(100, change)(train_step)` is a step that `training.run` scans like any other.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relu_dynamics.checks import short_repr
from relu_dynamics.config import Config
from relu_dynamics.engine.keys import purpose_key
from relu_dynamics.engine.models import Params, layer_name
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

    is_params = lambda node: isinstance(node, dict) and node.keys() == params.keys()  # noqa: E731
    clear = lambda node: without(node, 0) if is_params(node) else node  # noqa: E731
    return without(params, -1), jax.tree.map(clear, memory, is_leaf=is_params)


def kill_share(config: Config, task: Task | None, key: jax.Array, state: State) -> State:
    """The state with the config's share of units killed; no task is needed."""
    params, memory = kill(config, state.params, state.optimizer, purpose_key(key, "kill"))
    return state._replace(params=params, optimizer=memory)


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
        return own(config, *arguments)

    return intervening_step
