"""Tasks: what a network is trained on, and the fixed probe set on which "dead" is judged.

A task is made from a config and a key, inside jit: the key decides which examples are training
examples (real data) or what the teacher is (synthetic data). All cells of a seed share the task.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relu_dynamics.config import Config

TEACHER_UNITS = 8

BITS, SLOW_BITS, BIT_TEACHER_UNITS = 20, 15, 100  # of Dohare et al., Nature 632:768


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
    target: Callable[[jax.Array], jax.Array] | None  # analytic target of x in `interval`
    make: Callable[[Config, jax.Array], tuple[jax.Array, jax.Array]] | None = None  # drawn by a key
    renew: Callable[[Config, Task, jax.Array, jax.Array], Task] | None = None  # see `renewed`
    shuffled: bool = False  # targets that have nothing to do with the inputs
    dimension: int | None = None  # of the inputs, where neither data nor config say it
    interval: tuple[float, float] = (-(3**0.5), 3**0.5)  # of an analytic target's inputs
    aliases: tuple[str, ...] = ()  # what else it is called, for the hint at an unknown name

    @property
    def uses_dimension(self) -> bool:
        """Whether the config's `dimension` is that of the inputs."""
        return self.load is None and self.target is None and self.dimension is None


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


def _change_key(key: jax.Array, period: jax.Array | int) -> jax.Array:
    """The key of what changes at the start of a period."""
    return jax.random.fold_in(jax.random.fold_in(key, 3), period)


