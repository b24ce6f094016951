"""Shapes: arrays that do not fit their config, refused in one line where they come in."""

from typing import Any

import chex
import jax.numpy as jnp

from relu_dynamics.config import Config
from relu_dynamics.engine.initializers import per_layer
from relu_dynamics.engine.models import Params, layer_name
from relu_dynamics.engine.tasks import TASKS, Task, input_dimension, output_dimension


def check_task(config: Config, task: Task) -> None:
    """Raises a ValueError for the first array of the task whose shape or type the config cannot
    train on. Only shapes and types are read: free under `jax.jit` but at trace time."""
    kind, inputs = TASKS[config.task], (None, input_dimension(config))
    targets = () if kind.classes else (output_dimension(config),)
    remedy = "make the task with tasks.make_task and the same config."
    _check("task.inputs", task.inputs, (config.examples, *inputs[1:]), float, remedy)
    _check("task.probe", task.probe, inputs, float, remedy)
    _check("task.held_inputs", task.held_inputs, inputs, float, remedy)
    number = int if kind.classes else float
    _check("task.targets", task.targets, (config.examples, *targets), number, remedy)


def check_state(config: Config, step: Any, params: Params) -> None:
    """Raises a ValueError for a state (its step and its parameters) that is not one network's, or
    that of a network with other hidden layers than the config's. As free as `check_task`."""
    remedy = "start from training.start with the same config; jax.vmap over many states."
    _check("state.step", step, (), int, remedy)
    for layer, width in enumerate(config.hidden, start=1):
        name = f"state.params['{layer_name(layer)}']"
        if layer_name(layer) not in params:
            raise ValueError(
                f"{name} is missing; the config has {len(config.hidden)} layers: {remedy}"
            )
        group = params[layer_name(layer)]
        _check(f"{name}['kernel']", group["kernel"], (None, width), float, remedy)
        if per_layer(config.hidden_bias, len(config.hidden))[layer - 1]:
            _check(f"{name}['bias']", group["bias"], (width,), float, remedy)


def _check(field: str, value: Any, shape: tuple, kind: type, remedy: str) -> None:
    array = jnp.asarray(value) if isinstance(value, int | float) else value
    try:
        chex.assert_shape(array, shape)
        chex.assert_type(array, kind)
    except AssertionError as refused:
        wanted = str(shape).replace("None", "any")
        raise ValueError(
            f"{field} has shape {array.shape} of {array.dtype}; the config needs {wanted} of "
            f"{kind.__name__}: {remedy}"
        ) from refused
