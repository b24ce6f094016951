"""Tasks: what a network is trained on, and the fixed probe set on which "dead" is judged.

A task is made from a config and a key, inside jit: the key decides which examples are training
examples (real data) or what the teacher is (synthetic data). All cells of a seed share the task.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relu_dynamics.config import Config

TEACHER_UNITS = 8


class Task(NamedTuple):
    """Examples of one run; classification targets are class numbers, others have a column axis."""

    inputs: jax.Array  # [examples, dimension] scaled training inputs
    targets: jax.Array  # [examples] int32 classes, or [examples, outputs] float32
    probe: jax.Array  # [probe, dimension] the inputs on which "dead" is judged
    held_inputs: jax.Array  # [held, dimension] never trained on; zero rows where there are none
    held_targets: jax.Array  # [held] or [held, outputs]


class TaskKind(NamedTuple):
    """What a task's name stands for."""

    outputs: int  # output units of the network
    classes: bool  # cross-entropy on class numbers, else half the mean squared error
    load: Callable[[], tuple[np.ndarray, np.ndarray]] | None  # real data: raw inputs and targets
    target: Callable[[jax.Array], jax.Array] | None  # analytic target of x in [-sqrt 3, sqrt 3]


def _sklearn(name: str, classes: bool) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    @functools.cache
    def load():
        from sklearn import datasets  # slow to import, and synthetic tasks do not need it

        inputs, targets = getattr(datasets, f"load_{name}")(return_X_y=True)
        if not classes:  # real-valued targets in units of their own spread
            targets = ((targets - targets.mean()) / targets.std())[:, None]
        return inputs.astype(np.float32), targets.astype(np.int32 if classes else np.float32)

    return load


def _step_sine(x: jax.Array) -> jax.Array:
    return (x > 0) + 0.2 * jnp.sin(5 * x)


TASKS: dict[str, TaskKind] = {
    "digits": TaskKind(10, True, _sklearn("digits", True), None),
    "breast_cancer": TaskKind(2, True, _sklearn("breast_cancer", True), None),
    "wine": TaskKind(3, True, _sklearn("wine", True), None),
    "diabetes": TaskKind(1, False, _sklearn("diabetes", False), None),
    "teacher_student": TaskKind(1, False, None, None),
    # The 1-D targets of Lu et al., arXiv 1903.06733.
    "abs": TaskKind(1, False, None, jnp.abs),
    "x_sin_5x": TaskKind(1, False, None, lambda x: x * jnp.sin(5 * x)),
    "step_sine": TaskKind(1, False, None, _step_sine),
    # The article's example: x in [0, 1]. The target is 0: no unit is asked for anything.
    "unit_interval": TaskKind(1, False, None, jnp.zeros_like),
}


def load_data(config: Config) -> tuple[np.ndarray, np.ndarray] | None:
    """The raw data set of the config's task as host arrays; None for synthetic tasks."""
    load = TASKS[config.task].load
    return None if load is None else load()


def available_examples(config: Config) -> int:
    """How many training examples the task can give."""
    data = load_data(config)
    return 2**31 - 1 if data is None else len(data[0])


def input_dimension(config: Config) -> int:
    """Number of input features of the config's task."""
    data = load_data(config)
    if data is not None:
        return data[0].shape[1]
    return 1 if TASKS[config.task].target is not None else config.dimension


def _scale(name: str, inputs: jax.Array, held: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scales both parts by the training part's own statistics, as one would in practice."""
    mean, deviation = inputs.mean(0, keepdims=True), inputs.std(0, keepdims=True)
    low, high = inputs.min(0, keepdims=True), inputs.max(0, keepdims=True)
    # A constant feature has nothing to scale: it becomes 0.
    standard = lambda x: (x - mean) / jnp.where(deviation > 0, deviation, 1)  # noqa: E731
    scale = {
        "standardized": standard,
        "minmax": lambda x: (x - low) / jnp.where(high > low, high - low, 1),
        "raw": lambda x: x,
        "shifted": lambda x: standard(x) + 3.0,  # every feature's mean three deviations off
        "one_bad_feature": lambda x: standard(x).at[:, 0].multiply(100.0),
    }[name]
    return scale(inputs), scale(held)


def make_task(config: Config, key: jax.Array, data: tuple | None) -> Task:
    """The task of one seed. `key` is consumed; `data` is what `load_data` gave. Jit-able."""
    kind = TASKS[config.task]
    examples = config.examples
    if data is not None:
        order = jax.random.permutation(key, data[0].shape[0])
        inputs, targets = (jnp.asarray(part)[order] for part in data)
        held_inputs, held_targets = inputs[examples:], targets[examples:]
        inputs, targets = inputs[:examples], targets[:examples]
    else:
        if config.task == "unit_interval":
            inputs = jnp.linspace(0, 1, examples)[:, None]
            targets = kind.target(inputs)
        elif kind.target is not None:
            inputs = jnp.linspace(-(3**0.5), 3**0.5, examples)[:, None]
            targets = kind.target(inputs)
        else:
            inputs, targets = _teacher_student(config, key)
        held_inputs, held_targets = inputs[:0], targets[:0]
    if data is not None or config.input_scaling != "standardized":
        # Synthetic inputs are made at their natural scale: "standardized" leaves them so.
        inputs, held_inputs = _scale(config.input_scaling, inputs, held_inputs)
    return Task(
        inputs=inputs,
        targets=targets,
        probe=inputs[: config.probe_size],
        held_inputs=held_inputs,
        held_targets=held_targets,
    )


def _teacher_student(config: Config, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gaussian inputs and the outputs of a random ReLU network of TEACHER_UNITS units, scaled to
    unit variance in expectation over teachers (up to the outputs' mean)."""
    input_key, first_key, second_key = (jax.random.fold_in(key, i) for i in range(3))
    dimension = config.dimension
    inputs = jax.random.normal(input_key, (config.examples, dimension))
    first = jax.random.normal(first_key, (dimension, TEACHER_UNITS)) / dimension**0.5
    second = jax.random.normal(second_key, (TEACHER_UNITS, 1)) * (2 / TEACHER_UNITS) ** 0.5
    return inputs, jax.nn.relu(inputs @ first) @ second


def loss(config: Config, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean cross-entropy (nats) of class numbers, or half the mean squared error."""
    if TASKS[config.task].classes:
        return optax.losses.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()
    return 0.5 * jnp.mean((outputs - targets) ** 2)


def error(config: Config, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Fraction of wrong classes, or the mean squared error."""
    if TASKS[config.task].classes:
        return jnp.mean(outputs.argmax(-1) != targets)
    return jnp.mean((outputs - targets) ** 2)