def _permuted_features(config: Config, task: Task, key: jax.Array, period: jax.Array) -> Task:
    """The task with its input features in another order in every period but the first."""
    count = task.inputs.shape[1]
    order = jax.random.permutation(_change_key(key, period), count)
    order = jnp.where(period == 0, jnp.arange(count), order)
    return task._replace(
        inputs=task.inputs[:, order],
        probe=task.probe[:, order],
        held_inputs=task.held_inputs[:, order],
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


def _random_bits(config: Config, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Random bits and the outputs for them of the threshold units of `_bit_targets`."""
    bits = jax.random.bernoulli(key, 0.5, (config.examples, BITS)).astype(jnp.float32)
    return bits, _bit_targets(bits, key)


def _bit_targets(bits: jax.Array, key: jax.Array) -> jax.Array:
    """A fixed random network of BIT_TEACHER_UNITS linear threshold units with weights -1 and 1,
    each firing when beta = 0.7 of its bits agree; the sum of its outputs, in units of its square
    root. The target of Dohare et al., Nature 632:768 (2024), slowly-changing regression."""
    first_key, second_key = (jax.random.fold_in(key, i) for i in (1, 2))
    first = jax.random.rademacher(first_key, (BITS, BIT_TEACHER_UNITS), jnp.float32)
    second = jax.random.rademacher(second_key, (BIT_TEACHER_UNITS, 1), jnp.float32)
    threshold = 0.7 * BITS - (first < 0).sum(0, keepdims=True)
    return (bits @ first > threshold).astype(jnp.float32) @ second / BIT_TEACHER_UNITS**0.5


def _flipped_bits(config: Config, task: Task, key: jax.Array, period: jax.Array) -> Task:
    """The task with its first SLOW_BITS bits the same for all examples; one of them, chosen at
    random, flips at every new period."""
    first = jax.random.bernoulli(_change_key(key, 0), 0.5, (SLOW_BITS,)).astype(jnp.int32)

    def flip(i, bits):
        chosen = jax.random.randint(_change_key(key, i + 1), (), 0, SLOW_BITS)
        return bits.at[chosen].set(1 - bits[chosen])

    bits = jax.lax.fori_loop(0, period, flip, first).astype(jnp.float32)
    inputs = task.inputs.at[:, :SLOW_BITS].set(bits[None, :])
    return task._replace(
        inputs=inputs, targets=_bit_targets(inputs, key), probe=inputs[: task.probe.shape[0]]
    )


TASKS: dict[str, TaskKind] = {
    "digits": TaskKind(
        10,
        True,
        _sklearn("digits", True),
        None,
        renew=_permuted_features,
        aliases=("load digits", "optdigits"),
    ),
    "digits_random_labels": TaskKind(10, True, _sklearn("digits", True), None, shuffled=True),
    "breast_cancer": TaskKind(2, True, _sklearn("breast_cancer", True), None),
    "wine": TaskKind(3, True, _sklearn("wine", True), None),
    "diabetes": TaskKind(1, False, _sklearn("diabetes", False), None),
    "teacher_student": TaskKind(1, False, None, None, _teacher_student),
    "random_bits": TaskKind(
        1, False, None, None, _random_bits, renew=_flipped_bits, dimension=BITS
    ),
    # The 1-D targets of Lu et al., arXiv 1903.06733.
    "abs": TaskKind(1, False, None, jnp.abs),
    "x_sin_5x": TaskKind(1, False, None, lambda x: x * jnp.sin(5 * x)),
    "step_sine": TaskKind(1, False, None, _step_sine),
    # The article's example: x in [0, 1]. The target is 0: no unit is asked for anything.
    "unit_interval": TaskKind(1, False, None, jnp.zeros_like, interval=(0.0, 1.0)),
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
    kind = TASKS[config.task]
    return config.dimension if kind.uses_dimension else kind.dimension or 1


class Scaling(NamedTuple):
    """How inputs are scaled; a row of `SCALINGS`."""

    # Of (inputs to scale, training inputs, dose); [examples, dimension] each but the dose.
    scale: Callable[[jax.Array, jax.Array, Any], jax.Array]
    dose: float | None = None  # the default of `scaling_dose`; None: there is no dose
    keeps_synthetic: bool = False  # synthetic inputs stay as they are made, at their natural scale
    aliases: tuple[str, ...] = ()  # what else it is called, for the hint at an unknown name


def _standardized(x: jax.Array, train: jax.Array, _: Any) -> jax.Array:
    mean, deviation = train.mean(0, keepdims=True), train.std(0, keepdims=True)
    # A constant feature has nothing to scale: it becomes 0.
    return (x - mean) / jnp.where(deviation > 0, deviation, 1)


def _minmax(x: jax.Array, train: jax.Array, _: Any) -> jax.Array:
    low, high = train.min(0, keepdims=True), train.max(0, keepdims=True)
    return (x - low) / jnp.where(high > low, high - low, 1)


def _one_bad_feature(x: jax.Array, train: jax.Array, factor: Any) -> jax.Array:
    varying = jnp.argmax(train.std(0) > 0)  # the first pixel of digits, say, is 0 in all of them
    return _standardized(x, train, None).at[:, varying].multiply(factor)


SCALINGS: dict[str, Scaling] = {
    "standardized": Scaling(
        _standardized, keeps_synthetic=True, aliases=("standard", "standard scaler", "z score")
    ),
    "minmax": Scaling(_minmax, aliases=("min max scaler",)),
    "raw": Scaling(lambda x, train, _: x, aliases=("none", "unscaled")),
    # Every feature's mean in standard deviations.
    "shifted": Scaling(lambda x, train, shift: _standardized(x, train, None) + shift, dose=3.0),
    "one_bad_feature": Scaling(_one_bad_feature, dose=100.0),
}


def dosed_scalings() -> tuple[str, ...]:
    """The scalings that `scaling_dose` makes better or worse."""
    return tuple(name for name, row in SCALINGS.items() if row.dose is not None)


def _scaled(config: Config, inputs: jax.Array, held: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scales both parts by the training part's own statistics, as one would in practice."""
    scaling = SCALINGS[config.input_scaling]
    dose = scaling.dose if config.scaling_dose is None else config.scaling_dose
    return scaling.scale(inputs, inputs, dose), scaling.scale(held, inputs, dose)


def make_task(config: Config, key: jax.Array, data: tuple | None) -> Task:
    """The task of one seed. `key` is consumed; `data` is what `load_data` gave. Jit-able."""
    kind = TASKS[config.task]
    examples = config.examples
    if data is not None:
        order = jax.random.permutation(key, data[0].shape[0])
        inputs, targets = (jnp.asarray(part)[order] for part in data)
        if kind.shuffled:  # the same classes as often, for the wrong examples
            targets = jax.random.permutation(jax.random.fold_in(key, 1), targets)
        held_inputs, held_targets = inputs[examples:], targets[examples:]
        inputs, targets = inputs[:examples], targets[:examples]
    else:
        if kind.target is not None:
            inputs = jnp.linspace(*kind.interval, examples)[:, None]
            targets = kind.target(inputs)
        elif kind.make is not None:
            inputs, targets = kind.make(config, key)
        else:
            raise ValueError(
                f"task={config.task!r} has neither data, a target nor a way to make it."
            )
        held_inputs, held_targets = inputs[:0], targets[:0]
    if data is not None or not SCALINGS[config.input_scaling].keeps_synthetic:
        inputs, held_inputs = _scaled(config, inputs, held_inputs)
    if config.target_scale is not None:
        targets, held_targets = (part * config.target_scale for part in (targets, held_targets))
    return Task(
        inputs=inputs,
        targets=targets,
        probe=inputs[: config.probe_size],
        held_inputs=held_inputs,
        held_targets=held_targets,
    )


def renewed(config: Config, task: Task, key: jax.Array, step: jax.Array) -> Task:
    """The task at a step of a run whose task changes every `config.change_every` steps, from the
    task that `make_task` made with the same key. Jit-able."""
    renew = TASKS[config.task].renew
    if renew is None or config.change_every is None:
        return task
    return renew(config, task, key, step // config.change_every)


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
