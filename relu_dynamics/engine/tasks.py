"""Tasks: what a network is trained on, and the fixed probe set on which "dead" is judged.

A task is made from a config and a key, inside jit: the key decides which examples are training
examples (real data) or what the teacher is (synthetic data). All cells of a seed share the task.
"""

import functools
import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relu_dynamics.checks import short_repr
from relu_dynamics.config import Config
from relu_dynamics.data_files import read_data
from relu_dynamics.engine.data import Data, Keeper, check_data, check_loaded
from relu_dynamics.engine.scalings import SCALINGS, scaled
from relu_dynamics.engine.teachers import (
    BITS,
    bit_targets,
    random_bits,
    sparse_features,
    teacher_student,
)

SLOW_BITS = 15  # of Dohare et al., Nature 632:768


class Task(NamedTuple):
    """Examples of one run; classification targets are class numbers, others have a column axis."""

    inputs: jax.Array  # [examples, dimension] scaled training inputs
    targets: jax.Array  # [examples] int32 classes, or [examples, outputs] float32
    probe: jax.Array  # [probe, dimension] the inputs on which "dead" is judged
    held_inputs: jax.Array  # [held, dimension] never trained on; zero rows where there are none
    held_targets: jax.Array  # [held] or [held, outputs]


class TaskKind(NamedTuple):
    """What a task's name stands for."""

    outputs: int | None  # of the network; None: the targets are the inputs, as they are scaled
    classes: bool  # cross-entropy on class numbers, else half the mean squared error
    load: Callable[[], Data | tuple] | None  # real data: raw inputs and targets
    target: Callable[[jax.Array], jax.Array] | None  # analytic target of x in `interval`
    # Drawn by a key, from a config; rows beyond its `examples` are held out.
    make: Callable[[Config, jax.Array], tuple[jax.Array, jax.Array]] | None = None
    renew: Callable[[Config, Task, jax.Array, jax.Array], Task] | None = None  # see `renewed`
    shuffled: bool = False  # targets that have nothing to do with the inputs
    dimension: int | None = None  # of the inputs, where neither data nor config say it
    interval: tuple[float, float] = (-(3**0.5), 3**0.5)  # of an analytic target's inputs
    held: Callable[[], tuple] | None = None  # real data with a split of its own: its held-out part
    aliases: tuple[str, ...] = ()  # what else it is called, for the hint at an unknown name
    label: str = ""  # what a figure calls it, where that is more than its name in words

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
        inputs=inputs, targets=bit_targets(inputs, key), probe=inputs[: task.probe.shape[0]]
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
    "digits_random_labels": TaskKind(
        10,
        True,
        _sklearn("digits", True),
        None,
        shuffled=True,
        label="digits with random labels",
    ),
    "breast_cancer": TaskKind(2, True, _sklearn("breast_cancer", True), None),
    "wine": TaskKind(3, True, _sklearn("wine", True), None),
    "diabetes": TaskKind(1, False, _sklearn("diabetes", False), None),
    "teacher_student": TaskKind(1, False, None, None, teacher_student, label="teacher and student"),
    "random_bits": TaskKind(1, False, None, None, random_bits, renew=_flipped_bits, dimension=BITS),
    # Activations for an autoencoder: input_scaling="shifted" gives them a mean, of any size.
    "sparse_features": TaskKind(
        None, False, None, None, sparse_features, aliases=("activations", "superposition")
    ),
    # The 1-D targets of Lu et al., arXiv 1903.06733.
    "abs": TaskKind(1, False, None, jnp.abs, label="|x|"),
    "x_sin_5x": TaskKind(1, False, None, lambda x: x * jnp.sin(5 * x), label="x sin 5x"),
    "step_sine": TaskKind(1, False, None, _step_sine, label="step + sine"),
    # The article's example: x in [0, 1]. The target is 0: no unit is asked for anything.
    "unit_interval": TaskKind(1, False, None, jnp.zeros_like, interval=(0.0, 1.0)),
}


SHIPPED = dict(TASKS)  # the rows of this package; whatever else a name stands for is the user's


