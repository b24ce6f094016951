"""Interventions: pure functions that change a training state on purpose."""

from typing import Any

import jax
import jax.numpy as jnp

from relu_dynamics.config import Config
from relu_dynamics.engine.keys import purpose_key
from relu_dynamics.engine.models import Params, layer_name
from relu_dynamics.engine.step import State


def kill(config: Config, params: Params, memory: Any, key: jax.Array) -> tuple[Params, Any]:
    """(parameters, memory) with `config.killed_fraction` of every hidden layer's units killed:
    incoming weights 0 and bias -1. `memory` is any tree that holds copies of the parameters' tree
    (an optimizer's state); a killed unit's entries in it become 0. `key` is consumed."""
    if config.killed_fraction is None:
        return params, memory
    killed = {}
    for layer, width in enumerate(config.hidden, start=1):
        order = jax.random.permutation(jax.random.fold_in(key, layer), width)
        killed[layer_name(layer)] = order < jnp.round(config.killed_fraction * width)

    def without(tree, bias):
        out = dict(tree)
        for name, gone in killed.items():
            out[name] = {
                **tree[name],
                "kernel": jnp.where(gone[None, :], 0, tree[name]["kernel"]),
                "bias": jnp.where(gone, bias, tree[name]["bias"]),
            }
        return out

    is_params = lambda node: isinstance(node, dict) and node.keys() == params.keys()  # noqa: E731
    clear = lambda node: without(node, 0) if is_params(node) else node  # noqa: E731
    return without(params, -1), jax.tree.map(clear, memory, is_leaf=is_params)


def kill_share(config: Config, key: jax.Array, state: State) -> State:
    params, memory = kill(config, state.params, state.optimizer, purpose_key(key, "kill"))
    return state._replace(params=params, optimizer=memory)