def from_arrays(
    inputs: Any,
    targets: Any,
    *,
    name: str | None = None,
    kind: str | None = None,
    held: tuple[Any, Any] | None = None,
    standardize: bool = True,
) -> str:
    """Registers a user's own data as a task and returns its name, for `Config(task=...)`.

    Args:
      inputs: [rows, features] or [rows], of numbers: NumPy, JAX, pandas, lists, or a column of a
        data set in NumPy form. Rows of more axes, such as images, are flattened.
      targets: [rows] or [rows, outputs]. Text and booleans are classes, and so are whole numbers
        unless they look like amounts; other numbers are the targets of a regression.
      name: of the task; by default made from the data's digest. Used again, it stands for the new
        data, which is another question to every stored result.
      kind: "classification" or "regression", where the type does not say which.
      held: a pair (inputs, targets) of a split of your own. It is then what is held out, whatever
        `examples` and the seed are; rows beyond `examples` are not used. By default the rows
        beyond `examples` are held out.
      standardize: whether the targets of a regression are shifted and scaled to mean 0 and
        deviation 1 over `targets`, as those of the shipped regression tasks are.

    Classes are numbered in sorted order of their labels. The labels, or the mean and deviation of
    the targets, are stored with every result: `data_facts`, and the attribute `data`. What a user
    should know (constant features, images flattened) is a warning of one line each.

    Raises a one-line ValueError that names the field, the row, the column, the value and the
    remedy: missing, infinite and text cells, other lengths, one class or constant targets only,
    unknown labels in `held`, and whole numbers that may be classes or amounts.
    """
    data = check_data(inputs, targets, kind=kind, held=held, standardize=standardize)
    return _register(data, name)


def from_file(
    path: str | os.PathLike,
    target: str | None = None,
    *,
    name: str | None = None,
    kind: str | None = None,
    held: str | os.PathLike | None = None,
    standardize: bool = True,
) -> str:
    """`from_arrays` for a .csv, .parquet or .npz file, and `held` a second one like it.

    `target` is the column of the targets; an .npz holds arrays `inputs` and `targets` (or X and y),
    and `held_inputs` and `held_targets` where it has a split (or X_test and y_test). The task is
    called as the file is, without its folder, unless `name` says otherwise.
    """
    found = read_data(path, target)
    sources = {"source": found.source}
    part = found.held
    if held is not None:
        if part is not None:
            raise ValueError(f"held={short_repr(str(held))}: the data file has held-out arrays.")
        other = read_data(held, target)
        part = other.inputs, other.targets
        sources["held_source"] = other.source
    data = check_data(found.inputs, found.targets, kind=kind, held=part, standardize=standardize)
    data = data._replace(facts=sources | data.facts)
    return _register(data, found.source["file"] if name is None else name)


def _register(data: Data, name: str | None) -> str:
    """Makes checked data a task and returns its name; warns of what a user should know of it."""
    name = f"own-{data.digest[:12]}" if name is None else name
    if not isinstance(name, str) or not name or not name.isprintable() or len(name) > 100:
        raise ValueError(f"name={short_repr(name)} must be text in one line, of 1 to 100 letters.")
    if name in SHIPPED:
        raise ValueError(f"name={name!r} is a task of this package; choose another name.")
    known = TASKS[name].load if name in TASKS else None
    if not (isinstance(known, Keeper) and known.keeps(data)):  # a cell run again changes nothing
        TASKS[name] = TaskKind(data.outputs, data.classes, Keeper(data), None)
    for note in data.notes:
        warnings.warn(f"task {name!r}: {note}", stacklevel=3)
    return name


def label_of(name: str) -> str:
    """What a figure calls a task; its name in words where nothing else is declared, also when the
    task of a stored result is not registered in this process."""
    row = TASKS.get(name)
    return row.label if row is not None and row.label else name.replace("_", " ")


def _row(name: str) -> TaskKind:
    if name not in TASKS:
        raise ValueError(
            f"task={short_repr(name)} is not registered in this process; register it first: data "
            f"by tasks.from_arrays(inputs, targets, name={short_repr(name)}) or --data FILE, "
            "another task by its row in tasks.TASKS."
        )
    return TASKS[name]


def _own_data(name: str) -> Data | None:
    """The checked data of a task that is not shipped; None for one that is, or without data."""
    kind = _row(name)
    if kind.load is None or kind is SHIPPED.get(name):
        return None
    loaded = kind.load()
    if isinstance(loaded, Data):
        return loaded
    if kind.outputs is None:
        raise ValueError(
            f"outputs=None: task {name!r} has data of its own, so its row must say how many "
            "outputs there are; give their number, and the inputs as targets."
        )
    held = None if kind.held is None else kind.held()
    return check_loaded(name, loaded, held, kind.outputs, kind.classes)


def load_data(config: Config) -> tuple[np.ndarray, ...] | None:
    """The raw data set of the config's task as host arrays, (inputs, targets) and, with a split of
    its own, (..., held inputs, held targets); None for synthetic tasks. Raises a ValueError for
    data that cannot be trained on."""
    kind = _row(config.task)
    if kind.load is None:
        return None
    own = _own_data(config.task)
    return kind.load() if own is None else own.arrays


def data_identity(config: Config) -> dict[str, Any]:
    """What an identity says of data that is not shipped, so that other data under the same name is
    another question; nothing for shipped tasks and tasks without data."""
    own = _own_data(config.task)
    if own is None:
        return {}
    return {"data": {"sha256": own.digest, "shuffled": TASKS[config.task].shuffled}}


def data_facts(config: Config) -> dict[str, Any]:
    """Plain values that a reader of a result should know of data that is not shipped: rows,
    features, and the labels of the classes or the mean and deviation of the targets."""
    own = _own_data(config.task)
    return {} if own is None else own.facts


def check_same_data(name: Any, stored: Any) -> None:
    """Raises a ValueError when the task of a stored result is not registered in this process, or
    stands for other data than `stored`, what `data_identity` said of it."""
    if not isinstance(name, str):
        return
    own = _own_data(name)
    wanted = stored.get("sha256") if isinstance(stored, dict) else None
    found = None if own is None else own.digest
    if wanted != found:
        raise ValueError(
            f"task={name!r} is other data here than the result was made from (sha256 "
            f"{str(found)[:12]}, not {str(wanted)[:12]}); register the same data: "
            f"tasks.from_arrays(inputs, targets, name={name!r}) or --data FILE."
        )


def available_examples(config: Config) -> int:
    """How many training examples the task can give."""
    data = load_data(config)
    return 2**31 - 1 if data is None else len(data[0])


def has_own_split(config: Config) -> bool:
    """Whether the task's data comes with a held-out part of its own."""
    return len(load_data(config) or ()) > 2


def input_dimension(config: Config) -> int:
    """Number of input features of the config's task."""
    data = load_data(config)
    if data is not None:
        return data[0].shape[1]
    kind = TASKS[config.task]
    return config.dimension if kind.uses_dimension else kind.dimension or 1


def output_dimension(config: Config) -> int:
    """Number of outputs of the config's network."""
    outputs = TASKS[config.task].outputs
    return input_dimension(config) if outputs is None else outputs


def make_task(config: Config, key: jax.Array, data: tuple | None) -> Task:
    """The task of one seed. `key` is consumed; `data` is what `load_data` gave. Jit-able."""
    kind = TASKS[config.task]
    examples = config.examples
    if data is not None:
        inputs, targets = (jnp.asarray(part) for part in data[:2])
        if config.row_order == "shuffled":
            order = jax.random.permutation(key, data[0].shape[0])
            inputs, targets = inputs[order], targets[order]
        if kind.shuffled:  # the same classes as often, for the wrong examples
            targets = jax.random.permutation(jax.random.fold_in(key, 1), targets)
        own_split = [jnp.asarray(part) for part in data[2:]]
        held_inputs, held_targets = own_split or (inputs[examples:], targets[examples:])
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
        held_inputs, held_targets = inputs[examples:], targets[examples:]
        inputs, targets = inputs[:examples], targets[:examples]
    if data is not None or not SCALINGS[config.input_scaling].keeps_synthetic:
        inputs, held_inputs = scaled(config, inputs, held_inputs)
    if kind.outputs is None:
        targets, held_targets = inputs, held_inputs
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
